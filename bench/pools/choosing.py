"""From a kernel's values to the structures to label: the selection, under caps and without near-duplicates."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from bench.errors import UserError
from bench.kernels.base import Embedding, squared_norms
from bench.pools.embedded import part_of
from bench.pools.frames import Frames
from bench.pools.guards import CAPPED, NEAR, Guards, Sieve, beyond_caps, groups_of
from bench.selection.base import Selection, check_picks
from bench.selection.distances import nearest_centres, nearest_of_training, squared_distances


@dataclass(frozen=True)
class Chosen:
    """Rows of the pool in the order of picking, the last `n_random` at random; `among`, ascending, could be chosen."""

    rows: Int[np.ndarray, " picked"]
    n_random: int
    embedding: Embedding
    among: Int[np.ndarray, " allowed"]

    @property
    def places(self) -> Int[np.ndarray, " picked"]:
        """Where the picks stand among what was to choose from."""
        return np.searchsorted(self.among, self.rows)


def choose(
    frames: Frames,
    sieve: Sieve,
    embedded: Int[np.ndarray, " embedded"],
    embedding: Embedding,
    n: int,
    selection: Selection,
    guards: Guards,
    generator: np.random.Generator,
    *,
    at_most: bool = False,
) -> Chosen:
    """Pick `n` structures of those that `sieve` allows; `embedding` holds the rows `embedded` of the pool.

    With `at_most` all are picked where fewer are left.

    Where picks are near-duplicates or exceed a cap, what stands against them is kept out and the selection is done
    again: it converges, for each time more is kept out. Raises UserError if fewer than `n` are left.
    """
    tolerance = _tolerance(embedding, guards)
    caps = groups_of(frames, guards)
    if tolerance and embedding.pool is not None and embedding.training is not None and len(embedding.training):
        near, _ = nearest_of_training(embedding)
        sieve.reject(embedded[near.cpu().numpy() < tolerance], NEAR)
    while True:
        n = sieve.check(n, at_most=at_most)
        part, among = part_of(embedding, sieve.allowed[embedded]), sieve.rows
        selected = selection.select(part, n, generator)
        check_picks(selected, len(among), n, selection.name)
        picked = among[selected.rows]
        kept, full = beyond_caps(picked, caps)
        stays, out = set(kept), 0
        for what, _, groups in caps:
            if len(kept) < n and full[what]:
                others = [row for row in among.tolist() if groups[row] in full[what] and row not in stays]
                out += sieve.reject(np.array(others, dtype=np.int64), f"{CAPPED} per {what}")
        if tolerance and part.pool is not None:
            out += sieve.reject(_near(part.pool, among, selected.rows, tolerance), NEAR)
        if not out:
            return Chosen(picked, selected.n_random, part, among)


def _tolerance(embedding: Embedding, guards: Guards) -> float:
    """The squared distance below which structures are near-duplicates. Raises UserError without features."""
    if not guards.tolerance:
        return 0.0
    if embedding.pool is None:
        raise UserError("guards.tolerance needs distances, which this kernel has not: choose a FEAT or GP kernel")
    spread = embedding.norms.mean() - embedding.pool.mean(0).square().sum()
    return guards.tolerance**2 * float(spread)


def _near(
    pool: Float[Tensor, "pool features"],
    among: Int[np.ndarray, " pool"],
    picked: Int[np.ndarray, " picked"],
    tolerance: float,
) -> Int[np.ndarray, " near"]:
    """The structures that are near-duplicates of a pick that stays; nothing where no two picks are."""
    own = pool[picked.tolist()]
    close = squared_distances(own, squared_norms(own), own).cpu().numpy() < tolerance
    stays: list[int] = []
    for number in range(len(picked)):
        if not close[number, stays].any():
            stays.append(number)
    if len(stays) == len(picked):
        return among[:0]
    near = nearest_centres(pool, own[stays])[0].cpu().numpy() < tolerance
    near[picked[stays]] = False
    return among[near]
