"""Equivariant moments of Eq. (2), split into what depends on the geometry alone and what is trained.

Eq. (2) is linear in β: with the basis moments A[i, Z, k, m] = Σ_{j of species Z} h_k(r_ij) Y_m(r̂_ij), Y_m the 20
monomials x^a y^b z^c of degree L = a + b + c ≤ 3 (the distinct components of r̂^⊗L), the moment is
Ψ[i, s, m] = Σ_{Z,k} β[Z_i, Z, s, k] A[i, Z, k, m]. A is computed once per structure, and positions enter training only
through two constant, sparse, linear maps: `pull_back` (dE/dA → dE/dr) and `push_forward` (ṙ → Ȧ).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.potentials.base import to_device
from bench.potentials.gmnn.basis import Basis, RadialGrid
from bench.potentials.gmnn.compiled.gather import Prepared, select_structures


@dataclass(frozen=True)
class Geometry:
    """Atoms and pairs of some structures: everything positions contribute to energies and forces.

    Pairs are sorted by centre: those of atom i are the rows first_pair[i]:first_pair[i + 1]. The compiled engine needs
    nothing else; where basis moments are used again it has them as `sums`, those of atom i at `places[i]`. The plain
    one has its `basis` alone, whose slots are its pairs. The numbers of atoms and pairs of each structure stand on the
    host too, so that parts are picked without waiting for the device.
    """

    grid: RadialGrid
    n_species: int
    atom_counts: Int[np.ndarray, " structures"]
    pair_counts: Int[np.ndarray, " structures"]
    n_atoms: Int[Tensor, " structures"]
    species: Int[Tensor, " atoms"]
    first_pair: Int[Tensor, " atoms_and_1"]
    centres: Int[Tensor, " pairs"]
    neighbours: Int[Tensor, " pairs"]
    vectors: Float[Tensor, "pairs 3"]
    basis: Basis | None
    sums: Float[Tensor, "_ channels 20"] | None = None
    places: Int[Tensor, " atoms"] | None = None

    def __len__(self) -> int:
        return len(self.atom_counts)

    @property
    def structure(self) -> Int[Tensor, " atoms"]:
        """The structure of each atom."""
        everyone = torch.arange(len(self), device=self.n_atoms.device)
        return torch.repeat_interleave(everyone, self.n_atoms, output_size=len(self.species))

    @property
    def pairs(self) -> tuple[Int[Tensor, " pairs"], Float[Tensor, "pairs 3"]]:
        """The centre of every pair and its vector, as `Descriptor.pull_back_pairs` has them."""
        if self.basis is None:
            return self.centres, self.vectors
        n_atoms, width = self.basis.neighbours.shape
        atoms = torch.arange(n_atoms, device=self.species.device)
        return atoms[:, None].expand(n_atoms, width).flatten(), self.basis.vectors.flatten(0, 1)

    @cached_property
    def first_atom(self) -> Int[Tensor, " structures_and_1"]:
        """Where the atoms of each structure begin."""
        return torch.cat([self.n_atoms.new_zeros(1), torch.cumsum(self.n_atoms, 0)])

    def select(self, picked: Int[np.ndarray, " picked"], *, with_pairs: bool) -> "Geometry":
        """The geometry of some structures, repeats allowed; without pairs the plain engine gives energies only."""
        if self.basis is None:
            return self._select_compiled(picked)
        atom_counts = self.atom_counts[picked]
        rows = to_device(picked, self.n_atoms.device)
        n_atoms = self.n_atoms[rows]
        atoms, shift = self._atoms_of(rows, n_atoms, int(atom_counts.sum()))
        return replace(
            self,
            atom_counts=atom_counts,
            pair_counts=self.pair_counts[picked],
            n_atoms=n_atoms,
            species=self.species[atoms],
            basis=self.basis.select(self.basis.widths[picked], atoms, shift, with_pairs=with_pairs),
        )

    def _atoms_of(
        self, rows: Int[Tensor, " picked"], n_atoms: Int[Tensor, " picked"], total: int
    ) -> tuple[Int[Tensor, " atoms"], Int[Tensor, " atoms"]]:
        """The atoms of some structures, and by how much the row of each changes."""
        begin = self.first_atom[rows]
        shift = torch.repeat_interleave(torch.cumsum(n_atoms, 0) - n_atoms - begin, n_atoms, output_size=total)
        return torch.arange(total, device=shift.device) - shift, shift

    def with_padding(self) -> "Geometry":
        """With one more structure behind all others: of one atom, which has no pairs; for the plain engine."""
        if self.basis is None:
            raise ValueError("structures of the compiled engine are not padded")
        return replace(
            self,
            atom_counts=np.append(self.atom_counts, 1),
            pair_counts=np.append(self.pair_counts, 0),
            n_atoms=torch.cat([self.n_atoms, self.n_atoms.new_ones(1)]),
            species=torch.cat([self.species, self.species.new_zeros(1)]),
            basis=self.basis.with_padding(),
        )

    def select_padded(
        self, rows: Int[Tensor, " picked"], n_atoms: Int[Tensor, " picked"], total: int
    ) -> tuple["Geometry", Int[Tensor, " atoms"]]:
        """`select` by what the device alone knows, `total` atoms, and the rows that they had.

        Of a geometry `with_padding`, whose last atom is repeated as often as `n_atoms` says of it. The shapes of the
        result depend on the number of structures and on `total`, nothing else; the host's counts are zero.
        """
        if self.basis is None:
            raise ValueError("structures of the compiled engine are not padded")
        atoms = self._atoms_of(rows, n_atoms, total)[0].clamp_(max=len(self.species) - 1)
        moved = torch.arange(total, device=atoms.device) - atoms
        unknown = np.zeros(len(rows), dtype=np.int64)
        widest = np.full(len(rows), self.basis.neighbours.shape[1])
        selected = replace(
            self,
            atom_counts=unknown,
            pair_counts=unknown,
            n_atoms=n_atoms,
            species=self.species[atoms],
            basis=self.basis.select(widest, atoms, moved, with_pairs=True),
        )
        return selected, atoms

    def _select_compiled(self, picked: Int[np.ndarray, " picked"]) -> "Geometry":
        places = torch.arange(len(self.species)) if self.places is None else self.places
        arrays = self.first_atom, self.first_pair, self.centres, self.neighbours, self.species, self.vectors, places
        chosen = select_structures(Prepared(*(values.numpy() for values in arrays)), picked)
        first, first_pair, centres, neighbours, species, vectors, places = map(torch.from_numpy, chosen)
        return Geometry(
            grid=self.grid,
            n_species=self.n_species,
            atom_counts=self.atom_counts[picked],
            pair_counts=self.pair_counts[picked],
            n_atoms=first.diff(),
            species=species,
            first_pair=first_pair,
            centres=centres,
            neighbours=neighbours,
            vectors=vectors,
            basis=None,
            sums=self.sums,
            places=None if self.sums is None else places,
        )
