"""RND: a diagonal kernel of independent uniform numbers, the random baseline (Section 3.1.5)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from bench.config.seeds import stream
from bench.kernels.base import Embedding, KernelFacts, KernelInputs
from bench.training.evaluate import StructureErrors


@dataclass(frozen=True)
class Random(KernelFacts):
    """k(S, S') = u_S δ_SS', drawn anew each step for the whole dataset, so that it does not depend on the pool."""

    baseline = True
    needs_model = False

    def __init_subclass__(cls) -> None:
        """What inherits from it is a method of its own, and no baseline unless it says so."""
        cls.baseline = cls.__dict__.get("baseline", False)

    def prepare(self, inputs: KernelInputs) -> "PreparedRandom":
        """Draw u_S, keyed by seed and N_train."""
        generator = stream(inputs.seed, "random kernel", n_train=len(inputs.labelled))
        return PreparedRandom(generator.uniform(size=len(inputs.view.data)))


@dataclass(frozen=True)
class PreparedRandom:
    """The numbers of one step."""

    values: Float[np.ndarray, " structures"]

    def embed(self, structures: Int[np.ndarray, " pool"]) -> Embedding:
        """The diagonal."""
        return Embedding(torch.from_numpy(self.values[structures]))

    def uncertainty(self, errors: StructureErrors) -> Float[np.ndarray, " n"] | None:
        """None: random numbers predict nothing."""
        return None
