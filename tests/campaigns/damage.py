"""Damaged files of every kind that the project writes: python -m tests.campaigns.damage [--count N] [--seed N].

A file is cut, some bits are flipped, or a part is zeroed. Then every command that may meet it is run: none ends in
in a traceback, dies or hangs; no other file is altered, no other run's numbers are; and a run that is done anew, after
the remedy that was told, has the numbers of the undisturbed one.
"""

import argparse
import fnmatch
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from conftest import PROJECT, subprocess_environment
from published import aspirin, write_md17
from small_sweeps import SIZES, numbers

import analysis.build
import analysis.plan
import bench.data.__main__
import bench.launch.__main__
import bench.merge
import bench.run
from bench.calculator import PotentialCalculator
from bench.commands.frame import framed
from bench.errors import UserError
from bench.runs.record import RECORD

SWEEP = [
    *(word.replace("validation=4", "validation=8") for word in SIZES if not word.startswith("model.n_radial")),
    *("dataset=md17_aspirin", "algorithm=maxdiag_rnd,lcmd_feat_ll", "scenario.final=6", "training.epochs=4"),
    *("model.n_gaussians=4", "model.n_radial=2", "scenario.r_max=3.0", "threads=1", "cluster.workers=2"),
]
DONE, CUT_OFF, BEGUN = 0, 2, 3
"""Seeds: two runs of 0 and 1 are done, one of 2 was killed in its second training, one of 3 in its first."""
SECONDS = 180
KINDS = {
    "record": "results/runs/*/record.json",
    "split": "results/runs/*/split.npz",
    "errors at an end": "results/runs/*/end_*.npz",
    "model": "results/runs/*/model.pt",
    "training": "results/runs/*/training.pt",
    "initial model": "results/initial/*.pt",
    "initial training": "results/initial/*.training",
    "lock": "results/*.lock",
    "queue": "results/launch/*/queue.json",
    "launch": "results/launch/*/p*",
    "column": "data/md17_aspirin/*.npy",
    "description of a store": "data/md17_aspirin/meta.json",
    "check of a store": "data/md17_aspirin/*checked.json",
    "neighbour list": "data/md17_aspirin/neighbours_*/*.npy",
    "description of a neighbour list": "data/md17_aspirin/neighbours_*/*.json",
    "table": "results/analysis/data/*.parquet",
    "claim": "pools/*.json",
}


def make(folder: Path) -> None:
    """A data folder, results and an analysis with every kind of file."""
    os.environ |= {"BMDAL_BENCH_DATA": str(folder / "data"), "BMDAL_BENCH_POOLS": str(folder / "pools")}
    (folder / "data").mkdir(parents=True)
    assert bench.data.__main__.main(["prepare", "md17_aspirin", "--from", str(write_md17(folder / "a.npz", 60))]) == 0
    results = f"results={folder / 'results'}"
    _command("bench.launch", "sweep=demo", *SWEEP, "seed=0,1", results, "--wait")
    for seed, save in ((CUT_OFF, 7), (BEGUN, 2)):
        own = [word for word in SWEEP if not word.startswith(("cluster", "algorithm"))]
        killed = [
            str(PROJECT / "tests/kill_at.py"),
            "SIGKILL",
            "bench.training.checkpoint",
            "Checkpoint.save",
            str(save),
        ]
        run = ["algorithm=maxdiag_rnd", f"seed={seed}", "checkpoint_seconds=0", results]
        done = subprocess.run([sys.executable, *killed, *own, *run], cwd=PROJECT, env=_environment(), check=False)
        assert done.returncode == -signal.SIGKILL
    _command("analysis.build", "--results", str(folder / "results"), "--sweep", "demo", "--workers", "1")
    missing = [kind for kind, pattern in KINDS.items() if not _files(folder, pattern)]
    print(f"kinds of files that are not there: {missing}", flush=True)


def _environment() -> dict[str, str]:
    return {**subprocess_environment(), **{key: os.environ[key] for key in os.environ if key.startswith("BMDAL")}}


def _command(module: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=PROJECT, env=_environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def _files(folder: Path, pattern: str) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and fnmatch.fnmatch(str(path.relative_to(folder)), pattern)
    ]


def damage(path: Path, chance: random.Random) -> str:
    """Cut a file, flip bits or write zeros at random places; what was done."""
    content = bytearray(path.read_bytes())
    size = len(content)
    how = chance.choice(["cut", "flipped", "zeroed"]) if content else "grown"
    at = chance.randrange(max(1, len(content)))
    if how == "cut":
        del content[at:]
    elif how == "flipped":
        for _ in range(chance.choice([1, 1, 8])):
            place = chance.randrange(len(content))
            content[place] ^= 1 << chance.randrange(8)
    elif how == "zeroed":
        until = min(len(content), at + chance.choice([16, 512, 4096]))
        content[at:until] = bytes(until - at)
    else:
        content += bytes(chance.randrange(256) for _ in range(64))
    path.write_bytes(content)
    return f"{how} at {at} of {size}"


class Told:
    """How a command ended, and what it said."""

    def __init__(self, status: int, output: str) -> None:
        self.status, self.output = status, output


def attempt(work: Callable[[], object]) -> Told:
    """Do some work in a process of its own. Raises AssertionError if it ends in a traceback, dies or hangs."""
    with tempfile.TemporaryFile() as output:
        process = os.fork()
        if process == 0:
            os.setsid()
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            code = 3
            try:
                framed(work)()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        until = time.monotonic() + SECONDS
        while (ended := os.waitpid(process, os.WNOHANG))[0] == 0:
            if time.monotonic() > until:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
                raise AssertionError(f"hangs: {_read(output)}")
            time.sleep(0.01)
        told = Told(os.waitstatus_to_exitcode(ended[1]), _read(output))
    assert told.status in (0, 1, 2) and "Traceback" not in told.output, f"status {told.status}: {told.output[-3000:]}"
    return told


def _read(output) -> str:
    output.seek(0)
    return output.read().decode(errors="replace")


def main_of(module, *arguments: str) -> Callable[[], object]:
    """The main of a command."""

    def work() -> None:
        sys.argv = [module.__name__, *arguments]
        sys.exit(module.main())

    return work


class Case:
    """One damaged file: what is run, and what must be as before."""

    def __init__(self, folder: Path, pristine: "Pristine", path: Path) -> None:
        self.folder, self.pristine, self.path = folder, pristine, path
        self.results = folder / "results"
        relative = path.relative_to(folder).parts
        self.run = relative[2] if relative[:2] == ("results", "runs") else None
        self.outputs: list[str] = []

    def commands(self) -> None:
        """What meets such a file: first what only looks, then what may go on with it."""
        results = f"results={self.results}"
        sweep = ["sweep=demo", *SWEEP, "seed=0,1,2,3", results]
        in_data, in_run = self.path.is_relative_to(self.folder / "data"), self.run is not None
        self._do(main_of(bench.launch.__main__, *sweep, "--dry-run"))
        if in_data or self.path.suffix == ".json":
            self._do(main_of(analysis.plan, *sweep, "--json"))
        if in_data:
            self._do(main_of(bench.data.__main__, "verify", "md17_aspirin"))
        if in_run:
            self._do(main_of(bench.merge, str(self.results), str(self.folder / "merged")))
            self._do(self._calculate)
            self._tables()
        if "analysis" in self.path.parts:
            self._do(main_of(analysis.build, "--data", str(self.path.parent), "--output", str(self.folder / "again")))
        self._unaltered()

    def _do(self, work: Callable[[], object]) -> Told:
        told = attempt(work)
        self.outputs.append(told.output)
        return told

    def _calculate(self) -> None:
        folder = self.path.parent if self.path.name == "model.pt" else self.results / "runs" / self.pristine.done
        z, positions, _, _ = aspirin(1)
        atoms = Atoms(z, positions[0])
        try:
            atoms.calc = PotentialCalculator(folder / "model.pt")
        except UserError as error:
            print(f"error: {error}")
            return
        energy = atoms.get_potential_energy()
        assert abs(energy - self.pristine.energies[folder.name]) < 1e-6, "the calculator lies"

    def _tables(self) -> None:
        """The numbers of the other runs in the analysis."""

        def work() -> None:
            found = tables_of(self.results)
            for run, expected in self.pristine.tables.items():
                own = run == self.run or self.path.is_relative_to(self.folder / "data")
                if not own and found.get(run) != expected:
                    print(f"Traceback: other numbers of {run}", found.get(run), expected, sep="\n")
                elif found.get(run) not in (None, expected):
                    print(f"LIES {run}")

        self._do(work)

    def _unaltered(self) -> None:
        for name, content in self.pristine.files.items():
            path = self.folder / name
            if path != self.path and path.suffix != ".lock" and "pools" not in path.parts:
                assert path.exists() and path.read_bytes() == content, f"{name} was altered"

    def go_on(self) -> None:
        """Do the runs that this file is part of, or those that are not done; where told to remove it, do so."""
        shared = self.path.parent.name == "initial" or "data" in self.path.relative_to(self.folder).parts[:1]
        others = [self.pristine.cut_off, self.pristine.begun][0 if shared else 1 :]
        asked = [self.run] if self.run in self.pristine.words else others
        for run in asked:
            words = [*self.pristine.words[run], f"results={self.results}"]
            told = self._do(main_of(bench.run, *words))
            for _ in range(2):
                remedy = "is damaged (" in told.output and "move that folder away" in told.output
                if told.status == 0 and not remedy:
                    break
                # what cannot be read is named, and what to do
                assert str(self.path) in told.output or str(self.path.parent) in told.output, told.output
                self._remedy(told.output)
                told = self._do(main_of(bench.run, *words))
            assert told.status == 0, told.output
            found, expected = numbers(self.results / "runs" / run), self.pristine.numbers[run]
            assert found == expected, f"other numbers of {run}, which went on"

    def _remedy(self, told: str) -> None:
        if "prepare" in told or "make it again" in told:
            shutil.rmtree(self.folder / "data")
            shutil.copytree(self.pristine.folder / "data", self.folder / "data")
        elif self.run and ("move that folder away" in told or "move it away" in told):
            shutil.rmtree(self.path.parent)
        else:
            self.path.unlink()


def tables_of(results: Path) -> dict[str, str]:
    """What the analysis takes from each run, as text."""
    tables = analysis.build.collect(results, "demo")
    found: dict[str, list[str]] = {}
    for table in (tables.steps, tables.calibration):
        for row in table.drop(columns=["state", "study"], errors="ignore").to_dict("records"):
            # a column that no other run fills is not there, or of another type
            said = {key: repr(float(v)) if isinstance(v, int | float) else str(v) for key, v in row.items()}
            filled = {key: value for key, value in said.items() if value not in ("nan", "None")}
            found.setdefault(row["run_id"], []).append(json.dumps(filled, sort_keys=True))
    return {run: "\n".join(rows) for run, rows in found.items()}


def _energies(folder: Path) -> dict[str, float]:
    """What the model of each run says of one structure; in a process of its own, for threads and forks do not mix."""
    z, positions, _, _ = aspirin(1)
    models = {path.parent.name: PotentialCalculator(path) for path in folder.glob("results/runs/*/model.pt")}
    return {run: Atoms(z, positions[0], calculator=model).get_potential_energy() for run, model in models.items()}


class Pristine:
    """All files as they were, and the numbers of the runs once they are done."""

    def __init__(self, folder: Path, made: Path) -> None:
        self.folder = folder
        self.files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.words: dict[str, list[str]] = {}
        own = [word for word in SWEEP if not word.startswith(("cluster", "algorithm"))]
        records = {path.parent.name: json.loads(path.read_bytes()) for path in folder.glob(f"results/runs/*/{RECORD}")}
        for run, record in records.items():
            identity = record["identity"]
            algorithm = "maxdiag_rnd" if identity["kernel"]["name"] == "RND" else "lcmd_feat_ll"
            self.words[run] = [*own, f"algorithm={algorithm}", f"seed={identity['seed']}"]
        seeds = {record["identity"]["seed"]: run for run, record in records.items()}
        self.done, self.cut_off, self.begun = (seeds[seed] for seed in (DONE, CUT_OFF, BEGUN))
        self.tables = tables_of(folder / "results")
        told = attempt(lambda: print(json.dumps(_energies(folder))))
        self.energies = json.loads(told.output.splitlines()[-1])
        shutil.copytree(folder, made)
        os.environ["BMDAL_BENCH_DATA"] = str(made / "data")
        for run in (self.cut_off, self.begun):
            told = attempt(main_of(bench.run, *self.words[run], f"results={made / 'results'}"))
            assert told.status == 0, told.output
        self.numbers = {run: numbers(made / "results" / "runs" / run) for run in records}


def campaign(folder: Path, count: int, seed: int) -> Counter[str]:
    """Damage `count` files, one kind after another; returns how many of each were told of, or passed unnoticed."""
    chance = random.Random(seed)
    make(folder / "pristine")
    pristine = Pristine(folder / "pristine", folder / "finished")
    kinds = [kind for kind, pattern in KINDS.items() if _files(pristine.folder, pattern)]
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        copy = folder / "damaged"
        _copied(pristine.folder, copy)
        os.environ |= {"BMDAL_BENCH_DATA": str(copy / "data"), "BMDAL_BENCH_POOLS": str(copy / "pools")}
        path = chance.choice(_files(copy, KINDS[kind]))
        what = f"{number} {kind} {path.relative_to(copy)}: {damage(path, chance)}"
        case = Case(copy, pristine, path)
        try:
            case.commands()
            case.go_on()
        except Exception as error:
            wrong.append(f"{what}: {error}")
            print(f"WRONG {wrong[-1]}", flush=True)
        said = "\n".join(case.outputs)
        told = path.name in said or (case.run or "no run") + " is damaged" in said or "is damaged" in said
        seen[f"{kind}: {'told' if told else 'LIES' if 'LIES' in said else 'harmless'}"] += 1
        shutil.rmtree(copy)
        if number % 20 == 19:
            print(f"{time.strftime('%H:%M:%S', time.gmtime())} {number + 1} damaged, {len(wrong)} wrong", flush=True)
    print(f"{time.strftime('%H:%M:%S', time.gmtime())} {count} damaged files, {len(wrong)} wrong", flush=True)
    for line in sorted(seen.items()):
        print("  ", *line, flush=True)
    assert not wrong, f"{len(wrong)} of {count}"
    return seen


def _copied(pristine: Path, copy: Path) -> None:
    """With the times of its files, as nothing had happened; links in a store's check would tell."""
    shutil.copytree(pristine, copy, copy_function=shutil.copy2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as made:
        campaign(Path(made), asked.count, asked.seed)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
