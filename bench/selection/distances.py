"""Squared distances of Eq. (10) between many rows: blocked matrix products, exact to float64 where it matters."""

import math
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bench.kernels.base import Embedding, squared_norms

ROWS = 1024
CENTRES = 1024
GROUP = 32
"""Centres whose single-precision distances are reduced to one minimum, and which are compared exactly together."""
COPIED = 131072
"""Rows of the pool that are copied at a time: of a few centres a group can concern the whole pool."""
SLACK = 16.0
"""Safety factor on the rounding error of a single-precision product."""
SQUARES = (1e-16, 1e30)
"""Largest squared norms between which single precision holds products of features and of their differences."""
SMALLEST = 1e-300
"""Squared norms below are as good as zero."""


def squared_distances(
    pool: Float[Tensor, "pool features"],
    pool_norms: Float[Tensor, " pool"],
    points: Float[Tensor, "points features"],
) -> Float[Tensor, "points pool"]:
    """|x|² + |p|² − 2x·p in float64, never negative."""
    distances = torch.addmm(pool_norms[None, :], points, pool.T, alpha=-2)
    distances += squared_norms(points)[:, None]
    return distances.clamp_min_(0)


_OF_TRAINING: WeakKeyDictionary[Embedding, tuple[Tensor, Tensor]] = WeakKeyDictionary()


def nearest_of_training(embedding: Embedding) -> tuple[Float[Tensor, " pool"], Int[Tensor, " pool"]]:
    """Of each row of the pool the squared distance to its nearest row of the training set, and that row.

    Infinite, and row 0, where there is no training set. Worked out once for an embedding: callers get copies.
    """
    pool, training = embedding.pool, embedding.training
    if pool is None or training is None:
        raise ValueError("distances need a kernel with features")
    if embedding not in _OF_TRAINING:
        if len(training):
            found = nearest_centres(pool, training, embedding.norms)
        else:
            nobody = torch.zeros(len(pool), dtype=torch.int64, device=pool.device)
            found = torch.full_like(embedding.norms, torch.inf), nobody
        _OF_TRAINING[embedding] = found
    distance, row = _OF_TRAINING[embedding]
    return distance.clone(), row.clone()


def nearest_centres(
    pool: Float[Tensor, "pool features"],
    centres: Float[Tensor, "centres features"],
    norms: Float[Tensor, " pool"] | None = None,
) -> tuple[Float[Tensor, " pool"], Int[Tensor, " pool"]]:
    """Squared distance of each row to its nearest centre, and that centre, the first of equals.

    `norms` are the squared norms of the pool, where they are known.

    Single-precision products find, for every row, the groups of centres that can hold the nearest within rounding;
    these groups alone are compared in float64. The origin is moved to a row of the data, which makes the products
    small and leaves differences of integers exact. Features whose squares single precision cannot hold are brought into
    its range by a power of two, which rounds nothing.
    """
    norms = squared_norms(pool) if norms is None else norms
    largest = max(float(norms.max()), float(squared_norms(centres).max())) if len(pool) else 1.0
    if SMALLEST < largest < math.inf and not SQUARES[0] < largest < SQUARES[1]:
        factor = 2.0 ** -(math.frexp(largest)[1] // 2)
        distance, nearest = nearest_centres(pool * factor, centres * factor, norms * factor**2)
        return distance / factor**2, nearest
    n_centres = len(centres)
    origin = centres[0]
    shifted = (centres - origin).to(torch.float32)
    padding = -n_centres % GROUP
    single = torch.cat([-2 * shifted, squared_norms(shifted)[:, None]], dim=1)
    filler = torch.zeros_like(single[:1])
    filler[0, -1] = torch.inf
    single = torch.cat([single, filler.expand(padding, -1)]) if padding else single
    unit = torch.finfo(torch.float32).eps * SLACK
    centre_bound = float(squared_norms(shifted).max())

    n_groups = len(single) // GROUP
    minima = torch.empty(len(pool), n_groups, dtype=torch.float32, device=pool.device)
    tolerance = torch.empty(len(pool), dtype=torch.float32, device=pool.device)
    for start in range(0, len(pool), ROWS):
        rows = slice(start, start + ROWS)
        block = (pool[rows] - origin).to(torch.float32)
        tolerance[rows] = unit * (squared_norms(block) + centre_bound)
        extended = torch.cat([block, torch.ones_like(block[:, :1])], dim=1)
        for first in range(0, len(single), CENTRES):
            part = extended @ single[first : first + CENTRES].T
            groups = slice(first // GROUP, (first + part.shape[1]) // GROUP)
            minima[rows, groups] = part.reshape(len(block), -1, GROUP).amin(dim=2)
    limit = minima.amin(dim=1) + tolerance
    return _compare_exactly(pool, norms, centres, minima <= limit[:, None])


def _compare_exactly(
    pool: Float[Tensor, "pool features"],
    norms: Float[Tensor, " pool"],
    centres: Float[Tensor, "centres features"],
    possible: Bool[Tensor, "pool groups"],
) -> tuple[Float[Tensor, " pool"], Int[Tensor, " pool"]]:
    """Go through the groups in the order of the centres, so that the first of equally near centres is kept."""
    best = torch.full_like(norms, torch.inf)
    nearest = torch.zeros(len(pool), dtype=torch.int64, device=pool.device)
    pairs = torch.nonzero(possible.T.contiguous())
    groups, counts = torch.unique_consecutive(pairs[:, 0], return_counts=True)
    for group, rows in zip(groups.tolist(), pairs[:, 1].split(counts.tolist()), strict=True):
        first = group * GROUP
        for part in rows.split(COPIED):
            exact = squared_distances(pool[part], norms[part], centres[first : first + GROUP])
            closest = exact.min(dim=0)
            better = closest.values < best[part]
            best[part] = torch.where(better, closest.values, best[part])
            nearest[part] = torch.where(better, first + closest.indices, nearest[part])
    return best, nearest
