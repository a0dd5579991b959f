"""Gradient features of the network: of its last layer (Eq. 14), and of all its layers, projected (Eqs. 15-19)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.potentials.base import OfInputs, Projections
from bench.potentials.gmnn.dense import Dense, hidden_layers, silu_and_slope, sum_atoms
from bench.potentials.gmnn.network import BIAS_FACTOR, SILU_FACTOR, Biases, Weights


class Entering(NamedTuple):
    """What enters the network of one model, ∂E/∂y_i = c σ_Z of every atom, and where each structure's atoms begin."""

    invariants: Float[Tensor, "atoms invariants"]
    weights: Float[Tensor, " atoms"]
    first_atom: Int[Tensor, " structures_and_1"]


def last_layer(weights: Weights, biases: Biases, entering: Callable[[Any], Entering]) -> OfInputs:
    """Σ_i c σ_Z x̃_i of the last layer: 513 features for hidden widths of 512."""
    layers = hidden_layers(weights, biases)

    def of_inputs(inputs: Any) -> Float[Tensor, "structures features"]:
        hidden, *rest = entering(inputs)
        for layer in layers:
            hidden = layer(hidden, silu=True)
        return summed_inputs(hidden, *rest)

    return of_inputs


def projected(
    weights: Weights, biases: Biases, entering: Callable[[Any], Entering], projections: Projections
) -> OfInputs:
    """Eq. (19) with p^(−1/2), which the paper omits: the kernel is then an unbiased estimate of the full one."""
    of_atoms = ProjectedGradients.of(weights, biases, projections)

    def of_inputs(inputs: Any) -> Float[Tensor, "structures features"]:
        return of_atoms(*entering(inputs))

    return of_inputs


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


@dataclass(frozen=True)
class ProjectedGradients:
    """d_rp^(−1/2) Σ_i w_i Σ_l (U_out ∂y_i/∂z^(l)) ⊙ (U_in x̃_i^(l−1)) of Eq. (19), for some structures.

    It is linear in the gradient, which is never formed. The last layer's term is linear in x̃ alone, so it is projected
    after the sum over atoms; constant factors are folded into the matrices. The factor d_rp^(−1/2), which the paper
    omits, makes the kernel an unbiased estimate of the full gradient kernel.
    """

    layers: list[Dense]
    backward: list[Dense]
    into: list[Dense]
    out_of: list[Dense]
    last: Float[Tensor, "width_and_1 projections"]

    @staticmethod
    def of(network: Weights, biases: Biases, projections: Projections) -> "ProjectedGradients":
        """Fold the factors 1/√d, 0.1, α and d_rp^(−1/2) into the matrices.

        With φ = α y the gradient with respect to z^(l) is α y' ⊙ (the gradient with respect to x^(l)): what is carried
        along is y' ⊙ g, and `backward`, `out_of` supply α.
        """
        layers = hidden_layers(network, biases)
        norm = projections[0][0].shape[1] ** -0.5
        to_output = network[-1][0, :, 0] * (SILU_FACTOR * network[-1].shape[1] ** -0.5)
        backward, into, out_of = [], [], []
        for layer, (u_in, u_out) in enumerate(projections[:-1]):
            factor = (SILU_FACTOR if layer else 1.0) * (len(u_in) - 1) ** -0.5
            into.append(Dense((u_in[:-1].T * factor).contiguous(), BIAS_FACTOR * u_in[-1]))
            last = layer == len(layers) - 1
            start = to_output[:, None] if last else SILU_FACTOR
            out_of.append(Dense((u_out * start * norm).T.contiguous(), None))
            if layer:
                weight = network[layer][0] * network[layer].shape[1] ** -0.5
                backward.append(Dense((weight * (to_output if last else SILU_FACTOR)).contiguous(), None))
        u_in, u_out = projections[-1]
        return ProjectedGradients(layers, backward, into, out_of, (u_in * u_out[0] * norm).double())

    def __call__(
        self,
        invariants: Float[Tensor, "atoms invariants"],
        weights: Float[Tensor, " atoms"],
        first_atom: Int[Tensor, " structures_and_1"],
    ) -> Float[Tensor, "structures projections"]:
        """Forward through the layers, back, and sum."""
        hidden, slopes = [invariants], []
        for layer in self.layers:
            y, slope = silu_and_slope(layer(hidden[-1]))
            hidden.append(y)
            slopes.append(slope)
        total = summed_inputs(hidden.pop(), weights, first_atom) @ self.last
        gradient = slopes.pop()
        for depth in range(len(self.layers) - 1, -1, -1):
            sum_atoms(first_atom, weights, self.out_of[depth](gradient), self.into[depth](hidden[depth]), total)
            if depth:
                gradient = self.backward[depth - 1](gradient).mul_(slopes[depth - 1])
        return total
