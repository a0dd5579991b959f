"""What a selection is to the loop: a pure function of kernel values; no model in sight."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.errors import UserError
from bench.kernels.base import Embedding


@runtime_checkable
class Selection(Protocol):
    """A selection method of Section 3.2; its fields are the keys of its yaml in conf/selection.

    Rows of the pool stand in the order of the dataset, so that a tie goes to the lowest index in the dataset.
    """

    @property
    def name(self) -> str:
        """As in the paper."""

    @property
    def needs_features(self) -> bool:
        """Whether a diagonal alone is not enough."""

    def select(self, embedding: Embedding, batch_size: int, generator: np.random.Generator) -> "Selected":
        """Pick `batch_size` rows of the pool, in the order of picking."""


@dataclass(frozen=True)
class Selected:
    """Picked rows of the pool in their order; the last `n_random` were filled in for want of rank (MaxDet only)."""

    rows: Int[np.ndarray, " picked"]
    n_random: int = 0


def check_size(pool: int, batch_size: int) -> None:
    """Refuse to pick more than there is."""
    if batch_size > pool:
        raise UserError(f"batch_size = {batch_size} but the pool holds {pool} structures: lower batch_size or final")


CANDIDATES = 1024
"""How many rows a round of a lazy greedy selection looks at."""


def largest(scores: Float[Tensor, " pool"], best: int) -> tuple[Int[Tensor, " candidates"], float]:
    """Rows with the largest scores, ascending and `best` among them, and the largest score outside."""
    if len(scores) <= CANDIDATES:
        return torch.arange(len(scores), device=scores.device), -torch.inf
    top = torch.topk(scores, CANDIDATES + 1)
    rows = torch.cat([top.indices[:CANDIDATES], top.indices.new_tensor([best])])
    return torch.unique(rows), float(top.values[-1])
