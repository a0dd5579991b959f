"""FEAT(LL) and GP(LL): gradient of the energy with respect to the last layer's weights and bias (Eq. 14)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.kernels.base import KernelFacts, KernelInputs
from bench.kernels.features import PreparedFeatures, prepare_features
from bench.model.dense import hidden_layers, sum_atoms
from bench.model.network import BIAS_FACTOR, SILU_FACTOR
from bench.record_schema import Quantity


@dataclass(frozen=True)
class LastLayer(KernelFacts):
    """The last-layer kernel (513 features), as it is (FEAT) or conditioned on the training set (GP, Eqs. 20-23)."""

    posterior: bool
    has_features = True

    @property
    def uncertainty_of(self) -> Quantity | None:  # type: ignore[override]
        """GP(LL): of energies."""
        return "energy" if self.posterior else None

    def prepare(self, inputs: KernelInputs) -> PreparedFeatures:
        """Compute the training features and, for GP(LL), the posterior."""
        potential = inputs.potential.member(0)
        width = potential.settings.hidden[-1]
        layers = hidden_layers(potential)

        def of_chunk(
            invariants: Float[Tensor, "atoms _"], weights: Float[Tensor, " atoms"], first_atom: Int[Tensor, " _"]
        ) -> Float[Tensor, "structures features"]:
            hidden = invariants
            for layer in layers:
                hidden = layer(hidden, silu=True)
            return summed_inputs(hidden, weights, first_atom)

        return prepare_features(inputs, of_chunk, width + 1, posterior=self.posterior)


def summed_inputs(
    hidden: Float[Tensor, "atoms width"], weights: Float[Tensor, " atoms"], first_atom: Int[Tensor, " structures_and_1"]
) -> Float[Tensor, "structures width_and_1"]:
    """Σ_i w_i x̃_i over the atoms of each structure, x̃ = (x/√d, 0.1) of Eq. (12), where `hidden` is x/α."""
    n_structures, width = len(first_atom) - 1, hidden.shape[1]
    inputs = torch.zeros(n_structures, width, dtype=torch.float64, device=hidden.device)
    ones = torch.zeros(n_structures, 1, dtype=torch.float64, device=hidden.device)
    sum_atoms(first_atom, weights, hidden, None, inputs)
    sum_atoms(first_atom, weights, hidden.new_ones(len(hidden), 1), None, ones)
    return torch.cat([inputs * (SILU_FACTOR * width**-0.5), ones * BIAS_FACTOR], dim=1)
