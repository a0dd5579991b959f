"""FEAT(LL) and GP(LL): gradient of the energy with respect to the last layer's weights and bias (Eq. 14)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bench.kernels.base import KernelFacts, KernelInputs
from bench.kernels.features import PreparedFeatures, prepare_features
from bench.model.network import ForwardPass, extended
from bench.model.potential import Potential


@dataclass(frozen=True)
class LastLayer(KernelFacts):
    """The last-layer kernel (513 features), as it is (FEAT) or conditioned on the training set (GP, Eqs. 20-23)."""

    posterior: bool
    has_features = True

    def prepare(self, inputs: KernelInputs) -> PreparedFeatures:
        """Compute the training features and, for GP(LL), the posterior."""
        width = inputs.potential.settings.hidden[-1]
        return prepare_features(inputs, last_layer_features, width + 1, posterior=self.posterior)


def last_layer_features(_potential: Potential, passed: ForwardPass) -> Float[Tensor, "atoms features"]:
    """∂y_i/∂(W, b) of the last layer: x̃_i = (x_i/√d, 0.1) of Eq. (12)."""
    return extended(passed.layer_inputs[-1][0], torch.float64)
