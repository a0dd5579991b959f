"""Gradient feature maps of a structure, streamed over any number of structures, and their posterior."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.evaluate import StructureErrors
from bench.kernels.base import Embedding, KernelInputs, squared_norms
from bench.kernels.posterior import Posterior, fit_posterior
from bench.model.geometry import GeometryBuilder
from bench.model.potential import Potential
from bench.progress import progress

ChunkFeatures = Callable[
    [Float[Tensor, "atoms invariants"], Float[Tensor, " atoms"], Int[Tensor, " structures_and_1"]],
    Float[Tensor, "structures features"],
]
"""Σ_i w_i φ(G_i) of some structures from the invariants and weights of their atoms and where each structure begins."""


@dataclass(frozen=True)
class FeatureMap:
    """φ(S) = Σ_i c σ_Z φ(G_i) (Eq. 11) of one model, in float64."""

    potential: Potential
    builder: GeometryBuilder
    of_chunk: ChunkFeatures
    n_features: int

    @torch.no_grad()
    def __call__(self, structures: Int[np.ndarray, " n"]) -> Float[Tensor, "n features"]:
        """Features of some structures; beyond them memory is bounded by a chunk's."""
        potential = self.potential
        features = torch.empty(len(structures), self.n_features, dtype=torch.float64, device=potential.device)
        slopes = (potential.energy_scale[0] * potential.parameters["scale"][0]).double()
        for rows, geometry in progress(self.builder.chunks(structures, with_pairs=False), "features", unit="chunk"):
            inputs = potential.network_inputs(geometry)
            features[rows] = self.of_chunk(inputs, slopes[geometry.species], geometry.first_atom)
        return features


@dataclass(frozen=True)
class PreparedFeatures:
    """A feature map with its training features: as it is (FEAT) or conditioned on them (GP)."""

    features: FeatureMap
    training: Float[Tensor, "labelled features"]
    posterior: Posterior | None

    def embed(self, structures: Int[np.ndarray, " pool"]) -> Embedding:
        """Features of some structures and of the training set, and k(S, S)."""
        pool = self._transformed(structures)
        training = self.training if self.posterior is None else self.posterior.transform(self.training)
        return Embedding(squared_norms(pool), pool, training)

    def uncertainty(self, errors: StructureErrors) -> Float[np.ndarray, " n"] | None:
        """sqrt(k(S, S)) of the posterior; a kernel that knows no training data predicts no uncertainty."""
        if self.posterior is None:
            return None
        return squared_norms(self._transformed(errors.structures)).sqrt().cpu().numpy()

    def _transformed(self, structures: Int[np.ndarray, " n"]) -> Float[Tensor, "n features"]:
        features = self.features(structures)
        return features if self.posterior is None else self.posterior.transform(features, out=features)


def prepare_features(
    inputs: KernelInputs, of_chunk: ChunkFeatures, n_features: int, *, posterior: bool
) -> PreparedFeatures:
    """Compute the training features of the single model (member 0) and, if asked, the posterior."""
    features = FeatureMap(inputs.potential.member(0), inputs.builder, of_chunk, n_features)
    training = features(inputs.labelled)
    return PreparedFeatures(features, training, fit_posterior(training) if posterior else None)
