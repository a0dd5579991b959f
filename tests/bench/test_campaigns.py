"""The campaigns of faults, cut short: every kind of kill and damage; `make faults` runs them in full."""

import contextlib
import itertools
import os
import random

import numpy as np
import pytest
import torch
from bench_commands import command
from campaigns import damage, kills, signals
from slurm_cluster import PROGRAMS, find
from small_sweeps import words

from bench.errors import UserError
from bench.potentials.gmnn.compiled import kept
from bench.runs.record import RECORD, end_file, read_arrays, read_record
from bench.training.checkpoint import Checkpoint
from bench.training.store import load_potential

two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a core for each of two workers")


@pytest.fixture
def environment(monkeypatch):
    """What campaigns set is set back."""
    monkeypatch.setenv("BMDAL_BENCH_DATA", "")
    monkeypatch.setenv("BMDAL_BENCH_POOLS", os.environ["BMDAL_BENCH_POOLS"])


@pytest.mark.parametrize(("what", "count"), [("merge", 12), ("prepare", 12)])
def test_killed_at_file_operations(tmp_path, environment, what, count):
    kills.campaign(tmp_path / "kills", what, count, seed=2026)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run."""
    results = tmp_path_factory.mktemp("finished")
    done = command(*words(results, "seed=0", "threads=1"))
    assert done.returncode == 0, done.stderr
    return next(results.glob("runs/*"))


def plain(value):
    """Something to compare."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, list):
        return [plain(one) for one in value]
    return {key: plain(one) for key, one in value.items()} if isinstance(value, dict) else value


READERS = {
    RECORD: lambda path: read_record(path).model_dump(),
    "split.npz": lambda path: read_arrays(path, read_record(path.parent / RECORD).files),
    end_file(8): lambda path: read_arrays(path, read_record(path.parent / RECORD).files),
    "model.pt": lambda path: load_potential(path, "cpu", read_record(path.parent / RECORD).files)[0].parameters,
    "initial.pt": lambda path: load_potential(path)[0].parameters,
    "training.pt": lambda path: Checkpoint(path, 1.0).load("key", torch.device("cpu")),
}


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_told_or_holds_the_same(finished, tmp_path, name):
    """Hundreds of cuts, flipped bits and zeros: never another exception, and never other numbers."""
    read, path = READERS[name], tmp_path / finished.name / name
    path.parent.mkdir()
    (path.parent / RECORD).write_bytes((finished / RECORD).read_bytes())
    if name == "initial.pt":
        whole = next(finished.parents[1].glob("initial/*.pt")).read_bytes()
    elif name == "training.pt":
        Checkpoint(path, 1.0).save("key", {"a": torch.arange(50.0), "history": [torch.ones(3)], "step": 4})
        whole = path.read_bytes()
    else:
        whole = (finished / name).read_bytes()
    path.write_bytes(whole)
    expected, chance, told = plain(read(path)), random.Random(name), 0
    for _ in range(150):
        path.write_bytes(whole)
        damage.damage(path, chance)
        found = None
        with contextlib.suppress(UserError):
            found = read(path)
        told += found is None
        assert found is None or plain(found) == expected
    assert told > 75


def test_damaged_machine_code_is_not_called(tmp_path, monkeypatch):
    """It is compiled again: what is kept is read only if it is what was written."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    kept.folder().mkdir(parents=True)
    files, chance = kept._Files("kernel"), random.Random(2026)
    files.save("key", {"code": bytes(range(256)) * 20})
    (path,) = kept.folder().iterdir()
    whole, expected = path.read_bytes(), files.load("key")
    for _ in range(100):
        path.write_bytes(whole)
        damage.damage(path, chance)
        assert files.load("key") is None or files.load("key") == expected


@pytest.mark.long
def test_damaged_files(tmp_path, environment):
    damage.campaign(tmp_path, 2 * len(damage.KINDS), seed=2026)


@pytest.mark.long
@two_cores
def test_signals(tmp_path):
    signals.campaign(tmp_path, 100, seed=2026)


@pytest.mark.long
@pytest.mark.skipif(any(find(name) is None for name in PROGRAMS) or os.geteuid() != 0, reason="needs SLURM and root")
def test_signals_on_slurm(tmp_path):
    signals.campaign(tmp_path, 20, seed=2026, on_slurm=True)


def test_kinds_of_files_are_all_there_are():
    """A kind for every file that a run writes."""
    patterns = " ".join(damage.KINDS.values())
    assert all(name in patterns for name in ("record.json", "split.npz", "model.pt", "training.pt", "queue.json"))
    assert len(set(itertools.chain(damage.KINDS.values()))) == len(damage.KINDS)
