"""Any file ASE can read: extended XYZ, databases, trajectories, one or several."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase.io.formats import filetype

from bench.data.convert import RawStructures
from bench.errors import UserError, nearest
from bench.progress import progress


def read_ase_files(paths: Sequence[Path], energy_key: str | None, forces_key: str | None) -> RawStructures:
    """Read all frames of the files, in their order.

    Without a key the energy and the forces are those ASE itself recognises (its calculator results); a key names an
    entry of `atoms.info` or an array of `atoms.arrays`. Raises UserError naming the file, the frame and what it holds.
    """
    frames = [(f"{path.name}:{i}", atoms) for path in paths for i, atoms in enumerate(_frames(path))]
    forces = [_forces(atoms, forces_key, label) for label, atoms in frames]
    without = [label for (label, _), found in zip(frames, forces, strict=True) if found is None]
    if without and (len(without) < len(frames) or forces_key is not None):
        raise UserError(f"{without[0]} has no forces, other frames have: remove it, or give dataset.forces_key")
    given = [found for found in forces if found is not None]
    return RawStructures(
        labels=[label for label, _ in frames],
        n_atoms=np.array([len(atoms) for _, atoms in frames], dtype=np.int64),
        atomic_numbers=np.concatenate([np.zeros(0, dtype=np.int64), *(atoms.numbers for _, atoms in frames)]),
        positions=np.concatenate([np.zeros((0, 3)), *(atoms.positions for _, atoms in frames)]),
        energies=np.array([_energy(atoms, energy_key, label) for label, atoms in frames], dtype=np.float64),
        forces=np.concatenate(given) if given else None,
        cells=np.array([np.asarray(atoms.cell) for _, atoms in frames]).reshape(-1, 3, 3),
        periodic=np.array([atoms.pbc for _, atoms in frames], dtype=bool).reshape(-1, 3),
    )


def _frames(path: Path) -> list[Any]:
    try:
        if filetype(str(path)) == "db":
            rows = ase.db.connect(path).select()
            return [row.toatoms(add_additional_information=True) for row in progress(rows, path.name, unit="row")]
        return list(progress(ase.io.iread(path, index=":"), path.name, unit="frame"))
    except Exception as error:  # every format of ASE has its own errors
        reason = str(error).strip() or type(error).__name__
        raise UserError(f"{path} cannot be read by ASE ({type(error).__name__}: {reason}): mend the file") from None


def _energy(atoms: Any, key: str | None, label: str) -> float:
    entries = _entries(atoms)
    value = _results(atoms).get("energy") if key is None else entries.get(key)
    if value is None:
        hint = nearest(key or "energy", entries) if entries else "it holds no numbers beside the atoms"
        wanted = f"no entry {key!r}" if key else "no energy"
        raise UserError(f"{label} has {wanted}: give dataset.energy_key; {hint}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{label}: energy is {value!r}, expected a number: mend the file") from None


def _forces(atoms: Any, key: str | None, label: str) -> np.ndarray | None:
    value = _results(atoms).get("forces") if key is None else atoms.arrays.get(key)
    if value is None:
        if key is not None:
            raise UserError(f"{label} has no array {key!r}: {nearest(key, atoms.arrays)} (dataset.forces_key)")
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or array.shape != (len(atoms), 3):
        raise UserError(f"{label}: forces hold {array.dtype} {array.shape}, expected ({len(atoms)}, 3): mend the file")
    return array.astype(np.float64)


def _results(atoms: Any) -> Mapping[str, Any]:
    """What the file itself said; constraints do not alter these forces, as `get_forces` would."""
    return {} if atoms.calc is None else atoms.calc.results


def _entries(atoms: Any) -> dict[str, Any]:
    """The entries of a frame, those of a database row among them."""
    return {**atoms.info, **atoms.info.get("key_value_pairs", {})}
