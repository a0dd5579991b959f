"""Pools too large for one machine's memory: shards give core-sets, from which the last step selects.

Each shard is selected from by itself, `CORE` times as many as are wanted, and aware of what is labelled; the last step
selects from all core-sets together. For MaxDist that keeps a guarantee: the largest distance of a pool from what two
rounds of the greedy algorithm choose is at most four times the best possible, where one round over the whole pool gives
two (Gonzalez, Theor. Comput. Sci. 1985, 38, 293; Malkomes et al., NIPS 2015). Of the other selections nothing is
guaranteed.
"""

import json
import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int

from bench.data.columns import META, write_columns
from bench.errors import NothingLeftError, UserError
from bench.pools.frames import Frames, digest

log = logging.getLogger(__name__)
CORE = 20
"""Core-sets hold so many times the structures wanted, together at least: a share of a shard's own size at most."""


def bounds(n: int, shards: int) -> list[tuple[int, int]]:
    """Where each shard begins and ends: parts of nearly one size, in the order of the pool. Raises UserError."""
    if not 1 <= shards <= n:
        raise UserError(f"shards = {shards}, but the pool holds {n} structures: give at most that many")
    return list(pairwise(np.linspace(0, n, shards + 1).astype(np.int64).tolist()))


def write_shards(frames: Frames, shards: int, folder: Path) -> list[Path]:
    """Write each shard as arrays that are mapped, unless it is there already; returns their folders.

    The caller holds a lock.
    """
    found = []
    for number, (start, stop) in enumerate(bounds(len(frames), shards)):
        part = frames.data.part(np.arange(start, stop))
        place = folder / f"shard_{number}"
        checksum = digest(part)
        if not _holds(place, checksum):
            columns = {
                "atomic_numbers": part.atomic_numbers,
                "positions": part.positions,
                "offsets": part.offsets,
            }
            if part.periodic.any():
                columns |= {"cells": part.cells, "periodic": part.periodic}
            write_columns(place, columns, {"checksum": checksum, "structures": stop - start})
        found.append(place)
    return found


def _holds(place: Path, checksum: str) -> bool:
    try:
        return bool(json.loads((place / META).read_bytes())["checksum"] == checksum)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def core_size(n: int, frames: int, shards: int) -> int:
    """How many structures each shard gives."""
    return min(CORE * n, -(-frames // shards))


def core_rows(records: Sequence[Path], frames: int) -> Int[np.ndarray, " core"]:
    """The rows of the pool that the shards chose, ascending.

    Raises UserError for a record that cannot be read, or if there are none.
    """
    found: list[int] = []
    for path, (start, _) in zip(records, bounds(frames, len(records)), strict=True):
        try:
            found += [start + int(pick["pool_index"]) for pick in json.loads(path.read_bytes())["picks"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no record of a shard ({type(error).__name__}): remove it, select again"
            ) from None
    if not found:
        raise NothingLeftError(f"none of {frames} structures of the pool can be chosen, whatever the shard")
    return np.array(sorted(found), dtype=np.int64)
