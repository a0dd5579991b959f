"""FEAT(RP) and GP(RP): random projections of the full gradient with respect to W and b (Eqs. 15-19)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bench.kernels.base import KernelFacts, KernelInputs
from bench.kernels.features import PreparedFeatures, prepare_features
from bench.model import network
from bench.model.network import ForwardPass, extended
from bench.model.potential import Potential
from bench.seeds import stream

Projections = list[tuple[Float[Tensor, "_ projections"], Float[Tensor, "_ projections"]]]
"""(U_inᵀ, U_outᵀ) of every layer, entries N(0, 1)."""


@dataclass(frozen=True)
class RandomProjection(KernelFacts):
    """The full gradient kernel, sketched; drawn anew each step, the same for all atoms and structures."""

    posterior: bool
    n_projections: int = 512
    has_features = True

    def prepare(self, inputs: KernelInputs) -> PreparedFeatures:
        """Draw the projections, compute the training features and, for GP(RP), the posterior."""
        projections = draw_projections(inputs, self.n_projections)

        def atomic(potential: Potential, passed: ForwardPass) -> Float[Tensor, "atoms projections"]:
            return projected_gradients(potential, passed, projections)

        return prepare_features(inputs, atomic, self.n_projections, posterior=self.posterior)


def draw_projections(inputs: KernelInputs, n_projections: int) -> Projections:
    """Draw all matrices, keyed by (seed, N_train): batch size, order of structures and threads do not matter."""
    generator = stream(inputs.seed, "projection", n_train=len(inputs.labelled))
    potential = inputs.potential

    def draw(size: int) -> Float[Tensor, "size projections"]:
        drawn = generator.standard_normal((size, n_projections))
        return torch.from_numpy(drawn).to(potential.device, potential.dtype)

    return [(draw(weight.shape[1] + 1), draw(weight.shape[2])) for weight in potential.weights]


def projected_gradients(
    potential: Potential, passed: ForwardPass, projections: Projections
) -> Float[Tensor, "atoms projections"]:
    """d_rp^(−1/2) Σ_l (U_out ∂y_i/∂z^(l)) ⊙ (U_in x̃^(l−1)) of Eq. (19): linear in the gradient, which is never formed.

    The factor d_rp^(−1/2), which the paper omits, makes the kernel an unbiased estimate of the full gradient kernel.
    """
    ones = torch.ones_like(passed.outputs)
    to_hidden, _ = network.hidden_gradients(potential.weights, passed.slopes(), ones)
    gradients = [*(delta[0] for delta in to_hidden), ones[0, :, None]]
    total = sum(
        (gradient @ u_out) * (extended(inputs[0], inputs.dtype) @ u_in)
        for gradient, inputs, (u_in, u_out) in zip(gradients, passed.layer_inputs, projections, strict=True)
    )
    return total * projections[0][0].shape[1] ** -0.5
