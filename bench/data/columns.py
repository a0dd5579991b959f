"""Arrays that many processes share: a folder of .npy files, opened memory-mapped, with a meta.json written last."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from bench.errors import UserError, WriteError, cannot_read
from bench.runs.record import folder_to_disk, write_atomically

META = "meta.json"
CHECKED = "checked.json"
"""Sizes and times of the other files of a folder when their content was last known to be right."""


def write_columns(folder: Path, columns: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write a folder as a whole, in place of the one that may be there; the caller holds a lock.

    Everything goes to a temporary folder first, and to the disk; then that is renamed. Processes that have the old
    files open keep them.
    """
    temporary, old = leftovers(folder)
    remove_leftovers(folder)
    try:
        temporary.mkdir(parents=True)
        for name, array in columns.items():
            with (temporary / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                _to_disk(file)
        layout = {name: {"dtype": array.dtype.str, "shape": list(array.shape)} for name, array in columns.items()}
        with (temporary / META).open("w", encoding="utf-8") as file:
            json.dump({**meta, "columns": layout}, file, indent=1)
            _to_disk(file)
        _note(temporary, _stamps(temporary))
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        folder_to_disk(folder.parent)
    finally:
        remove_leftovers(folder)


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def is_right(folder: Path, check: Callable[[], bool]) -> bool:
    """Whether the content of a folder is right, by `check`, which is asked once for all files as they are.

    Their sizes and times are noted then, where something can be written; as long as these stay, nothing is read.
    """
    stamps = _stamps(folder)
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if json.loads((folder / CHECKED).read_bytes()) == stamps:
            return True
    if not check():
        return False
    with contextlib.suppress(WriteError):
        _note(folder, stamps)
    return True


def _note(folder: Path, stamps: dict[str, list[int]]) -> None:
    write_atomically(folder / CHECKED, json.dumps(stamps, indent=1).encode())


def _stamps(folder: Path) -> dict[str, list[int]]:
    found = {path.name: path.stat() for path in (folder / META, *folder.glob("*.npy"))}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in sorted(found.items())}


def read_columns(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Map the columns of a folder and read its meta.json. Raises UserError if it is damaged, or closed to this user."""
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
    except PermissionError as error:
        raise cannot_read(error, error.filename) from None
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
        # what others have open cannot be removed everywhere (NFS): the next writer tries again
        shutil.rmtree(path, ignore_errors=True)
