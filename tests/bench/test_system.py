"""Systems that lack what Linux has: bound processes (macOS), locks, signals and fork (Windows)."""

import os
import subprocess
import sys

import pytest
from conftest import PROJECT, subprocess_environment

from bench.runs.system import bind_to, cores

MACOS = "import os, sys; del os.sched_getaffinity, os.sched_setaffinity"
WINDOWS = f"""{MACOS}
import enum, signal
sys.modules |= {{"fcntl": None, "resource": None}}
del signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.setitimer, signal.pthread_sigmask
signal.Signals = enum.IntEnum("Signals", {{"SIGINT": 2, "SIGTERM": 15}})
"""
RUN = "import runpy; module = sys.argv.pop(1); runpy.run_module(module, run_name='__main__', alter_sys=True)"


def on(system, *arguments):
    return subprocess.run(
        [sys.executable, "-c", f"{system}\n{RUN}", *arguments],
        cwd=PROJECT,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_cores_without_affinity(monkeypatch):
    bound = cores()
    assert bound == sorted(os.sched_getaffinity(0))
    bind_to(bound[:1])
    assert cores() == bound[:1]
    bind_to(bound)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity")
    assert cores() == list(range(os.cpu_count()))
    bind_to(bound)


@pytest.mark.parametrize("module", ["bench.run", "bench.launch", "bench.data", "analysis.plan", "analysis.build"])
@pytest.mark.parametrize("system", [MACOS, WINDOWS], ids=["macos", "windows"])
def test_every_command_starts(system, module):
    done = on(system, module, "--help")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("before", "given", "policy", "told"),
    [
        ("", {}, "passive", False),
        ("torch", {}, "passive", True),
        ("torch", {"OMP_WAIT_POLICY": "active"}, "active", False),
    ],
    ids=["usual", "torch first", "chosen"],
)
def test_how_threads_wait(before, given, policy, told):
    """Set before OpenMP is loaded; where torch came first, it is said; a choice of the user's is left alone."""
    code = f"""
import {before or "sys"}, bench, os
from bench.config.compose import compose_run
from bench.runs.device import prepare_device
prepare_device(compose_run(["threads=2"]))
print(os.environ["OMP_WAIT_POLICY"])
"""
    kept = {
        name: v for name, v in subprocess_environment().items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | given, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.split() == [policy], done.stderr
    assert ("torch was imported before bench" in done.stderr) == told


def test_a_sweep_without_affinity(tmp_path):
    """A local pool on macOS: what binds workers to cores is left out."""
    sizes = ["scenario.initial=2", "scenario.final=3", "scenario.pool=9", "scenario.validation=4", "scenario.test=6"]
    model = ["model.hidden=[8,8]", "model.n_radial=2", "training.epochs=2", "training.validation_checks=1"]
    words = [*sizes, *model, "final_kernels=[]", "algorithm=maxdiag_rnd", "batch_size=1", "seed=0,1"]
    done = on(MACOS, "bench.launch", "sweep=demo", *words, f"results={tmp_path}", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench.run"],
        ["bench.launch", "sweep=demo"],
        ["bench.data", "prepare", "tio2", "--from", "nowhere"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_windows_is_told_in_one_line(tmp_path, monkeypatch, arguments):
    monkeypatch.setenv("BMDAL_BENCH_DATA", str(tmp_path))
    more = [] if arguments[0] == "bench.data" else [f"results={tmp_path}"]
    done = on(WINDOWS, *arguments, *more)
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2 and line.startswith("error: this system cannot lock files (Windows)"), done.stderr


def test_windows_plans_and_builds(tmp_path):
    """What reads results only."""
    plan = on(WINDOWS, "analysis.plan", "sweep=demo", "--results", str(tmp_path))
    assert plan.returncode == 0, plan.stderr
    tables = PROJECT / "results/reference/demo/data"
    built = on(WINDOWS, "analysis.build", "--data", str(tables), "--output", str(tmp_path), "--workers", "1")
    assert built.returncode == 0 and (tmp_path / "report.html").is_file(), built.stderr
