"""What a torch module sees of some structures, gathered for minibatches."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.data.structures import ragged_rows
from bench.potentials.base import to_device


@dataclass(frozen=True)
class Graph:
    """Structures of one model: atoms structure by structure, directed pairs within the cutoff sorted by centre.

    `vectors` lead from centre to neighbour in Å. An energy may depend on positions through them alone: forces and
    stress are its derivatives with respect to them. `numbers` are atomic numbers, `species` their places among the
    elements of the dataset, ascending.
    """

    numbers: Int[Tensor, " atoms"]
    species: Int[Tensor, " atoms"]
    structure: Int[Tensor, " atoms"]
    centres: Int[Tensor, " pairs"]
    neighbours: Int[Tensor, " pairs"]
    vectors: Float[Tensor, "pairs 3"]
    n_structures: int

    def sum_pairs(self, values: Float[Tensor, "pairs *rest"]) -> Float[Tensor, "atoms *rest"]:
        """The sum over the pairs of each centre."""
        return values.new_zeros(len(self.numbers), *values.shape[1:]).index_add(0, self.centres, values)

    def sum_atoms(self, values: Float[Tensor, "atoms *rest"]) -> Float[Tensor, "structures *rest"]:
        """The sum over the atoms of each structure."""
        return values.new_zeros(self.n_structures, *values.shape[1:]).index_add(0, self.structure, values)


@dataclass(frozen=True)
class ModuleInputs:
    """See `bench.potentials.base.Inputs`: a graph for every model."""

    graphs: list[Graph]

    @property
    def n_models(self) -> int:
        """How many models."""
        return len(self.graphs)

    @property
    def atoms_of_models(self) -> Int[Tensor, " models"]:
        """How many atoms each model has."""
        return torch.tensor([len(graph.numbers) for graph in self.graphs], device=self.graphs[0].numbers.device)

    def split_atoms(self, of_atoms: Float[Tensor, "atoms columns"]) -> list[Float[Tensor, "_ columns"]]:
        """Values of atoms, model by model."""
        return list(of_atoms.split([len(graph.numbers) for graph in self.graphs]))

    def sum_models(self, of_atoms: Float[Tensor, "atoms columns"]) -> Float[Tensor, " models"]:
        """The sum over all atoms and columns of each model."""
        return torch.stack([one.sum() for one in self.split_atoms(of_atoms)])


@dataclass(frozen=True)
class PreparedGraphs:
    """See `bench.potentials.base.Prepared`: atoms and pairs of some structures, pairs counting within a structure."""

    numbers: Int[np.ndarray, " atoms"]
    species: Int[np.ndarray, " atoms"]
    n_atoms: Int[np.ndarray, " structures"]
    centres: Int[np.ndarray, " pairs"]
    neighbours: Int[np.ndarray, " pairs"]
    vectors: Float[np.ndarray, "pairs 3"]
    n_pairs: Int[np.ndarray, " structures"]
    dtype: torch.dtype
    device: torch.device

    def gather(self, rows: Int[np.ndarray, "models structures"]) -> ModuleInputs:
        """Row m holds the structures of model m."""
        return ModuleInputs([self._graph(row) for row in rows])

    def _graph(self, row: Int[np.ndarray, " structures"]) -> Graph:
        n_atoms, n_pairs = self.n_atoms[row], self.n_pairs[row]
        atoms = ragged_rows((np.cumsum(self.n_atoms) - self.n_atoms)[row], n_atoms)
        pairs = ragged_rows((np.cumsum(self.n_pairs) - self.n_pairs)[row], n_pairs)
        first = np.repeat(np.cumsum(n_atoms) - n_atoms, n_pairs)

        def moved(array: np.ndarray) -> Tensor:
            return to_device(array, self.device)

        return Graph(
            numbers=moved(self.numbers[atoms]),
            species=moved(self.species[atoms]),
            structure=moved(np.repeat(np.arange(len(row)), n_atoms)),
            centres=moved(first + self.centres[pairs]),
            neighbours=moved(first + self.neighbours[pairs]),
            vectors=moved(self.vectors[pairs]).to(self.dtype),
            n_structures=len(row),
        )
