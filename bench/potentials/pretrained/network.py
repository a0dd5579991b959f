"""Gradient features of a network that others trained: of its last layer (Eq. 14), or of all, projected (Eq. 19)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float
from pydantic import PositiveInt
from torch import nn

from bench.config.seeds import stream
from bench.potentials.modules.features import Layers, Owners, Total, layers_of

BATCH = 8
"""Structures that are evaluated together."""


@runtime_checkable
class Network(Protocol):
    """A trained network that gives the energy of structures, by linear layers that can be looked at."""

    @property
    def layers(self) -> list[nn.Module]:
        """Its linear layers but those that only add reference energies."""

    def batch(self, structures: Sequence[Atoms]) -> tuple[Total, Owners]:
        """How to evaluate the sum of their energies, and the structure of each atom, pair, …."""


@dataclass(frozen=True)
class NetworkSource:
    """To inherit from: the class says its `network`.

    `layers` are the last, whose features are the activations that enter it, summed over atoms, or all: the tangent
    kernel by random projections, the same ones always.
    """

    layers: Literal["last", "all"] = "last"
    n_projections: PositiveInt = 512

    def network(self) -> Any:
        """The `Network`, loaded once."""
        raise NotImplementedError

    def describe(
        self, structures: Sequence[Atoms], species: tuple[int, ...]
    ) -> Float[np.ndarray, "structures features"]:
        """See `bench.potentials.describer.Describer`."""
        network, found = self.network(), []
        layers = used_layers(network)
        for start in range(0, len(structures), BATCH):
            total, owners = network.batch(structures[start : start + BATCH])
            if self.layers == "last":
                found.append(layers.last_layer(total, owners))
            else:
                found.append(layers.projected(total, owners, self._projections(layers)))
        return torch.cat(found).cpu().numpy()

    def _projections(self, layers: Layers) -> list[tuple[torch.Tensor, torch.Tensor]]:
        generator = stream(0, "projection")

        def draw(size: int) -> torch.Tensor:
            return torch.from_numpy(generator.standard_normal((size, self.n_projections))).float()

        return [(draw(n_inputs), draw(n_outputs)) for n_inputs, n_outputs in (block.size for block in layers.blocks)]


def used_layers(network: Network) -> Layers:
    """The linear maps of a network, found on two rutile-like cells."""
    cell = Atoms("TiO2Ti", [[0, 0, 0], [1.9, 0.3, 0], [0, 2.1, 0.2], [2.2, 2.3, 1.5]], cell=[4.4, 4.7, 3.1], pbc=True)
    other = cell[:3]
    other.rattle(0.05, seed=0)
    total, owners = network.batch([cell, other])
    return layers_of(network.layers, [(total, owners)])
