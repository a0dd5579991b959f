"""FEAT(LL) and GP(LL): gradient of the energy with respect to the last layer's weights and bias (Eq. 14)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.kernels.base import Embedding, KernelInputs, squared_norms
from bench.kernels.posterior import Posterior, fit_posterior
from bench.model.geometry import GeometryBuilder
from bench.model.network import BIAS_FACTOR
from bench.model.potential import Potential, make_batch
from bench.progress import progress


@dataclass(frozen=True)
class LastLayer:
    """The last-layer kernel, as it is (FEAT) or conditioned on the training set (GP, Eqs. 20-23)."""

    name: str
    posterior: bool
    members: int = 1
    has_features: bool = True

    def prepare(self, inputs: KernelInputs) -> "PreparedFeatures":
        """Compute the training features and, for GP(LL), the posterior."""
        potential = inputs.potential.member(0)
        training = last_layer_features(potential, inputs.builder, inputs.labelled)
        return PreparedFeatures(
            potential, inputs.builder, training, fit_posterior(training) if self.posterior else None
        )


@dataclass(frozen=True)
class PreparedFeatures:
    """A gradient feature map of one model."""

    potential: Potential
    builder: GeometryBuilder
    training: Float[Tensor, "labelled features"]
    posterior: Posterior | None

    def embed(self, structures: Int[np.ndarray, " pool"]) -> Embedding:
        """Features of some structures and of the training set, and k(S, S)."""
        pool = self._features(structures)
        training = self.training if self.posterior is None else self.posterior.transform(self.training)
        return Embedding(squared_norms(pool), pool, training)

    def uncertainty(self, structures: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"] | None:
        """sqrt(k(S, S)) of the posterior; a kernel that knows no training data predicts no uncertainty."""
        if self.posterior is None:
            return None
        return squared_norms(self._features(structures)).sqrt().cpu().numpy()

    def _features(self, structures: Int[np.ndarray, " n"]) -> Float[Tensor, "n features"]:
        features = last_layer_features(self.potential, self.builder, structures)
        return features if self.posterior is None else self.posterior.transform(features)


def last_layer_features(
    potential: Potential, builder: GeometryBuilder, structures: Int[np.ndarray, " n"]
) -> Float[Tensor, "n features"]:
    """φ(S) = Σ_i c σ_Z (x_i/√d, 0.1), x the last hidden layer: 513 float64 features, memory bounded beyond them."""
    width = potential.settings.hidden[-1]
    features = torch.zeros(len(structures), width + 1, dtype=torch.float64, device=potential.device)
    for rows, geometry in progress(builder.chunks(structures), "features", unit="chunk"):
        everyone = torch.arange(len(geometry), device=potential.device)[None]
        batch = make_batch(geometry, everyone, with_pairs=False, whole=True)
        hidden = potential.network_pass(batch).layer_inputs[-1][0].double() * width**-0.5
        slope = (potential.energy_scale[0] * potential.parameters["scale"][0, geometry.species]).double()
        atomic = torch.cat([hidden, torch.full_like(hidden[:, :1], BIAS_FACTOR)], dim=1) * slope[:, None]
        features[rows] = torch.zeros_like(features[rows]).index_add_(0, batch.structure, atomic)
    return features
