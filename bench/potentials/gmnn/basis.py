"""Basis moments of the plain engine, and the constant linear maps between them and the atoms' positions.

With A[i, Z, k, m] = Σ_{j of species Z} h_k(r_ij) Y_m(r̂_ij) (`bench.potentials.gmnn.moments`), positions enter a
training only through `Basis.pull_back` (dE/dA → dE/dr) and `Basis.push_forward` (ṙ → Ȧ).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.potentials.gmnn.compiled.monomials import MONOMIALS, N_MONOMIALS
from bench.potentials.gmnn.radial import radial_basis


@dataclass(frozen=True)
class RadialGrid:
    """What fixes the radial basis h_k(r): cutoff and first centre in Å, and the number of Gaussians K."""

    r_min: float
    r_max: float
    n_gaussians: int


@dataclass(frozen=True)
class Basis:
    """Basis moments and what `pull_back` and `push_forward` need of every pair, computed once.

    The pairs of an atom stand in its slots, as many as the atom with the most pairs has; empty ones hold zeros and name
    the atom itself. So sums over pairs are batched products, and nothing is ever scattered: a GPU would have to sort
    for that, or would round differently every time. `radial` is h_k of a slot in the channels of its species and zero
    in the others; `angular[:, 0]` is Y_m(r̂), `angular[:, 1:]` its gradient with respect to the pair vector (1/Å).
    `incoming_atoms`, `incoming_slots` say in which slots an atom is the neighbour. `widths` tells, on the host, how
    many slots each structure needs.
    """

    widths: Int[np.ndarray, " structures"]
    moments: Float[Tensor, "atoms channels 20"]
    neighbours: Int[Tensor, "atoms slots"]
    incoming_atoms: Int[Tensor, "atoms slots"]
    incoming_slots: Int[Tensor, "atoms slots"]
    radial: Float[Tensor, "atoms channels slots"]
    radial_slope: Float[Tensor, "atoms channels slots"]
    angular: Float[Tensor, "atoms 4 slots 20"]
    vectors: Float[Tensor, "atoms slots 3"]
    directions: Float[Tensor, "atoms slots 3"]

    @staticmethod
    def without_pairs(widths: Int[np.ndarray, " structures"], moments: Float[Tensor, "atoms channels 20"]) -> "Basis":
        """What serves energies and features: no slots."""
        n_atoms, n_channels, _ = moments.shape
        nowhere = torch.empty(n_atoms, 0, dtype=torch.int64, device=moments.device)
        radial, vectors = moments.new_empty(n_atoms, n_channels, 0), moments.new_empty(n_atoms, 0, 3)
        angular = moments.new_empty(n_atoms, 4, 0, N_MONOMIALS)
        return Basis(widths, moments, nowhere, nowhere, nowhere, radial, radial, angular, vectors, vectors)

    def select(
        self,
        structures: Int[np.ndarray, " picked"],
        atoms: Int[Tensor, " picked_atoms"],
        moved: Int[Tensor, " picked_atoms"],
        *,
        with_pairs: bool,
    ) -> "Basis":
        """Some structures, whose atoms are these; `moved` is by how much the row of each has changed."""
        widths = self.widths[structures]
        width = min(int(widths.max(initial=0)), self.neighbours.shape[1]) if with_pairs else 0

        def slots(values: Tensor, axis: int) -> Tensor:
            return values.narrow(axis, 0, width).index_select(0, atoms)

        return Basis(
            widths=widths,
            moments=self.moments.index_select(0, atoms),
            neighbours=slots(self.neighbours, 1) + moved[:, None],
            incoming_atoms=slots(self.incoming_atoms, 1) + moved[:, None],
            incoming_slots=slots(self.incoming_slots, 1).clamp_(max=width - 1),
            radial=slots(self.radial, 2),
            radial_slope=slots(self.radial_slope, 2),
            angular=slots(self.angular, 2),
            vectors=slots(self.vectors, 1),
            directions=slots(self.directions, 1),
        )

    def pull_back(self, moment_gradient: Float[Tensor, "atoms channels 20"]) -> Float[Tensor, "atoms 3"]:
        """Map dE/dA to dE/dr (per Å): the transpose of `push_forward`."""
        by_slot = self.pull_back_pairs(moment_gradient)
        n_atoms, width = self.neighbours.shape
        incoming = (self.incoming_atoms * width + self.incoming_slots).flatten()
        arrived = by_slot.reshape(-1, 3).index_select(0, incoming).reshape(n_atoms, width, 3)
        return arrived.sum(1) - by_slot.sum(1)

    def pull_back_pairs(self, moment_gradient: Float[Tensor, "atoms channels 20"]) -> Float[Tensor, "atoms slots 3"]:
        """Map dE/dA to the derivative with respect to each pair's vector (per Å)."""
        by_angle = torch.bmm(self.radial.transpose(1, 2), moment_gradient)
        along = (by_angle[:, None] * self.angular[:, 1:]).sum(3).transpose(1, 2)
        by_length = torch.bmm(self.radial_slope.transpose(1, 2), moment_gradient)
        radial_part = (by_length * self.angular[:, 0]).sum(2, keepdim=True)
        return along + radial_part * self.directions

    def push_forward(self, velocities: Float[Tensor, "atoms 3"]) -> Float[Tensor, "atoms channels 20"]:
        """Map a displacement of the atoms to the change of the basis moments it causes, to first order."""
        along = velocities[self.neighbours] - velocities[:, None]
        stretch = (along * self.directions).sum(2, keepdim=True)
        turned = (along.transpose(1, 2)[:, :, :, None] * self.angular[:, 1:]).sum(1)
        return torch.baddbmm(torch.bmm(self.radial, turned), self.radial_slope, self.angular[:, 0] * stretch)


Pairs = tuple[
    Int[np.ndarray, " atoms_and_1"], Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Float[np.ndarray, "pairs 3"]
]
"""Where the pairs of each atom begin, their centres, neighbours, and vectors in Å (`compiled.gather.gather_pairs`)."""


def make_basis(
    grid: RadialGrid,
    n_species: int,
    atom_counts: Int[np.ndarray, " structures"],
    species: Int[Tensor, " atoms"],
    pairs: Pairs,
    dtype: torch.dtype,
    with_pairs: bool,
) -> Basis:
    """The basis of some structures, with these numbers of atoms; without pairs it serves energies and features."""
    first_pair, centres, neighbours, _ = pairs
    counts, device = np.diff(first_pair), species.device
    # at least one slot, so that every empty slot is one of the atom's own
    widths = np.maximum(np.maximum.reduceat(counts, np.cumsum(atom_counts) - atom_counts), 1)
    n_atoms, width = len(counts), int(widths.max(initial=1))
    slots = np.arange(len(centres)) - first_pair[centres]
    at, other, vectors = (torch.from_numpy(array).to(device) for array in (centres * width + slots, *pairs[2:]))
    length = torch.linalg.vector_norm(vectors, dim=1)
    directions, distances = (vectors / length[:, None]).to(dtype), length.to(dtype)
    radial, radial_slope = radial_basis(distances, grid.r_min, grid.r_max, grid.n_gaussians)
    monomials = _monomials(directions)

    def laid_out(of_pairs: Float[Tensor, "pairs ..."]) -> Float[Tensor, "atoms slots ..."]:
        empty = of_pairs.new_zeros(n_atoms * width, *of_pairs.shape[1:])
        return empty.index_copy_(0, at, of_pairs).reshape(n_atoms, width, *of_pairs.shape[1:])

    def by_channel(of_pairs: Float[Tensor, "pairs gaussians"]) -> Float[Tensor, "atoms channels slots"]:
        empty = of_pairs.new_zeros(n_atoms * width * n_species, grid.n_gaussians)
        empty.index_copy_(0, at * n_species + species[other], of_pairs)
        return empty.reshape(n_atoms, width, n_species * grid.n_gaussians).transpose(1, 2).contiguous()

    if not with_pairs:
        return Basis.without_pairs(widths, torch.bmm(by_channel(radial), laid_out(monomials)))
    ending = np.argsort(neighbours, kind="stable")  # as many pairs end at an atom as begin there
    itself = np.repeat(np.arange(n_atoms)[:, None], width, axis=1)

    def in_slots(
        of_pairs: Int[np.ndarray, " pairs"], elsewhere: Int[np.ndarray, "atoms slots"]
    ) -> Int[Tensor, "atoms slots"]:
        filled = elsewhere.copy()
        filled[centres, slots] = of_pairs
        return torch.from_numpy(filled).to(device)

    by_species = by_channel(radial)
    angular = laid_out(_with_gradients(monomials, directions, distances)).transpose(1, 2).contiguous()
    return Basis(
        widths=widths,
        moments=torch.bmm(by_species, angular[:, 0]),
        neighbours=in_slots(neighbours, itself),
        incoming_atoms=in_slots(centres[ending], itself),
        incoming_slots=in_slots(slots[ending], np.full_like(itself, width - 1)),
        radial=by_species,
        radial_slope=by_channel(radial_slope),
        angular=angular,
        vectors=laid_out(vectors.to(dtype)),
        directions=laid_out(directions),
    )


def _monomials(directions: Float[Tensor, "pairs 3"]) -> Float[Tensor, "pairs 20"]:
    """Y_m(r̂)."""
    powers = [torch.ones_like(directions), directions, directions**2, directions**3]
    return torch.stack([powers[a][:, 0] * powers[b][:, 1] * powers[c][:, 2] for a, b, c in MONOMIALS], dim=1)


def _with_gradients(
    monomials: Float[Tensor, "pairs 20"], directions: Float[Tensor, "pairs 3"], distances: Float[Tensor, " pairs"]
) -> Float[Tensor, "pairs 4 20"]:
    """Y_m(r̂) and, below it, ∂Y_m(r̂)/∂r_c = (∂_c Y_m − L_m r̂_c Y_m)/r."""
    result = monomials.new_zeros(len(monomials), 4, monomials.shape[1])
    result[:, 0] = monomials
    degrees = torch.tensor([sum(m) for m in MONOMIALS], dtype=monomials.dtype, device=monomials.device)
    for axis in range(3):
        for m, exponents in enumerate(MONOMIALS):
            if exponents[axis]:
                lower = tuple(e - (a == axis) for a, e in enumerate(exponents))
                result[:, 1 + axis, m] = exponents[axis] * monomials[:, MONOMIALS.index(lower)]
        result[:, 1 + axis] -= degrees * monomials * directions[:, axis, None]
    result[:, 1:] /= distances[:, None, None]
    return result
