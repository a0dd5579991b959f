"""MaxDet (Eq. 27): greedy maximisation of the determinant by partial pivoted Cholesky factorisation (refs. 29, 59)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bench.errors import UserError
from bench.kernels.base import Embedding
from bench.selection.base import Copies, LazyRound, Selected, check_size, no_features

RELATIVE_RANK = 1e-12
"""Residuals below this fraction of the largest initial diagonal count as zero (docs/method.md, Selections)."""


@dataclass(frozen=True)
class MaxDet:
    """Noise-free: at most d_feature picks. `on_deficit` says what to do when the kernel's rank is used up earlier.

    Residual variances only fall: the factor's new columns are computed for the whole pool at once between rounds.
    """

    name: str
    on_deficit: Literal["fail", "random"] = "fail"
    needs_features: bool = True

    def select(self, embedding: Embedding, batch_size: int, generator: np.random.Generator) -> Selected:
        """Pick the row with the largest residual k(S, S) given the rows picked before; ties go to the lowest row.

        Raises UserError with the number found if the rank is below `batch_size` and `on_deficit` is `fail`.
        """
        features = embedding.pool
        if features is None:
            raise no_features(self.name)
        check_size(len(features), batch_size)
        picked = _pick(features, embedding.diagonal, batch_size)
        missing = batch_size - len(picked)
        if missing and self.on_deficit == "fail":
            raise UserError(
                f"MaxDet found {len(picked)} of {batch_size} structures: the kernel has no more rank, all others are"
                " copies or combinations of these: pick fewer or set selection.on_deficit=random"
            )
        rest = np.setdiff1d(np.arange(len(features)), picked)
        filled = generator.permutation(rest)[:missing]  # so that a smaller batch begins a larger one
        return Selected(np.concatenate([np.array(picked, dtype=np.int64), filled]), missing)


def _pick(features: Float[Tensor, "pool features"], diagonal: Float[Tensor, " pool"], batch_size: int) -> list[int]:
    residual, copies = diagonal.clone(), Copies(features, diagonal)
    smallest = float(RELATIVE_RANK * residual.max())
    columns = features.new_zeros(batch_size, len(features))
    picked: list[int] = []
    updated = 0
    while len(picked) < batch_size:
        if updated < len(picked):
            _extend(columns, features, picked, updated)
            residual -= (columns[updated : len(picked)] ** 2).sum(0)
            for row in picked[updated:]:
                residual[copies.others(row)] = 0.0
            residual[picked] = -torch.inf
            updated = len(picked)
        if not residual.max() > smallest:
            break
        looked_at = LazyRound(residual, copies, picked)
        own, factor = features[looked_at.rows], columns[:, looked_at.rows]
        while len(picked) < batch_size:
            step, latest = len(picked) - 1, looked_at.place
            column = own @ own[latest] - factor[:step].T @ factor[:step, latest]
            factor[step] = column / column[latest].sqrt()
            if not looked_at.pick(looked_at.scores - factor[step] ** 2, above=smallest):
                break
    return picked


def _extend(
    columns: Float[Tensor, "batch pool"], features: Float[Tensor, "pool features"], picked: list[int], done: int
) -> None:
    """Fill the rows done:len(picked) of the transposed Cholesky factor for the whole pool."""
    new = slice(done, len(picked))
    block = torch.addmm(
        features[picked[new]] @ features.T, columns[:done, picked[new]].T, columns[:done], beta=1, alpha=-1
    )
    pivots = torch.linalg.cholesky(block[:, picked[new]])
    columns[new] = torch.linalg.solve_triangular(pivots, block, upper=False)
