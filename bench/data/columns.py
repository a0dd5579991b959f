"""Arrays that many processes share: a folder of .npy files, opened memory-mapped, with a meta.json written last."""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UserError

META = "meta.json"


def write_columns(folder: Path, columns: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write a folder as a whole, in place of the one that may be there; the caller holds a lock.

    Everything goes to a temporary folder first, which is renamed; processes that have the old files open keep them.
    """
    temporary, old = leftovers(folder)
    remove_leftovers(folder)
    try:
        temporary.mkdir(parents=True)
        for name, array in columns.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        layout = {name: {"dtype": array.dtype.str, "shape": list(array.shape)} for name, array in columns.items()}
        with (temporary / META).open("w") as file:
            json.dump({**meta, "columns": layout}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
    finally:
        remove_leftovers(folder)


def read_columns(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Map the columns of a folder and read its meta.json. Raises UserError if it is damaged."""
    try:
        meta = json.loads((folder / META).read_bytes())
        columns = {}
        for name, layout in meta["columns"].items():
            # an empty file cannot be mapped
            mode: Any = "r" if 0 not in layout["shape"] else None
            array = np.asarray(np.load(folder / f"{name}.npy", mmap_mode=mode, allow_pickle=False))
            if [array.dtype.str, list(array.shape)] != [layout["dtype"], layout["shape"]]:
                raise ValueError(f"{name}.npy is {array.dtype}{array.shape}")
            columns[name] = array
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise UserError(f"{folder} is damaged ({type(error).__name__}: {error}): remove it and make it again") from None
    return columns, meta


def leftovers(folder: Path) -> tuple[Path, Path]:
    """The names under which a new and an old version stand beside a folder while it is replaced."""
    return folder.with_name(f".{folder.name}.new.tmp"), folder.with_name(f".{folder.name}.old.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed writer left; a folder moved aside is put back if no new one took its place."""
    temporary, old = leftovers(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for path in (temporary, old):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
