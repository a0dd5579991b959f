"""A sweep on workers of this machine: divided, disturbed, taken up again, with the numbers of an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from bench_commands import command, file_system, record_at, records
from conftest import PROJECT, subprocess_environment
from small_sweeps import all_numbers, launch, launch_command, process_ids, states, wait_until, words

from bench.config.sweep import expand
from bench.launch.cluster import Local, Place, cluster_of, places, share, visible_gpus
from bench.launch.queue import entries_of, read_queue
from bench.runs.record import RECORD, read_record
from bench.runs.system import cores

SEEDS = "seed=0,1,2,3"
two_cores = pytest.mark.skipif(len(cores()) < 2, reason="needs a core for each of two workers")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same runs one after another in one process, by plain multirun."""
    results = tmp_path_factory.mktemp("undisturbed")
    done = command("-m", "+sweep=demo", *words(results, "seed=0,1,2,3", "threads=1"))
    assert done.returncode == 0, done.stderr
    return all_numbers(results)


def folder_of(results, seed):
    (found,) = [r for r in records(results) if r["identity"]["seed"] == seed]
    return results / "runs" / found["run_id"]


@two_cores
def test_a_sweep_on_two_workers(tmp_path, undisturbed):
    """All done, the same numbers, nothing done twice; said so when launched again; nothing left over."""
    done = launch_command(tmp_path, SEEDS, "cluster.workers=2", "threads=1", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all_numbers(tmp_path) == undisturbed
    assert all(len(record["sessions"]) == 1 for record in records(tmp_path))
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("training.pt"))
    again = launch(tmp_path, SEEDS, "cluster.workers=2", "--wait")
    assert again.returncode == 0 and "4 runs: 0 to do" in again.stdout and "4 done" in again.stdout
    assert len(list((tmp_path / "launch").glob("2*"))) == 1


def test_two_ends_of_a_run_are_two_runs(tmp_path):
    """They share a folder and no state: the smaller one, done, hides nothing of the larger one."""
    options = ["seed=0", "threads=1", "cluster.workers=1", "--wait"]
    assert launch(tmp_path, *options, final=5).returncode == 0
    found = launch(tmp_path, "seed=0", "--status", final="5,8")
    assert [int(n) for n in found.stdout.splitlines()[1].split()[1:]] == [2, 1, 0, 1, 0, 0, 0], found.stdout
    done = launch(tmp_path, *options, final="5,8")
    assert done.returncode == 0 and "2 runs: 1 to do" in done.stdout, done.stdout + done.stderr
    (record,) = records(tmp_path)
    assert record["finals"] == [5, 8] and [step["n_train"] for step in record["steps"]] == [2, 4, 5, 6, 8]
    both = launch(tmp_path / "both", *options, final="5,8")
    assert both.returncode == 0 and "2 runs: 2 to do" in both.stdout, both.stdout + both.stderr
    (record,) = records(tmp_path / "both")
    assert [step["n_train"] for step in record["steps"]] == [2, 4, 5, 6, 8]


def test_words_that_stand_for_one_run(tmp_path):
    """Those that only say where and how it is computed, say: it is there once."""
    entries = entries_of(expand(["sweep=demo", *words(tmp_path, "seed=0", "threads=1,2", "checkpoint_seconds=1,2")]))
    assert [entry.run.threads for entry in entries] == [1]


@two_cores
def test_failures_are_recorded_and_the_others_go_on(tmp_path):
    """One run raises, one dies; both are recorded; `--retry-failed` does them once their cause is gone."""
    fault = tmp_path / "fault"
    fault.touch()
    settings = {"raises": [1], "dies": [2], "fault": fault}
    results = tmp_path / "results"
    options = [SEEDS, "threads=1", "cluster.workers=2", "cluster.attempts=2"]
    done = launch(results, *options, "--wait", **settings)
    assert done.returncode == 1, done.stdout + done.stderr
    assert states(results, SEEDS, "threads=1", **settings) == {0: "done", 1: "failed", 2: "failed", 3: "done"}
    raised, died = (record_at(folder_of(results, seed))["failure"] for seed in (1, 2))
    assert (raised["error"], raised["attempt"]) == ("ArithmeticError", 1)
    where = "in the plugin small_methods.Misbehaving.prepare, small_methods.py:"
    assert raised["message"].startswith(f"seed 1\nmisbehaves ({where}"), raised["message"]
    assert "in prepare" in raised["traceback"] and raised["host"] == os.uname().nodename
    assert (died["error"], died["attempt"]) == ("ProcessDied", 2) and "SIGSEGV after 1 steps" in died["message"]
    assert "ArithmeticError: seed 1" in done.stdout and "SIGSEGV" in done.stdout
    again = launch(results, *options, "--wait", **settings)
    assert again.returncode == 1 and "0 to do" in again.stdout
    fault.unlink()
    retried = launch(results, *options, "--wait", "--retry-failed", **settings)
    assert retried.returncode == 0, retried.stdout + retried.stderr
    assert set(states(results, SEEDS, "threads=1", **settings).values()) == {"done"}
    for record in records(results):
        assert [step["n_train"] for step in record["steps"]] == [2, 4, 6, 8]


def test_a_pack_on_one_worker(tmp_path, undisturbed):
    """Four runs in lockstep, and again stopped amid its trainings: the numbers of runs by themselves."""
    options = [SEEDS, "cluster.workers=1", "cluster.pack=4", "threads=1"]
    done = launch(tmp_path / "whole", *options, "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all_numbers(tmp_path / "whole") == undisturbed
    assert {step["models_in_lockstep"] for r in records(tmp_path / "whole") for step in r["steps"]} == {4}
    stopped = [*options, "checkpoint_seconds=0"]
    gate = tmp_path / "gate"
    gate.touch()
    slow = {"gate": gate}
    assert launch(tmp_path / "stopped", *stopped, **slow).returncode == 0
    wait_until(lambda: sum(len(record["steps"]) for record in records(tmp_path / "stopped")) >= 3)
    cancelled = launch(tmp_path / "stopped", *stopped, "--cancel", **slow)
    assert cancelled.returncode == 0 and "stopped 1 worker\n" in cancelled.stdout
    assert any(record["status"] == "running" for record in records(tmp_path / "stopped"))
    gate.unlink()
    done = launch(tmp_path / "stopped", *stopped, "--wait", **slow)
    assert done.returncode == 0, done.stdout + done.stderr
    by_seed = {n[1]["seed"]: n[2:] for n in all_numbers(tmp_path / "stopped").values()}
    assert by_seed == {n[1]["seed"]: n[2:] for n in undisturbed.values()}


def test_failures_in_a_pack(tmp_path):
    """One of a pack raises and the others go on; one dies and takes the pack with it: then each is done alone."""
    fault = tmp_path / "fault"
    fault.touch()
    settings = {"raises": [1], "dies": [2], "fault": fault}
    options = [SEEDS, "threads=1", "cluster.workers=1", "cluster.pack=4", "cluster.attempts=2"]
    done = launch(tmp_path / "results", *options, "--wait", **settings)
    assert done.returncode == 1, done.stdout + done.stderr
    found = states(tmp_path / "results", SEEDS, "threads=1", **settings)
    assert found == {0: "done", 1: "failed", 2: "failed", 3: "done"}
    attempts = [record_at(folder_of(tmp_path / "results", s)).get("failure", {}) for s in range(4)]
    assert [one.get("error") for one in attempts][1:3] == ["ArithmeticError", "ProcessDied"]
    assert [one.get("attempt") for one in attempts] == [1, 1, 3, 1]  # with the pack, and twice alone


def test_cancelled_and_launched_again(tmp_path, undisturbed):
    """`--cancel` stops workers with their runs saved; `--status` and `--dry-run` start nothing."""
    gate, results = tmp_path / "gate", tmp_path / "results"
    gate.touch()
    options = ["seed=0,1", "threads=1", "cluster.workers=1"]
    slow = {"gate": gate}
    started = launch(results, *options, **slow)
    assert started.returncode == 0 and "started 1 worker of" in started.stdout
    wait_until(lambda: records(results) and records(results)[0]["steps"])
    twice = launch(results, *options, **slow)
    assert "0 to do, 2 with workers already" in twice.stdout
    cancelled = launch(results, *options, "--cancel", **slow)
    assert cancelled.returncode == 0 and "stopped 1 worker\n" in cancelled.stdout
    assert not process_ids(str(results))
    found = launch(results, *options, "--status", **slow)
    assert found.returncode == 0 and "interrupted" in found.stdout
    assert "interrupted" in states(results, "seed=0,1", "threads=1", **slow).values()
    assert "failed" not in states(results, "seed=0,1", "threads=1", **slow).values()
    planned = launch(results, *options, "--dry-run", **slow)
    assert "would start 1 worker of" in planned.stdout and not process_ids(str(results))
    gate.unlink()
    done = launch(results, *options, "--wait", **slow)
    assert done.returncode == 0, done.stdout + done.stderr
    by_seed = {n[1]["seed"]: n[2:] for n in all_numbers(results).values()}
    assert by_seed == {n[1]["seed"]: n[2:] for n in undisturbed.values() if n[1]["seed"] < 2}


@two_cores
def test_killed_workers_are_replaced(tmp_path, undisturbed):
    """kill -9 of workers, runs, and at last of the pool itself; launched again, the same numbers."""
    gate, results = tmp_path / "gate", tmp_path / "results"
    gate.touch()
    options = [SEEDS, "threads=1", "cluster.workers=2", "cluster.attempts=9"]
    slow = {"gate": gate}
    assert launch(results, *options, **slow).returncode == 0
    for _ in range(3):
        wait_until(lambda: len(process_ids(str(results))) >= 4)
        workers = [pid for pid in process_ids(str(results)) if b"launch.worker" in cmdline(pid)]
        os.kill(random.choice(workers), signal.SIGKILL)
        time.sleep(0.7)
    (pool,) = [pid for pid in process_ids(str(results)) if b"launch.pool" in cmdline(pid)]
    os.kill(pool, signal.SIGKILL)
    wait_until(lambda: not process_ids(str(results)))
    gate.unlink()
    # a run that was killed just before the pool has nobody who tries it again
    done = launch(results, *options, "--retry-failed", "--wait", **slow)
    assert done.returncode == 0, done.stdout + done.stderr
    by_seed = {n[1]["seed"]: n[2:] for n in all_numbers(results).values()}
    assert by_seed == {n[1]["seed"]: n[2:] for n in undisturbed.values()}


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@two_cores
def test_a_full_disk_burns_no_runs(tmp_path):
    """The workers stop with one line; no run is failed; with room the sweep goes on."""
    with file_system(tmp_path, "128k") as remount:
        done = launch(tmp_path, SEEDS, "threads=1", "cluster.workers=2", "--wait")
        assert done.returncode == 1, done.stdout + done.stderr
        assert "error: cannot write" in done.stderr or "hardly any room left" in done.stderr
        assert "failed" not in states(tmp_path, SEEDS, "threads=1").values()
        remount("size=64M")
        done = launch(tmp_path, SEEDS, "threads=1", "cluster.workers=2", "--wait")
        assert done.returncode == 0, done.stdout + done.stderr
        wait_until(lambda: not process_ids(str(tmp_path)))


def test_read_only_results(tmp_path):
    """One line, and nothing started; what is recorded there can still be looked at."""
    with file_system(tmp_path) as remount:
        assert launch(tmp_path, "seed=0", "threads=1", "--wait").returncode == 0
        wait_until(lambda: not process_ids(str(tmp_path)))
        remount("ro")
        done = launch(tmp_path, "seed=0,1", "threads=1", "--wait")
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith(f"error: cannot write to {tmp_path}/launch (") and "Read-only" in line
        shown = launch(tmp_path, "seed=0,1", "threads=1", "--status")
        assert shown.returncode == 0 and " 1 " in shown.stdout
        assert states(tmp_path, "seed=0,1", "threads=1") == {0: "done", 1: "missing"}


def test_a_damaged_record_is_left_alone(tmp_path):
    assert launch(tmp_path, "seed=0", "threads=1", "--wait").returncode == 0
    path = folder_of(tmp_path, 0) / RECORD
    path.write_bytes(path.read_bytes()[:99])
    done = launch(tmp_path, "seed=0,1", "threads=1", "--wait")
    assert done.returncode == 1 and f"{path} is damaged (JSONDecodeError): move that folder away" in done.stdout
    assert len(path.read_bytes()) == 99
    assert [read_record(p).status for p in tmp_path.glob(f"runs/*/{RECORD}") if p != path] == ["done"]


def test_what_is_said_of_the_data(tmp_path):
    """As docs/own/data.md shows it: what is learned, and the sizes."""
    path, frame = tmp_path / "mine.xyz", Atoms("H2", [[0, 0, 0], [0, 0, 0.8]])
    frame.info |= {"charge": 1}
    frame.calc = SinglePointCalculator(frame, energy=-1.0, forces=np.zeros((2, 3)))
    write(path, [frame] * 60, format="extxyz")
    given = ["sweep=own", f"dataset.path={path}", "dataset.energy_unit=eV", "seed=0"]
    told = command(*given, f"results={tmp_path}/results", "--dry-run", module="bench.launch")
    assert told.returncode == 0 and "learned: energy, forces; present and not used: charge" in told.stderr
    assert "scenario mine: 60 structures, so initial 10," in told.stderr


def test_mistakes_are_one_line(tmp_path):
    for more, message in [
        (["cluster=slrm"], "no cluster is called 'slrm': did you mean 'slurm'"),
        (["cluster.wokers=2"], "wokers"),
        (["cluster.workers=0"], "cluster.workers = 0: must be at least 1"),
        (["cluster.workers=9999"], "cluster.workers = 9999: there are"),
        (["threads=9999"], "threads = 9999: a worker has"),
        (["scenario.pool=5000"], "the scenario asks for"),
        (["cluster.gpus_per_worker=2"], "a run uses one GPU or none"),
    ]:
        done = command("sweep=demo", f"results={tmp_path}/r", *more, module="bench.launch")
        errors = done.stderr.strip().splitlines()
        assert done.returncode == 2 and len(errors) == 1 and message in errors[0], done.stderr
    assert not list(tmp_path.glob("r/launch/2*"))


def test_cores_and_gpus_are_divided(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4, 12)))
    local = Local(workers=3, gpus_per_worker=0, attempts=1, pack=1)
    assert places(local, 99, share(local)) == [Place([4, 5], None), Place([6, 7], None), Place([8, 9], None)]
    assert places(Local(None, 0, 1, 1), 2, 1) == [Place([4], None), Place([5], None)]
    assert places(Local(None, 0, 1, 1), 99, 1) == [Place([core], None) for core in range(4, 12)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    assert visible_gpus() == ["3", "GPU-5"]
    on_gpus = Local(None, 1, 1, 1)
    assert places(on_gpus, 9, share(on_gpus)) == [Place([4, 5, 6, 7], "3"), Place([8, 9, 10, 11], "GPU-5")]
    assert places(on_gpus, 9, 4, [Place([4, 5, 6, 7], "3")]) == [Place([8, 9, 10, 11], "GPU-5")]
    slurm = cluster_of(["cluster=slurm", "cluster.partition=gpu", "cluster.setup=[module load cuda]"])
    assert (slurm.partition, slurm.setup, slurm.qos) == ("gpu", ["module load cuda"], None)


def test_order_of_a_queue(tmp_path):
    """First one run of every initial model, then the costly ones; a queue survives its file."""
    from bench.launch.queue import Queue
    from bench.runs.record_schema import SCHEMA_VERSION

    entries = entries_of(expand(["sweep=demo", *words(tmp_path, "seed=0,1", "batch_size=1,2,3")]))
    assert len({entry.initial for entry in entries[:2]}) == 2
    assert [entry.run.batch_size for entry in entries[2:]] == sorted(e.run.batch_size for e in entries[2:])
    queue = Queue(SCHEMA_VERSION, 3, 1, entries)
    queue.write(tmp_path)
    assert read_queue(tmp_path) == queue


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_plain_multirun_tells_of_failures(tmp_path, launcher):
    """With any launcher of Hydra: the others are done, the failure is recorded, the exit code is not 0."""
    plugin = {
        "joblib": "hydra_plugins.hydra_joblib_launcher",
        "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    }
    if launcher in plugin:
        pytest.importorskip(plugin[launcher])
    fault = tmp_path / "fault"
    fault.touch()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench.run", "-m", "+sweep=demo", f"hydra/launcher={launcher}"),
            *words(tmp_path / "results", "seed=0,1,2", "threads=1", raises=[1], fault=fault),
        ],
        cwd=PROJECT,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    found = states(tmp_path / "results", "seed=0,1,2", "threads=1", raises=[1], fault=fault)
    assert found == {0: "done", 1: "failed", 2: "done"}
