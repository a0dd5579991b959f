"""Structures of different sizes in one NumPy archive: atoms flat, structure after structure."""

from dataclasses import dataclass

import numpy as np

from bench.data.datasets.molecule_npz import NpzFile
from bench.data.structures import Structures


@dataclass(frozen=True)
class FlatKeys:
    """Names of the arrays: atoms per structure, Z and R (atoms), E and cells (structures), F (atoms; null: none)."""

    n_atoms: str
    atomic_numbers: str
    positions: str
    energies: str
    forces: str | None = None
    cells: str | None = None


@dataclass(frozen=True, kw_only=True)
class FlatNpz(NpzFile):
    """One .npz file with ragged structures; with `cells` they are periodic in all three directions."""

    keys: FlatKeys

    def load(self) -> Structures:
        """Read, convert to eV and Å, and check. Raises UserError naming the file, the key and the remedy."""
        keys = self.keys
        arrays = self.read([name for name in vars(keys).values() if name is not None])
        energy, length = self.units()
        counts = arrays[keys.n_atoms].astype(np.int64)
        n = len(counts)
        self.expect(keys.positions, arrays[keys.positions].shape, (int(counts.sum()), 3))
        self.expect(keys.energies, arrays[keys.energies].shape, (n,))
        forces = None
        if keys.forces is not None:
            self.expect(keys.forces, arrays[keys.forces].shape, (int(counts.sum()), 3))
            forces = arrays[keys.forces].astype(np.float64) * (energy / length)
        cells = np.zeros((n, 3, 3))
        if keys.cells is not None:
            self.expect(keys.cells, arrays[keys.cells].shape, (n, 3, 3))
            cells = arrays[keys.cells].astype(np.float64) * length
        return Structures(
            name=self.name,
            atomic_numbers=arrays[keys.atomic_numbers].astype(np.int64),
            positions=arrays[keys.positions].astype(np.float64) * length,
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            cells=cells,
            periodic=np.full((n, 3), keys.cells is not None),
            energies=arrays[keys.energies].astype(np.float64) * energy,
            forces=forces,
            reference_energies=self.reference_energies,
        )
