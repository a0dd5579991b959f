"""FEAT(LL) and GP(LL): gradient of the energy with respect to the last layer's weights and bias (Eq. 14)."""

from dataclasses import dataclass

from bench.kernels.base import KernelFacts, KernelInputs
from bench.kernels.features import PreparedFeatures, gradients_of, prepare_features
from bench.runs.record_schema import Quantity


@dataclass(frozen=True)
class LastLayer(KernelFacts):
    """The last-layer kernel (513 features), as it is (FEAT) or conditioned on the training set (GP, Eqs. 20-23)."""

    posterior: bool
    has_features = True
    needs_gradients = True

    @property
    def uncertainty_of(self) -> Quantity | None:  # type: ignore[override]
        """GP(LL): of energies."""
        return "energy" if self.posterior else None

    def prepare(self, inputs: KernelInputs) -> PreparedFeatures:
        """Compute the training features and, for GP(LL), the posterior."""
        gradients = gradients_of(inputs, self.name)
        n_features = gradients.layer_sizes[-1][0]
        return prepare_features(inputs, gradients.last_layer_features(), n_features, posterior=self.posterior)
