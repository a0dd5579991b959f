"""Gradient feature maps of a structure, streamed over any number of structures, and their posterior."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.errors import UserError
from bench.kernels.base import Embedding, KernelFacts, KernelInputs, squared_norms
from bench.kernels.posterior import Posterior, fit_posterior
from bench.potentials.architecture import without_gradients
from bench.potentials.base import AtomicFeatures, GradientFeatures, Inputs, OfInputs, Potential, View, each_chunk
from bench.runs.record_schema import Quantity
from bench.training.evaluate import StructureErrors


@dataclass(frozen=True)
class FeatureMap:
    """φ(S) of one model (Eq. 11), in float64."""

    view: View
    of_inputs: OfInputs
    n_features: int

    @torch.no_grad()
    def __call__(self, structures: Int[np.ndarray, " n"]) -> Float[Tensor, "n features"]:
        """Features of some structures; beyond them memory is bounded by a chunk's, of every thread."""
        features = torch.empty(len(structures), self.n_features, dtype=torch.float64, device=self.view.device)

        def fill(rows: slice, inputs: Inputs) -> None:
            features[rows] = self.of_inputs(inputs)

        each_chunk(self.view, structures, fill, what="features")
        return features


@dataclass(frozen=True)
class PreparedFeatures:
    """A feature map with its training features: as it is (FEAT) or conditioned on them (GP)."""

    features: Callable[[Int[np.ndarray, " n"]], Float[Tensor, "n features"]]
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


Reader = Callable[[GradientFeatures], OfInputs]
"""Which of the gradient features a kernel takes."""


@dataclass(frozen=True)
class GradientKernel(KernelFacts):
    """A kernel on gradient features, as they are (FEAT) or conditioned on the training set (GP, Eqs. 20-23)."""

    posterior: bool
    has_features = True
    needs_gradients = True
    diagonal_is_variance = True

    @property
    def uncertainty_of(self) -> Quantity | None:  # type: ignore[override]
        """GP: of energies."""
        return "energy" if self.posterior else None

    def reader(self, potential: Potential, seed: int, n_train: int) -> tuple[Reader, int]:
        """Which features of a single model the kernel takes, and how many they are."""
        raise NotImplementedError

    def maps(self, potential: Potential, seed: int, n_train: int) -> "GradientMaps":
        """The features of the single model (member 0). Raises UserError if the potential has none."""
        one = potential.member(0)
        if not isinstance(one, GradientFeatures):
            raise UserError(without_gradients(self.name, one.architecture.name))
        read, n_features = self.reader(one, seed, n_train)
        of_atoms = read(one.of_atoms()) if isinstance(one, AtomicFeatures) else None
        return GradientMaps(read(one), of_atoms, n_features)

    def prepare(self, inputs: KernelInputs) -> PreparedFeatures:
        """Compute the training features and, for GP, the posterior."""
        maps = self.maps(inputs.potential, inputs.seed, len(inputs.labelled))
        features = FeatureMap(inputs.view, maps.of_structures, maps.n_features)
        training = features(inputs.labelled)
        return PreparedFeatures(features, training, fit_posterior(training) if self.posterior else None)


@dataclass(frozen=True)
class GradientMaps:
    """φ of one model, with a row for each structure and, where the potential offers that, for each atom."""

    of_structures: OfInputs
    of_atoms: OfInputs | None
    n_features: int
