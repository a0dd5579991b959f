"""Records of version 2 come over whole: nothing measured changes, and a kill at any point costs nothing."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from bench_commands import command, record_at
from conftest import PROJECT, subprocess_environment

from bench.migrate import brought_over, migrate
from bench.runs.locks import locked
from bench.runs.record import LOCK, RECORD, read_json

OLD = {name: PROJECT / f"tests/golden/record_v2_{name}.json" for name in ("done", "interrupted")}
PLACES = ["replace:1", "replace:2", "replace:3", "replace:4", "fsync:1", "fsync:2"]


def old_results(results):
    """Two folders as version 2 wrote them; the finished one with its arrays."""
    for path in OLD.values():
        folder = results / "runs" / json.loads(path.read_text())["run_id"]
        folder.mkdir(parents=True)
        shutil.copy(path, folder / RECORD)
        if "done" in path.name:
            np.savez(folder / "last_step.npz", structure=np.arange(3))
    return results


def contents(results):
    return {path.relative_to(results): path.read_bytes() for path in results.rglob("*.[jn]*") if path.is_file()}


def measured(step):
    """What version 2 says of a step, as version 3 says it."""
    return {key: value for key, value in step.items() if not (key == "picked" and not value)}


@pytest.mark.parametrize("name", OLD)
def test_nothing_measured_is_altered(name):
    old = json.loads(OLD[name].read_text())
    new = brought_over(old, OLD[name]).model_dump(exclude_none=True)
    for before, after in zip(old["steps"], new["steps"], strict=True):
        assert {key: after[key] for key in measured(before)} == measured(before)
        assert after.get("picked", []) == before["picked"] and after["timing"] == ""
    assert new["status"] == old["status"] and new["deviations"] == old["deviations"]
    for before, after in zip(old["sessions"], new["sessions"], strict=True):
        assert {key: after[key] for key in before} == before
    assert new["finals"] == [250] == [new["filed_final"]] and new["identity"]["seed"] == old["identity"]["seed"]
    # settings that came later have the values under which everything before was computed
    later = {"decay_factor": 0.5, "decay_every": 50}
    assert new["configuration"]["training"] == old["identity"]["training"] | later
    own = old["identity"]["kernel"]["name"]
    assert new["kernels"][own].get("uncertainty") == ("energy" if own.startswith("GP") else None)


def test_a_reduced_end_is_no_deviation_of_the_run():
    """`scenario.final` of a deviation becomes an end of the record; diagnostics are no deviation at all."""
    old = json.loads(OLD["done"].read_text())
    old["deviations"] |= {"scenario.final": 250, "final_kernels": "[]", "kernel._target_": "a.B"}
    new = brought_over(old, OLD["done"])
    assert new.deviations.keys() == {"scenario.initial", "scenario.pool", "training.minibatch"}
    assert new.finals == [250]


def test_seconds_with_compiling_in_them_are_marked():
    old = json.loads(OLD["interrupted"].read_text())
    old["steps"][0]["seconds_training"] += 40.0
    steps = brought_over(old, OLD["interrupted"]).steps
    assert [step.timing for step in steps] == ["compiling"] + [""] * (len(steps) - 1)
    assert steps[0].seconds_training == old["steps"][0]["seconds_training"]


def test_migration_is_repeatable(tmp_path):
    results = old_results(tmp_path)
    assert migrate(results) == ["brought over"] * 2
    folders = sorted(results.glob("runs/*"))
    before = contents(results)
    assert migrate(results) == ["already there"] * 2
    assert contents(results) == before and len(before) == 3
    assert sorted(record_at(folder)["run_id"] for folder in folders) == [folder.name for folder in folders]
    assert len(list(results.glob("runs/*/end_250.npz"))) == 1 and not list(results.rglob("last_step.npz"))
    done = command("sweep=tio2_10_250", "batch_size=10", "seed=0", "--results", str(results), module="analysis.plan")
    assert done.returncode == 0, done.stderr
    # interrupted: MaxDet + GP(LL); random selection with minibatches of 32 is another study
    assert done.stdout.splitlines()[-1].split()[:6] == ["all", "15", "15", "0", "0", "1"]


@pytest.mark.parametrize("place", PLACES)
def test_killed_anywhere_it_goes_on(tmp_path, place):
    whole, killed = old_results(tmp_path / "whole"), old_results(tmp_path / "killed")
    migrate(whole)
    name, count = place.split(":")
    code = (
        "import os, sys, pathlib\n"
        f"name, left = {name!r}, [{count}]\n"
        "owner = pathlib.Path if name == 'replace' else os\n"
        "kept = getattr(owner, name)\n"
        "def counted(*a):\n"
        "    left[0] -= 1\n"
        "    os._exit(9) if left[0] == 0 else None\n"
        "    return kept(*a)\n"
        "setattr(owner, name, counted)\n"
        f"from bench.migrate import migrate\nmigrate(pathlib.Path({str(killed)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=subprocess_environment(), check=False)
    assert done.returncode in (0, 9)
    assert len(migrate(killed)) == 2
    assert contents(killed) == contents(whole)


def test_a_folder_without_a_record_is_taken_over(tmp_path):
    """A run that was killed at its start leaves its lock; what a process is at, or has written more to, stays."""
    results = old_results(tmp_path)
    whole = old_results(tmp_path / "whole")
    migrate(whole)
    targets = [results / "runs" / path.name for path in sorted(whole.glob("runs/*"))]
    for target in targets:
        target.mkdir()
        (target / LOCK).touch()
    (targets[0] / "split.npz").touch()
    (targets[1] / "notes").mkdir()
    with locked(targets[0] / LOCK, wait=False):
        assert migrate(results) == ["left as it is"] * 2
    assert (targets[0] / "split.npz").exists() and (targets[1] / "notes").exists()
    (targets[1] / "notes").rmdir()
    migrate(results)
    assert {path: (results / path).read_bytes() for path in contents(whole)} == contents(whole)


def test_what_is_damaged_is_left_as_it_is(tmp_path):
    results = old_results(tmp_path)
    torn, older = sorted(results.glob(f"runs/*/{RECORD}"))
    torn.write_bytes(torn.read_bytes()[:99])
    content = read_json(older)
    older.write_text(json.dumps(content | {"schema_version": 1}))
    before = [torn.read_bytes(), older.read_bytes()]
    done = command(str(results), module="bench.migrate")
    assert done.returncode == 1 and done.stdout == "2 left as it is\n"
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["error"] * 2
    assert [torn.read_bytes(), older.read_bytes()] == before
    done = command(str(tmp_path / "nowhere"), module="bench.migrate")
    assert done.returncode == 2 and done.stderr.startswith("error: no results in")
