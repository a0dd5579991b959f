"""LCMD (Eqs. 29-31): from the largest cluster, the point farthest from its centre (ref. 29, LCMD-TP)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.kernels.base import Embedding
from bench.selection.base import Copies, Selected, check_size, no_features
from bench.selection.distances import nearest_of_training, squared_distances

AHEAD = 32
"""Likely next picks whose distances to the pool are computed in one matrix product, at most."""
DISTANCES = 2**23
"""Of a large pool as many as make so many distances: a wrong guess costs more than to read the features again."""
MEMBERS = 64
"""Points of a large cluster that are looked at to guess the next picks."""


@dataclass(frozen=True)
class LargestClusterMaximumDistance:
    """Clusters the pool around training set and batch; a cluster's size is the sum of squared distances (Eq. 30).

    Every pick needs its distances to the whole pool. They are computed for several likely next picks at a time, which
    reads the features once for all of them; a pick that was not foreseen starts a new round. The guess decides what is
    computed early, never what is picked.
    """

    name: str
    needs_features: bool = True

    def select(self, embedding: Embedding, batch_size: int, generator: np.random.Generator) -> Selected:
        """Pick rows one by one; a point equally far from two centres belongs to the older, ties go to the lowest row.

        Without training data the first pick has the largest k(S, S).
        """
        pool, training = embedding.pool, embedding.training
        if pool is None or training is None:
            raise no_features(self.name)
        check_size(len(pool), batch_size)
        norms = embedding.norms
        copies = Copies(pool, norms, training)
        distance, centre = nearest_of_training(embedding)
        distance[copies.of_training] = 0.0
        foreseen: dict[int, Float[Tensor, " pool"]] = {}
        picked: list[int] = []
        for step in range(batch_size):
            if step == 0 and not len(training):
                best = int(torch.argmax(norms))
            else:
                best = _next(distance, centre, len(training) + step)
            best = copies.lowest(best, picked)
            if best not in foreseen:
                left = batch_size - step
                likely = [best]
                if step or len(training):
                    likely += _likely(
                        pool, distance, centre, len(training) + step, min(AHEAD, left, max(1, DISTANCES // len(pool)))
                    )
                likely = list(dict.fromkeys(likely))
                foreseen = dict(zip(likely, squared_distances(pool, norms, pool[likely]), strict=True))
            picked.append(best)
            to_new = foreseen[best]
            to_new[copies.others(best)] = 0.0
            centre.masked_fill_(to_new < distance, len(training) + step)
            torch.minimum(distance, to_new, out=distance)
            # below every distance: a picked row is in no cluster and never comes closer to anything
            distance[best] = -1.0
        return Selected(np.array(picked, dtype=np.int64))


def _sizes(distance: Float[Tensor, " pool"], centre: Int[Tensor, " pool"], n_centres: int) -> Float[Tensor, " centres"]:
    """Eq. (30); picked rows have distance −1 and count nowhere, a cluster without points has size −1."""
    sizes = distance.new_zeros(n_centres).index_add_(0, centre, distance.clamp_min(0))
    farthest = distance.new_full((n_centres,), -1.0).scatter_reduce_(0, centre, distance, "amax")
    return torch.where(farthest >= 0, sizes, -1.0)


def _next(distance: Float[Tensor, " pool"], centre: Int[Tensor, " pool"], n_centres: int) -> int:
    """Eq. (31): the farthest free point of the largest cluster."""
    largest = torch.argmax(_sizes(distance, centre, n_centres))
    return int(torch.argmax(torch.where(centre == largest, distance, -2.0)))


def _likely(
    pool: Float[Tensor, "pool features"],
    distance: Float[Tensor, " pool"],
    centre: Int[Tensor, " pool"],
    n_centres: int,
    count: int,
) -> list[int]:
    """Guess the next picks by LCMD among the farthest points of the largest clusters.

    Cluster sizes are the true ones; points that are not looked at are taken to stay in their clusters.
    """
    sizes = _sizes(distance, centre, n_centres)
    rows = torch.cat([_farthest(distance, centre, int(c)) for c in torch.topk(sizes, min(count, n_centres)).indices])
    features = pool[rows].to(torch.float32)
    mutual = torch.cdist(features, features).square().cpu().numpy()
    far, of = distance[rows].cpu().numpy().copy(), centre[rows].cpu().numpy().copy()
    size = np.concatenate([sizes.cpu().numpy(), np.zeros(count)])
    found: list[int] = []
    for step in range(min(count, int((far >= 0).sum()))):
        # the newest centre wins no tie, and a cluster of which nothing is looked at is passed over
        best = int(np.argmax(np.where(far >= 0, size[of] + 1e-9 * far, -1.0)))
        best = int(np.argmax(np.where(of == of[best], far, -1.0)))
        found.append(best)
        size[of[best]] -= far[best]
        far[best] = -1.0
        closer = mutual[best] < far
        np.subtract.at(size, of[closer], far[closer])
        of[closer], far[closer] = n_centres + step, mutual[best][closer]
        size[n_centres + step] = far[closer].sum()
    return rows[torch.tensor(found, device=rows.device)].tolist()


def _farthest(distance: Float[Tensor, " pool"], centre: Int[Tensor, " pool"], cluster: int) -> Int[Tensor, " rows"]:
    """The farthest points of a cluster."""
    rows = torch.nonzero((centre == cluster) & (distance >= 0))[:, 0]
    if len(rows) <= MEMBERS:
        return rows
    return rows[torch.sort(torch.topk(distance[rows], MEMBERS).indices).values]
