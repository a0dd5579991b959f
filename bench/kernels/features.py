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
from bench.model.network import ForwardPass
from bench.model.potential import Potential, make_batch
from bench.progress import progress

AtomicFeatures = Callable[[Potential, ForwardPass], Float[Tensor, "atoms features"]]
"""Features of dy_i/dθ for every atom of a pass of one model, without the factor c σ_Z."""


@dataclass(frozen=True)
class FeatureMap:
    """φ(S) = Σ_i c σ_Z φ(G_i) (Eq. 11) of one model, in float64."""

    potential: Potential
    builder: GeometryBuilder
    atomic: AtomicFeatures
    n_features: int

    @torch.no_grad()
    def __call__(self, structures: Int[np.ndarray, " n"]) -> Float[Tensor, "n features"]:
        """Features of some structures; beyond them memory is bounded by a chunk's."""
        potential = self.potential
        features = torch.empty(len(structures), self.n_features, dtype=torch.float64, device=potential.device)
        for rows, geometry in progress(self.builder.chunks(structures, with_pairs=False), "features", unit="chunk"):
            everyone = torch.arange(len(geometry), device=potential.device)[None]
            batch = make_batch(geometry, everyone, with_pairs=False, whole=True)
            slope = (potential.energy_scale[0] * potential.parameters["scale"][0, geometry.species]).double()
            atomic = self.atomic(potential, potential.network_pass(batch)).double() * slope[:, None]
            summed = atomic.new_zeros(len(geometry), self.n_features)
            features[rows] = summed.index_add_(0, batch.structure, atomic)
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
    inputs: KernelInputs, atomic: AtomicFeatures, n_features: int, *, posterior: bool
) -> PreparedFeatures:
    """Compute the training features of the single model (member 0) and, if asked, the posterior."""
    features = FeatureMap(inputs.potential.member(0), inputs.builder, atomic, n_features)
    training = features(inputs.labelled)
    return PreparedFeatures(features, training, fit_posterior(training) if posterior else None)
