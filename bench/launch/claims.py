"""Which cores and GPUs of this machine the pools of this user hold, whatever results they work for.

A claim is a file in a folder of this machine, locked by a pool and its workers as long as one of them lives.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from bench.errors import UserError, cannot_write
from bench.launch.cluster import Place
from bench.runs.system import fcntl

VARIABLE = "BMDAL_BENCH_POOLS"
"""Environment variable: the folder of the claims, where /tmp is not one for all processes of a machine."""
SECONDS_FOR_ORPHANS = 20.0
"""Workers whose pool is dead save and end: so long a claim of theirs is waited for."""


@dataclass(frozen=True)
class Claim:
    """The folder of a launch, and where its workers are."""

    folder: Path
    places: list[Place]


class TakenError(UserError):
    """What is asked for is held by other pools."""


def claim(launch: Path, choose: Callable[[list[Claim]], list[Place]], is_orphaned: Callable[[Path], bool]) -> int:
    """Hold the places that `choose` takes beside the claims of others. Returns the descriptor that keeps them.

    Raises TakenError from `choose`; workers of a pool that is dead are given time to end.
    """
    folder = _folder()
    until = time.monotonic() + SECONDS_FOR_ORPHANS
    while True:
        with _alone(folder):
            others = held(folder)
            try:
                return _hold(folder, Claim(launch, choose(others)))
            except TakenError:
                if time.monotonic() > until or not any(is_orphaned(other.folder) for other in others):
                    raise
        time.sleep(0.2)


def held(folder: Path) -> list[Claim]:
    """The claims of pools that have a living process. Others are left alone, for one may just be made."""
    found = []
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(TypeAdapter(Claim).validate_json(file.read()))
    return found


def _folder() -> Path:
    """The folder of this user's claims. Raises UserError if it is somebody else's or cannot be made."""
    folder = Path(os.environ.get(VARIABLE) or f"/tmp/bmdal-bench-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise UserError(f"{folder} is not yours: set {VARIABLE} to a folder of this machine that is")
    except OSError as error:
        raise UserError(
            f"cannot use {folder} ({error.strerror}): set {VARIABLE} to a folder of yours on this machine"
        ) from None
    return folder


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Meanwhile no other claim is made."""
    try:
        file = (folder / "claims.lock").open("ab")
    except OSError as error:
        raise cannot_write(error, f"cannot write to {folder} ({error.strerror}): make it writable") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"cannot lock {file.name} ({error.strerror}): set {VARIABLE} to a folder on a disk of this machine"
            ) from None
        yield


def _hold(folder: Path, own: Claim) -> int:
    _remove_ended(folder)
    path = folder / f"{own.folder.name}.json"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.write(descriptor, TypeAdapter(Claim).dump_json(own))
    except OSError as error:
        raise cannot_write(error, f"cannot write {path} ({error.strerror}): make room") from None
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _remove_ended(folder: Path) -> None:
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            path.unlink()
