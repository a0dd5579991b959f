"""Structures without labels: files that ASE can read, .npz, prepared datasets, or atoms of a running program."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from bench.data.columns import META, read_columns
from bench.data.datasets.file import located
from bench.data.formats.ase_files import frames_of
from bench.data.formats.npz import LAYOUTS, check_unread, said_unit, whole_numbers
from bench.data.raw import Part
from bench.data.sources import DAMAGED
from bench.data.structures import Structures, check_elements
from bench.errors import UserError
from bench.runs.progress import progress

PLAIN = ("atomic_numbers", "positions", "n_atoms", "cells", "periodic")
"""Arrays of an .npz without labels: flat atoms, structure after structure; the last two are left out for molecules."""
AT_ONCE = 4096
"""Frames that are held as ASE's objects at a time."""


@dataclass(frozen=True)
class Frames:
    """Structures with where they come from: row i is frame `index[i]` of `files[file[i]]`. Energies are NaN."""

    data: Structures
    files: tuple[str, ...]
    file: Int[np.ndarray, " structures"]
    index: Int[np.ndarray, " structures"]

    def __len__(self) -> int:
        return len(self.data)

    def label(self, row: int) -> str:
        """What a structure is called in messages and records: `file:number`."""
        return f"{self.files[self.file[row]]}:{self.index[row]}"

    def part(self, rows: Int[np.ndarray, " rows"]) -> "Frames":
        """Some of them, in the order given."""
        return replace(self, data=self.data.part(rows), file=self.file[rows], index=self.index[rows])

    def with_references(self, reference_energies: dict[int, float]) -> "Frames":
        """The same for a model, whose elements are those with a reference energy."""
        return replace(self, data=replace(self.data, reference_energies=dict(reference_energies)))


def read_frames(given: str | Sequence[str], what: str) -> Frames:
    """Read files, patterns or folders of prepared datasets, in the order given; labels are not read.

    `what` names them in messages. Raises UserError naming the file, the frame and the remedy.
    """
    parts = [part for one in ([given] if isinstance(given, str) else given) for part in located(what, one, f"{what}=")]
    read = [_read(part) for part in parts]
    for part, one in zip(parts, read, strict=True):
        if len(one) == 0:
            named = f"{part.path}@{part.index}" if part.index is not None else f"{part.path}"
            raise UserError(f"{named} holds 0 structures: give others")
    names = tuple(str(part.path) for part in parts)
    return joined([replace(one, files=(name,)) for one, name in zip(read, names, strict=True)])


def frames_of_atoms(atoms: Iterable[Any], name: str = "atoms") -> Frames:
    """ASE's atoms as frames."""
    return _from_ase(((number, one) for number, one in enumerate(atoms)), name)


def joined(parts: Sequence[Frames]) -> Frames:
    """Frames one after the other; the files of all."""
    first = np.cumsum([0, *(len(part.files) for part in parts)])
    return Frames(
        joined_structures([part.data for part in parts]),
        tuple(name for part in parts for name in part.files),
        np.concatenate([part.file + start for part, start in zip(parts, first[:-1], strict=True)]),
        np.concatenate([part.index for part in parts]),
    )


def joined_structures(parts: Sequence[Structures]) -> Structures:
    """Structures one after the other, without labels."""
    if len(parts) == 1:
        return parts[0]
    ends = np.concatenate([[0], *(part.n_atoms for part in parts)]).cumsum()
    references = {z: energy for part in parts for z, energy in part.reference_energies.items()}
    return unlabelled(
        np.concatenate([part.atomic_numbers for part in parts]),
        np.concatenate([part.positions for part in parts]),
        ends,
        np.concatenate([part.cells for part in parts]),
        np.concatenate([part.periodic for part in parts]),
        references,
    )


def unlabelled(
    atomic_numbers: np.ndarray,
    positions: np.ndarray,
    offsets: np.ndarray,
    cells: np.ndarray | None,
    periodic: np.ndarray | None,
    reference_energies: dict[int, float],
) -> Structures:
    """Structures whose energies are NaN."""
    n = len(offsets) - 1
    return Structures(
        name="pool",
        atomic_numbers=atomic_numbers.astype(np.uint8),
        positions=positions,
        offsets=offsets,
        cells=np.broadcast_to(np.zeros((1, 3, 3)), (n, 3, 3)) if cells is None else cells,
        periodic=np.broadcast_to(np.zeros((1, 3), bool), (n, 3)) if periodic is None else periodic,
        energies=np.full(n, np.nan),
        forces=None,
        reference_energies=reference_energies,
        passing=True,
    )


def digest(data: Structures) -> str:
    """SHA-256 of the structures, whatever their labels."""
    found = hashlib.sha256()
    for array in (data.atomic_numbers, data.positions, data.offsets, data.cells, data.periodic):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def _read(part: Part) -> Frames:
    path = part.path
    if path.is_dir() and (path / META).is_file():
        data = _of_columns(read_columns(path)[0], str(path))
    elif path.suffix == ".npz":
        data = _of_npz(path)
    else:
        return _from_ase(frames_of(part), str(path), part.index)
    rows = np.arange(len(data))
    if part.index is not None:
        chosen = _slice(part.index, path)
        try:
            rows = np.atleast_1d(rows[chosen])
        except (IndexError, ValueError) as error:
            raise UserError(f"{path}@{part.index}: {error}: the file holds {len(rows)} structures") from None
        data = data.part(rows)
    return Frames(data, (str(path),), np.zeros(len(rows), dtype=np.int64), rows)


def _slice(index: str, path: Path) -> slice | int:
    try:
        numbers = [int(word) if word else None for word in index.split(":")]
        return int(index) if len(numbers) == 1 else slice(*numbers)
    except (ValueError, TypeError):
        raise UserError(f"{path}@{index}: {index!r} is no index such as 0:20 or -1") from None


def _of_columns(columns: dict[str, np.ndarray], name: str) -> Structures:
    try:
        return unlabelled(
            columns["atomic_numbers"],
            columns["positions"],
            columns["offsets"],
            columns.get("cells"),
            columns.get("periodic"),
            _zeros(columns["atomic_numbers"]),
        )
    except KeyError as error:
        raise UserError(f"{name} is no prepared dataset (it has no {error}): give a file of structures") from None


def _of_npz(path: Path) -> Structures:
    """The arrays of PLAIN, or those of one of the published layouts, in Å."""
    arrays = _arrays_of(path)
    numbers, positions = whole_numbers(arrays["atomic_numbers"], "of atomic numbers", str(path)), arrays["positions"]
    if positions.ndim > 1 and positions.shape[-1] != 3:
        raise UserError(f"{path}: the array of positions is {positions.shape}, expected (…, 3): fix the file")
    if "n_atoms" in arrays:
        n_atoms = whole_numbers(arrays["n_atoms"], "n_atoms", str(path))
    elif positions.ndim == 3:
        n_atoms = np.full(len(positions), positions.shape[1], dtype=np.int64)
        numbers = np.tile(numbers, len(positions)) if len(numbers) == positions.shape[1] else numbers
    else:
        n_atoms = np.array([len(positions)], dtype=np.int64)
    n, positions = len(n_atoms), positions.reshape(-1, 3) if positions.size % 3 == 0 else positions
    if n == 0 or n_atoms.min() < 1:
        raise UserError(f"{path}: {n} structures, n_atoms down to {n_atoms.min(initial=0)}: each needs an atom")
    if not len(numbers) == len(positions) == n_atoms.sum():
        raise UserError(
            f"{path}: {len(numbers)} atomic numbers, {len(positions)} positions and n_atoms that add up to"
            f" {n_atoms.sum()} do not go together: fix the file"
        )
    check_elements(numbers, str(path))
    cells = arrays.get("cells")
    periodic = arrays.get("periodic", None if cells is None else np.ones((n, 3), dtype=bool))
    for array, shape in ((cells, (n, 3, 3)), (periodic, (n, 3))):
        if array is not None and array.shape != shape:
            raise UserError(f"{path}: an array of cells or periodic is {array.shape}, expected {shape}: fix the file")
    cells = None if cells is None else cells.astype(np.float64)
    periodic = None if periodic is None else periodic.astype(bool)
    positions = positions if positions.dtype in (np.float32, np.float64) else positions.astype(np.float64)
    offsets = np.concatenate([[0], n_atoms.cumsum()])
    return unlabelled(numbers, positions, offsets, cells, periodic, _zeros(numbers))


def _arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays by their names in PLAIN. Raises UserError if they are others, or hold no numbers."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = set(archive.files)
            if {"atomic_numbers", "positions"} <= names:
                keys = {key: key for key in PLAIN if key in names}
            else:
                fitting = [one for one in LAYOUTS.values() if {one.atomic_numbers, one.positions} <= names]
                if not fitting:
                    raise UserError(f"{path} holds the arrays {', '.join(sorted(names))}: name them {', '.join(PLAIN)}")
                layout = max(fitting, key=lambda one: one.n_atoms in names)
                asked = {key: getattr(layout, key) for key in PLAIN[:4]}
                keys = {key: name for key, name in asked.items() if name in names}
            check_unread(names, keys.values(), str(path), f"name the arrays {', '.join(PLAIN)}")
            unit, text = said_unit(archive, "r_unit") if "r_unit" in names else ("Å", "")
            if unit != "Å":
                raise UserError(f"{path}: r_unit = {text}: convert the positions to Å and leave it out")
            arrays = {key: _plain(archive[name], name, path) for key, name in keys.items()}
    except (*DAMAGED, ValueError, KeyError, MemoryError) as error:
        raise UserError(f"{path} is no readable .npz file ({error}): fix the file") from None
    return arrays


def _plain(array: np.ndarray, name: str, path: Path) -> np.ndarray:
    """The array, if it holds numbers. Raises UserError."""
    if array.dtype.kind not in "fiub":
        raise UserError(f"{path}: array {name} holds {array.dtype}, expected numbers: fix the file")
    return array


def _from_ase(frames: Iterable[tuple[int, Any]], name: str, part: str | None = None) -> Frames:
    """Frames with their numbers; only so many are objects at a time. `part` is which of a file's they are."""
    parts: list[tuple[np.ndarray, ...]] = []
    for block in _blocks(progress(frames, name, unit="frame")):
        atoms = [one for _, one in block]
        for number, one in block:
            if len(one) == 0:
                raise UserError(f"{name}:{number} holds no atoms: remove that frame")
            check_elements(one.numbers, f"{name}:{number}")
        parts.append(
            (
                np.concatenate([one.numbers for one in atoms]).astype(np.uint8),
                np.concatenate([one.positions for one in atoms]),
                np.array([len(one) for one in atoms], dtype=np.int64),
                np.array([np.asarray(one.cell) for one in atoms]).reshape(-1, 3, 3),
                np.array([one.pbc for one in atoms], dtype=bool).reshape(-1, 3),
                np.array([number for number, _ in block], dtype=np.int64),
            )
        )
    if not parts and part is not None:
        raise UserError(f"{name}@{part} holds 0 structures: the file has none there, give another part")
    if not parts:
        raise UserError(f"{name} holds 0 structures: nothing to choose from")
    numbers, positions, n_atoms, cells, periodic, index = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    offsets = np.concatenate([[0], n_atoms.cumsum()])
    with_cells = bool(periodic.any())
    data = unlabelled(
        numbers, positions, offsets, cells if with_cells else None, periodic if with_cells else None, _zeros(numbers)
    )
    return Frames(data, (name,), np.zeros(len(data), dtype=np.int64), index)


def _blocks(frames: Iterable[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    block: list[tuple[int, Any]] = []
    for frame in frames:
        block.append(frame)
        if len(block) == AT_ONCE:
            yield block
            block = []
    if block:
        yield block


def _zeros(numbers: np.ndarray) -> dict[int, float]:
    """Every element that is there, with no reference energy: nothing is learned from these."""
    return dict.fromkeys(np.unique(numbers).tolist(), 0.0)
