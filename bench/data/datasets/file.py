"""Your own structures: files that ASE can read, or one in a format of the published datasets; read at every start."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.convert import Plausible, RawStructures, check_plausible, to_structures
from bench.data.formats.ase_files import read_ase_files
from bench.data.neighbours import shortest_distances
from bench.data.read import read_source
from bench.data.sources import is_archive
from bench.data.structures import Structures
from bench.errors import UserError
from bench.places import PROJECT
from bench.units import energy_unit

STRUCTURES_MEASURED = 200
"""Distances show a wrong unit of length on a few structures already."""


@dataclass(frozen=True, kw_only=True)
class FileDataset:
    """One file, a list of files, or a pattern such as `frames/*.xyz`; relative to the working folder or the project.

    The units are those of the file's energies and lengths; forces are in energy_unit / length_unit. The keys name
    other entries than ASE's own energy and forces. `reference_energies` (eV per atomic number) are subtracted before
    anything is learned; null is allowed for data of one composition. `sha256`, where given, is the file's checksum.
    """

    name: str
    path: str | list[str] | None
    energy_unit: str | None
    length_unit: str
    plausible: Plausible
    reference_energies: dict[int, float] | None
    energy_key: str | None = None
    forces_key: str | None = None
    sha256: str | None = None
    licence: str = ""
    citation: str = ""
    source: str = ""

    def load(self) -> Structures:
        """Read, convert to eV and Å, and check. Raises UserError naming the file and the remedy."""
        if not self.path or self.energy_unit is None:
            raise UserError(f"dataset {self.name}: give dataset.path=FILE and dataset.energy_unit=eV (or another unit)")
        given = [self.path] if isinstance(self.path, str) else self.path
        paths = [path for name in given for path in self._locate(name)]
        if self.sha256 is not None:
            self._check_unaltered(paths)
        raw = self._read(paths)
        if raw.energy_unit is not None and energy_unit(self.energy_unit) != energy_unit(raw.energy_unit):
            raise UserError(
                f"dataset {self.name}: {self.path} is in {raw.energy_unit}, but dataset.energy_unit ="
                f" {self.energy_unit}: set it to {raw.energy_unit}"
            )
        data = to_structures(self.name, raw, (self.energy_unit, self.length_unit), self.reference_energies or {})
        measured = np.unique(np.linspace(0, len(data) - 1, STRUCTURES_MEASURED).astype(np.int64))
        shortest = shortest_distances(data, measured, self.plausible.distances[1])
        check_plausible(data, self.plausible, raw.labels, measured, shortest)
        return data

    def _read(self, paths: list[Path]) -> RawStructures:
        if len(paths) == 1 and (paths[0].is_dir() or is_archive(paths[0])):
            return read_source(paths[0], None)
        return read_ase_files(paths, self.energy_key, self.forces_key)

    def _check_unaltered(self, paths: list[Path]) -> None:
        actual = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
        if actual != self.sha256:
            raise UserError(
                f"dataset {self.name}: {self.path} has SHA-256 {actual[:12]}…, expected {str(self.sha256)[:12]}…:"
                " fetch the file again, or set dataset.sha256=null to use another one"
            )

    def _locate(self, given: str) -> list[Path]:
        pattern = Path(given).expanduser()
        for base in (pattern, PROJECT / pattern):
            if base.exists():
                return [base]
            found = sorted(base.parent.glob(base.name))
            if found:
                return found
        raise UserError(f"dataset {self.name}: no file {given}: set dataset.path=FILE")
