"""Sweeps on a real SLURM: everything that happens to jobs there, and after it the numbers of an undisturbed sweep."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import ase
import numpy as np
import own_folder
import pytest
from bench_commands import command, records
from conftest import PROJECT, subprocess_environment
from slurm_cluster import CannotStartError, SlurmCluster
from small_sweeps import all_numbers, launch, process_ids, running, states, wait_until, words

from bench import api
from bench.runs.record import RECORD, read_record

SEEDS = "seed=" + ",".join(map(str, range(6)))
EPOCHS = 6
HERE = ["cluster=slurm", "cluster.cpus_per_worker=1", "cluster.memory_gb=0.5", "cluster.minutes=10"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    try:
        cluster = SlurmCluster(tmp_path_factory.mktemp("slurm"), max_array_size=3)
    except CannotStartError as error:
        pytest.skip(f"no SLURM can be started here: {error}")
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same runs one after another in one process."""
    results = tmp_path_factory.mktemp("undisturbed")
    done = command("-m", "+sweep=demo", *words(results, SEEDS, "threads=1", epochs=EPOCHS))
    assert done.returncode == 0, done.stderr
    return all_by_seed(results)


def all_by_seed(results):
    """Numbers by seed; the kernel's bad manners enter the identity, not the numbers."""
    return {n[1]["seed"]: (n[0], *n[2:]) for n in all_numbers(results).values()}


def test_more_workers_than_an_array_may_have_and_runs_that_fail(slurm, tmp_path, undisturbed):
    """Eight workers where three elements are allowed; one run raises, one dies of a segmentation fault."""
    fault = tmp_path / "fault"
    fault.touch()
    settings = {"epochs": EPOCHS, "raises": [1], "dies": [2], "fault": fault}
    results = tmp_path / "results"
    options = [SEEDS, *HERE, "cluster.workers=8", "cluster.attempts=2"]
    done = launch(results, *options, "--wait", **settings)
    assert "MaxArraySize: 3 workers" in done.stdout and "submitted 3 workers" in done.stdout
    assert done.returncode == 1, done.stdout + done.stderr
    expected = {seed: "failed" if seed in (1, 2) else "done" for seed in range(6)}
    assert states(results, SEEDS, **settings) == expected
    failures = {r["identity"]["seed"]: r["failure"] for r in records(results) if r["status"] == "failed"}
    assert failures[1]["error"] == "ArithmeticError" and failures[1]["attempt"] == 1
    assert failures[2]["error"] == "ProcessDied" and failures[2]["attempt"] == 2
    assert "SIGSEGV" in failures[2]["message"]
    assert {len(r["sessions"]) for r in records(results) if r["identity"]["seed"] not in (1, 2)} == {1}
    fault.unlink()
    done = launch(results, *options, "--wait", "--retry-failed", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all_by_seed(results) == undisturbed


def test_elements_cancelled_requeued_preempted_and_stopped_by_the_clock(slurm, tmp_path, undisturbed):
    """What SLURM does to jobs, one after another, and the launcher killed -9 as soon as it has submitted."""
    gate = tmp_path / "gate"
    gate.touch()
    settings = {"epochs": EPOCHS, "gate": gate}  # as long as it is there, no run comes beyond its first step
    launcher = subprocess.Popen(
        [
            *(sys.executable, "-m", "bench.launch", "sweep=demo", *words(tmp_path, SEEDS, *HERE, **settings)),
            *("cluster.workers=3", "--wait"),
        ],
        cwd=PROJECT,
        env=subprocess_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert any("submitted 3 workers" in line for line in launcher.stdout)
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate()
    wait_until(lambda: len(slurm.jobs("RUNNING")) == 3)
    first, second, third = sorted(slurm.jobs("RUNNING"))
    wait_until(lambda: sum(len(record["steps"]) > 0 for record in records(tmp_path)) == 3)
    slurm("scancel", first)
    slurm("scontrol", "requeue", second)
    # what SLURM sends ahead of the time limit; the worker saves, and has itself queued anew
    slurm("scancel", "--signal=USR2", third)
    wait_until(lambda: sorted(slurm.jobs()) == [second, third] and not slurm.jobs("RUNNING"))
    assert "failed" not in states(tmp_path, SEEDS, **settings).values()

    def both_run():
        # SLURM holds a requeued job back for a while, and anew if it was told so while the job was still completing
        for element in (second, third):
            slurm("scontrol", "update", f"jobid={element}", "starttime=now", check=False)
        return len(slurm.jobs("RUNNING")) == 2

    wait_until(both_run, seconds=300)
    wait_until(lambda: running(tmp_path))
    urgent = tmp_path / "urgent"
    urgent.touch()
    work = f"while [ -e {urgent} ]; do sleep 0.2; done"
    slurm("sbatch", "--partition=urgent", "--ntasks=1", "--cpus-per-task=4", "--output=/dev/null", f"--wrap={work}")
    wait_until(lambda: len(slurm.jobs("RUNNING")) == 1 and not running(tmp_path))
    assert set(states(tmp_path, SEEDS, **settings).values()) <= {"done", "interrupted", "missing"}
    status = command("sweep=demo", *words(tmp_path, SEEDS, *HERE, **settings), "--status", module="bench.launch")
    assert "workers: 2" in status.stdout, status.stdout + status.stderr
    urgent.unlink()
    gate.unlink()
    wait_until(lambda: len(slurm.jobs()) < 3)
    for element in (second, third):
        slurm("scontrol", "update", f"jobid={element}", "starttime=now", check=False)
    done = launch(tmp_path, SEEDS, *HERE, "cluster.workers=3", "--wait", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(states(tmp_path, SEEDS, **settings).values()) == {"done"}
    assert all_by_seed(tmp_path) == undisturbed
    assert any(len(record["sessions"]) > 1 for record in records(tmp_path))
    assert not list(tmp_path.rglob("training.pt")) and not list(tmp_path.rglob("*.tmp"))


def test_cancel_and_what_slurm_refuses(slurm, tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    settings = {"epochs": EPOCHS, "gate": gate}
    refused = launch(tmp_path / "refused", "seed=0", *HERE, "cluster.partition=nowhere")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "error: SLURM refuses the job" in refused.stderr.splitlines()[-1]
    assert not list((tmp_path / "refused/launch").glob("2*"))
    options = ["seed=0,1", *HERE, "cluster.workers=2"]
    assert launch(tmp_path, *options, **settings).returncode == 0
    wait_until(lambda: set(states(tmp_path, "seed=0,1", **settings).values()) == {"running"})
    again = launch(tmp_path, *options, **settings)
    assert "0 to do, 2 with workers already" in again.stdout and len(slurm.jobs()) == 2
    assert "stopped 2 workers" in launch(tmp_path, *options, "--cancel", **settings).stdout
    wait_until(lambda: not slurm.jobs() and not process_ids(str(tmp_path)))
    assert set(states(tmp_path, "seed=0,1", **settings).values()) == {"interrupted"}


def test_everything_of_ones_own(slurm, tmp_path, monkeypatch):
    """Scenario, data, potential, kernel and selection of the working folder: the nodes find them, figures name them."""
    own_folder.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    small = [word for word in own_folder.SMALL if not word.startswith(("model", "plugins", "dataset", "~dataset"))]
    names = ["own_kernel", "own_selection", "own_dataset", "own_potential"]
    given = ["sweep=mine", "--config-dir", "conf", *HERE, "cluster.workers=1", *small]
    given += ["dataset=mine", "model=mine", "selection=mine", f"plugins=[{','.join(names)}]"]
    done = own_folder.in_folder("bench.launch", *given, "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    identities = [record["identity"] for record in records(tmp_path / "out")]
    parts = ("dataset", "model", "kernel", "selection")
    assert [[one[part]["name"] for part in parts] for one in identities] == [
        ["springs", "PAIRS", "MINE", "SMALLEST"]
    ] * 2
    chosen = ["--figures", "learning_curves_*", "--format", "svg"]
    drawn = own_folder.in_folder("analysis.build", "--results", "out", *chosen)
    assert drawn.returncode == 0, drawn.stderr
    pictures = list((tmp_path / "out/analysis/figures").glob("learning_curves_mine*.svg"))
    assert pictures and all("SMALLEST + MINE" in one.read_text(encoding="utf-8") for one in pictures)


@pytest.mark.long
def test_time_limit(slurm, tmp_path, undisturbed):
    """Four runs each, longer than their jobs may last: saved ahead of the limit, queued anew, done without a launcher.

    SLURM may send its signal a minute earlier than asked; a job of one minute would never get to work.
    """
    settings = {"epochs": EPOCHS, "seconds": 10.0}
    more = ["cluster.minutes=2", "cluster.seconds_to_stop=15", "cluster.workers=2"]
    done = launch(tmp_path, SEEDS, *HERE, *more, **settings)
    assert done.returncode == 0, done.stdout + done.stderr

    def finished():
        for element in slurm.jobs("PENDING"):
            slurm("scontrol", "update", f"jobid={element}", "starttime=now", check=False)
        time.sleep(1)
        return not slurm.jobs()

    wait_until(finished, seconds=900)
    assert set(states(tmp_path, SEEDS, **settings).values()) == {"done"}
    assert all_by_seed(tmp_path) == undisturbed
    assert any(len(record["sessions"]) > 1 for record in records(tmp_path))
    assert not any(read_record(path).failure for path in tmp_path.glob(f"runs/*/{RECORD}"))


@pytest.mark.long
def test_1460_runs(slurm, tmp_path):
    """As many runs as the paper's, of a single step: three array elements do them all; what it cost is printed."""
    seeds = "seed=" + ",".join(map(str, range(1460)))
    settings = {"final": 2, "epochs": 1}
    started = time.monotonic()
    here = [word.replace("minutes=10", "minutes=120") for word in HERE]
    done = launch(tmp_path, seeds, *here, "cluster.workers=3", **settings)
    submitted = time.monotonic() - started
    assert done.returncode == 0 and "1460 to do" in done.stdout, done.stdout + done.stderr
    wait_until(lambda: not slurm.jobs(), seconds=3600)
    everything = time.monotonic() - started
    found = records(tmp_path)
    assert len(found) == 1460 and all(r["status"] == "done" and len(r["sessions"]) == 1 for r in found)
    files = sum(path.is_file() for path in (tmp_path / "launch").rglob("*"))
    print(f"submitted after {submitted:.1f} s, done after {everything:.0f} s; {files} files in launch/")


def test_shards_of_a_pool_as_an_array(slurm, tmp_path):
    """Each shard gives a core-set, from which the last step selects; once they are there nothing is submitted."""
    raw = np.load(PROJECT / "bench/data/embedded/rmd17_aspirin_4019.npz")
    np.savez(tmp_path / "pool.npz", z=raw["Z"], R=raw["R"][:90])
    frames = [ase.Atoms(raw["Z"], positions) for positions in raw["R"][:90]]
    core = sorted(start + row for start in (0, 45) for row in api.select(frames[start : start + 45], 40).rows.tolist())
    expected = [core[row] for row in api.select([frames[row] for row in core], 2).rows]
    asked = [f"pool={tmp_path}/pool.npz", "n=2", "shards=2", *HERE, "cluster.workers=2", f"results={tmp_path}"]
    for told in ("submitted 2 tasks as job", "2 shards of 90 structures: 0 to choose from"):
        done = command(*asked, f"output={tmp_path}/out.xyz", "threads=1", module="bench.select")
        assert done.returncode == 0 and told in done.stderr, done.stderr
        record = json.loads((tmp_path / "out.json").read_text())
        assert [pick["pool_index"] for pick in record["picks"]] == expected and record["structures"]["pool"] == 80


def test_labels_of_the_example_as_an_array(slurm, tmp_path, monkeypatch):
    """The nodes label what the process itself would, and nothing again."""
    monkeypatch.chdir(PROJECT)
    example = importlib.import_module("examples.on_the_fly")
    generator = np.random.default_rng(0)
    structures = [example.SYSTEMS["cluster"].fresh(generator, 0.05) for _ in range(3)]
    expected = [example.labelled_by("cluster", atoms) for atoms in structures]
    asked = ["--output", str(tmp_path), "--cluster", *HERE, "cluster.workers=2"]
    settings, _ = example.parsed(asked)
    found = example.label(settings, structures)
    assert [atoms.get_potential_energy() for atoms in found] == pytest.approx(
        [atoms.get_potential_energy() for atoms in expected], abs=1e-9
    )
    monkeypatch.setattr(example, "do", None)  # nothing is submitted again
    assert len(example.label(settings, structures)) == len(structures)
