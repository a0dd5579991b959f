"""Gradient features of a torch module (Eqs. 14, 19) by hooks on its linear layers.

A layer z = W x + b is called with rows that belong to atoms, pairs or whatever else a structure has. With
x̃ = (x, 1), or x without a bias, the gradient of a structure's energy with respect to W and b is Σ x̃ ⊗ ∂E/∂z over its
rows, of all calls. Of structures that share a batch ∂E/∂z of the sum of energies is each row's own: one backward pass
serves all.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bench.errors import UserError
from bench.potentials.base import Projections
from bench.potentials.modules.graph import Graph

Total = Callable[[], Float[Tensor, ""]]
"""Evaluates the sum of the energies of some structures."""
Owners = Mapping[str, Int[Tensor, " _"]]
"""The structure of each atom, pair, … by the name of what there is; `structures` are there, too."""


class Call(NamedTuple):
    """What a layer was called with, and what it gave."""

    layer: nn.Module
    inputs: Tensor
    outputs: Tensor


class Rows(NamedTuple):
    """x̃ and z (or ∂E/∂z) of the rows of each atom, pair, …."""

    inputs: Float[Tensor, "items repeats inputs"]
    outputs: Float[Tensor, "items repeats outputs"]


class Block(NamedTuple):
    """A linear map within a layer: a layer of torch is one, an equivariant layer (e3nn) one for each of its paths."""

    layer: nn.Module
    path: int
    size: tuple[int, int]
    of: str


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
def _recorded(layers: Sequence[nn.Module]) -> Iterator[list[Call]]:
    """The calls of some layers, in their order."""
    calls: list[Call] = []

    def note(layer: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], outputs: Tensor) -> Tensor:
        calls.append(Call(layer, next(iter((*given, *named.values()))).detach(), outputs))
        return outputs.clone()  # what follows may change it in place

    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in layers]
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
    def _found(self, total: Total, layers: Sequence[nn.Module]) -> list[tuple[Call, Tensor]]:
        """The calls of some layers with ∂E/∂z, where the energy depends on them."""
        with _recorded(layers) as calls:
            energy = total()
        by_output = torch.autograd.grad(energy, [call.outputs for call in calls], allow_unused=True)
        return [(call, gradient) for call, gradient in zip(calls, by_output, strict=True) if gradient is not None]

    def last_layer(self, total: Total, owners: Owners) -> Float[Tensor, "structures features"]:
        """Σ x̃ ∂E/∂z of the last layer, in float64."""
        last = self.blocks[-1]
        features = _zeros(owners, last.size[0])
        for call, gradient in self._found(total, [last.layer]):
            rows = _rows(call, last.path, gradient)
            _add(features, last, owners, (rows.inputs * rows.outputs).sum(1))
        return features

    def projected(
        self, total: Total, owners: Owners, projections: Projections
    ) -> Float[Tensor, "structures projections"]:
        """p^(−1/2) Σ_layers Σ_rows (U_in x̃) ⊙ (U_out ∂E/∂z), in float64."""
        n = projections[0][0].shape[1]
        features = _zeros(owners, n)
        found = self._found(total, list({id(block.layer): block.layer for block in self.blocks}.values()))
        for block, (u_in, u_out) in zip(self.blocks, projections, strict=True):
            for call, gradient in found:
                if call.layer is block.layer:
                    rows = _rows(call, block.path, gradient)
                    _add(features, block, owners, ((rows.inputs @ u_in) * (rows.outputs @ u_out)).sum(1))
        return features * n**-0.5


def _zeros(owners: Owners, n: int) -> Float[Tensor, "structures features"]:
    structures = owners["structures"]
    return torch.zeros(len(structures), n, dtype=torch.float64, device=structures.device)


def _add(
    total: Float[Tensor, "structures features"], block: Block, owners: Owners, found: Float[Tensor, "items features"]
) -> None:
    """Add what the rows of one call give to those of their structures. Raises UserError where they are other rows."""
    if len(found) != len(owners[block.of]):
        raise UserError(
            f"gradient features: a linear layer, {block.size}, is called with {block.of} and with other rows: give each"
            " a layer of its own, or set gradient_features = False in the class"
        )
    total.index_add_(0, owners[block.of], found.double())


def layers_of(layers: Sequence[nn.Module], tries: Sequence[tuple[Callable[[], Any], Owners]]) -> Layers:
    """The linear maps that a module uses, found by evaluating it on structures that have as many of nothing else.

    More tries, with other numbers of everything, tell rows that are as many as atoms by chance, such as a table's.
    """
    first, *others = [_kinds(layers, *one) for one in tries]
    used = {layer: of for layer, of in first.items() if all(one.get(layer) == of for one in others)}
    return Layers(
        [Block(layer, path, size, of) for layer, of in used.items() for path, size in enumerate(_sizes(layer))]
    )


def _kinds(layers: Sequence[nn.Module], evaluate: Callable[[], Any], owners: Owners) -> dict[nn.Module, str]:
    """What the rows of each layer belong to, in the order of their first use."""
    lengths = {len(structures): name for name, structures in owners.items()}
    if len(lengths) < len(owners):
        raise ValueError(f"as many of one thing as of another: {[len(one) for one in owners.values()]}")
    with torch.no_grad(), _recorded(layers) as calls:
        evaluate()
    return {call.layer: lengths[len(call.inputs)] for call in calls if len(call.inputs) in lengths}


def owners_of(graph: Graph) -> Owners:
    """The structures of a graph's atoms and pairs."""
    structures = torch.arange(graph.n_structures, device=graph.structure.device)
    return {"atoms": graph.structure, "pairs": graph.structure[graph.centres], "structures": structures}


def small_graph(
    sizes: Sequence[int], species: tuple[int, ...], r_max: float, dtype: torch.dtype, device: torch.device
) -> Graph:
    """Structures of so many atoms each, all of which are pairs."""
    n_atoms = sum(sizes)
    positions = np.random.default_rng(0).uniform(0, 0.5 * r_max, (n_atoms, 3))
    structure = np.repeat(np.arange(len(sizes)), sizes)
    centres, neighbours = np.nonzero((structure[:, None] == structure) & ~np.eye(n_atoms, dtype=bool))
    place = np.arange(n_atoms) % len(species)
    numbers, places, structures, i, j = (
        torch.from_numpy(array).to(device)
        for array in (np.array(species)[place], place, structure, centres, neighbours)
    )
    vectors = torch.from_numpy(positions[neighbours] - positions[centres]).to(device, dtype)
    return Graph(numbers, places, structures, i, j, vectors, n_structures=len(sizes))
