"""Results of several machines in one folder: nothing lost, nothing overwritten by something else."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bench_commands import command, file_system, records
from small_sweeps import all_numbers, words

from analysis.build import collect
from bench.config.sweep import expand
from bench.errors import UserError, WriteError
from bench.merge import merge as merge_folders
from bench.runs.locks import locked
from bench.runs.record import (
    CHECKSUM,
    LOCK,
    RECORD,
    RunRecord,
    end_file,
    read_arrays,
    read_record,
    record_paths,
    write_atomically,
)
from tests.analysis.generated import generate


def run(results, seeds):
    done = command("-m", "+sweep=demo", *words(results, f"seed={seeds}", "threads=1"))
    assert done.returncode == 0, done.stderr


def merge(*folders):
    return command(*map(str, folders), module="bench.merge")


def alter(folder, change):
    path = folder / RECORD
    record = json.loads(path.read_text())
    change(record)
    record.pop(CHECKSUM, None)
    path.write_text(json.dumps(record))


def test_merge(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    run(here, "0,1,2")
    shutil.copytree(here, there)
    by_seed = {r["identity"]["seed"]: r["run_id"] for r in records(here)}
    complete = all_numbers(here)
    shutil.rmtree(here / "runs" / by_seed[0])

    def interrupted(record):
        record["status"] = "running"
        del record["steps"][2:]

    alter(here / "runs" / by_seed[1], interrupted)
    done = merge(there, here)
    assert done.returncode == 0 and done.stdout == "1 already there, 1 further, 1 new\n", done.stdout + done.stderr
    assert all_numbers(here) == complete
    assert merge(there, here).stdout == "3 already there\n"
    assert merge("--without-models", there, tmp_path / "compact").stdout == "3 new\n"
    assert len(records(tmp_path / "compact")) == 3 and list(there.rglob("model.pt"))
    assert not list((tmp_path / "compact").rglob("*.pt")) and len(list(tmp_path.glob("compact/runs/*/*.npz"))) == 6

    def other_numbers(record):
        record["steps"][1]["metrics"]["force_mae_kcal_mol_A"] += 1e-3

    alter(there / "runs" / by_seed[2], other_numbers)
    (there / "runs" / by_seed[1] / RECORD).write_text("{")
    done = merge(there, here)
    assert done.returncode == 1 and done.stdout == "1 already there, 1 conflicts, 1 damaged\n"
    assert f"conflict: {there}/runs/{by_seed[2]}" in done.stderr and "is damaged" in done.stderr
    assert all_numbers(here) == complete
    assert not [path for path in (here / "runs").iterdir() if path.name.startswith(".")]


def made_up(results, n=6):
    """Records of the demo's cells, with arrays and models of a few bytes: a merge reads no more."""
    generate(results, expand(["sweep=demo"])[:n])
    for folder in (results / "runs").iterdir():
        (folder / "model.pt").write_bytes(folder.name.encode())
    return results


def contents(results):
    files = {path.relative_to(results): path.read_bytes() for path in results.rglob("*") if path.is_file()}
    return {path: content for path, content in files.items() if path.suffix != ".lock"}


def test_killed_at_any_write_nothing_is_lost(tmp_path, monkeypatch):
    """At every point where a merge writes: what was there stays readable, and the same command ends as undisturbed."""
    source, whole = made_up(tmp_path / "source"), tmp_path / "whole"
    merge_folders(source, whole)
    half = tmp_path / "half"
    merge_folders(source, half)
    for path in record_paths(half)[::2]:
        alter(path.parent, lambda record: record.update(status="running", steps=record["steps"][:2]))
    states = {path.parent.name: len(read_record(path).steps) for path in record_paths(half)}
    kept = Path.replace
    for point in range(1, 20):
        target = tmp_path / f"killed_{point}"
        shutil.copytree(half, target)
        left = [point]

        def dying(path, other, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return kept(path, other)

        monkeypatch.setattr(Path, "replace", dying)
        with contextlib.suppress(KeyboardInterrupt):
            merge_folders(source, target)
        monkeypatch.setattr(Path, "replace", kept)
        found = {path.parent.name: len(read_record(path).steps) for path in record_paths(target)}
        assert found.keys() == states.keys() and all(found[run] >= states[run] for run in states)
        merge_folders(source, target)
        assert contents(target) == contents(whole)
        if left[0] > 0:
            break
    assert point > 9


@pytest.mark.parametrize("longer_is_there", [True, False])
def test_what_only_the_shorter_run_tells_is_kept(tmp_path, longer_is_there):
    """An end that another machine passed, with its correlations and arrays: whichever of the two is the target."""
    shorter, longer = made_up(tmp_path / "shorter", 1), made_up(tmp_path / "longer", 1)
    (folder,) = (shorter / "runs").iterdir()
    (end,) = folder.glob("end_*.npz")
    arrays = dict(np.load(end)) | {"uncertainty GP(LL)": np.ones(2)}
    record = RunRecord(folder, read_record(folder / RECORD))
    final = record.content.finals[0]
    passed = record.steps[1].n_train
    told = record.steps[-1].correlations
    ended = record.steps[1].model_copy(update={"picked": None, "correlations": told})
    record.content.steps = [record.steps[0], ended]
    record.save_arrays(end_file(passed), arrays)
    end.unlink()
    (folder / "model.pt").unlink()
    record.save(finals=[passed])
    source, target = (longer, shorter) if longer_is_there else (shorter, longer)
    assert merge_folders(source, target) == ["further"]
    (path,) = record_paths(target)
    found = read_record(path)
    assert set(found.finals) == {passed, final} and found.finals[-1] == final and found.reached(final)
    assert found.step(passed).correlations == told and found.step(passed).picked and found.step(final).correlations
    assert read_arrays(path.parent / end_file(passed), found.files).keys() == arrays.keys()
    assert found.files.keys() == {end_file(passed)} and not RunRecord(path.parent, found).damaged_files()
    assert len(read_arrays(path.parent / end_file(final), found.files)) > 2 and (path.parent / "model.pt").exists()
    before = contents(target)
    assert merge_folders(source, target) == ["already there"] and contents(target) == before


def test_diagnostics_of_one_end_come_together(tmp_path):
    """Where two computed other correlations of one end, both are kept, with the uncertainties behind them."""
    here, there = made_up(tmp_path / "here", 1), made_up(tmp_path / "there", 1)
    for results, kernel in [(here, "GP(LL)"), (there, "GP(RP)")]:
        (path,) = record_paths(results)
        record = RunRecord(path.parent, read_record(path))
        last = record.steps[-1]
        last.correlations = {kernel: last.correlations[kernel]}
        record.save_arrays(end_file(last.n_train), {"structure": np.arange(3), f"uncertainty {kernel}": np.ones(3)})
        record.save()
    assert merge_folders(there, here) == ["further"]
    (path,) = record_paths(here)
    record = read_record(path)
    assert record.steps[-1].correlations.keys() == {"GP(LL)", "GP(RP)"}
    arrays = read_arrays(path.parent / end_file(record.finals[0]), record.files)
    assert arrays.keys() == {"structure", "uncertainty GP(LL)", "uncertainty GP(RP)"}
    assert merge_folders(there, here) == ["already there"]


def test_a_run_at_work_is_left_alone_and_the_others_are_merged(tmp_path):
    source, target = made_up(tmp_path / "source"), tmp_path / "target"
    merge_folders(source, target)
    first, *_ = record_paths(target)
    alter(first.parent, lambda record: record.update(status="running", steps=record["steps"][:1]))
    before = first.read_bytes()
    with locked(first.parent / LOCK, wait=False):
        assert sorted(merge_folders(source, target)) == ["already there"] * 5 + ["in use"]
    assert first.read_bytes() == before
    # a source at work gives what it has recorded
    with locked(record_paths(source)[0].parent / LOCK, wait=False):
        assert merge_folders(source, tmp_path / "other") == ["new"] * 6


def test_a_source_that_cannot_be_written_to(tmp_path):
    with file_system(tmp_path) as remount:
        source = made_up(tmp_path / "source", 2)
        remount("ro")
        other = tmp_path.parent / f"{tmp_path.name}_target"
        assert merge_folders(source, other) == ["new"] * 2
        remount("rw")
    shutil.rmtree(other)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    source = made_up(tmp_path / "source", 3)
    target = tmp_path / "small"
    target.mkdir()
    with file_system(target, "40k"):
        done = merge(source, target)
        assert done.returncode == 2 and "make room" in done.stderr and len(done.stderr.splitlines()) == 1
        assert all(read_record(path) for path in record_paths(target)) and not list(target.rglob("*.tmp"))


def test_files_without_a_record_are_not_left(tmp_path, monkeypatch):
    source, target = made_up(tmp_path / "source", 1), tmp_path / "target"

    def full_at_last(path, content):
        if path.name == RECORD:
            raise WriteError("make room")
        write_atomically(path, content)

    with monkeypatch.context() as patched:
        patched.setattr("bench.merge.write_atomically", full_at_last)
        with pytest.raises(WriteError):
            merge_folders(source, target)
    assert not [*target.glob("runs/*")]
    assert merge_folders(source, target) == ["new"] and [*target.rglob("*.npz")]


def test_last_digits_may_differ_and_picks_may_not(tmp_path):
    """Threads and processors change the last digits of errors and correlations."""
    here, there = made_up(tmp_path / "here", 2), made_up(tmp_path / "there", 2)

    def slightly(record):
        for step in record["steps"]:
            step["metrics"] = {key: value * (1 + 1e-9) for key, value in step["metrics"].items()}
            for found in step["correlations"].values():
                found["energy"]["pearson"] += 1e-13

    for path in record_paths(there):
        alter(path.parent, slightly)
    assert merge_folders(there, here) == ["already there"] * 2
    alter(record_paths(there)[0].parent, lambda record: record["steps"][0]["picked"].reverse())
    assert merge_folders(there, here) == ["conflicts", "already there"]


def test_a_copy_of_a_run_s_folder_harms_nothing(tmp_path):
    """It is named and left out, whatever it is called; a hidden folder is no run at all."""
    results = made_up(tmp_path / "results")
    first, second, *_ = (path.parent for path in record_paths(results))
    shutil.copytree(first, first.with_name(f"{first.name}.bak"))
    shutil.copytree(second, second.with_name(f".{second.name}.0123"))
    done = command("--results", str(results), "--sweep", "demo", "--workers", "1", module="analysis.build")
    assert done.returncode == 0 and f"left out: {first}.bak is a copy of run {first.name}" in done.stderr
    states = pd.read_csv(results / "analysis/tables/runs.csv")["state"].value_counts()
    assert states.to_dict() == {"done": 6, "damaged": 1}
    done = command("sweep=demo", "--results", str(results), module="analysis.plan")
    assert done.stdout.splitlines()[1].split()[:4] == ["demo", "3", "6", "6"] and ".bak is a copy" in done.stdout
    assert merge_folders(results, tmp_path / "other").count("new") == 6


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "folder"])
def test_damaged_arrays_are_named_and_harm_nothing_else(tmp_path, damage):
    results = made_up(tmp_path / "results")
    path = next(results.glob("runs/*/end_40.npz"))
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"no arrays"}[damage])
    tables = collect(results, "demo")
    told = tables.runs.set_index("run_id")["failure"]
    assert str(path) in told[path.parent.name] and "is damaged" in told[path.parent.name]
    assert (told.drop(path.parent.name) == "").all() and set(tables.runs["state"]) == {"done"}
    assert tables.calibration["run_id"].nunique() >= 1


def test_mistakes_are_one_line(tmp_path):
    for folders, message in [
        ((tmp_path,), "from where and into what"),
        ((tmp_path / "a", tmp_path / "b"), "no results"),
        ((tmp_path / "a", ""), "an empty name of a file or folder"),
    ]:
        done = merge(*folders)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    generate(tmp_path, expand(["sweep=demo", "seed=0", "algorithm=maxdiag_rnd"]))
    with pytest.raises(UserError, match=r"runs is itself the runs of .*: give the folder above"):
        merge_folders(tmp_path, tmp_path / "runs")
