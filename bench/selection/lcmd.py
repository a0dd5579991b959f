"""LCMD (Eqs. 29-31): from the largest cluster, the point farthest from its centre (ref. 29, LCMD-TP)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.kernels.base import Embedding, squared_norms
from bench.selection.base import Selected, check_size

ROWS_PER_BLOCK = 2048


@dataclass(frozen=True)
class LargestClusterMaximumDistance:
    """Clusters the pool around training set and batch; a cluster's size is the sum of squared distances (Eq. 30)."""

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
            distance, centre = norms.clone(), torch.zeros(len(pool), dtype=torch.int64, device=pool.device)
        free = torch.ones(len(pool), dtype=torch.bool, device=pool.device)
        picked: list[int] = []
        for step in range(batch_size):
            sizes = distance.new_zeros(len(training) + batch_size + 1)
            sizes.index_add_(0, centre[free], distance[free])
            occupied = torch.bincount(centre[free], minlength=len(sizes)) > 0
            largest = torch.argmax(torch.where(occupied, sizes, -torch.inf))
            best = int(torch.argmax(torch.where(free & (centre == largest), distance, -torch.inf)))
            picked.append(best)
            free[best] = False
            to_new = (norms + norms[best] - 2 * pool @ pool[best]).clamp_min_(0)
            closer = to_new < distance
            if step == 0 and not len(training):
                closer = torch.ones_like(closer)
            distance = torch.where(closer, to_new, distance)
            centre = torch.where(closer, len(training) + step, centre)
        return Selected(np.array(picked, dtype=np.int64))


def nearest_centres(
    pool: Float[Tensor, "pool features"], centres: Float[Tensor, "centres features"]
) -> tuple[Float[Tensor, " pool"], Int[Tensor, " pool"]]:
    """Squared distance (Eq. 10) of each row to its nearest centre, and that centre, the first of equals."""
    pool_norms, centre_norms = squared_norms(pool), squared_norms(centres)
    distances, nearest = [], []
    for start in range(0, len(pool), ROWS_PER_BLOCK):
        rows = slice(start, start + ROWS_PER_BLOCK)
        block = centre_norms + pool_norms[rows, None] - 2 * pool[rows] @ centres.T
        closest = block.clamp_min_(0).min(dim=1)
        distances.append(closest.values)
        nearest.append(closest.indices)
    return torch.cat(distances), torch.cat(nearest)
