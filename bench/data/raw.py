"""Structures as a source holds them, before anything is converted or checked."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from bench.data.structures import ragged_rows
from bench.errors import UserError


@dataclass(frozen=True)
class Part:
    """A file, and which of its frames: an index as ASE takes it (`0:20`, `-1`), None for all."""

    path: Path
    index: str | None = None


@dataclass(frozen=True)
class RawStructures:
    """Structures as a source holds them: atoms flat, structure after structure, in the units of the source.

    `labels` are the names the source gives them. `cells` and `periodic` are None for molecules. The units are None
    where the source does not say them. Of own files alone are known: which structures are marked as isolated atoms,
    the state of the electrons (charge, spin) as far as the file says it, entries that look like forces where none are
    read, and remarks for the user.
    """

    labels: list[str]
    n_atoms: Integer[np.ndarray, " structures"]
    atomic_numbers: Integer[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    energies: Float[np.ndarray, " structures"]
    forces: Float[np.ndarray, "atoms 3"] | None = None
    cells: Float[np.ndarray, "structures 3 3"] | None = None
    periodic: Bool[np.ndarray, "structures 3"] | None = None
    energy_unit: str | None = None
    length_unit: str | None = None
    isolated: Bool[np.ndarray, " structures"] | None = None
    states: list[str] | None = None
    like_forces: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def part(self, start: int, stop: int) -> "RawStructures":
        """The structures start:stop. Raises UserError if they are not there."""
        if not 0 <= start < stop <= len(self.energies):
            raise UserError(f"there are no rows {start}:{stop}: give two of 0 to {len(self.energies)}, ascending")
        return self.take(np.arange(start, stop))

    def take(self, rows: Int[np.ndarray, " rows"]) -> "RawStructures":
        """Some structures, in the order given."""
        n_atoms = self.n_atoms.astype(np.int64)
        atoms = ragged_rows((np.cumsum(n_atoms) - n_atoms)[rows], n_atoms[rows])
        return replace(
            self,
            labels=[self.labels[row] for row in rows],
            n_atoms=self.n_atoms[rows],
            atomic_numbers=self.atomic_numbers[atoms],
            positions=self.positions[atoms],
            energies=self.energies[rows],
            forces=None if self.forces is None else self.forces[atoms],
            cells=None if self.cells is None else self.cells[rows],
            periodic=None if self.periodic is None else self.periodic[rows],
            isolated=None if self.isolated is None else self.isolated[rows],
            states=None if self.states is None else [self.states[row] for row in rows],
        )
