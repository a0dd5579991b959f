"""Any file ASE can read: extended XYZ, databases, trajectories, VASP's output, one or several, whole or in part."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase.calculators.calculator import compare_atoms
from ase.io.formats import UnknownFileTypeError, filetype, ioformats, open_with_compression, string2index

from bench.data.raw import Part, RawStructures
from bench.errors import UserError
from bench.runs.progress import progress

STATES = ("charge", "spin", "multiplicity", "magmom")
"""Parts of the names of entries that say which state of the electrons was computed."""
OTHER_LABELS = ("stress", "virial", "dipole", "energy", "energies", "force")
"""Parts of the names of labels that may be present and not used."""
SAME_GEOMETRY = 1e-6
"""Å, within which a calculator's results are of these atoms."""
ELECTRONIC = ("initial_charges", "initial_magmoms")
ISOLATED = ("isolatedatom", "isolated")
"""What marks an isolated atom, e.g. `config_type=IsolatedAtom`, written in any way."""


def read_ase_files(parts: Sequence[Part], energy_key: str | None, forces_key: str | None) -> RawStructures:
    """Read the frames of the files, in their order.

    Without a key the energy and the forces are those of the calculator results that ASE keeps; a key names any entry:
    of `atoms.info`, `atoms.arrays`, the calculator results, or a database row. An atom alone feels no force: its forces
    are zero where the file has none. Raises UserError naming the file, the frame and what it holds.
    """
    frames = [frame for part, name in zip(parts, _names(parts), strict=True) for frame in _frames(part, name)]
    return of_frames(frames, energy_key, forces_key)


def of_frames(
    frames: Sequence[tuple[str, Any]], energy_key: str | None = None, forces_key: str | None = None
) -> RawStructures:
    """ASE's atoms with their labels in messages, as `read_ase_files` reads them. Raises UserError."""
    forces = [_forces(atoms, forces_key, label) for label, atoms in frames]
    hints = like_forces(atoms for _, atoms in frames)
    without = [label for (label, atoms), f in zip(frames, forces, strict=True) if f is None and len(atoms) > 1]
    others = sum(len(atoms) > 1 for _, atoms in frames) - len(without)
    given = others > 0 if without else any(f is not None for f in forces)
    if without and (given or forces_key is not None):
        raise UserError(f"{without[0]} has {_lacking('forces', forces_key, others, hints)}")
    energies = [_energy(atoms, energy_key, label) for label, atoms in frames]
    without_energy = [frame for frame, energy in zip(frames, energies, strict=True) if energy is None]
    for label, atoms in without_energy[:1]:
        others = len(frames) - len(without_energy)
        raise UserError(f"{label} has {_lacking('energy', energy_key, others, _like_energies(atoms))}")
    filled = [np.zeros((len(atoms), 3)) if f is None else f for (_, atoms), f in zip(frames, forces, strict=True)]
    return RawStructures(
        labels=[label for label, _ in frames],
        n_atoms=np.array([len(atoms) for _, atoms in frames], dtype=np.int64),
        atomic_numbers=np.concatenate([np.zeros(0, dtype=np.int64), *(atoms.numbers for _, atoms in frames)]),
        positions=np.concatenate([np.zeros((0, 3)), *(atoms.positions for _, atoms in frames)]),
        energies=np.array(energies, dtype=np.float64),
        forces=np.concatenate(filled) if given else None,
        cells=np.array([np.asarray(atoms.cell) for _, atoms in frames]).reshape(-1, 3, 3),
        periodic=np.array([atoms.pbc for _, atoms in frames], dtype=bool).reshape(-1, 3),
        isolated=np.array([_marked_isolated(atoms) for _, atoms in frames], dtype=bool),
        states=[_state(atoms) for _, atoms in frames],
        like_forces=() if given else hints,
        remarks=tuple(_remarks([atoms for _, atoms in frames], energy_key, forces_key if given else "")),
    )


def check_current(atoms: Any, label: str) -> None:
    """Refuse results of another geometry: a calculator's that several atoms share, or from before these atoms moved.

    Raises UserError.
    """
    computed = getattr(atoms.calc, "atoms", None)
    if computed is None or not {"energy", "forces"} & set(_results(atoms)):
        return
    if compare_atoms(computed, atoms, tol=SAME_GEOMETRY, excluded_properties=ELECTRONIC):
        raise UserError(
            f"{label}: the calculator's results are of another geometry (it is shared, or the atoms have moved since):"
            " compute it again and keep its results in a SinglePointCalculator of its own"
        )


def _names(parts: Sequence[Part]) -> list[str]:
    """What the files are called in messages: their names, with as much of their folders as tells them apart."""
    paths = [part.path for part in parts]
    for depth in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = [Path(*path.parts[-depth:]).as_posix() for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names


def frames_of(part: Part) -> Iterator[tuple[int, Any]]:
    """The frames of a file with their numbers in the whole file, as they are read. Raises UserError."""
    path, file_format = str(part.path), ""
    try:
        index = slice(None) if part.index is None else string2index(part.index)
        if isinstance(index, slice) and index.step == 0:
            raise UserError(f"{path}@{part.index}: a step of 0 names no structures: give another part")
        file_format = _format(path)
        if file_format == "db" or (file_format == "json" and part.path.suffix == ".json"):
            selection = index if isinstance(index, str) else None
            with ase.db.connect(path) as database:
                places = {row.id: i for i, row in enumerate(database.select(columns=["id"], include_data=False))}
                rows = database.select(selection)
                frames = ((places[row.id], row.toatoms(add_additional_information=True)) for row in rows)
                yield from frames if isinstance(index, str) or part.index is None else _picked(list(frames), index)
            return
        if isinstance(index, str):
            raise ValueError(f"{index!r} after '@' is no index such as 0:20 or -1")
        # ASE's own way to leave frames out reads only as far as needed, but does not number them
        ahead = index if isinstance(index, slice) else slice(index, (index + 1) or None)
        counted = (ahead.start or 0) >= 0 and (ahead.stop is None or ahead.stop >= 0) and (ahead.step or 1) > 0
        read = ase.io.iread(
            path, index=ahead if counted else slice(None), format=file_format, do_not_split_by_at_sign=True
        )
        to_the_end = not (counted and ahead.stop is not None)
        if file_format == "extxyz" and to_the_end:
            _check_no_gap(path)
        numbers = count(ahead.start or 0, ahead.step or 1) if counted else count()
        numbered = zip(numbers, read, strict=False)
        last = -1
        for number, atoms in numbered if counted else _picked(list(numbered), index):
            yield (last := number), atoms
        if file_format == "extxyz" and not to_the_end and last + (ahead.step or 1) < ahead.stop:
            _check_no_gap(path)  # it ended before the part did
    except UserError:
        raise
    except Exception as error:  # every format of ASE has its own errors
        if part.path.is_file() and part.path.stat().st_size == 0:
            raise UserError(f"{path} is empty: it holds 0 structures") from None
        if isinstance(error, UnknownFileTypeError):
            raise UserError(
                f"{path} cannot be read by ASE, which knows no format of this name: rename it (.xyz or .extxyz for"
                " extended XYZ), or convert it"
            ) from None
        if part.path.is_dir():
            raise UserError(f"{path} is a folder, which ASE cannot read: name the files in it, {path}/*.xyz") from None
        reason = str(error).strip() or type(error).__name__
        remedy = "fix the file"
        if file_format not in ("", "extxyz"):
            remedy += f", or rename it if it is not of ASE's format {file_format}, as its name or content say"
        raise UserError(f"{path} cannot be read by ASE ({type(error).__name__}: {reason}): {remedy}") from None


def _check_no_gap(path: str) -> None:
    """Refuse extended XYZ with an empty line between frames: ASE's reader takes it for the end. Raises UserError."""
    with open_with_compression(path, "rb") as file:
        lines = enumerate(file, 1)
        for number, line in lines:
            if not line.strip():
                if any(rest.strip() for _, rest in lines):
                    raise UserError(f"{path}: line {number} is empty, but frames follow: remove the empty lines")
                return
            if not line.lstrip().startswith(b"VEC"):
                deque(islice(lines, int(line) + 1), maxlen=0)


def _frames(part: Part, name: str) -> list[tuple[str, Any]]:
    """The frames of a file with their labels, `name:number`, numbered as in the whole file."""
    frames = [(f"{name}:{number}", atoms) for number, atoms in progress(frames_of(part), name, unit="frame")]
    if not frames and part.index is not None:
        raise UserError(f"{part.path}@{part.index} holds 0 structures: the file has none there, give another part")
    return frames


def _format(path: str) -> str:
    """ASE's name of a file's format, also where the file is called `a.xyz@0:2` as a whole."""
    found = filetype(path)
    if found not in ioformats and "@" in Path(path).name:
        return filetype(path.rpartition("@")[0], read=False)
    return found


def _picked(frames: list[tuple[int, Any]], index: int | slice) -> list[tuple[int, Any]]:
    """Nothing where an index is beyond the frames."""
    return frames[index] if isinstance(index, slice) else frames[index : (index + 1) or None]


def _groups(atoms: Any) -> Iterator[Mapping[str, Any]]:
    """Everything a frame holds beside the atoms, by name."""
    info = dict(atoms.info)
    pairs, data = (info.pop(key, None) for key in ("key_value_pairs", "data"))
    yield from (group for group in (info, pairs, data) if isinstance(group, Mapping))
    yield {name: values for name, values in atoms.arrays.items() if name not in ("numbers", "positions")}
    yield _results(atoms)


def _results(atoms: Any) -> Mapping[str, Any]:
    """What the file itself said; constraints do not alter these forces, as `get_forces` would."""
    return {} if atoms.calc is None else {k: v for k, v in atoms.calc.results.items() if v is not None}


def _named(atoms: Any, key: str, label: str) -> Any:
    """The entry of that name, None if there is none. Raises UserError where two of them differ."""
    found = [group[key] for group in _groups(atoms) if group.get(key) is not None]
    if any(not np.array_equal(found[0], other) for other in found[1:]):
        raise UserError(f"{label} holds {len(found)} different entries {key!r}: rename one of them")
    return found[0] if found else None


def _energy(atoms: Any, key: str | None, label: str) -> float | None:
    value = _results(atoms).get("energy") if key is None else _named(atoms, key, label)
    if value is None:
        return None
    try:
        if np.asarray(value).dtype.kind == "b":
            raise TypeError(value)
        return float(np.asarray(value, dtype=np.float64).reshape(()))
    except (TypeError, ValueError):
        raise UserError(f"{label}: energy is {value!r}, expected a number: fix the file") from None


def _forces(atoms: Any, key: str | None, label: str) -> np.ndarray | None:
    value = _results(atoms).get("forces") if key is None else _named(atoms, key, label)
    if value is None:
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or array.shape != (len(atoms), 3):
        raise UserError(f"{label}: forces hold {array.dtype} {array.shape}, expected ({len(atoms)}, 3): fix the file")
    return array.astype(np.float64)


def like_forces(frames: Any) -> tuple[str, ...]:
    """The names of entries with three numbers per atom that can be forces: called so, or else whatever there is."""
    found: dict[str, None] = {}
    for atoms in frames:
        for group in _groups(atoms):
            fitting = (
                k for k, v in group.items() if np.shape(v) == (len(atoms), 3) and np.asarray(v).dtype.kind == "f"
            )
            found |= dict.fromkeys(fitting)
    named = tuple(name for name in found if any(word in name.lower() for word in ("forc", "grad", "f_")))
    return named or tuple(name for name in found if name not in ("momenta", "velocities"))


def _like_energies(atoms: Any) -> tuple[str, ...]:
    numbers = [k for group in _groups(atoms) for k, v in group.items() if np.ndim(v) == 0 and _is_number(v)]
    named = tuple(name for name in numbers if any(word in name.lower() for word in ("energ", "e_", "toten", "scf")))
    return named or tuple(name for name in numbers if not _has(name, STATES))


def _is_number(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "fiu"


def _lacking(quantity: str, key: str | None, others: int, names: Sequence[str]) -> str:
    """What a frame has not, whether others have it, and what to do."""
    shape = " of 3 numbers per atom" if quantity == "forces" else ""
    wanted = f"no {quantity}" if key is None else f"no entry {key!r}{shape}"
    if not others:
        return f"{wanted}: {_hint(quantity, names)}"
    elsewhere = [] if key else [name for name in names if name != quantity]
    return f"{wanted}, other frames have ({others}): remove it" + (
        f", or {_hint(quantity, elsewhere)}" if elsewhere else ""
    )


def _hint(quantity: str, names: Sequence[str]) -> str:
    if not names:
        return f"it holds nothing that looks like it: give structures with {quantity}"
    return f"give dataset.{quantity}_key; these look like it: {', '.join(dict.fromkeys(names))}"


def _marked_isolated(atoms: Any) -> bool:
    """Whether a frame of one atom says that it is an isolated atom."""
    if len(atoms) != 1:
        return False
    entries = {k: v for group in _groups(atoms) for k, v in group.items() if isinstance(v, str | bool | np.bool_)}
    words = [_plain(v) for v in entries.values() if isinstance(v, str)]
    words += [_plain(k) for k, v in entries.items() if v is True or v is np.True_]
    return any(word in ISOLATED for word in words)


def _plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalpha())


def _state(atoms: Any) -> str:
    """The state of the electrons as far as the frame says it: `charge=1, spin=2`."""
    entries = {k: v for group in _groups(atoms) for k, v in group.items() if np.ndim(v) == 0 and _has(k, STATES)}
    return ", ".join(f"{name}={value}" for name, value in sorted(entries.items()))


def _has(name: str, words: Sequence[str]) -> bool:
    return any(word in name.lower() for word in words)


def _remarks(frames: Sequence[Any], energy_key: str | None, forces_key: str | None) -> Iterator[str]:
    """What is present and not used, and a free energy that is not the energy; each once for all frames."""
    used = {energy_key or "energy", "forces" if forces_key is None else forces_key}
    names = dict.fromkeys(name for atoms in frames for group in _groups(atoms) for name in group)
    unused = [name for name in names if name not in used and _has(name, STATES + OTHER_LABELS)]
    if unused:
        yield f"learned: {', '.join(sorted(used - {''}))}; present and not used: {', '.join(sorted(unused))}"
    if energy_key is None and forces_key is None:
        both = [r for r in map(_results, frames) if "free_energy" in r and "energy" in r]
        apart = max((abs(float(r["free_energy"]) - float(r["energy"])) for r in both), default=0.0)
        if apart > 1e-6 * max((abs(float(r["energy"])) for r in both), default=1.0):
            yield (
                f"the energies learned differ from free_energy, of which ASE's forces are the gradient, by up to"
                f" {apart:.4g}: dataset.energy_key=free_energy learns that"
            )
