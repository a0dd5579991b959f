"""What is killed at a random file operation has lost nothing: python -m tests.campaigns.kills [--count N] [--seed N].

SIGKILL before the n-th time that files are opened for writing, renamed, linked, made or removed: every such moment of a
merge, of the preparation of a dataset with its neighbour lists, and of a migration can be met. After it all that was
there is there, and the same command, repeated, ends as undisturbed.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from published import write_md17

from bench.config.sweep import expand
from bench.data.__main__ import main as data
from bench.data.columns import CHECKED
from bench.data.neighbours import find_neighbours
from bench.data.store import open_store
from bench.merge import merge
from bench.runs.record import CHECKSUM, end_file, read_record, record_paths
from tests.analysis.generated import generate

EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR


class _Counter:
    """An audit hook, which cannot be removed: silent until it is told when to kill."""

    def __init__(self) -> None:
        self.calls, self.deadly, self.below = 0, 0, ""

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.below or not (event in EVENTS or (event == "open" and self._writes(arguments))):
            return
        if str(arguments[0]).startswith(self.below):
            self.calls += 1
            if self.calls == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def _writes(arguments: tuple) -> bool:
        return isinstance(arguments[2], int) and bool(arguments[2] & WRITING)


def killed_at(deadly: int, below: Path, work: Callable[[], object]) -> int:
    """Do some work in a process of its own that is killed at a file operation; how many it had made, 0 if killed."""
    hears, tells = os.pipe()
    process = os.fork()
    if process == 0:
        with contextlib.suppress(BaseException):
            counter = _Counter()
            sys.addaudithook(counter)
            sys.stderr = sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
            counter.below, counter.deadly = str(below), deadly
            work()
            os.write(tells, str(counter.calls).encode())
        os._exit(0)
    os.close(tells)
    with os.fdopen(hears) as file:
        told = file.read()
    os.waitpid(process, 0)
    return int(told or 0)


def contents(folder: Path) -> dict[Path, bytes]:
    """All files below a folder but locks, and when something was prepared or checked."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: _lasting(path) for name, path in files.items() if path.suffix != ".lock" and path.name != CHECKED}


def _lasting(path: Path) -> bytes:
    if path.name != "meta.json":
        return path.read_bytes()
    return json.dumps(json.loads(path.read_bytes()) | {"prepared": ""}).encode()


def differences(found: dict[Path, bytes], expected: dict[Path, bytes]) -> list[str]:
    """The names of files that are not as expected."""
    return [str(name) for name in {**found, **expected} if found.get(name) != expected.get(name)]


class Merging:
    """Fifteen runs, of which the target has seven in full and eight to the second step."""

    def __init__(self, folder: Path) -> None:
        self.source, self.before = folder / "source", folder / "before"
        generate(self.source, expand(["sweep=demo", "seed=0,1,2,3,4"])[:15])
        for run in (self.source / "runs").iterdir():
            (run / "model.pt").write_bytes(run.name.encode() * 1000)
        merge(self.source, self.before)
        for path in record_paths(self.before)[::2]:
            record = json.loads(path.read_bytes())
            record |= {"status": "running", "steps": record["steps"][:2]}
            del record[CHECKSUM]
            path.write_text(json.dumps(record))
            (path.parent / end_file(record["finals"][-1])).unlink(missing_ok=True)

    def work(self, target: Path) -> None:
        """One merge."""
        merge(self.source, target)

    def survives(self, target: Path) -> None:
        """Every record is there, with no step less, and its arrays can be read."""
        for path in record_paths(self.before):
            found = read_record(target / path.relative_to(self.before))
            assert len(found.steps) >= len(read_record(path).steps)
        for path in target.rglob("*.npz"):
            np.load(path).close()


class Preparing:
    """A dataset that is prepared, in place of an older one, and its neighbour lists."""

    def __init__(self, folder: Path) -> None:
        self.before = folder / "before"
        self.older, self.newer = (write_md17(folder / f"{n}.npz", n) for n in (12, 20))
        self._prepare(self.older, self.before)

    def _prepare(self, source: Path, target: Path) -> None:
        os.environ["BMDAL_BENCH_DATA"] = str(target)
        assert data(["prepare", "md17_aspirin", "--from", str(source)]) == 0
        find_neighbours(open_store("md17_aspirin", {1: -839.896, 6: -839.896, 8: -839.896})[0], 4.0)

    def work(self, target: Path) -> None:
        """One preparation."""
        self._prepare(self.newer, target)

    def survives(self, target: Path) -> None:
        """The older or the newer one is there as a whole, unless killed between two renames: then it is put back."""
        os.environ["BMDAL_BENCH_DATA"] = str(target)
        if (target / "md17_aspirin").exists():
            assert data(["verify", "md17_aspirin"]) == 0
        else:
            assert (target / ".md17_aspirin.old.tmp").exists()


KINDS: dict[str, Callable[[Path], Merging | Preparing]] = {"merge": Merging, "prepare": Preparing}


def campaign(folder: Path, what: str, count: int, seed: int) -> Counter[str]:
    """Kill at `count` different points, or at all that there are; returns how many."""
    folder.mkdir()
    kind = KINDS[what](folder)

    def attempt(name: str, deadly: int) -> tuple[Path, int]:
        target = folder / name
        shutil.copytree(kind.before, target)
        return target, killed_at(deadly, target, lambda: kind.work(target))

    whole, operations = attempt("whole", 0)
    expected = contents(whole)
    points = random.Random(seed).sample(range(1, operations + 1), min(count, operations))
    for point in points:
        target, left = attempt(f"killed_{point}", point)
        assert left == 0, f"not killed at {point} of {operations}"
        kind.survives(target)
        assert killed_at(0, target, lambda target=target: kind.work(target)) > 0
        assert not (wrong := differences(contents(target), expected)), (point, wrong)
        shutil.rmtree(target)
    return Counter({f"{what} killed at {len(points)} of {operations} file operations": len(points)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=KINDS)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        print(campaign(Path(made) / "kills", asked.what, asked.count, asked.seed), flush=True)
