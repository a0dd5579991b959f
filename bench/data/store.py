"""The store of a prepared dataset: memory-mapped columns in eV and Å, checked once, when they are written."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.config.places import FROM_WHEEL, PROJECT
from bench.data.columns import META, is_right, read_columns, write_columns
from bench.data.structures import Origin, Structures
from bench.errors import UserError

log = logging.getLogger(__name__)
DATA_FOLDER_VARIABLE = "BMDAL_BENCH_DATA"
STORE_VERSION = 1
"""Raised by hand when the columns or their meaning change: older stores are then prepared again."""


def data_folder() -> Path:
    """Where prepared datasets and downloads lie: $BMDAL_BENCH_DATA, else data/ in the checkout.

    Installed from a wheel there is no checkout, and data/ in the working folder takes its place.
    """
    given = os.environ.get(DATA_FOLDER_VARIABLE)
    return Path(given).expanduser() if given else (Path.cwd() if FROM_WHEEL else PROJECT) / "data"


def store_folder(name: str) -> Path:
    """The folder of one prepared dataset."""
    return data_folder() / name


def is_prepared(name: str) -> bool:
    """Whether a store of that name is there, whole or damaged."""
    return (store_folder(name) / META).is_file()


def write_store(data: Structures, labels: Sequence[str], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write checked structures, and return the meta.json. `facts` (sources, units, counts) go there too."""
    columns = {
        "atomic_numbers": data.atomic_numbers.astype(np.uint8),
        "positions": data.positions,
        "offsets": data.offsets.astype(np.int64),
        "energies": data.energies,
        "labels": np.array(labels, dtype=bytes),
    }
    if data.forces is not None:
        columns["forces"] = data.forces
    if data.periodic.any():
        columns |= {"cells": data.cells, "periodic": data.periodic}
    meta = {
        "store_version": STORE_VERSION,
        "name": data.name,
        "structures": len(data),
        "atoms": len(data.positions),
        "checksum": data.checksum,
        "units": "eV, Å",
        "reference_energies": {str(z): energy for z, energy in data.reference_energies.items()},
        "prepared": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }
    write_columns(store_folder(data.name), columns, meta)
    return meta


def read_store(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Map the columns of a prepared dataset and read its meta.json. Raises UserError naming the remedy."""
    folder = store_folder(name)
    remedy = _prepare(name)
    if not is_prepared(name):
        raise UserError(f"dataset {name} is not in {data_folder()}: {remedy}")
    columns, meta = read_columns(folder)
    if meta.get("store_version") != STORE_VERSION:
        version = meta.get("store_version")
        raise UserError(f"{folder} has store version {version}, this code reads {STORE_VERSION}: {remedy}")
    return columns, meta


def _prepare(name: str) -> str:
    return f"python -m bench.data prepare {name} [--from PATH]"


def open_store(name: str, reference_energies: Mapping[int, float]) -> tuple[Structures, dict[str, Any]]:
    """Open a prepared dataset without reading it: no page is touched before it is used. Raises UserError.

    The checksum is the one written with the store, unless other reference energies are asked for. Where files have
    other sizes or times than when they were written or last checked, the content is checked against it.
    """
    columns, meta = read_store(name)
    folder = store_folder(name)
    try:
        n = int(meta["structures"])
        stored = {int(z): float(energy) for z, energy in meta["reference_energies"].items()}
        checksum = str(meta["checksum"])
        data = Structures(
            name=name,
            atomic_numbers=columns["atomic_numbers"],
            positions=columns["positions"],
            offsets=columns["offsets"],
            cells=columns["cells"] if "cells" in columns else np.broadcast_to(np.zeros((1, 3, 3)), (n, 3, 3)),
            periodic=columns["periodic"] if "periodic" in columns else np.broadcast_to(np.zeros((1, 3), bool), (n, 3)),
            energies=columns["energies"],
            forces=columns.get("forces"),
            reference_energies=dict(reference_energies),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} is damaged ({type(error).__name__}: {error}): {_prepare(name)}") from None

    def check() -> bool:
        log.info("dataset %s: its files are not as when they were written: all are checked, once", name)
        return replace(data, reference_energies=stored).checksum == checksum

    if not is_right(folder, check):
        raise UserError(
            f"{folder} was altered: its content has not the checksum {checksum[:12]}… of its {META}: {_prepare(name)}"
        )
    data.remember(Origin(folder, checksum), same_references=stored == data.reference_energies)
    return data, meta
