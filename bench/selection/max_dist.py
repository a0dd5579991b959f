"""MaxDist (Eq. 28): greedily the point farthest from training set and batch (refs. 28, 29, MaxDist-TP)."""

from dataclasses import dataclass

import numpy as np
import torch

from bench.kernels.base import Embedding, squared_norms
from bench.selection.base import Copies, Selected, check_size, largest
from bench.selection.distances import nearest_centres, squared_distances


@dataclass(frozen=True)
class MaxDist:
    """Informative and diverse.

    Distances to the nearest centre only fall as centres are added, so a stale one is an upper bound: picks are made
    among the candidates with the largest distances until one outside could be larger; only then is the whole pool
    updated.
    """

    name: str
    needs_features: bool = True

    def select(self, embedding: Embedding, batch_size: int, generator: np.random.Generator) -> Selected:
        """Pick rows one by one; ties go to the lowest row. Without training data the first has the largest k(S, S)."""
        pool, training = embedding.pool, embedding.training
        if pool is None or training is None:
            raise ValueError("MaxDist needs a kernel with features")
        check_size(len(pool), batch_size)
        norms = squared_norms(pool)
        copies = Copies(pool, norms, training)
        distance = nearest_centres(pool, training)[0] if len(training) else torch.full_like(norms, torch.inf)
        distance[copies.of_training] = 0.0
        picked: list[int] = []
        if not len(training):
            picked.append(copies.lowest(int(torch.argmax(norms)), ()))
        updated = 0
        while len(picked) < batch_size:
            if updated < len(picked):
                to_new = squared_distances(pool, norms, pool[picked[updated:]])
                distance = torch.minimum(distance, to_new.amin(dim=0))
                for row in picked[updated:]:
                    distance[copies.others(row)] = 0.0
                distance[picked] = -torch.inf
                updated = len(picked)
            # everything is up to date, so the first pick of a round needs no comparison with the rest
            picked.append(copies.lowest(int(torch.argmax(distance)), picked))
            candidates, outside = largest(distance, picked[-1])
            among, features, among_norms = distance[candidates], pool[candidates], norms[candidates]
            best = int(torch.searchsorted(candidates, picked[-1]))
            while len(picked) < batch_size:
                to_new = squared_distances(features, among_norms, features[best : best + 1])[0]
                among = torch.minimum(among, to_new)
                equal = copies.among(candidates, picked[-1])
                among[equal] = among[equal].clamp_max(0.0)
                among[best] = -torch.inf
                best = int(torch.argmax(among))
                if not among[best] > outside:
                    break
                row = copies.lowest(int(candidates[best]), picked)
                best = int(torch.searchsorted(candidates, row))
                if best == len(candidates) or int(candidates[best]) != row:
                    break  # its lowest equal is outside: the next round finds it
                picked.append(row)
        return Selected(np.array(picked, dtype=np.int64))
