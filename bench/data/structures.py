"""Labelled atomistic structures as flat arrays: atoms of structure i are the rows offsets[i]:offsets[i+1]."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from bench.errors import UserError


@dataclass(frozen=True)
class Structures:
    """A dataset in eV and Å.

    `reference_energies` (eV per atomic number) are constants of the dataset; `residual_energies` is what is learned.
    `forces` is None for a dataset of energies alone.
    """

    name: str
    atomic_numbers: Int[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    offsets: Int[np.ndarray, " structures_and_1"]
    cells: Float[np.ndarray, "structures 3 3"]
    periodic: Bool[np.ndarray, "structures 3"]
    energies: Float[np.ndarray, " structures"]
    forces: Float[np.ndarray, "atoms 3"] | None
    reference_energies: dict[int, float]

    def __post_init__(self) -> None:
        self._check()

    def __len__(self) -> int:
        return len(self.energies)

    @cached_property
    def n_atoms(self) -> Int[np.ndarray, " structures"]:
        """Atoms per structure."""
        return np.diff(self.offsets)

    @cached_property
    def species(self) -> tuple[int, ...]:
        """The atomic numbers that may occur, ascending: those with a reference energy."""
        return tuple(sorted(self.reference_energies))

    @cached_property
    def species_index(self) -> Int[np.ndarray, " atoms"]:
        """Each atom's position in `species`."""
        return np.searchsorted(np.array(self.species), self.atomic_numbers)

    @cached_property
    def residual_energies(self) -> Float[np.ndarray, " structures"]:
        """Energies minus the sum of the atoms' reference energies, float64, eV (METHOD section 2)."""
        per_species = np.array([self.reference_energies[z] for z in self.species], dtype=np.float64)
        return self.energies - np.add.reduceat(per_species[self.species_index], self.offsets[:-1])

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of everything that enters a number, independent of the file it came from."""
        digest = hashlib.sha256(repr(sorted(self.reference_energies.items())).encode())
        forces = np.zeros((0, 3)) if self.forces is None else self.forces
        for array, dtype in (
            (self.atomic_numbers, "<u1"),
            (self.positions, "<f8"),
            (self.offsets, "<i8"),
            (self.cells, "<f8"),
            (self.periodic, "<u1"),
            (self.energies, "<f8"),
            (forces, "<f8"),
        ):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype=dtype).data)
        return digest.hexdigest()

    def atoms_of(self, structures: Int[np.ndarray, " picked"]) -> Int[np.ndarray, " picked_atoms"]:
        """The atom rows of some structures, in their order."""
        return ragged_rows(self.offsets[structures], self.n_atoms[structures])

    def _check(self) -> None:
        """Refuse what no potential can learn from."""
        where = f"dataset {self.name}"
        if len(self.energies) == 0:
            raise UserError(f"{where}: 0 structures: nothing to learn from")
        if np.any(self.n_atoms < 1) or self.offsets[-1] != len(self.positions):
            raise UserError(f"{where}: the atom counts do not add up to the {len(self.positions)} positions given")
        missing = sorted(set(np.unique(self.atomic_numbers).tolist()) - set(self.reference_energies))
        if missing:
            raise UserError(f"{where}: no reference energy for Z = {missing}: add it to dataset.reference_energies")
        per_atom = {"positions": self.positions} | ({} if self.forces is None else {"forces": self.forces})
        for key, array in per_atom.items():
            bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
            if bad.size:
                structure = int(np.searchsorted(self.offsets, bad[0], side="right") - 1)
                value = array[bad[0]].tolist()
                raise UserError(f"{where}: {key} of structure {structure} hold {value}: remove or mend that structure")
        bad = np.flatnonzero(~np.isfinite(self.energies))
        if bad.size:
            value = self.energies[bad[0]]
            raise UserError(f"{where}: energy of structure {bad[0]} is {value}: remove or mend that structure")
        volume = np.abs(np.linalg.det(self.cells))
        flat = np.flatnonzero(self.periodic.any(axis=1) & ~(volume > 1e-6))
        if flat.size:
            raise UserError(f"{where}: structure {flat[0]} is periodic but its cell has no volume: give a real cell")


def ragged_rows(
    starts: Int[np.ndarray, " picked"], lengths: Int[np.ndarray, " picked"]
) -> Int[np.ndarray, " picked_rows"]:
    """Concatenate the ranges starts[i] : starts[i] + lengths[i]."""
    shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return np.arange(lengths.sum(), dtype=np.int64) + shift
