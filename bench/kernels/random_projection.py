"""FEAT(RP) and GP(RP): random projections of the full gradient with respect to W and b (Eqs. 15-19)."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from bench.config.seeds import stream
from bench.kernels.features import GradientKernel, Reader
from bench.potentials.base import Projections


@dataclass(frozen=True)
class RandomProjection(GradientKernel):
    """The full gradient kernel, sketched; drawn anew each step, the same for all atoms and structures."""

    n_projections: PositiveInt = 512

    def reader(self, potential: Any, seed: int, n_train: int) -> tuple[Reader, int]:
        """Eq. (19)."""
        projections = draw_projections(potential, self.n_projections, seed, n_train)
        return lambda gradients: gradients.projected_features(projections), self.n_projections


def draw_projections(potential: Any, n_projections: int, seed: int, n_train: int) -> Projections:
    """Draw all matrices, keyed by (seed, N_train): batch size, order of structures and threads do not matter."""
    generator = stream(seed, "projection", n_train=n_train)

    def draw(size: int) -> Float[Tensor, "size projections"]:
        drawn = generator.standard_normal((size, n_projections))
        return torch.from_numpy(drawn).to(potential.device, potential.dtype)

    return [(draw(n_inputs), draw(n_outputs)) for n_inputs, n_outputs in potential.layer_sizes]
