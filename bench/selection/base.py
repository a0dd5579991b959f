"""What a selection is to the loop: a pure function of kernel values; no model in sight."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bench.errors import UserError
from bench.kernels.base import BLOCK, Embedding, squared_norms


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


def check_embedding(
    embedding: object, pool: Int[np.ndarray, " pool"], kernel: str, labelled: int | None = None
) -> None:
    """Refuse what is no embedding of the pool, or holds values that mean nothing. Raises UserError naming what.

    `labelled` is how many structures the training set has, where that is known.
    """
    if not isinstance(embedding, Embedding):
        raise UserError(f"kernel {kernel}: embed returned {_kind(embedding)}, expected an Embedding: fix its embed")
    _check_shape(kernel, "diagonal", embedding.diagonal, (len(pool),))
    if embedding.pool is not None:
        _check_shape(kernel, "pool", embedding.pool, (len(pool), None))
        _check_shape(kernel, "training", embedding.training, (labelled, embedding.pool.shape[1]))
        if embedding.pool.shape[1] == 0:
            raise UserError(f"kernel {kernel}: pool has the shape ({len(pool)}, 0), no feature at all: fix its embed")
    finite = torch.isfinite(embedding.diagonal)
    if embedding.pool is not None:
        finite &= torch.isfinite(embedding.pool.sum(dim=1))
    _check_finite(kernel, "values", pool, finite.cpu().numpy())
    if embedding.pool is None:
        return
    if embedding.training is not None and not torch.isfinite(embedding.training.sum()):
        raise UserError(f"kernel {kernel}: features of training structures are not finite: has the training diverged?")
    differs = (embedding.diagonal - embedding.norms).abs()
    if len(pool) and differs.max() > SAME * embedding.norms.max():
        row = int(differs.argmax())
        raise UserError(
            f"kernel {kernel}: diagonal is {float(embedding.diagonal[row]):.6g} for structure {pool[row]} of the"
            f" dataset, but the squared norm of its features {float(embedding.norms[row]):.6g}: give"
            " squared_norms(pool)"
        )


SAME = 1e-5
"""Of the largest squared norm: so much may a diagonal differ from the squared norms of the features."""


def check_uncertainty(values: object, structures: Int[np.ndarray, " n"], kernel: str) -> None:
    """Refuse what is neither None nor a finite number for each of some structures. Raises UserError naming what."""
    if values is None:
        return
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f" or values.shape != structures.shape:
        found = f" of {values.dtype}, shape {values.shape}" if isinstance(values, np.ndarray) else ""
        raise UserError(
            f"kernel {kernel}: uncertainty returned {_kind(values)}{found}, expected a numpy.ndarray of floats, shape"
            f" {structures.shape}: fix its uncertainty"
        )
    _check_finite(kernel, "uncertainties", structures, np.isfinite(values))


def _check_finite(kernel: str, what: str, structures: Int[np.ndarray, " n"], finite: Bool[np.ndarray, " n"]) -> None:
    bad = structures[~finite]
    if len(bad):
        named = ", ".join(map(str, bad[:3].tolist())) + (", …" if len(bad) > 3 else "")
        raise UserError(
            f"kernel {kernel}: {what} of {len(bad)} of {len(structures)} structures are not finite (structures {named}"
            " of the dataset): look at these structures, or at the training, which may have diverged"
        )


def _check_shape(kernel: str, name: str, part: object, shape: tuple[int | None, ...]) -> None:
    """Refuse a part of an embedding that is no tensor of numbers of that shape; None fits any size."""
    if not isinstance(part, Tensor):
        raise UserError(f"kernel {kernel}: {name} is {_kind(part)}, expected a tensor of torch: fix its embed")
    if part.ndim != len(shape) or any(n not in (None, given) for n, given in zip(shape, part.shape, strict=True)):
        expected = str(tuple("any" if n is None else n for n in shape)).replace("'", "")
        found = tuple(part.shape)
        raise UserError(f"kernel {kernel}: {name} has the shape {found}, expected {expected}: fix its embed")
    if part.dtype != torch.float64 or part.requires_grad or part.layout != torch.strided:
        given = f"of {part.dtype}" + (", with a gradient" if part.requires_grad else "")
        given += f", {part.layout}" if part.layout != torch.strided else ""
        raise UserError(f"kernel {kernel}: {name} is a tensor {given}: give .detach().double(), dense")


def _kind(value: object) -> str:
    name = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return "None" if value is None else f"a {name}"


def no_features(selection: str) -> UserError:
    """What is said where a kernel that states features gives none."""
    return UserError(
        f"selection {selection} needs features, but the kernel's embed gives none: have it give those of pool and"
        " training set, or set has_features = False in its class"
    )


def check_picks(selected: object, pool: int, batch_size: int, selection: str) -> None:
    """Refuse picks that are no batch: too few or many, repeated, or rows that are not there. Raises UserError."""
    rows = selected.rows if isinstance(selected, Selected) else None
    n_random = selected.n_random if isinstance(selected, Selected) else 0
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "iu":
        found = f"rows that are {_kind(rows)}" if isinstance(selected, Selected) else _kind(selected)
        found += f" of {rows.dtype}" if isinstance(rows, np.ndarray) else ""
        raise UserError(
            f"selection {selection} returned {found}, expected Selected(rows) with an array of integers: fix its select"
        )
    if rows.shape != (batch_size,) or len(np.unique(rows)) != len(rows) or not ((rows >= 0) & (rows < pool)).all():
        shown = ", ".join(map(str, rows.flatten()[:8].tolist())) + (", …" if rows.size > 8 else "")
        shown += f" in the shape {rows.shape}" if rows.ndim != 1 else ""
        raise UserError(
            f"selection {selection} picked rows {shown} of a pool of {pool}, expected {batch_size} different ones: fix"
            " its select"
        )
    if not isinstance(n_random, int) or not 0 <= n_random <= batch_size:
        raise UserError(
            f"selection {selection} returned n_random = {n_random!r}, expected an integer from 0 to {batch_size}: fix"
            " its select"
        )


def check_size(pool: int, batch_size: int) -> None:
    """Refuse to pick more than there is."""
    if batch_size > pool:
        raise UserError(f"batch_size = {batch_size} but the pool holds {pool} structures: lower batch_size or final")


ROUNDING = 1e-12
"""Relative; norms of equal rows differ by less."""


class Copies:
    """Rows of training set and pool whose features are equal to the last bit.

    A product of matrices rounds equal rows differently, by where they stand: what should tie, does not. Picks are
    therefore passed through `lowest`, and distances between equal rows are set to zero.
    """

    def __init__(
        self,
        pool: Float[Tensor, "pool features"],
        norms: Float[Tensor, " pool"],
        training: Float[Tensor, "training features"] | None = None,
    ) -> None:
        self.groups: dict[int, list[int]] = {}
        """Pool rows that have equals in the pool: a group each, ascending."""
        self.of_training: list[int] = []
        """Pool rows that equal a training row."""
        known = pool[:0] if training is None else training
        # few rows but equal ones have equal norms
        norms, order = torch.sort(torch.cat([squared_norms(known), norms]))
        near = norms.diff() <= ROUNDING * norms[1:]
        alike = torch.zeros(len(norms), dtype=torch.bool, device=norms.device)
        alike[1:] |= near
        alike[:-1] |= near
        candidates = order[alike].sort().values
        trained, own = candidates[candidates < len(known)], candidates[candidates >= len(known)] - len(known)
        of_training = {content for _, content in _contents(known, trained)}
        by_content: dict[bytes, list[int]] = {}
        for row, content in _contents(pool, own):
            by_content.setdefault(content, []).append(row)
        for content, rows in by_content.items():
            if content in of_training:
                self.of_training += rows
            if len(rows) > 1:
                self.groups |= dict.fromkeys(rows, rows)

    def lowest(self, row: int, picked: Container[int]) -> int:
        """The lowest row equal to this one that is not picked yet."""
        return next((other for other in self.groups.get(row, ()) if other not in picked), row)

    def among(self, candidates: Int[Tensor, " candidates"], row: int) -> Int[Tensor, " places"]:
        """The places of the rows equal to this one among ascending candidates."""
        equal = candidates.new_tensor(self.others(row))
        return torch.nonzero(torch.isin(candidates, equal)).flatten()

    def others(self, row: int) -> list[int]:
        """The rows equal to this one, itself among them."""
        return self.groups.get(row, [row])


def _contents(features: Float[Tensor, "n features"], rows: Int[Tensor, " rows"]) -> Iterator[tuple[int, bytes]]:
    """Rows and what they hold; the two zeros are one."""
    for block in rows.split(BLOCK):
        held = (features[block] + 0.0).cpu().numpy()
        yield from zip(block.tolist(), (row.tobytes() for row in held), strict=True)


CANDIDATES = 1024
"""How many rows a round of a lazy greedy selection looks at."""


class LazyRound:
    """A round of a greedy selection whose scores only fall: a stale one is an upper bound.

    Picks are made among the rows with the largest scores until a row outside could have a larger one.
    """

    def __init__(self, scores: Float[Tensor, " pool"], copies: Copies, picked: list[int]) -> None:
        """Pick the row with the largest of scores that are all up to date."""
        best = copies.lowest(int(torch.argmax(scores)), picked)
        picked.append(best)
        self.copies, self.picked = copies, picked
        self.rows, self.outside = _largest(scores, best)
        self.place = int(torch.searchsorted(self.rows, best))
        """Where the latest pick stands among the rows looked at."""
        self.scores = scores[self.rows]

    def pick(self, scores: Float[Tensor, " candidates"], *, above: float = -torch.inf) -> bool:
        """Take in the scores after the latest pick, and pick the next row; False if it may be outside or is too low."""
        equal = self.copies.among(self.rows, self.picked[-1])
        scores[equal] = scores[equal].clamp_max(0.0)
        scores[self.place] = -torch.inf
        self.scores = scores
        best = int(torch.argmax(scores))
        if not scores[best] > max(self.outside, above):
            return False
        row = self.copies.lowest(int(self.rows[best]), self.picked)
        self.place = int(torch.searchsorted(self.rows, row))
        if self.place == len(self.rows) or int(self.rows[self.place]) != row:
            return False  # its lowest equal is outside: the next round finds it
        self.picked.append(row)
        return True


def _largest(scores: Float[Tensor, " pool"], best: int) -> tuple[Int[Tensor, " candidates"], float]:
    """Rows with the largest scores, ascending and `best` among them, and the largest score outside."""
    if len(scores) <= CANDIDATES:
        return torch.arange(len(scores), device=scores.device), -torch.inf
    top = torch.topk(scores, CANDIDATES + 1)
    rows = torch.cat([top.indices[:CANDIDATES], top.indices.new_tensor([best])])
    return torch.unique(rows), float(top.values[-1])
