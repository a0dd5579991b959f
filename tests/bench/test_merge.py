"""Results of several machines in one folder: nothing lost, nothing overwritten by something else."""

import json
import shutil

from bench_commands import command, records
from small_sweeps import all_numbers, words

from bench.record import RECORD


def run(results, seeds):
    done = command("-m", "+sweep=demo", *words(results, f"seed={seeds}", "threads=1"))
    assert done.returncode == 0, done.stderr


def merge(*folders):
    return command(*map(str, folders), module="bench.merge")


def alter(folder, change):
    path = folder / RECORD
    record = json.loads(path.read_text())
    change(record)
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


def test_mistakes_are_one_line(tmp_path):
    for folders, message in [
        ((tmp_path,), "from where and into what"),
        ((tmp_path / "a", tmp_path / "b"), "no results"),
    ]:
        done = merge(*folders)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
