"""Kernel values and features of a large pool, block by block, in a file that a killed process goes on with."""

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int

from bench.errors import cannot_write
from bench.kernels.base import Embedding, PreparedKernel
from bench.runs.locks import locked
from bench.runs.progress import progress
from bench.runs.record import make_folder, write_atomically
from bench.runs.stopping import raise_if_asked
from bench.selection.base import check_embedding

log = logging.getLogger(__name__)
BLOCK = 65536
"""Structures of a block; a pool of one block is kept in memory, in double precision."""
FEATURES, DIAGONAL, DONE = "features.npy", "diagonal.npy", "done.json"
SINGLE, DOUBLE = np.dtype("<f4"), np.dtype("<f8")


def embed(
    prepared: PreparedKernel, rows: Int[np.ndarray, " pool"], kernel: str, folder: Path, labelled: int | None = None
) -> Embedding:
    """Evaluate a kernel on some structures, of so many labelled.

    Of more than a block the features go to `folder` in single precision as they come. Raises UserError where values are
    not finite, WriteError where there is no room, Stopped after a signal: what is done by then is kept. Another process
    that wants the same is waited for.
    """
    if len(rows) <= BLOCK:
        embedding = prepared.embed(rows)
        check_embedding(embedding, rows, kernel, labelled)
        return embedding
    with _alone(folder):
        return _embed_in_blocks(prepared, rows, kernel, folder, labelled)


def remove(folder: Path) -> None:
    """Remove the features of a pool, which have served, once no process is at them."""
    if folder.is_dir():
        with _alone(folder):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Beside the folder stands its lock, which stays: without it others would wait for a file that is gone."""
    make_folder(folder.parent)
    with locked(folder.with_suffix(".lock"), wait=True, at_work="computes the features of this pool"):
        yield


def _embed_in_blocks(
    prepared: PreparedKernel, rows: Int[np.ndarray, " pool"], kernel: str, folder: Path, labelled: int | None
) -> Embedding:
    starts = range(0, len(rows), BLOCK)
    make_folder(folder)
    done = _done(folder, len(rows))
    training = prepared.embed(rows[:1]).training

    def keep(number: int, start: int, part: Embedding) -> None:
        check_embedding(part, rows[start : start + BLOCK], kernel, labelled)
        _write(folder / DIAGONAL, DOUBLE, len(rows), start, part.diagonal)
        if part.pool is not None:
            _write(folder / FEATURES, SINGLE, len(rows), start, part.pool)
        features = None if part.pool is None else part.pool.shape[1]
        write_atomically(folder / DONE, json.dumps({"blocks": number + 1, "features": features}).encode())

    with ThreadPoolExecutor(1) as beside:  # while the next block is computed
        kept: Future[None] | None = None
        for number, start in enumerate(progress(starts, "features of the pool", unit="block")):
            if number < done:
                continue
            part = prepared.embed(rows[start : start + BLOCK])
            if kept is not None:
                kept.result()
            kept = beside.submit(keep, number, start, part)
            del part
            raise_if_asked()
        if kept is not None:
            kept.result()
    return Embedding(torch.from_numpy(np.load(folder / DIAGONAL)), _in_memory(folder / FEATURES), training)


def _done(folder: Path, n: int) -> int:
    """How many blocks a process before this one has done; none if their files are not as they were left."""
    try:
        said = json.loads((folder / DONE).read_bytes())
        done, features = int(said["blocks"]), said["features"]
        whole = _there(folder / DIAGONAL, DOUBLE, (n,)) and (
            features is None or _there(folder / FEATURES, SINGLE, (n, int(features)))
        )
    except (OSError, ValueError, TypeError, KeyError):
        return 0
    if not whole:
        return 0
    log.info("features of the pool: %d blocks are there already", done)
    return done


def _write(path: Path, dtype: np.dtype, n: int, start: int, values: torch.Tensor) -> None:
    """Put the values of a block into their file of `n` rows; to the disk before this returns."""
    mapped = _opened(path, dtype, (n, *values.shape[1:]))
    mapped[start : start + len(values)] = values.cpu().numpy()
    mapped.flush()


def _opened(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """The file for so many values, made if it is not there as it should be, with its whole room on the disk.

    Writing to a map for which there is no room would end the process. Raises WriteError.
    """
    if _there(path, dtype, shape):
        return np.lib.format.open_memmap(path, mode="r+")
    try:
        made = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with path.open("r+b") as file:
            _reserve(file.fileno(), path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        message = f"cannot write {path} ({error.strerror}): make room, or name another folder"
        raise cannot_write(error, message) from None
    return made


def _reserve(descriptor: int, size: int) -> None:
    """Have the system set room aside for a file, where it can."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _there(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> bool:
    """Whether a file holds so many values."""
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return bool(found.dtype == dtype and found.shape == shape)


def _in_memory(path: Path) -> torch.Tensor | None:
    """The features in double precision, as selections compute; a block is mapped at a time: that is memory, too."""
    if not path.exists():
        return None
    features = torch.empty(np.load(path, mmap_mode="r").shape, dtype=torch.float64)
    for start in range(0, len(features), BLOCK):
        features[start : start + BLOCK] = torch.from_numpy(np.load(path, mmap_mode="c")[start : start + BLOCK])
    return features


def part_of(embedding: Embedding, chosen: Bool[np.ndarray, " pool"]) -> Embedding:
    """The same for some structures; nothing is copied where these are all."""
    if chosen.all():
        return embedding
    rows = torch.from_numpy(np.flatnonzero(chosen)).to(embedding.diagonal.device)
    pool = None if embedding.pool is None else embedding.pool[rows]
    return replace(embedding, diagonal=embedding.diagonal[rows], pool=pool)
