"""FEAT(RP) and GP(RP): random projections of the full gradient with respect to W and b (Eqs. 15-19)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.kernels.base import KernelFacts, KernelInputs
from bench.kernels.features import PreparedFeatures, prepare_features
from bench.kernels.last_layer import summed_inputs
from bench.model.dense import Dense, hidden_layers, silu_and_slope, sum_atoms
from bench.model.network import BIAS_FACTOR, SILU_FACTOR
from bench.model.potential import Potential
from bench.record_schema import Quantity
from bench.seeds import stream

Projections = list[tuple[Float[Tensor, "_ projections"], Float[Tensor, "_ projections"]]]
"""(U_inᵀ, U_outᵀ) of every layer, entries N(0, 1)."""


@dataclass(frozen=True)
class RandomProjection(KernelFacts):
    """The full gradient kernel, sketched; drawn anew each step, the same for all atoms and structures."""

    posterior: bool
    n_projections: int = 512
    has_features = True

    @property
    def uncertainty_of(self) -> Quantity | None:  # type: ignore[override]
        """GP(RP): of energies."""
        return "energy" if self.posterior else None

    def prepare(self, inputs: KernelInputs) -> PreparedFeatures:
        """Draw the projections, compute the training features and, for GP(RP), the posterior."""
        projections = draw_projections(inputs, self.n_projections)

        of_chunk = ProjectedGradients.of(inputs.potential.member(0), projections)
        return prepare_features(inputs, of_chunk, self.n_projections, posterior=self.posterior)


def draw_projections(inputs: KernelInputs, n_projections: int) -> Projections:
    """Draw all matrices, keyed by (seed, N_train): batch size, order of structures and threads do not matter."""
    generator = stream(inputs.seed, "projection", n_train=len(inputs.labelled))
    potential = inputs.potential

    def draw(size: int) -> Float[Tensor, "size projections"]:
        drawn = generator.standard_normal((size, n_projections))
        return torch.from_numpy(drawn).to(potential.device, potential.dtype)

    return [(draw(weight.shape[1] + 1), draw(weight.shape[2])) for weight in potential.weights]


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
    def of(potential: Potential, projections: Projections) -> "ProjectedGradients":
        """Fold the factors 1/√d, 0.1, α and d_rp^(−1/2) into the matrices.

        With φ = α y the gradient with respect to z^(l) is α y' ⊙ (the gradient with respect to x^(l)): what is carried
        along is y' ⊙ g, and `backward`, `out_of` supply α.
        """
        layers = hidden_layers(potential)
        norm = projections[0][0].shape[1] ** -0.5
        to_output = potential.weights[-1][0, :, 0] * (SILU_FACTOR * potential.weights[-1].shape[1] ** -0.5)
        backward, into, out_of = [], [], []
        for layer, (u_in, u_out) in enumerate(projections[:-1]):
            factor = (SILU_FACTOR if layer else 1.0) * (len(u_in) - 1) ** -0.5
            into.append(Dense((u_in[:-1].T * factor).contiguous(), BIAS_FACTOR * u_in[-1]))
            last = layer == len(layers) - 1
            start = to_output[:, None] if last else SILU_FACTOR
            out_of.append(Dense((u_out * start * norm).T.contiguous(), None))
            if layer:
                weight = potential.weights[layer][0] * potential.weights[layer].shape[1] ** -0.5
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
