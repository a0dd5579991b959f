"""What a selection leaves behind: structures to label in extended XYZ, and a record by which it can be repeated."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np

from bench.pools.coverage import Coverage
from bench.pools.selecting import Batch
from bench.runs.provenance import provenance
from bench.runs.record import now, write_atomically

RECORD_VERSION = 1


def atoms_of(batch: Batch) -> Iterator[ase.Atoms]:
    """The structures to label, in the order of picking, with why each was picked in `info`."""
    data = batch.frames.data
    for reasons, row in zip(reasons_of(batch), batch.rows.tolist(), strict=True):
        atoms = slice(data.offsets[row], data.offsets[row + 1])
        yield ase.Atoms(
            numbers=data.atomic_numbers[atoms],
            positions=data.positions[atoms].astype(np.float64),
            cell=data.cells[row] if data.periodic[row].any() else None,
            pbc=data.periodic[row],
            info={key: value for key, value in reasons.items() if value is not None},
        )


def reasons_of(batch: Batch) -> list[dict[str, Any]]:
    """Of each pick: order, place in the pool, uncertainty (eV), distance from what was known, and its cluster.

    `distance` is in feature space, from the nearest labelled structure or earlier pick when it was picked; `cluster`
    how many structures of the pool are nearest to it in the end. What a kernel does not know is None.
    """
    frames, covers = batch.frames, batch.coverage
    places = batch.chosen.places
    first_random = len(batch.rows) - batch.chosen.n_random
    found = []
    for order, row in enumerate(batch.rows.tolist()):
        distance = None if covers is None else covers.distance[order]
        found.append(
            {
                "order": order,
                "pool_file": frames.files[frames.file[row]],
                "pool_index": int(frames.index[row]),
                "uncertainty_eV": None if batch.uncertainty is None else float(batch.uncertainty[places[order]]),
                "distance": distance if distance is not None and np.isfinite(distance) else None,
                "cluster": None if covers is None else covers.of_pool[order],
                "at_random": True if order >= first_random else None,
            }
        )
    return found


def record_of(batch: Batch, asked: Mapping[str, Any]) -> dict[str, Any]:
    """All that was asked for and found, as plain values for JSON."""
    covers = batch.coverage
    return {
        "record_version": RECORD_VERSION,
        "made": now(),
        **asked,
        "structures": {
            "pool": len(batch.frames),
            "could_be_chosen": len(batch.chosen.among),
            "known": batch.known,
            "validating": batch.validating,
            "rejected": dict(batch.sieve.rejected.most_common()),
        },
        "picks": [{key: value for key, value in one.items() if value is not None} for one in reasons_of(batch)],
        "coverage": None
        if covers is None
        else {
            "largest_distance": _plain(covers.largest),
            "mean_squared_distance": _plain(covers.mean_squared),
            "mean_uncertainty_eV": _plain(covers.uncertainty),
        },
        "coverage_with_the_next_batch": None if batch.next_coverage is None else _ends(batch.next_coverage),
        "provenance": provenance("cpu"),
    }


def _ends(covers: Coverage) -> dict[str, float]:
    """The coverage after the last pick."""
    found = {"largest_distance": covers.largest[-1], "mean_squared_distance": covers.mean_squared[-1]}
    return found | ({"mean_uncertainty_eV": covers.uncertainty[-1]} if covers.uncertainty else {})


def write_structures(path: Path, batch: Batch) -> None:
    """Write the structures to label. Raises WriteError."""
    text = io.StringIO()
    ase.io.write(text, list(atoms_of(batch)), format="extxyz")
    write_atomically(path, text.getvalue().encode())


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record. Raises WriteError."""
    write_atomically(path, json.dumps(record, indent=1, allow_nan=False).encode())


def sha256_of(path: Path) -> str:
    """The checksum of a file; that of a folder is over the checksums of its files."""
    if path.is_dir():
        parts = [f"{one.name} {sha256_of(one)}" for one in sorted(path.glob("*.npy"))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(values: list[float]) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values]
