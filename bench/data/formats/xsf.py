"""XSF files as aenet writes them: one structure each, its energy in the comment `# total energy = … eV`.

Units are eV, Å and eV/Å. Atom lines hold the symbol, three coordinates and three forces.
"""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from ase.data import atomic_numbers as ATOMIC_NUMBERS  # noqa: N812 (a table)

from bench.data.raw import RawStructures
from bench.data.sources import Entry
from bench.errors import UserError

ENERGY = re.compile(r"#\s*total energy\s*=\s*(\S+)(?:\s+(\S+))?")
PERIODIC = {"CRYSTAL": (True, True, True), "SLAB": (True, True, False), "POLYMER": (True, False, False)}
ATOM_WORDS = 7


@dataclass(frozen=True)
class XsfStructure:
    """One file."""

    energy: float
    atomic_numbers: list[int]
    rows: list[list[float]]
    cell: list[list[float]] | None
    periodic: tuple[bool, bool, bool]


def read_xsf_files(entries: Iterable[Entry], pattern: str | None) -> RawStructures:
    """Read all XSF files of a source in the order of their paths.

    Of an archive of several datasets only the paths that match `pattern` are kept, if any of them does. Raises
    UserError naming the file.
    """
    found = {name: parse_xsf(read(), name) for name, read in entries if is_xsf(name)}
    matching = [name for name in sorted(found) if pattern is not None and fnmatch.fnmatch(name, pattern)]
    paths = matching or sorted(found)
    structures = [found[path] for path in paths]
    short = [PurePosixPath(path).name for path in paths]
    unique = len(set(short)) == len(short)
    rows = np.array([row for structure in structures for row in structure.rows]).reshape(-1, 6)
    cells = [np.zeros((3, 3)) if s.cell is None else np.array(s.cell) for s in structures]
    return RawStructures(
        labels=short if unique else ["/".join(PurePosixPath(path).parts[-2:]) for path in paths],
        n_atoms=np.array([len(s.rows) for s in structures], dtype=np.int64),
        atomic_numbers=np.array([z for s in structures for z in s.atomic_numbers], dtype=np.uint8),
        positions=np.ascontiguousarray(rows[:, :3]),
        energies=np.array([s.energy for s in structures]),
        forces=np.ascontiguousarray(rows[:, 3:]),
        cells=np.array(cells),
        periodic=np.array([s.periodic for s in structures]),
        energy_unit="eV",
        length_unit="Å",
    )


def is_xsf(name: str) -> bool:
    """Whether a file is one of them; macOS adds hidden twins to archives."""
    return name.endswith(".xsf") and not PurePosixPath(name).name.startswith(".")


def parse_xsf(content: bytes, name: str) -> XsfStructure:
    """Read one file. Raises UserError naming the file, the line and what was expected."""
    energy: float | None = None
    cell: list[list[float]] | None = None
    periodic = (False, False, False)
    numbers: list[int] = []
    rows: list[list[float]] = []
    expected: int | None = None
    lines = iter(enumerate(content.decode("utf-8", "replace").splitlines(), start=1))
    reading_atoms = False
    for number, line in lines:
        words = line.split()
        if not words or line.lstrip().startswith("#"):
            match = ENERGY.match(line.strip())
            if match:
                energy = _energy(match, name)
            continue
        keyword = words[0]
        if keyword in PERIODIC or keyword == "MOLECULE":
            periodic = PERIODIC.get(keyword, periodic)
        elif keyword in ("PRIMVEC", "CONVVEC"):
            vectors = [_numbers(next(lines, (number, ""))[1].split(), 3, name, number + i + 1) for i in range(3)]
            cell = vectors if keyword == "PRIMVEC" else cell
        elif keyword == "PRIMCOORD":
            expected = int(_numbers(next(lines, (number, ""))[1].split()[:1], 1, name, number + 1)[0])
            reading_atoms = True
        elif keyword == "ATOMS":
            reading_atoms = True
        elif reading_atoms:
            numbers.append(_element(keyword, name, number))
            rows.append(_atom(words, name, number))
    if energy is None:
        raise UserError(f"{name} has no line '# total energy = … eV': only aenet's XSF files can be read")
    if not rows or (expected is not None and len(rows) != expected):
        raise UserError(f"{name} has {len(rows)} atoms, its header says {expected or 'none'}: fetch or fix the file")
    if any(periodic) and cell is None:
        raise UserError(f"{name} is periodic but has no PRIMVEC: fetch or fix the file")
    return XsfStructure(energy, numbers, rows, cell, periodic)


def _energy(match: re.Match[str], name: str) -> float:
    if match[2] not in (None, "eV"):
        raise UserError(f"{name}: total energy in {match[2]!r}, expected eV: only aenet's XSF files can be read")
    return _numbers([match[1]], 1, name, 1)[0]


def _element(word: str, name: str, number: int) -> int:
    z = int(word) if word.isdigit() else ATOMIC_NUMBERS.get(word, 0)
    if not 0 < z < len(ATOMIC_NUMBERS):
        raise UserError(f"{name}, line {number}: {word!r} is no element: fetch or fix the file")
    return z


def _atom(words: list[str], name: str, number: int) -> list[float]:
    if len(words) != ATOM_WORDS:
        what = "no forces" if len(words) == ATOM_WORDS - 3 else f"{len(words)} columns"
        raise UserError(f"{name}, line {number}: {what}, expected element, 3 coordinates and 3 forces: fix the file")
    return _numbers(words[1:], 6, name, number)


def _numbers(words: list[str], count: int, name: str, number: int) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise UserError(f"{name}, line {number}: {error}: fetch or fix the file") from None
    if len(values) != count:
        raise UserError(f"{name}, line {number}: {len(values)} numbers, expected {count}: fetch or fix the file")
    return values
