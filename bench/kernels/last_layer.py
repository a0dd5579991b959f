"""FEAT(LL) and GP(LL): gradient of the energy with respect to the last layer's weights and bias (Eq. 14)."""

from dataclasses import dataclass

from bench.kernels.base import KernelInputs
from bench.kernels.features import GradientKernel, PreparedFeatures, gradients_of, prepare_features


@dataclass(frozen=True)
class LastLayer(GradientKernel):
    """The last-layer kernel (513 features), as it is (FEAT) or conditioned on the training set (GP, Eqs. 20-23)."""

    def prepare(self, inputs: KernelInputs) -> PreparedFeatures:
        """Compute the training features and, for GP(LL), the posterior."""
        gradients = gradients_of(inputs, self.name)
        n_features = gradients.layer_sizes[-1][0]
        return prepare_features(inputs, gradients.last_layer_features(), n_features, posterior=self.posterior)
