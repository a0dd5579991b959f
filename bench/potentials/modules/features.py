"""Gradient features of a torch module (Eqs. 14, 19) by hooks on its linear layers.

A layer z = W x + b is called with rows that belong to atoms, pairs or structures. With x̃ = (x, 1), or x without a bias,
the gradient of a structure's energy with respect to W and b is Σ x̃ ⊗ ∂E/∂z over its rows, of all calls. Of structures
that share a batch ∂E/∂z of the sum of energies is each row's own: one backward pass serves all.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bench.errors import UserError
from bench.potentials.base import Projections
from bench.potentials.modules.graph import Graph

Of = Literal["atoms", "pairs", "structures"]
Total = Callable[[], Float[Tensor, ""]]
"""Evaluates the sum of all energies of a graph."""


class Call(NamedTuple):
    """What a layer was called with, and what it gave."""

    layer: nn.Module
    inputs: Tensor
    outputs: Tensor


class Rows(NamedTuple):
    """x̃ and z (or ∂E/∂z) of the rows of each atom, pair or structure."""

    inputs: Float[Tensor, "items repeats inputs"]
    outputs: Float[Tensor, "items repeats outputs"]


class Block(NamedTuple):
    """A linear map within a layer: a layer of torch is one, an equivariant layer (e3nn) one for each of its paths."""

    layer: nn.Module
    path: int
    size: tuple[int, int]
    of: Of


def _is_equivariant(layer: nn.Module) -> bool:
    """Whether it is e3nn's linear layer, whose package need not be here."""
    return any(cls.__module__ == "e3nn.o3._linear" and cls.__name__ == "Linear" for cls in type(layer).__mro__)


def linear_layers(module: nn.Module) -> list[nn.Module]:
    """The linear layers in a module."""
    return [one for one in module.modules() if isinstance(one, nn.Linear) or _is_equivariant(one)]


def _sizes(layer: Any) -> list[tuple[int, int]]:
    """(inputs, outputs) of each linear map of a layer; of an equivariant one multiplicities, biases aside."""
    if isinstance(layer, nn.Linear):
        return [(layer.in_features + (layer.bias is not None), layer.out_features)]
    return [one.path_shape for one in layer.instructions if len(one.path_shape) == 2]


def _rows(call: Call, path: int, outputs: Tensor) -> Rows:
    """The rows of one linear map of a call; those of an equivariant one are the components of an irrep."""
    layer: Any = call.layer
    x, z = call.inputs, outputs
    if isinstance(layer, nn.Linear):
        repeats = math.prod(x.shape[1:-1])
        x, z = x.reshape(len(x), repeats, layer.in_features), z.reshape(len(z), repeats, layer.out_features)
        return Rows(x if layer.bias is None else torch.cat([x, x.new_ones(*x.shape[:-1], 1)], dim=-1), z)
    one = [instruction for instruction in layer.instructions if len(instruction.path_shape) == 2][path]

    def part(values: Tensor, irreps: Any, place: int) -> Tensor:
        multiplicity, irrep = irreps[place]
        return values[:, irreps.slices()[place]].reshape(len(values), multiplicity, irrep.dim).transpose(1, 2)

    return Rows(one.path_weight * part(x, layer.irreps_in, one.i_in), part(z, layer.irreps_out, one.i_out))


@contextmanager
def _recorded(layers: list[nn.Module]) -> Iterator[list[Call]]:
    """The calls of some layers, in their order."""
    calls: list[Call] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        calls.append(Call(layer, inputs[0].detach(), outputs))
        return outputs.clone()  # what follows may change it in place

    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Layers:
    """The linear maps of a module, in the order of their first use. Those with rows of another kind are left out."""

    blocks: list[Block]

    def sizes(self, name: str) -> list[tuple[int, int]]:
        """All sizes. Raises UserError where the last layer gives no energy."""
        found = [block.size for block in self.blocks]
        if not found or found[-1][1] != 1:
            last = f"its last, {found[-1]}, does not" if found else "it has none"
            raise UserError(
                f"model {name}: gradient features need a last linear layer that gives an energy, one output: {last};"
                " set gradient_features = False in its class"
            )
        return found

    @torch.enable_grad()
    def _found(self, total: Total, layers: list[nn.Module]) -> list[tuple[Call, Tensor]]:
        """The calls of some layers with ∂E/∂z, where the energy depends on them."""
        with _recorded(layers) as calls:
            energy = total()
        by_output = torch.autograd.grad(energy, [call.outputs for call in calls], allow_unused=True)
        return [(call, gradient) for call, gradient in zip(calls, by_output, strict=True) if gradient is not None]

    def last_layer(self, total: Total, graph: Graph) -> Float[Tensor, "structures features"]:
        """Σ x̃ ∂E/∂z of the last layer, in float64."""
        last = self.blocks[-1]
        features = torch.zeros(graph.n_structures, last.size[0], dtype=torch.float64, device=graph.vectors.device)
        for call, gradient in self._found(total, [last.layer]):
            rows = _rows(call, last.path, gradient)
            features.index_add_(0, _structure(graph, last.of), (rows.inputs * rows.outputs).sum(1).double())
        return features

    def projected(
        self, total: Total, graph: Graph, projections: Projections
    ) -> Float[Tensor, "structures projections"]:
        """p^(−1/2) Σ_layers Σ_rows (U_in x̃) ⊙ (U_out ∂E/∂z), in float64."""
        n = projections[0][0].shape[1]
        features = torch.zeros(graph.n_structures, n, dtype=torch.float64, device=graph.vectors.device)
        found = self._found(total, list({id(block.layer): block.layer for block in self.blocks}.values()))
        for block, (u_in, u_out) in zip(self.blocks, projections, strict=True):
            for call, gradient in found:
                if call.layer is block.layer:
                    rows = _rows(call, block.path, gradient)
                    summed = ((rows.inputs @ u_in) * (rows.outputs @ u_out)).sum(1)
                    features.index_add_(0, _structure(graph, block.of), summed.double())
        return features * n**-0.5


def _structure(graph: Graph, of: Of) -> Int[Tensor, " items"]:
    """The structure of each atom, pair or structure."""
    if of == "atoms":
        return graph.structure
    if of == "pairs":
        return graph.structure[graph.centres]
    return torch.arange(graph.n_structures, device=graph.structure.device)


def layers_of(
    module: nn.Module, species: tuple[int, ...], r_max: float, dtype: torch.dtype, device: torch.device
) -> Layers:
    """The linear maps that a module uses, found by calling it on 5 atoms in 2 structures with 8 pairs."""
    graph = _small(species, r_max, dtype, device)
    of_length: dict[int, Of] = {5: "atoms", 8: "pairs", 2: "structures"}
    with torch.no_grad(), _recorded(linear_layers(module)) as calls:
        module(graph)
    used = {call.layer: of_length[len(call.inputs)] for call in calls if len(call.inputs) in of_length}
    return Layers(
        [Block(layer, path, size, of) for layer, of in used.items() for path, size in enumerate(_sizes(layer))]
    )


def _small(species: tuple[int, ...], r_max: float, dtype: torch.dtype, device: torch.device) -> Graph:
    positions = np.random.default_rng(0).uniform(0, 0.5 * r_max, (5, 3))
    structure = np.array([0, 0, 1, 1, 1])
    centres, neighbours = np.nonzero((structure[:, None] == structure) & ~np.eye(5, dtype=bool))
    place = np.arange(5) % len(species)
    numbers, places, structures, i, j = (
        torch.from_numpy(array).to(device)
        for array in (np.array(species)[place], place, structure, centres, neighbours)
    )
    vectors = torch.from_numpy(positions[neighbours] - positions[centres]).to(device, dtype)
    return Graph(numbers, places, structures, i, j, vectors, n_structures=2)
