"""How well a selection covers a pool: distances in feature space, and the uncertainty that is left, after each pick."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.kernels.base import Embedding
from bench.selection.distances import nearest_of_training, squared_distances

AT_ONCE = 32
"""Picks whose distances to the pool are computed in one product."""


@dataclass(frozen=True)
class Coverage:
    """After k picks, k = 0, 1, …: distances of the pool from what is labelled or picked, NaN while there is neither.

    `largest` and `mean_squared` are in feature space, `uncertainty` is the mean standard deviation of the pool in eV
    under a Gaussian process that knows the picks too (empty for kernels that are none).

    Of each pick: `distance` from the nearest labelled or earlier one when it was picked, and in `of_pool` how many
    structures of the pool are nearest to it in the end.
    """

    largest: list[float]
    mean_squared: list[float]
    uncertainty: list[float]
    distance: list[float]
    of_pool: list[int]
    nearest: Int[np.ndarray, " pool"]
    """The pick each structure of the pool is nearest to; −1 where something labelled is nearer."""


def coverage(embedding: Embedding, picked: Int[np.ndarray, " picked"], noise: float | None) -> Coverage | None:
    """Measure it for picks in their order; None for a kernel without features.

    `noise` is σ² of a posterior kernel (Section 3.1.4), None of others.
    """
    pool, training = embedding.pool, embedding.training
    if pool is None or training is None:
        return None
    norms = embedding.norms
    distance, _ = nearest_of_training(embedding)
    nearest = torch.full(distance.shape, -1, dtype=torch.int64, device=distance.device)
    largest, mean, at_pick = [], [], []

    def note() -> None:
        known = bool(torch.isfinite(distance).all())
        largest.append(float(distance.max().sqrt()) if known else float("nan"))
        mean.append(float(distance.mean()) if known else float("nan"))

    note()
    for number, (row, to_pick) in enumerate(_distances(pool, norms, picked)):
        at_pick.append(float(distance[row].sqrt()))
        nearest[to_pick < distance] = number
        torch.minimum(distance, to_pick, out=distance)
        distance[row], nearest[row] = 0.0, number
        note()
    found = nearest.cpu().numpy()
    counts = np.bincount(found[found >= 0], minlength=len(picked)).tolist()
    left = [] if noise is None else _uncertainty_left(pool, embedding.diagonal, picked, noise)
    return Coverage(largest, mean, left, at_pick, counts, found)


def _distances(
    pool: Float[Tensor, "pool features"], norms: Float[Tensor, " pool"], picked: Int[np.ndarray, " picked"]
) -> Iterator[tuple[int, Float[Tensor, " pool"]]]:
    """Each pick with the squared distances of the pool from it."""
    for start in range(0, len(picked), AT_ONCE):
        some = picked[start : start + AT_ONCE].tolist()
        yield from zip(some, squared_distances(pool, norms, pool[some]), strict=True)


def _uncertainty_left(
    pool: Float[Tensor, "pool features"],
    diagonal: Float[Tensor, " pool"],
    picked: Int[np.ndarray, " picked"],
    noise: float,
) -> list[float]:
    """Mean of sqrt(k(S, S)) given the picks so far, by a Cholesky factorisation of their kernel matrix plus σ²."""
    residual = diagonal.clone()
    columns = pool.new_zeros(len(picked), len(pool))
    left = [float(residual.clamp_min(0).sqrt().mean())]
    for step, row in enumerate(picked.tolist()):
        column = pool @ pool[row] - columns[:step].T @ columns[:step, row]
        columns[step] = column / (column[row] + noise).sqrt()
        residual -= columns[step] ** 2
        left.append(float(residual.clamp_min(0).sqrt().mean()))
    return left
