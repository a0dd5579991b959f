"""FEAT(D): a fixed descriptor of the whole structure, which needs no training and no label."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.errors import UserError
from bench.kernels.base import Embedding, KernelFacts, KernelInputs, squared_norms
from bench.kernels.features import FeatureMap
from bench.potentials.base import Describes
from bench.training.evaluate import StructureErrors

SCALED_BY = 4096
"""Structures of the dataset, evenly spaced, whose spread scales the features."""


@dataclass(frozen=True)
class Descriptor(KernelFacts):
    """What the architecture says of a structure before it is trained, each feature in units of its spread.

    The spread is that over the dataset, or over SCALED_BY of its structures; features that do not vary are zero.
    """

    has_features = True
    needs_model = False

    def prepare(self, inputs: KernelInputs) -> "PreparedDescriptor":
        """Find the spread of the features and those of the training set. Raises UserError for an unfit model."""
        view = inputs.view
        if not isinstance(view, Describes):
            name = view.architecture.name
            raise UserError(f"kernel {self.name}: model {name} has no descriptor: choose model=gmnn or another kernel")
        features = FeatureMap(view, *view.descriptor())
        spaced = np.unique(np.linspace(0, len(view.data) - 1, SCALED_BY).astype(np.int64))
        sample = features(spaced)
        mean, spread = sample.mean(0), sample.std(0, correction=0)
        scale = torch.where(spread > 1e-9 * mean.abs(), spread, torch.inf)
        return PreparedDescriptor(features, mean, scale, (features(inputs.labelled) - mean) / scale)


@dataclass(frozen=True)
class PreparedDescriptor:
    """The features with their mean and scale, and those of the training set."""

    features: FeatureMap
    mean: Float[Tensor, " features"]
    scale: Float[Tensor, " features"]
    training: Float[Tensor, "labelled features"]

    def embed(self, structures: Int[np.ndarray, " pool"]) -> Embedding:
        """(φ − mean)/scale, and k(S, S): how far a structure is from the mean."""
        pool = (self.features(structures) - self.mean) / self.scale
        return Embedding(squared_norms(pool), pool, self.training)

    def uncertainty(self, errors: StructureErrors) -> Float[np.ndarray, " n"] | None:
        """None: nothing is predicted."""
        return None
