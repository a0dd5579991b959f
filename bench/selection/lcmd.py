"""LCMD (Eqs. 29-31): from the largest cluster, the point farthest from its centre (ref. 29, LCMD-TP)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.kernels.base import Embedding, squared_norms
from bench.selection.base import Selected, check_size
from bench.selection.distances import nearest_centres, squared_distances

AHEAD = 32
"""Likely next picks whose distances to the pool are computed in one matrix product."""


@dataclass(frozen=True)
class LargestClusterMaximumDistance:
    """Clusters the pool around training set and batch; a cluster's size is the sum of squared distances (Eq. 30).

    Every pick needs its distances to the whole pool. The farthest points of the largest clusters are the likely next
    picks, so distances are computed for several at a time, which reads the features once for all of them; a pick that
    was not foreseen starts a new round. Nothing is approximated.
    """

    name: str
    needs_features: bool = True

    def select(self, embedding: Embedding, batch_size: int, generator: np.random.Generator) -> Selected:
        """Pick rows one by one; a point equally far from two centres belongs to the older, ties go to the lowest row.

        Without training data the first pick has the largest k(S, S).
        """
        pool, training = embedding.pool, embedding.training
        if pool is None or training is None:
            raise ValueError("LCMD needs a kernel with features")
        check_size(len(pool), batch_size)
        norms = squared_norms(pool)
        if len(training):
            distance, centre = nearest_centres(pool, training)
        else:
            distance, centre = torch.full_like(norms, torch.inf), torch.zeros_like(norms, dtype=torch.int64)
        foreseen: dict[int, Float[Tensor, " pool"]] = {}
        picked: list[int] = []
        for step in range(batch_size):
            if step == 0 and not len(training):
                best = int(torch.argmax(norms))
            else:
                best = _next(distance, centre, len(training) + step)
            if best not in foreseen:
                left = batch_size - step
                likely = _likely(distance, centre, max(1, len(training) + step), best, min(AHEAD, left))
                to_likely = squared_distances(pool, norms, pool[likely])
                foreseen = dict(zip(likely.tolist(), to_likely, strict=True))
            picked.append(best)
            to_new = foreseen[best]
            closer = to_new < distance
            distance = torch.where(closer, to_new, distance)
            centre = torch.where(closer, len(training) + step, centre)
            distance[picked] = -1.0
        return Selected(np.array(picked, dtype=np.int64))


def _sizes(distance: Float[Tensor, " pool"], centre: Int[Tensor, " pool"], n_centres: int) -> Float[Tensor, " centres"]:
    """Eq. (30); picked rows have distance −1 and count nowhere, a cluster without points has size −1."""
    free = distance >= 0
    sizes = distance.new_zeros(n_centres).index_add_(0, centre, distance.clamp_min(0))
    occupied = torch.zeros(n_centres, dtype=torch.bool, device=centre.device)
    occupied[centre[free]] = True
    return torch.where(occupied, sizes, -1.0)


def _next(distance: Float[Tensor, " pool"], centre: Int[Tensor, " pool"], n_centres: int) -> int:
    """Eq. (31): the farthest free point of the largest cluster."""
    largest = torch.argmax(_sizes(distance, centre, n_centres))
    return int(torch.argmax(torch.where(centre == largest, distance, -2.0)))


def _likely(
    distance: Float[Tensor, " pool"], centre: Int[Tensor, " pool"], n_centres: int, best: int, count: int
) -> Int[Tensor, " likely"]:
    """`best` and the farthest points of the other large clusters."""
    sizes = _sizes(distance, centre, n_centres)
    clusters = torch.topk(sizes, min(count, n_centres)).indices
    large = torch.zeros(n_centres, dtype=torch.bool, device=centre.device)
    large[clusters] = True
    farthest = distance.new_full((n_centres,), -1.0).scatter_reduce_(0, centre, distance, "amax")
    rows = torch.nonzero(large[centre] & (distance == farthest[centre]) & (distance >= 0))[:, 0]
    others = rows[rows != best][: count - 1]
    return torch.cat([rows.new_tensor([best]), others])
