"""MaxDet (Eq. 27): greedy maximisation of the determinant by partial pivoted Cholesky factorisation (refs. 29, 59)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from bench.kernels.base import Embedding
from bench.selection.base import Selected, check_size

RELATIVE_RANK = 1e-12
"""Residuals below this fraction of the largest initial diagonal count as zero (METHOD section 5)."""


@dataclass(frozen=True)
class MaxDet:
    """Noise-free: at most d_feature picks. `on_deficit` says what to do when the kernel's rank is used up earlier."""

    name: str
    on_deficit: Literal["fail", "random"] = "fail"
    needs_features: bool = True

    def select(self, embedding: Embedding, batch_size: int, generator: np.random.Generator) -> Selected:
        """Pick the row with the largest residual k(S, S) given the rows picked before; ties go to the lowest row.

        Raises ArithmeticError with the number found if the rank is below `batch_size` and `on_deficit` is `fail`.
        """
        features = embedding.pool
        if features is None:
            raise ValueError("MaxDet needs a kernel with features")
        check_size(len(features), batch_size)
        residual = embedding.diagonal.clone()
        smallest = RELATIVE_RANK * residual.max()
        columns = features.new_zeros(batch_size, len(features))
        picked: list[int] = []
        for step in range(batch_size):
            best = int(torch.argmax(residual))
            if not residual[best] > smallest:
                break
            column = features @ features[best] - columns[:step].T @ columns[:step, best]
            columns[step] = column / column[best].sqrt()
            residual -= columns[step] ** 2
            residual[best] = -torch.inf
            picked.append(best)
        missing = batch_size - len(picked)
        if missing and self.on_deficit == "fail":
            raise ArithmeticError(
                f"MaxDet found {len(picked)} of {batch_size} structures: the kernel has no more rank;"
                " lower batch_size or set selection.on_deficit=random"
            )
        rest = np.setdiff1d(np.arange(len(features)), picked)
        filled = generator.choice(rest, missing, replace=False)
        return Selected(np.concatenate([np.array(picked, dtype=np.int64), filled]), missing)
