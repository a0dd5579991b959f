"""MaxDist (Eq. 28): greedily the point farthest from training set and batch (refs. 28, 29, MaxDist-TP)."""

from dataclasses import dataclass

import numpy as np
import torch

from bench.kernels.base import Embedding
from bench.selection.base import Copies, LazyRound, Selected, check_size, no_features
from bench.selection.distances import nearest_of_training, squared_distances


@dataclass(frozen=True)
class MaxDist:
    """Informative and diverse.

    Distances to the nearest centre only fall as centres are added: the whole pool is updated only between rounds.
    """

    name: str
    needs_features: bool = True

    def select(self, embedding: Embedding, batch_size: int, generator: np.random.Generator) -> Selected:
        """Pick rows one by one; ties go to the lowest row. Without training data the first has the largest k(S, S)."""
        pool, training = embedding.pool, embedding.training
        if pool is None or training is None:
            raise no_features(self.name)
        check_size(len(pool), batch_size)
        norms = embedding.norms
        copies = Copies(pool, norms, training)
        distance, _ = nearest_of_training(embedding)
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
            looked_at = LazyRound(distance, copies, picked)
            features, of_features = pool[looked_at.rows], norms[looked_at.rows]
            while len(picked) < batch_size:
                latest = features[looked_at.place : looked_at.place + 1]
                to_new = squared_distances(features, of_features, latest)[0]
                if not looked_at.pick(torch.minimum(looked_at.scores, to_new)):
                    break
        return Selected(np.array(picked, dtype=np.int64))
