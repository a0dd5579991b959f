"""FEAT(LL) and GP(LL): gradient of the energy with respect to the last layer's weights and bias (Eq. 14)."""

from dataclasses import dataclass
from typing import Any

from bench.kernels.features import GradientKernel, Reader


@dataclass(frozen=True)
class LastLayer(GradientKernel):
    """The last-layer kernel (513 features), as it is (FEAT) or conditioned on the training set (GP, Eqs. 20-23)."""

    def reader(self, potential: Any, seed: int, n_train: int) -> tuple[Reader, int]:
        """Eq. (14)."""
        return lambda gradients: gradients.last_layer_features(), potential.layer_sizes[-1][0]
