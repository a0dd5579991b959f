"""What a kernel is to the loop: prepared on the trained models, then evaluated on any structures."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.config.plugins import offers
from bench.data.structures import Structures
from bench.potentials.base import Potential, View
from bench.runs.record_schema import Quantity
from bench.training.evaluate import StructureErrors

BLOCK = 8192
"""Rows of a feature matrix that are worked on at once."""
SQUARED_AT_ONCE = 131072
"""Entries whose squares are held at a time: what stays in a processor's cache."""


@dataclass(frozen=True)
class KernelInputs:
    """The state of a run after training: the models (all members), the data, what is labelled, and the seed."""

    potential: Potential
    view: View
    labelled: Int[np.ndarray, " labelled"]
    seed: int


@dataclass(frozen=True, eq=False)
class Embedding:
    """What a selection sees: k(S, S) of the pool and, with a feature map, the features of pool and training set."""

    diagonal: Float[Tensor, " pool"]
    pool: Float[Tensor, "pool features"] | None = None
    training: Float[Tensor, "labelled features"] | None = None

    @cached_property
    def norms(self) -> Float[Tensor, " pool"]:
        """The squared norms of the pool's features; none without features."""
        return self.diagonal[:0] if self.pool is None else squared_norms(self.pool)


@runtime_checkable
class PreparedKernel(Protocol):
    """A kernel fixed by the trained models and the labelled set."""

    def embed(self, structures: Int[np.ndarray, " pool"]) -> Embedding:
        """Evaluate the kernel on some structures."""

    def uncertainty(self, errors: StructureErrors) -> Float[np.ndarray, " n"] | None:
        """Predict the standard deviation of the structures of `errors`, or None where a kernel predicts none."""


@runtime_checkable
class Kernel(Protocol):
    """A kernel of Section 3.1. Its yaml in conf/kernel sets its fields; the rest are facts, kept in the record.

    A class from outside the project has a `version` (1 if it says none) to be raised when its results change.
    """

    @property
    def name(self) -> str:
        """As in the paper."""

    @property
    def members(self) -> int:
        """How many models it needs: 1, or the size of a committee."""

    @property
    def has_features(self) -> bool:
        """Whether it has a feature map; without, only its diagonal exists."""

    @property
    def needs_forces(self) -> bool:
        """Whether it is defined only where forces are trained."""

    @property
    def uncertainty_of(self) -> Quantity | None:
        """Of what it predicts the standard deviation (energy in eV, force in eV/Å), or None if it predicts none."""

    @property
    def baseline(self) -> bool:
        """Whether it picks at random: what the others are compared with."""

    @property
    def reads_pool_labels(self) -> bool:
        """Whether it reads the labels of the whole pool, which no one who needs active learning has."""

    def prepare(self, inputs: KernelInputs) -> PreparedKernel:
        """Fix the kernel to trained models."""


def prepare(kernel: Kernel, inputs: KernelInputs) -> PreparedKernel:
    """A kernel fixed to trained models. Raises UserError where its class gives something else."""
    made: PreparedKernel = offers(
        kernel.prepare(inputs), PreparedKernel, f"kernel {kernel.name}: what its prepare returns,"
    )
    return made


@runtime_checkable
class ChecksData(Protocol):
    """A kernel or an architecture that looks at a dataset before a run on it begins; optional."""

    def check_data(self, data: Structures) -> None:
        """Refuse data that it cannot serve. Raises UserError."""


@dataclass(frozen=True)
class KernelFacts:
    """The usual answers; a kernel overrides what differs."""

    name: str

    members = 1
    has_features = False
    needs_forces = False
    uncertainty_of: ClassVar[Quantity | None] = None
    needs_gradients = False
    """Whether it needs a potential with gradient features (`bench.potentials.base.GradientFeatures`)."""
    baseline = False
    reads_pool_labels = False
    diagonal_is_variance = False
    """Of a kernel that predicts an uncertainty: whether k(S, S) is its square, not itself."""
    needs_model = True
    """Whether it needs a trained potential."""


def energy_deviation(kernel: Kernel, diagonal: Float[Tensor, " n"]) -> Float[np.ndarray, " n"] | None:
    """The standard deviation of energies in eV that k(S, S) of a kernel says, None if it says none."""
    if kernel.uncertainty_of != "energy":
        return None
    values = diagonal.clamp_min(0)
    return (values.sqrt() if getattr(kernel, "diagonal_is_variance", False) else values).cpu().numpy()


def squared_norms(features: Float[Tensor, "n features"]) -> Float[Tensor, " n"]:
    """k(S, S) of Eq. (7), in blocks: the product of all features at once would take as much memory as they do."""
    rows = BLOCK if features.stride(1) != 1 else max(1, SQUARED_AT_ONCE // max(1, features.shape[1]))
    if len(features) <= rows:
        return torch.linalg.vecdot(features, features)
    return torch.cat([torch.linalg.vecdot(part, part) for part in features.split(rows)])
