"""MaxDiag (Eq. 26): the structures with the largest k(S, S)."""

from dataclasses import dataclass

import numpy as np
import torch

from bench.kernels.base import Embedding
from bench.selection.base import Selected, check_size


@dataclass(frozen=True)
class MaxDiag:
    """Naive selection: informative, neither diverse nor representative."""

    name: str
    needs_features: bool = False

    def select(self, embedding: Embedding, batch_size: int, generator: np.random.Generator) -> Selected:
        """Pick the largest diagonal entries; ties go to the lowest row."""
        check_size(len(embedding.diagonal), batch_size)
        order = torch.sort(embedding.diagonal, descending=True, stable=True).indices
        return Selected(order[:batch_size].cpu().numpy())
