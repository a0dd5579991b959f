"""How the workers of a launch on this machine are ended, whatever state they and their files are in."""

import contextlib
import os
import signal
import time
from pathlib import Path

from bench.errors import UserError
from bench.launch.pool import PID

MODULES = ("bench.launch.pool", "bench.launch.worker")
SECONDS_TO_SAVE = 120.0
SECONDS_TO_DIE = 10.0
"""How long runs that are cancelled may take to save and stop, and what is killed to be gone."""
POLL = 0.2


def cancel(folder: Path) -> None:
    """Have the pool of a launch stop: runs in progress are saved. Returns when it and all its workers are gone.

    Whoever is stopped (SIGSTOP) is woken; whoever does not react is killed in the end. Raises UserError that says what
    is left.
    """
    groups = set()
    for process in processes(folder):
        with contextlib.suppress(ProcessLookupError):
            groups.add(os.getpgid(process))
    groups.discard(os.getpgid(0))
    if not groups:
        raise UserError(f"the workers of {folder} are on {_owner(folder)[0]}: use --cancel there")
    _send(groups, signal.SIGTERM)
    _send(groups, signal.SIGCONT)
    if _are_gone(folder, SECONDS_TO_SAVE):
        return
    print(f"not all have stopped within {SECONDS_TO_SAVE:.0f} s: what is left is killed (SIGKILL)", flush=True)
    _send(groups, signal.SIGKILL)
    if not _are_gone(folder, SECONDS_TO_DIE):
        left = ", ".join(map(str, processes(folder)))
        raise UserError(f"of {folder} these processes are left, which even SIGKILL does not end: {left}")


def processes(folder: Path) -> list[int]:
    """The pool of a launch, its workers and runs on this machine, by their command lines."""
    if not Path("/proc/self").exists():  # not Linux
        return _pool_of(folder)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            ours = len(words) > 3 and words[1] == "-m" and words[2] in MODULES and Path(words[3]).samefile(folder)
            if ours and (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in ("Z", "X"):
                found.append(int(entry.name))
    return sorted(found)


def _pool_of(folder: Path) -> list[int]:
    number = _owner(folder)[1]
    if number is None:
        return []
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return []
    except PermissionError:  # another user's
        pass
    return [number]


def _owner(folder: Path) -> tuple[str, int | None]:
    """The host and process number of the pool of a launch, as far as its file says it."""
    try:
        host, number = (folder / PID).read_text(encoding="utf-8").split()
        return host, int(number)
    except (OSError, ValueError):
        return "another machine", None


def _send(groups: set[int], number: signal.Signals) -> None:
    for group in groups:
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise UserError(f"process {group} is another user's: ask for --cancel there") from None


def _are_gone(folder: Path, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while processes(folder):
        if time.monotonic() > until:
            return False
        time.sleep(POLL)
    return True
