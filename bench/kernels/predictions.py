"""Diagonal kernels of predictions: AE(E), AE(F) (Eq. 24) and query by committee, QBC(E), QBC(F) (Eq. 25)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field

from bench.kernels.base import Embedding, KernelFacts, KernelInputs
from bench.runs.record_schema import Quantity
from bench.training.evaluate import ForceErrors, StructureErrors, structure_errors

Measure = Callable[[StructureErrors], Float[np.ndarray, " structures"]]


@dataclass(frozen=True)
class _OfPredictions(KernelFacts):
    """k(S, S) measured on predictions of energies or forces; `_measure` says how."""

    quantity: Quantity

    @property
    def needs_forces(self) -> bool:  # type: ignore[override]
        """One of forces does."""
        return self.quantity == "force"

    def prepare(self, inputs: KernelInputs) -> "PreparedDiagonal":
        """Nothing to prepare: the models are trained."""
        predicts = self.uncertainty_of is not None
        return PreparedDiagonal(inputs, self._measure, forces=self.needs_forces, predicts=predicts)

    def _measure(self, errors: StructureErrors) -> Float[np.ndarray, " structures"]:
        raise NotImplementedError


@dataclass(frozen=True)
class AbsoluteError(_OfPredictions):
    """k(S, S) = ΔE(S) or ΔF(S) of the model: what active learning could do if the pool's labels were known."""

    reads_pool_labels = True

    def _measure(self, errors: StructureErrors) -> Float[np.ndarray, " structures"]:
        return errors.energy[0] if self.quantity == "energy" else _forces(errors).mae[0]


@dataclass(frozen=True)
class Committee(_OfPredictions):
    """k(S, S) = σ_E or σ_F: how far the members of a committee disagree."""

    members: Annotated[int, Field(ge=2)] = 3

    @property
    def uncertainty_of(self) -> Quantity | None:  # type: ignore[override]
        """Of what its members disagree on."""
        return self.quantity

    def _measure(self, errors: StructureErrors) -> Float[np.ndarray, " structures"]:
        return errors.energy_disagreement if self.quantity == "energy" else _forces(errors).disagreement


@dataclass(frozen=True)
class PreparedDiagonal:
    """A kernel measured on the models' predictions."""

    inputs: KernelInputs
    measure: Measure
    forces: bool
    predicts: bool

    def embed(self, structures: Int[np.ndarray, " pool"]) -> Embedding:
        """Predict the pool and measure."""
        errors = structure_errors(self.inputs.potential, self.inputs.view, structures, forces=self.forces)
        return Embedding(torch.from_numpy(self.measure(errors)))

    def uncertainty(self, errors: StructureErrors) -> Float[np.ndarray, " n"] | None:
        """The committee's disagreement; an error known from the labels is no prediction."""
        return self.measure(errors) if self.predicts else None


def _forces(errors: StructureErrors) -> ForceErrors:
    if errors.force is None:
        raise ValueError("this kernel needs forces")
    return errors.force
