"""FEAT(RP) and GP(RP): random projections of the full gradient with respect to W and b (Eqs. 15-19)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bench.config.seeds import stream
from bench.kernels.base import KernelInputs
from bench.kernels.features import GradientKernel, PreparedFeatures, gradients_of, prepare_features
from bench.potentials.base import Projections


@dataclass(frozen=True)
class RandomProjection(GradientKernel):
    """The full gradient kernel, sketched; drawn anew each step, the same for all atoms and structures."""

    n_projections: int = 512

    def prepare(self, inputs: KernelInputs) -> PreparedFeatures:
        """Draw the projections, compute the training features and, for GP(RP), the posterior."""
        gradients = gradients_of(inputs, self.name)
        projections = draw_projections(inputs, gradients.layer_sizes, self.n_projections)
        of_inputs = gradients.projected_features(projections)
        return prepare_features(inputs, of_inputs, self.n_projections, posterior=self.posterior)


def draw_projections(inputs: KernelInputs, layer_sizes: list[tuple[int, int]], n_projections: int) -> Projections:
    """Draw all matrices, keyed by (seed, N_train): batch size, order of structures and threads do not matter."""
    generator = stream(inputs.seed, "projection", n_train=len(inputs.labelled))
    potential = inputs.potential

    def draw(size: int) -> Float[Tensor, "size projections"]:
        drawn = generator.standard_normal((size, n_projections))
        return torch.from_numpy(drawn).to(potential.device, potential.dtype)

    return [(draw(n_inputs), draw(n_outputs)) for n_inputs, n_outputs in layer_sizes]
