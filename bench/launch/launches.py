"""The launches of a results folder: which are at work, on which runs; one launch at a time; their end.

Nothing is asked of a launch but its folder's name and the names of its runs, so that a damaged file, or one of another
version of the code, is in nobody's way.
"""

import contextlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UserError, counted, tell
from bench.launch import ending, pool, slurm
from bench.launch.queue import QUEUE
from bench.runs.locks import locked
from bench.runs.record import listed, make_folder, may_be_there

LOCK = "launch.lock"
MOST_REASONS = 5
_silent: set[Path] = set()
"""Results of which SLURM did not say who is at work on them, when this process asked."""
ROOM = 4_000_000
"""Bytes: the files of a run or two."""


@dataclass(frozen=True)
class Launch:
    """A launch that has workers, or had when last looked.

    `runs` are the names and ends of its runs, each with how often it had failed before; None where that cannot be read.
    """

    folder: Path
    workers: int
    runs: dict[tuple[str, int | None], int] | None

    def is_on(self, names: Collection[str]) -> bool:
        """Whether it has one of these runs, whatever its end, or one cannot know."""
        return self.runs is None or any(name in names for name, _ in self.runs)


def at_work(root: Path, names: Collection[str], *, slurm_must_answer: bool = True) -> list[Launch]:
    """The launches in `root` on any of these runs that have workers, and those of which one cannot know.

    Raises UserError where SLURM does not say who is at work, or goes on without it, and says so once.
    """
    found = (Launch(folder, count, runs_of(folder)) for folder, count in _with_workers(root, slurm_must_answer))
    return [launch for launch in found if launch.is_on(names)]


def _with_workers(root: Path, slurm_must_answer: bool) -> Iterator[tuple[Path, int]]:
    folders = [path for path in listed(root) if path.is_dir()]
    queued = _queued(folders, slurm_must_answer)
    for folder in folders:
        count = slurm.count(queued, folder) + pool.workers(folder)
        if count:
            yield folder, count


def _is_on_slurm(folder: Path) -> bool:
    """Whether a launch has workers of SLURM; one that is closed to this user is another's."""
    try:
        return (folder / "slurm").is_dir()
    except PermissionError:
        return False


def _queued(folders: Sequence[Path], slurm_must_answer: bool) -> Counter[str]:
    if not any(map(_is_on_slurm, folders)) or folders[0].parent in _silent:
        return Counter()
    try:
        return slurm.alive()
    except UserError as error:
        if slurm_must_answer:
            raise
        print(f"note: {error}; whether workers of SLURM are at work on these results is not known", file=sys.stderr)
        _silent.add(folders[0].parent)
        return Counter()


def runs_of(folder: Path) -> dict[tuple[str, int | None], int] | None:
    """The names and ends of the runs of a launch of any version of the code, and how often each had failed before.

    An end is None, for any, where the queue does not say it.
    """
    try:
        entries = json.loads((folder / QUEUE).read_bytes())["entries"]
        return {
            (Path(entry["folder"]).name, entry.get("run", {}).get("scenario", {}).get("final")): int(
                entry.get("failures_before", 0)
            )
            for entry in entries
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def tell_of_unknown(launches: Sequence[Launch]) -> None:
    """Name the launches of which nobody can say what they do."""
    for launch in launches:
        if launch.runs is None:
            print(
                f"{counted(launch.workers, 'worker')} of {launch.folder} may be on these runs, too:"
                f" its {QUEUE} cannot be read; --cancel {launch.folder} stops them",
                file=sys.stderr,
            )


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Meanwhile nobody else launches into these results. Raises WriteError."""
    make_folder(root)
    with locked(root / LOCK, wait=True, at_work="launches into these results"):
        yield


def last(root: Path, names: Collection[str]) -> list[Path]:
    """The last launch on any of these runs, if there is one."""
    for folder in reversed(listed(root)):
        if any(name in names for name, _ in runs_of(folder) or {}):
            return [folder]
    return []


def tell_why(root: Path, folders: Iterable[Path]) -> None:
    """Say why workers of launches ended before all was done, as far as their logs or the disk tell."""
    reasons = dict.fromkeys(reason for folder in folders for reason in (*pool.errors(folder), *slurm.errors(folder)))
    with contextlib.suppress(OSError):
        if not reasons and shutil.disk_usage(root).free < ROOM:
            reasons[f"there is hardly any room left in {root.parent}: make room and launch again"] = None
    for reason in [*reasons][-MOST_REASONS:]:
        tell(reason)


def named(words: Sequence[str]) -> list[Path]:
    """The launches that a command line names, by folder or by name in results/launch; none where it names a sweep.

    Raises UserError.
    """
    if any(word.startswith("~") or "=" in word for word in words):
        return []
    found = []
    for word in words:
        folders = [path for path in (Path(word), Path("results/launch") / word) if _is_launch(path)]
        if not folders:
            raise UserError(f"there is no launch {word}: give its folder, results/launch/…, or the words of its sweep")
        found.append(folders[0].resolve())
    return found


def _is_launch(folder: Path) -> bool:
    return any(may_be_there(folder / name) for name in (QUEUE, pool.PLACES, "slurm"))


def cancel(folders: Sequence[Path]) -> int:
    """Stop the workers of launches, on this machine and in SLURM; says so. Returns the exit status."""
    queued = slurm.alive() if any(map(_is_on_slurm, folders)) else Counter()
    stopped, status = 0, 0
    for folder in folders:
        workers = pool.workers(folder) or len(ending.processes(folder))
        try:
            elements = slurm.count(queued, folder)
            if elements:
                slurm.cancel(folder)
            if workers:
                ending.cancel(folder)
            stopped += workers + elements
        except UserError as error:
            tell(error)
            status = 1
    print(f"stopped {counted(stopped, 'worker')}")
    return status


def orphaned(root: Path, names: Collection[str]) -> list[Path]:
    """Launches on any of these runs whose pool is dead while workers of theirs live on, on this machine."""
    folders = [path for path in listed(root) if path.is_dir()]
    lost = [folder for folder in folders if not pool.is_running(folder) and ending.processes(folder)]
    return [folder for folder in lost if any(name in names for name, _ in runs_of(folder) or {})]
