"""NumPy archives: MD17 and revised MD17 as published, and the same or ragged structures with units in the names."""

import io
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bench.data.raw import RawStructures
from bench.data.sources import DAMAGED, LARGEST
from bench.errors import UserError


@dataclass(frozen=True)
class Layout:
    """Names of the arrays of a format. Units that the names do not carry are None: the dataset's declaration holds."""

    atomic_numbers: str
    positions: str
    energies: str
    forces: str | None
    n_atoms: str | None = None
    cells: str | None = None
    labels: str | None = None
    energy_unit: str | None = None
    length_unit: str | None = None

    @property
    def required(self) -> list[str]:
        """The arrays that tell this format from others."""
        names = (self.atomic_numbers, self.positions, self.energies, self.forces, self.n_atoms, self.cells)
        return [name for name in names if name is not None]


LAYOUTS = {
    "MD17": Layout("z", "R", "E", "F"),
    "revised MD17": Layout("nuclear_charges", "coords", "energies", "forces", labels="old_indices"),
    "one molecule, kcal/mol": Layout("Z", "R", "E_kcal_mol", "F_kcal_mol_A", energy_unit="kcal/mol", length_unit="Å"),
    "one molecule, eV": Layout("Z", "R", "E_eV", "F_eV_A", energy_unit="eV", length_unit="Å"),
    "ragged crystals, eV": Layout(
        "Z", "R", "energy_eV", "F_eV_A", "n_atoms", "cell", labels="names", energy_unit="eV", length_unit="Å"
    ),
    "ragged molecules, Hartree": Layout(
        "Z", "R", "U0_hartree", None, "n_atoms", labels="index", energy_unit="Hartree", length_unit="Å"
    ),
}


SAID = {
    "e_unit": {
        **{"ev": "eV", "mev": "meV", "kcal/mol": "kcal/mol", "kj/mol": "kJ/mol"},
        **{"ha": "Hartree", "hartree": "Hartree", "ry": "Rydberg", "rydberg": "Rydberg"},
    },
    "r_unit": {"ang": "Å", "angstrom": "Å", "å": "Å", "a": "Å", "bohr": "Bohr", "a0": "Bohr", "nm": "nm"},
}
"""The arrays by which archives as sGDML writes them say their units, and what these may be called."""
UNREAD = {"cell", "cells", "lattice", "lattices", "box", "pbc", "periodic"}
"""How others name what a structure's periodicity is: it is never left out in silence."""


def check_unread(names: Iterable[str], used: Iterable[str], path: str, remedy: str) -> None:
    """Refuse an archive with a cell or periodicity under a name that is not read. Raises UserError."""
    left = [name for name in sorted(set(names) - set(used)) if name.lower() in UNREAD]
    if left:
        raise UserError(f"{path}: array {left[0]} is not read, so periodic structures would be molecules: {remedy}")


def said_unit(archive: Mapping[str, np.ndarray], key: str) -> tuple[str | None, str]:
    """The unit that an archive says under a key of SAID, None where it is not known, and how it is written there."""
    try:
        text = " ".join(map(str, archive[key].astype(str).reshape(-1)))
    except ValueError:  # a pickled object is not read
        return None, "an object"
    return SAID[key].get(text.strip().lower()), text


def whole_numbers(array: np.ndarray, name: str, path: str) -> np.ndarray:
    """Numbers of atoms or atomic numbers as int64, flat. Raises UserError if they are no whole numbers."""
    flat = array.reshape(-1)
    whole = np.isfinite(flat) & (np.abs(flat) < 2**31) & (flat == np.trunc(flat))
    if not whole.all():
        raise UserError(f"{path}: array {name} holds {flat[~whole][0]}, expected whole numbers: fetch or fix the file")
    return flat.astype(np.int64)


def read_npz(content: bytes, name: str) -> RawStructures:
    """Read one archive. Raises UserError naming the file, the array and what was expected of it."""
    try:
        _check_headers(content, name)
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            found = [layout for layout in LAYOUTS.values() if set(layout.required) <= set(archive.files)]
            if not found:
                known = "; ".join(f"{key}: {', '.join(layout.required)}" for key, layout in LAYOUTS.items())
                raise UserError(f"{name} holds the arrays {', '.join(archive.files)}, expected one of these: {known}")
            layout = found[0]
            used = *layout.required, str(layout.labels)
            check_unread(archive.files, used, name, "convert the file to extended XYZ, or remove it")
            optional = [layout.labels] if layout.labels in archive.files else []
            arrays = {key: archive[key] for key in (*layout.required, *optional) if key is not None}
            said = {key: said_unit(archive, key) for key in SAID if key in archive.files}
    except (*DAMAGED, ValueError, KeyError, MemoryError, NotImplementedError) as error:
        raise UserError(f"{name} is no readable .npz file ({error}): fetch it again") from None
    raw = _raw(arrays, layout, name)
    unknown = [f"{key} = {text} is no unit that is known here" for key, (unit, text) in said.items() if unit is None]
    units = {key: unit for key, (unit, _) in said.items()}
    return replace(
        raw,
        energy_unit=raw.energy_unit or units.get("e_unit"),
        length_unit=raw.length_unit or units.get("r_unit"),
        remarks=tuple(unknown),
    )


def _check_headers(content: bytes, name: str) -> None:
    """Refuse an array that says it is larger than what is there: room would be made for it first. Raises UserError."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                    continue
                major = file.read(2)[0]
                read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            claimed = math.prod(shape) * dtype.itemsize
            if claimed > min(member.file_size, LARGEST) and not dtype.hasobject:
                raise UserError(
                    f"{name}: array {member.filename} is said to hold {claimed} bytes, its file has {member.file_size}:"
                    " fetch it again"
                )


def _raw(arrays: dict[str, np.ndarray], layout: Layout, name: str) -> RawStructures:
    for key in layout.required:
        if arrays[key].dtype.kind not in "fiu":
            raise UserError(f"{name}: array {key} holds {arrays[key].dtype}, expected numbers: fetch or fix the file")
    numbers = whole_numbers(arrays[layout.atomic_numbers], layout.atomic_numbers, name)
    energies = arrays[layout.energies].reshape(-1).astype(np.float64)
    n = len(energies)
    if layout.n_atoms is None:
        n_atoms = np.full(n, len(numbers))
        per_atom: tuple[int, ...] = (n, len(numbers), 3)
        numbers = np.tile(numbers, n)
    else:
        n_atoms = whole_numbers(arrays[layout.n_atoms], layout.n_atoms, name)
        per_atom = (int(n_atoms.sum()), 3)
        _expect(name, layout.n_atoms, n_atoms.shape, (n,))
        _expect(name, layout.atomic_numbers, numbers.shape, per_atom[:1])
    for array in filter(None, (layout.positions, layout.forces)):
        _expect(name, array, arrays[array].shape, per_atom)
    if layout.cells is not None:
        _expect(name, layout.cells, arrays[layout.cells].shape, (n, 3, 3))
    return RawStructures(
        labels=_labels(arrays, layout, n),
        n_atoms=n_atoms,
        atomic_numbers=numbers,
        positions=_real(arrays[layout.positions]).reshape(-1, 3),
        energies=energies,
        forces=None if layout.forces is None else _real(arrays[layout.forces]).reshape(-1, 3),
        cells=None if layout.cells is None else arrays[layout.cells].astype(np.float64),
        periodic=None if layout.cells is None else np.ones((n, 3), dtype=bool),
        energy_unit=layout.energy_unit,
        length_unit=layout.length_unit,
    )


def _labels(arrays: dict[str, np.ndarray], layout: Layout, n: int) -> list[str]:
    """What the source calls its structures: file names as they are, numbers with their meaning."""
    if layout.labels not in arrays or len(arrays[layout.labels]) != n:
        return [f"frame {i}" for i in range(n)]
    values = arrays[layout.labels].tolist()
    if layout.labels == "index":
        return [f"dsgdb9nsd_{value:06d}" for value in values]
    return [str(value) if layout.labels == "names" else f"frame {value} of MD17" for value in values]


def _real(array: np.ndarray) -> np.ndarray:
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _expect(name: str, key: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise UserError(f"{name}: array {key} has shape {shape}, expected {expected}: fetch or fix the file")
