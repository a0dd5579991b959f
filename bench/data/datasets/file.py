"""Your own structures: files that ASE can read, or one in a format of the published datasets; read at every start."""

import glob
import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from bench.config.places import PROJECT
from bench.config.units import energy_unit, length_unit
from bench.data.consistency import check_consistent, remarks
from bench.data.convert import Plausible, check_plausible, to_structures
from bench.data.duplicates import contradictions, first_copies, named
from bench.data.neighbours import shortest_distances
from bench.data.raw import Part, RawStructures
from bench.data.read import read_source
from bench.data.references import ISOLATED_ATOMS, References, is_isolated, take_isolated_atoms
from bench.data.sources import is_archive
from bench.data.structures import Structures
from bench.errors import UserError

log = logging.getLogger(__name__)
_TOLD: set[tuple[str, str]] = set()
STRUCTURES_MEASURED = 200
"""Distances show a wrong unit of length on a few structures already."""
INDEX = re.compile(r"(-?\d*:-?\d*(:-?\d*)?|-?\d+|[^/@]*=[^/@]*)")
"""What may follow `@`: a slice, a number, or for a database a selection such as id=3."""


@dataclass(frozen=True, kw_only=True)
class FileDataset:
    """One file, a list of files, or a pattern such as `runs/*/OUTCAR`; relative to the working folder or the project.

    `file.xyz@0:20` are some of a file's frames, as ASE takes it; a file of that whole name wins. The units are those of
    the file's energies and lengths; forces are in `forces_unit`, by default energy_unit / length_unit. The keys name
    other entries than ASE's own energy and forces. `reference_energies` (eV by element) are subtracted before anything
    is learned; `isolated_atoms` takes them from the frames of single atoms, which are then no structures; null is
    allowed for data of one composition. `duplicates` are kept, or dropped but for the first. `sha256`, where given, is
    the file's checksum.
    """

    name: str
    path: str | list[str] | None
    energy_unit: str | None
    length_unit: str
    plausible: Plausible
    reference_energies: References
    energy_key: str | None = None
    forces_key: str | None = None
    forces_unit: str | None = None
    duplicates: Literal["keep", "drop"] = "keep"
    sha256: str | None = None
    licence: str = ""
    citation: str = ""
    source: str = ""

    def load(self) -> Structures:
        """Read, convert to eV and Å, check, and tell what is odd. Raises UserError naming the file and the remedy."""
        given = [self.path] if isinstance(self.path, str) else self.path
        if not given:
            raise UserError(f"dataset {self.name}: give dataset.path=FILE and dataset.energy_unit=eV (or another unit)")
        if self.energy_unit is None:
            raise UserError(
                f"dataset {self.name}: say in which unit the energies of {', '.join(given)} are: give"
                " dataset.energy_unit=eV (or another unit)"
            )
        parts = [part for name in given for part in located(f"dataset {self.name}", name, "dataset.path=")]
        if self.sha256 is not None:
            self._check_unaltered([part.path for part in parts])
        return self.of(self._read(parts))

    def of(self, raw: RawStructures) -> Structures:
        """The same for structures that are read already."""
        declared = str(self.energy_unit)
        if raw.energy_unit is not None and energy_unit(declared) != energy_unit(raw.energy_unit):
            raise UserError(
                f"dataset {self.name}: {self.path} is in {raw.energy_unit}, but dataset.energy_unit ="
                f" {self.energy_unit}: set it to {raw.energy_unit}"
            )
        if raw.length_unit is not None and length_unit(self.length_unit) != length_unit(raw.length_unit):
            raise UserError(
                f"dataset {self.name}: lengths of {self.path} are in {raw.length_unit}, but dataset.length_unit ="
                f" {self.length_unit}: set it to {raw.length_unit}"
            )
        if len(raw.energies) == 0:
            raise UserError(f"dataset {self.name}: {self.path} holds 0 structures: nothing to learn from")
        if isinstance(self.reference_energies, str):
            unit = energy_unit(raw.energy_unit or declared)
            references, raw = take_isolated_atoms(self.name, raw, unit, self._length(raw))
        else:
            references = self.reference_energies or {}
        data = self._converted(raw, references)
        first = first_copies(data)
        self._tell([*self._copies(data, raw, first), *self._isolated(raw)], warn=True)
        if self.duplicates == "drop" and (first != np.arange(len(data))).any():
            raw = raw.take(np.flatnonzero(first == np.arange(len(data))))
            data = self._converted(raw, data.reference_energies)
        measured = np.unique(np.linspace(0, len(data) - 1, STRUCTURES_MEASURED).astype(np.int64))
        shortest = shortest_distances(data, measured, self.plausible.distances[1])
        check_consistent(data)
        check_plausible(data, self.plausible, raw.labels, measured, shortest)
        self._tell([*raw.remarks, *self._forces_unit(raw)], warn=False)
        self._tell(remarks(data, raw.labels), warn=True)
        return replace(data, isolated=tuple(references)) if isinstance(self.reference_energies, str) else data

    def _converted(self, raw: RawStructures, references: dict[int, float]) -> Structures:
        units = str(self.energy_unit), self.length_unit
        return to_structures(self.name, raw, units, references, self.forces_unit)

    def _length(self, raw: RawStructures) -> float:
        """One unit of the file's lengths in Å."""
        return length_unit(raw.length_unit or self.length_unit)

    def _forces_unit(self, raw: RawStructures) -> Iterator[str]:
        """A line where energies in atomic units suggest that forces are in atomic units of length, too."""
        atomic = self.energy_unit in ("Hartree", "Rydberg") and length_unit(self.length_unit) != length_unit("Bohr")
        if atomic and self.forces_unit is None and raw.forces is not None:
            usual = f"{self.energy_unit}/{self.length_unit}"
            yield f"forces are taken to be in {usual}: are they? Else dataset.forces_unit={self.energy_unit}/Bohr"

    def _read(self, parts: list[Part]) -> RawStructures:
        whole = parts[0].path
        if len(parts) == 1 and parts[0].index is None and (whole.is_dir() or is_archive(whole)):
            return read_source(whole, None)
        archives = [part.path for part in parts if part.path.is_file() and is_archive(part.path)]
        if archives:
            raise UserError(f"{archives[0]}: with labels one .npz is read, whole: convert several, or parts, first")
        from bench.data.formats.ase_files import read_ase_files  # noqa: PLC0415 - half a second

        return read_ase_files(parts, self.energy_key, self.forces_key)

    def _copies(self, data: Structures, raw: RawStructures, first: np.ndarray) -> Iterator[str]:
        """Lines about structures that occur more than once, and about labels that contradict each other."""
        copies = np.flatnonzero(first != np.arange(len(data)))
        if not copies.size:
            return
        pairs = [(int(copy), int(first[copy])) for copy in copies]
        kept = (
            "only the first of each is kept" if self.duplicates == "drop" else "dataset.duplicates=drop leaves them out"
        )
        yield f"{len(pairs)} of {len(data)} structures repeat an earlier one ({named(pairs, raw.labels)}): {kept}"
        wrong = contradictions(data, first)
        if wrong.size:
            copy, original = int(wrong[0]), int(first[wrong[0]])
            states = raw.states or [""] * len(data)
            apart = f" ({states[copy]}; {states[original]})" if states[original] != states[copy] else ""
            yield (
                f"{wrong.size} of these have labels that contradict each other, e.g. {raw.labels[copy]}"
                f" {data.energies[copy]:.6g} eV and {raw.labels[original]} {data.energies[original]:.6g} eV{apart}: a"
                " potential can learn one of them only, one charge and spin for each structure"
            )

    def _isolated(self, raw: RawStructures) -> Iterator[str]:
        """A line about isolated atoms that are learned as structures."""
        if raw.isolated is None:
            return
        length = self._length(raw)
        found = [row for row in range(len(raw.energies)) if is_isolated(raw, row, length)]
        if found:
            yield (
                f"{len(found)} isolated atoms ({raw.labels[found[0]]}, …) are structures to learn from:"
                f" dataset.reference_energies={ISOLATED_ATOMS} takes their energies as references instead"
            )

    def _tell(self, lines: "Iterator[str] | list[str] | tuple[str, ...]", *, warn: bool) -> None:
        """Say each line once in a process, however often the data are read."""
        level = logging.WARNING if warn else logging.INFO
        for line in lines:
            if (self.name, line) not in _TOLD and log.isEnabledFor(level):
                log.log(level, "note: dataset %s: %s", self.name, line)
                _TOLD.add((self.name, line))

    def _check_unaltered(self, paths: list[Path]) -> None:
        actual = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
        if actual != self.sha256:
            raise UserError(
                f"dataset {self.name}: {self.path} has SHA-256 {actual[:12]}…, expected {str(self.sha256)[:12]}…:"
                " fetch the file again, or set dataset.sha256=null to use another one"
            )


def located(name: str, given: str, remedy: str) -> list[Part]:
    """The files of a name or pattern; what follows a last `@` is an index, unless a file is called so.

    `name` is what they are for, `remedy` what to say instead, both for messages. Raises UserError.
    """
    if not given:
        raise UserError(f"{name}: an empty name (is a variable of the shell not set?): set {remedy}FILE")
    found = _matching(given)
    if found:
        return [Part(path) for path in found]
    file, at, index = given.rpartition("@")
    if at and INDEX.fullmatch(index) and (found := _matching(file)):
        return [Part(path, index) for path in found]
    if at and "/" not in index and _matching(file):
        raise UserError(f"{name}: {index!r} after '@' is no index: give e.g. {file}@0:20")
    raise UserError(f"{name}: no file {given}: set {remedy}FILE")


def _matching(given: str) -> list[Path]:
    try:
        pattern = Path(given).expanduser()
        for base in (pattern, PROJECT / pattern):
            if base.exists():
                return [base]
            found = sorted(Path(path) for path in glob.glob(str(base), recursive=True))  # noqa: PTH207 (folders may be patterns)
            if found:
                return found
    except (OSError, RuntimeError, ValueError):  # a name too long, `~` of nobody, a zero byte
        return []
    return []
