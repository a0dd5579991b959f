"""Equivariant moments of Eq. (2), split into what depends on the geometry alone and what is trained.

Eq. (2) is linear in β: with the basis moments A[i, Z, k, m] = Σ_{j of species Z} h_k(r_ij) Y_m(r̂_ij), Y_m the 20
monomials x^a y^b z^c of degree L = a + b + c ≤ 3 (the distinct components of r̂^⊗L), the moment is
Ψ[i, s, m] = Σ_{Z,k} β[Z_i, Z, s, k] A[i, Z, k, m]. A is computed once per structure, and positions enter training only
through two constant, sparse, linear maps: `pull_back` (dE/dA → dE/dr) and `push_forward` (ṙ → Ȧ).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.potentials.base import to_device
from bench.potentials.gmnn.compiled.gather import Prepared, select_structures
from bench.potentials.gmnn.compiled.monomials import N_MONOMIALS


@dataclass(frozen=True)
class RadialGrid:
    """What fixes the radial basis h_k(r): cutoff and first centre in Å, and the number of Gaussians K."""

    r_min: float
    r_max: float
    n_gaussians: int


@dataclass(frozen=True)
class Basis:
    """Basis moments and what `pull_back` and `push_forward` need of every pair, computed once.

    `segments` is centre · n_species + species of the neighbour; `angular[:, :, 0]` is Y_m(r̂), `angular[:, :, 1:]` its
    gradient with respect to the pair vector (1/Å).
    """

    moments: Float[Tensor, "atoms channels 20"]
    centres: Int[Tensor, " pairs"]
    neighbours: Int[Tensor, " pairs"]
    segments: Int[Tensor, " pairs"]
    radial: Float[Tensor, "pairs gaussians"]
    radial_slope: Float[Tensor, "pairs gaussians"]
    angular: Float[Tensor, "pairs 20 4"]
    directions: Float[Tensor, "pairs 3"]

    def select(
        self, atoms: Int[Tensor, " picked_atoms"], pairs: Int[Tensor, " e"], shift: Int[Tensor, " e"]
    ) -> "Basis":
        """Some atoms and pairs; `shift` is by how much the rows of the pairs' atoms move."""
        n_species = self.moments.shape[1] // self.radial.shape[1]
        return Basis(
            moments=self.moments.index_select(0, atoms),
            centres=self.centres[pairs] + shift,
            neighbours=self.neighbours[pairs] + shift,
            segments=self.segments[pairs] + shift * n_species,
            radial=self.radial.index_select(0, pairs),
            radial_slope=self.radial_slope.index_select(0, pairs),
            angular=self.angular.index_select(0, pairs),
            directions=self.directions.index_select(0, pairs),
        )

    def pull_back(self, moment_gradient: Float[Tensor, "atoms channels 20"]) -> Float[Tensor, "atoms 3"]:
        """Map dE/dA to dE/dr (per Å): the transpose of `push_forward`."""
        pair_gradient = self.pull_back_pairs(moment_gradient)
        gradient = pair_gradient.new_zeros(len(self.moments), 3)
        gradient.index_add_(0, self.neighbours, pair_gradient)
        return gradient.index_add_(0, self.centres, pair_gradient, alpha=-1)

    def pull_back_pairs(self, moment_gradient: Float[Tensor, "atoms channels 20"]) -> Float[Tensor, "pairs 3"]:
        """Map dE/dA to the derivative with respect to each pair's vector (per Å)."""
        n_gaussians = self.radial.shape[1]
        by_pair = moment_gradient.reshape(-1, n_gaussians, N_MONOMIALS).index_select(0, self.segments)
        contracted = torch.bmm(by_pair, self.angular)
        along = (contracted[:, :, 1:] * self.radial[:, :, None]).sum(1)
        radial_part = (contracted[:, :, 0] * self.radial_slope).sum(1, keepdim=True)
        return along + radial_part * self.directions

    def push_forward(self, velocities: Float[Tensor, "atoms 3"]) -> Float[Tensor, "atoms channels 20"]:
        """Map a displacement of the atoms to the change of the basis moments it causes, to first order."""
        along = velocities[self.neighbours] - velocities[self.centres]
        stretch = (along * self.directions).sum(1, keepdim=True)
        angular_change = torch.stack(
            [torch.bmm(self.angular[:, :, 1:], along[:, :, None])[:, :, 0], self.angular[:, :, 0] * stretch], dim=1
        )
        radial = torch.stack([self.radial, self.radial_slope], dim=2)
        n_species = self.moments.shape[1] // self.radial.shape[1]
        return sum_segments(torch.bmm(radial, angular_change), self.segments, len(self.moments), n_species)


@dataclass(frozen=True)
class Geometry:
    """Atoms and pairs of some structures: everything positions contribute to energies and forces.

    Pairs are sorted by centre: those of atom i are the rows first_pair[i]:first_pair[i + 1]. The compiled engine needs
    nothing else; where basis moments are used again it has them as `sums`, those of atom i at `places[i]`. The plain
    one has its `basis`. The numbers of atoms and pairs of each structure stand on the host too, so that parts are
    picked without waiting for the device.
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
        return len(self.n_atoms)

    @property
    def structure(self) -> Int[Tensor, " atoms"]:
        """The structure of each atom."""
        everyone = torch.arange(len(self), device=self.n_atoms.device)
        return torch.repeat_interleave(everyone, self.n_atoms, output_size=len(self.species))

    @cached_property
    def first_atom(self) -> Int[Tensor, " structures_and_1"]:
        """Where the atoms of each structure begin."""
        return torch.cat([self.n_atoms.new_zeros(1), torch.cumsum(self.n_atoms, 0)])

    def select(self, picked: Int[np.ndarray, " picked"], *, with_pairs: bool) -> "Geometry":
        """The geometry of some structures, repeats allowed; without pairs the plain engine gives energies only."""
        if self.basis is None:
            return self._select_compiled(picked)
        atom_counts, pair_counts = self.atom_counts[picked], self.pair_counts[picked]
        total_pairs = int(pair_counts.sum())
        rows = to_device(picked, self.n_atoms.device)
        n_atoms, begin = self.n_atoms[rows], self.first_atom[rows]
        atoms = ragged_rows(begin, n_atoms, int(atom_counts.sum()))
        n_pairs = self.first_pair[begin + n_atoms] - self.first_pair[begin]
        pairs = ragged_rows(self.first_pair[begin], n_pairs, total_pairs)
        moved = torch.cumsum(n_atoms, 0) - n_atoms - begin
        shift = torch.repeat_interleave(moved, n_pairs, output_size=total_pairs)
        kept = slice(None) if with_pairs else slice(0, 0)
        counts = self.first_pair[atoms + 1] - self.first_pair[atoms]
        return Geometry(
            grid=self.grid,
            n_species=self.n_species,
            atom_counts=atom_counts,
            pair_counts=pair_counts,
            n_atoms=n_atoms,
            species=self.species[atoms],
            first_pair=torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)]),
            centres=self.centres[pairs] + shift,
            neighbours=self.neighbours[pairs] + shift,
            vectors=self.vectors.index_select(0, pairs),
            basis=self.basis.select(atoms, pairs[kept], shift[kept]),
        )

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


def sum_segments(
    by_pair: Float[Tensor, "pairs gaussians 20"], segments: Int[Tensor, " pairs"], n_atoms: int, n_species: int
) -> Float[Tensor, "atoms channels 20"]:
    """Add up what the pairs of each (centre, species of neighbour) contribute."""
    n_gaussians = by_pair.shape[1]
    total = by_pair.new_zeros(n_atoms * n_species, n_gaussians * N_MONOMIALS)
    total.index_add_(0, segments, by_pair.flatten(1))
    return total.reshape(n_atoms, n_species * n_gaussians, N_MONOMIALS)


def ragged_rows(starts: Int[Tensor, " picked"], lengths: Int[Tensor, " picked"], total: int) -> Int[Tensor, " total"]:
    """Concatenate the ranges starts[i] : starts[i] + lengths[i]; `total` is the sum of the lengths."""
    shift = starts - (torch.cumsum(lengths, 0) - lengths)
    return torch.arange(total, device=starts.device) + torch.repeat_interleave(shift, lengths, output_size=total)
