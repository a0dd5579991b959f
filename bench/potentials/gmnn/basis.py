"""Basis moments of the plain engine, and the constant linear maps between them and the atoms' positions.

With A[i, Z, k, m] = Σ_{j of species Z} h_k(r_ij) Y_m(r̂_ij) (`bench.potentials.gmnn.moments`), positions enter a
training only through `Basis.pull_back` (dE/dA → dE/dr) and `Basis.push_forward` (ṙ → Ȧ).
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from bench.potentials.base import to_device
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

    The pairs of an atom stand in its slots, as many as the atom with the most pairs has; empty ones name the atom
    itself and something beyond the cutoff, where h_k is zero. So sums over pairs are batched products, and nothing is
    ever scattered: a GPU would have to sort for that, or would round differently every time. `radial` is h_k of a slot
    in the channels of its species and zero in the others; `angular[:, 0]` is Y_m(r̂), `angular[:, 1:]` its gradient
    with respect to the pair vector (1/Å). `incoming_atoms`, `incoming_slots` say in which slots an atom is the
    neighbour. `widths` tells, on the host, how many slots each structure needs.
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

    def with_padding(self) -> "Basis":
        """With one more structure behind all others: of one atom, without pairs, whose moments are zero."""
        n_atoms, width = self.neighbours.shape

        def longer(values: Tensor, fill: int = 0) -> Tensor:
            return torch.cat([values, values.new_full((1, *values.shape[1:]), fill)])

        integers = {"neighbours": n_atoms, "incoming_atoms": n_atoms, "incoming_slots": width - 1}
        kept = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "widths"}
        arrays = {name: longer(values, integers.get(name, 0)) for name, values in kept.items()}
        return Basis(np.append(self.widths, 1), **arrays)

    def select(
        self,
        widths: Int[np.ndarray, " picked"],
        atoms: Int[Tensor, " picked_atoms"],
        moved: Int[Tensor, " picked_atoms"],
        *,
        with_pairs: bool,
    ) -> "Basis":
        """Structures of these widths, whose atoms are these; `moved` is by how much the row of each has changed."""
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
    first_pair, centres, neighbours, vectors = pairs
    counts, device = np.diff(first_pair), species.device
    # at least one slot, so that every empty slot is one of the atom's own
    widths = np.maximum(np.maximum.reduceat(counts, np.cumsum(atom_counts) - atom_counts), 1)
    n_atoms, width = len(counts), int(widths.max(initial=1))
    begin, count, other = (to_device(array, device) for array in (first_pair[:-1], counts, neighbours))
    slots = torch.arange(width, device=device)
    # where the pair of each slot stands; of an empty one behind all of them
    places = torch.where(slots < count[:, None], begin[:, None] + slots, len(neighbours)).flatten()

    def in_slots(of_pairs: Shaped[Tensor, "pairs ..."], empty: Shaped[Tensor, "..."]) -> Shaped[Tensor, "_ ..."]:
        return torch.cat([of_pairs, empty[None]]).index_select(0, places)

    far = torch.tensor([2 * grid.r_max, 0, 0], dtype=torch.float64, device=device)
    vectors_in_slots = in_slots(to_device(vectors, device), far)
    length = torch.linalg.vector_norm(vectors_in_slots, dim=1)
    directions, distances = (vectors_in_slots / length[:, None]).to(dtype), length.to(dtype)
    radial, radial_slope = radial_basis(distances, grid.r_min, grid.r_max, grid.n_gaussians)
    monomials = _monomials(directions)
    of_species = in_slots(species[other], species.new_full((), 0))[:, None] == torch.arange(n_species, device=device)

    def by_channel(of_slots: Float[Tensor, "pairs gaussians"]) -> Float[Tensor, "atoms channels slots"]:
        channels = of_slots[:, None, :] * of_species[:, :, None]
        return channels.reshape(n_atoms, width, n_species * grid.n_gaussians).transpose(1, 2).contiguous()

    by_species = by_channel(radial)
    if not with_pairs:
        return Basis.without_pairs(widths, torch.bmm(by_species, monomials.reshape(n_atoms, width, N_MONOMIALS)))
    angular = _with_gradients(monomials, directions, distances).reshape(n_atoms, width, 4, N_MONOMIALS)
    angular = angular.transpose(1, 2).contiguous()
    itself = torch.arange(n_atoms, device=device)[:, None].expand(n_atoms, width)
    ending = torch.argsort(other, stable=True)  # as many pairs end at an atom as begin there
    of_pair = to_device(centres, device)
    filled = slots < count[:, None]

    def of_atoms(of_pairs: Int[Tensor, " pairs"], empty: Int[Tensor, "atoms slots"]) -> Int[Tensor, "atoms slots"]:
        return torch.where(filled, in_slots(of_pairs, empty.new_zeros(())).reshape(n_atoms, width), empty)

    last = slots[-1].expand(n_atoms, width)
    slot_of_pair = torch.arange(len(neighbours), device=device) - begin[of_pair]
    return Basis(
        widths=widths,
        moments=torch.bmm(by_species, angular[:, 0]),
        neighbours=of_atoms(other, itself),
        incoming_atoms=of_atoms(of_pair[ending], itself),
        incoming_slots=of_atoms(slot_of_pair[ending], last),
        radial=by_species,
        radial_slope=by_channel(radial_slope),
        angular=angular,
        vectors=vectors_in_slots.to(dtype).reshape(n_atoms, width, 3),
        directions=directions.reshape(n_atoms, width, 3),
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
