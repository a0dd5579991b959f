"""QM9: the published archive of .xyz files with its list of failed molecules, and the tables of the package qm9pack.

Energies are U0, the internal energy at 0 K, in Hartree; positions in Å. Both sources print the same digits.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from ase.data import atomic_numbers as ATOMIC_NUMBERS  # noqa: N812 (a table)

from bench.data.raw import RawStructures
from bench.data.sources import Entry
from bench.errors import UserError
from bench.runs.progress import progress

FAILED_LIST = "uncharacterized.txt"
TABLE = re.compile(r"qm9_part\d+\.csv$")
U0_WORD = 12
"""Position of U0 in the second line: gdb, index, A, B, C, μ, α, HOMO, LUMO, gap, r2, ZPVE, U0, U, H, G, Cv."""
COLUMNS = ("Index", "Elements", "XYZ_Ang", "InternalEnergy_0K_au")
BRACKETS = str.maketrans("", "", "[]' ")

Molecule = tuple[float, list[int], list[float]]
"""Energy, atomic numbers, coordinates one after another."""


def is_xyz(name: str) -> bool:
    """Whether a file is a molecule of the published archive."""
    file = PurePosixPath(name).name
    return file.startswith("dsgdb9nsd_") and file.endswith(".xyz")


def is_table(name: str) -> bool:
    """Whether a file is one of the package's tables."""
    return TABLE.search(name) is not None


def read_archive(entries: Iterable[Entry], source: Path) -> RawStructures:
    """Read the published molecules but the failed ones, in the order of their indices.

    The list of failed molecules is part of the source or lies beside it. Raises UserError naming the file.
    """
    molecules: dict[int, Molecule] = {}
    failed: bytes | None = None
    for name, read in progress(entries, "QM9", unit="molecule"):
        if is_xyz(name):
            index, molecule = parse_xyz(read(), name)
            molecules[index] = molecule
        elif PurePosixPath(name).name == FAILED_LIST:
            failed = read()
    beside = source.parent / FAILED_LIST
    if failed is None and beside.is_file():
        failed = beside.read_bytes()
    if failed is None:
        raise UserError(f"{source} holds molecules that failed, listed in {FAILED_LIST}: put that file beside it")
    for index in _failed_indices(failed):
        molecules.pop(index, None)
    return _raw(molecules)


def read_tables(entries: Iterable[Entry]) -> RawStructures:
    """Read the tables of the package, without importing it. Raises UserError naming the table and the row."""
    molecules: dict[int, Molecule] = {}
    for name, read in entries:
        if is_table(name):
            molecules |= _table(read(), name)
    return _raw(molecules)


def parse_xyz(content: bytes, name: str) -> tuple[int, Molecule]:
    """Read one molecule: count, properties, atoms, frequencies, SMILES, InChI. Raises UserError naming the file."""
    lines = content.decode("utf-8", "replace").replace("*^", "e").splitlines()
    try:
        n = int(lines[0])
        properties = lines[1].split()
        atoms = [line.split() for line in lines[2 : 2 + n]]
        if len(lines) != n + 5 or any(len(words) != 5 for words in atoms):
            raise ValueError(f"{len(lines)} lines, expected {n + 5} for {n} atoms")
        numbers = [ATOMIC_NUMBERS[words[0]] for words in atoms]
        positions = [float(word) for words in atoms for word in words[1:4]]
        return int(properties[1]), (float(properties[U0_WORD]), numbers, positions)
    except (ValueError, IndexError, KeyError) as error:
        raise UserError(f"{name} is no molecule of QM9 ({error}): fetch the archive again") from None


def _failed_indices(content: bytes) -> Iterator[int]:
    for line in content.decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) > 1 and words[0].isdigit():
            yield int(words[0])


def _table(content: bytes, name: str) -> dict[int, Molecule]:
    rows = csv.DictReader(io.StringIO(content.decode("utf-8", "replace")))
    missing = set(COLUMNS) - set(rows.fieldnames or [])
    if missing:
        raise UserError(f"{name} has no column {sorted(missing)[0]}: expected the tables of qm9pack 1.0.3")
    molecules = {}
    for row in progress(rows, name, unit="molecule"):
        index, elements, positions, energy = (row[column] for column in COLUMNS)
        try:
            numbers = [ATOMIC_NUMBERS[element] for element in elements.translate(BRACKETS).split(",")]
            coordinates = [float(word) for word in positions.translate(BRACKETS).split(",")]
            if len(coordinates) != 3 * len(numbers):
                raise ValueError(f"{len(coordinates)} coordinates of {len(numbers)} atoms")
            molecules[int(index)] = (float(energy), numbers, coordinates)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{name}, line {rows.line_num}: {error}: fetch the package again") from None
    return molecules


def _raw(molecules: dict[int, Molecule]) -> RawStructures:
    order = sorted(molecules)
    return RawStructures(
        labels=[f"dsgdb9nsd_{index:06d}" for index in order],
        n_atoms=np.array([len(molecules[index][1]) for index in order], dtype=np.int64),
        atomic_numbers=np.array([z for index in order for z in molecules[index][1]], dtype=np.uint8),
        positions=np.array([x for index in order for x in molecules[index][2]], dtype=np.float64).reshape(-1, 3),
        energies=np.array([molecules[index][0] for index in order], dtype=np.float64),
        energy_unit="Hartree",
        length_unit="Å",
    )
