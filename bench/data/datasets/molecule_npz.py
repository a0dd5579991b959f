"""NumPy archives; trajectories of one molecule in them: MD17 and revised MD17, and any file of that shape."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.structures import Structures
from bench.errors import UserError, nearest
from bench.units import energy_unit, length_unit

PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, kw_only=True)
class NpzFile:
    """One .npz file. Relative paths count from the working folder, then from the project's.

    `sha256`, where given, is the file's checksum; `reference_energies` (eV per atomic number) are subtracted from the
    energies before anything is learned. `licence`, `citation` and `source` are for the reader.
    """

    name: str
    path: str
    energy_unit: str
    length_unit: str
    reference_energies: dict[int, float]
    sha256: str | None = None
    licence: str = ""
    citation: str = ""
    source: str = ""

    def units(self) -> tuple[float, float]:
        """The declared units of energy and length, in eV and Å."""
        return energy_unit(self.energy_unit), length_unit(self.length_unit)

    def expect(self, key: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        """Raise UserError unless an array has the shape it must have."""
        if shape != expected:
            raise UserError(f"dataset {self.name}: {key} in {self.path} has shape {shape}, expected {expected}")

    def read(self, wanted: list[str]) -> dict[str, np.ndarray]:
        """Read some arrays of the file. Raises UserError if it is missing, altered, unreadable or lacks one."""
        path = self._locate()
        if self.sha256 is not None:
            actual = hashlib.sha256(path.read_bytes()).hexdigest()
            if actual != self.sha256:
                raise UserError(
                    f"dataset {self.name}: {path} has SHA-256 {actual[:12]}…, expected {self.sha256[:12]}…:"
                    " fetch the file again, or set dataset.sha256=null to use another one"
                )
        try:
            with np.load(path, allow_pickle=False) as archive:
                for key in wanted:
                    if key not in archive.files:
                        hint = nearest(key, archive.files)
                        raise UserError(f"dataset {self.name}: {path} has no array {key!r}: {hint} (dataset.keys)")
                return {key: archive[key] for key in wanted}
        except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"dataset {self.name}: {path} is no readable .npz file ({error}): fetch it again") from None

    def _locate(self) -> Path:
        given = Path(self.path).expanduser()
        for path in (given, PROJECT / given):
            if path.is_file():
                return path
        raise UserError(f"dataset {self.name}: no file {self.path}: set dataset.path=FILE ({self.source})")


@dataclass(frozen=True)
class Keys:
    """Names of the arrays: Z (atoms), R (structures, atoms, 3), E (structures), F (structures, atoms, 3)."""

    atomic_numbers: str
    positions: str
    energies: str
    forces: str


@dataclass(frozen=True, kw_only=True)
class MoleculeNpz(NpzFile):
    """Conformations of one molecule."""

    keys: Keys

    def load(self) -> Structures:
        """Read, convert to eV and Å, and check. Raises UserError naming the file, the key and the remedy."""
        keys = self.keys
        arrays = self.read(list(vars(keys).values()))
        energy, length = self.units()
        atomic_numbers = arrays[keys.atomic_numbers].reshape(-1).astype(np.int64)
        energies = arrays[keys.energies].reshape(-1).astype(np.float64) * energy
        n = len(energies)
        for key in (keys.positions, keys.forces):
            self.expect(key, arrays[key].shape, (n, len(atomic_numbers), 3))
        return Structures(
            name=self.name,
            atomic_numbers=np.tile(atomic_numbers, n),
            positions=arrays[keys.positions].reshape(-1, 3).astype(np.float64) * length,
            offsets=np.arange(n + 1) * len(atomic_numbers),
            cells=np.zeros((n, 3, 3)),
            periodic=np.zeros((n, 3), dtype=bool),
            energies=energies,
            forces=arrays[keys.forces].reshape(-1, 3).astype(np.float64) * (energy / length),
            reference_energies=self.reference_energies,
        )
