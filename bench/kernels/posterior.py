"""Gaussian-process posterior of a feature map (Eqs. 20-23), in feature space and float64."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bench.kernels.base import BLOCK


@dataclass(frozen=True)
class Posterior:
    """φ_GP(S) = σ L⁻¹ φ(S) with L Lᵀ = φ(X_train)ᵀ φ(X_train) + σ² 1.

    Eq. (23) has the symmetric root instead of the Cholesky factor: the two differ by a rotation, which no kernel value
    (Eq. 22) sees.
    """

    noise: float
    factor: Float[Tensor, "features features"]

    def transform(
        self, features: Float[Tensor, "n features"], out: Float[Tensor, "n features"] | None = None
    ) -> Float[Tensor, "n features"]:
        """Features of the posterior kernel of Eq. (22), block by block; `out` may be the features themselves."""
        result = torch.empty_like(features) if out is None else out
        for given, block in zip(features.split(BLOCK), result.split(BLOCK), strict=True):
            solved = torch.linalg.solve_triangular(self.factor, given.T, upper=False)
            torch.mul(solved.T, self.noise**0.5, out=block)
        return result


def fit_posterior(training: Float[Tensor, "labelled features"]) -> Posterior:
    """Condition on the training features; the noise is σ² = tr[φᵀφ]/(N_train d_feature) (Section 3.1.4)."""
    gram = training.T @ training
    noise = float(torch.trace(gram)) / training.numel()
    noise = noise if noise > 0 else 1.0
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return Posterior(noise, torch.linalg.cholesky(gram + noise * identity))
