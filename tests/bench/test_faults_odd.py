"""Odd machines: clocks that jump, no flock, disks that lose power, other users, launchers of Hydra that are killed."""

import contextlib
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_commands import command, here, records
from conftest import PROJECT, subprocess_environment
from small_sweeps import all_numbers, launch, process_ids, wait_until, words

from analysis.build import collect
from analysis.plan import main as planning
from bench.commands.frame import framed
from bench.config.sweep import expand
from bench.data.columns import read_columns
from bench.errors import UserError
from bench.launch import ending
from bench.launch.__main__ import main as launching
from bench.learning.models import of_run
from bench.merge import main as merging
from bench.migrate import main as migrating
from bench.runs.record import RECORD, read_record, record_paths
from tests.analysis.generated import generate

SEEDS = "seed=0,1,2,3"
SETTINGS = {"epochs": 8, "seconds": 0.3}
FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
NO_FLOCK = """
import errno, fcntl, os
real = fcntl.flock
def flock(file, operation):
    descriptor = file if isinstance(file, int) else file.fileno()
    if os.environ["NO_FLOCK_BELOW"] in os.readlink(f"/proc/self/fd/{descriptor}"):
        raise OSError(errno.ENOLCK, "No locks available")
    return real(file, operation)
fcntl.flock = flock
import bench.runs.locks
bench.runs.locks.HEARTBEAT, bench.runs.locks.LEASE_LASTS = 0.5, 3.0
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same runs one after another."""
    results = tmp_path_factory.mktemp("undisturbed")
    done = command("-m", "+sweep=demo", *words(results, SEEDS, "threads=1", **SETTINGS))
    assert done.returncode == 0, done.stderr
    return all_numbers(results)


def in_environment(results, *more, module="bench.launch", sweep="sweep=demo", **environment):
    """A command in the background."""
    arguments = [sys.executable, "-m", module, sweep, *words(results, SEEDS, "threads=1", *more, **SETTINGS)]
    return subprocess.Popen(
        arguments, cwd=PROJECT, env=subprocess_environment() | environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.long
@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime")
def test_clocks_that_jump(tmp_path, undisturbed):
    """Years ahead, then years back, with a kill of everything in between: the numbers of an undisturbed sweep."""
    for jump in ("+4y", "-9y", "+0"):
        moved = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": jump}
        process = in_environment(tmp_path, "cluster.workers=2", "checkpoint_seconds=0.1", "--wait", **moved)
        if jump != "+0":
            started = len(list(tmp_path.glob("runs/*/record.json")))
            wait_until(lambda before=started: len(list(tmp_path.glob("runs/*/record.json"))) > before, seconds=120)
            time.sleep(1.0)
            for one in process_ids(str(tmp_path)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
        process.communicate()
    assert process.returncode == 0
    assert all_numbers(tmp_path) == undisturbed


@pytest.mark.long
def test_a_sweep_without_flock(tmp_path, undisturbed):
    """On leases: a worker is killed, and its runs are taken over once its lease has run out."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(NO_FLOCK)
    results = tmp_path / "results"
    path = os.pathsep.join([str(tmp_path / "site"), subprocess_environment()["PYTHONPATH"]])
    without = {"PYTHONPATH": path, "NO_FLOCK_BELOW": str(results)}
    process = in_environment(results, "cluster.workers=2", "--wait", **without)
    wait_until(lambda: list(results.glob("runs/*/run.lock.lease")), seconds=120)
    time.sleep(1.0)
    workers = [one for one in process_ids(str(results)) if b"launch.worker" in ending_cmdline(one)]
    os.kill(random.Random(0).choice(workers), signal.SIGKILL)
    process.communicate()
    again = in_environment(results, "cluster.workers=2", "--wait", **without)
    told = again.communicate()[0]
    assert again.returncode == 0, told
    assert all_numbers(results) == undisturbed and not list(results.rglob("*.lease*"))


def ending_cmdline(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_joblib_s_launcher_is_stopped(tmp_path, undisturbed, number):
    """And all its processes with it, or later; the same command goes on."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    multirun = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "checkpoint_seconds=0.1"]
    process = in_environment(tmp_path, *multirun, module="bench.run", sweep="+sweep=demo")
    wait_until(lambda: records(tmp_path) and any(record["steps"] for record in records(tmp_path)), seconds=120)
    process.send_signal(number)
    process.communicate()
    wait_until(lambda: not [one for one in process_ids(str(tmp_path)) if one != os.getpid()], seconds=60)
    done = in_environment(tmp_path, *multirun, module="bench.run", sweep="+sweep=demo")
    assert (done.communicate(), done.returncode)[1] == 0
    assert all_numbers(tmp_path) == undisturbed
    assert not any("failure" in record for record in records(tmp_path))


@contextlib.contextmanager
def mounted(image, place):
    """The file system of an image."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount an image here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.long
def test_a_disk_that_loses_power(tmp_path, undisturbed):
    """A sweep on a disk that is copied in the middle of writing, ten times: from each copy it ends as undisturbed."""
    image, copies = tmp_path / "disk", []
    image.write_bytes(bytes(48 << 20))
    made = shutil.which("mkfs.ext4")
    if made is None or subprocess.run([made, "-q", image], check=False).returncode:
        pytest.skip("needs mkfs.ext4")
    with mounted(image, tmp_path / "place"):
        process = in_environment(tmp_path / "place", "cluster.workers=2", "checkpoint_seconds=0", "--wait")
        chance = random.Random(2026)
        wait_until(lambda: list(tmp_path.glob("place/runs/*/record.json")), seconds=120)
        while process.poll() is None and len(copies) < 10:
            time.sleep(chance.uniform(0.1, 0.7))
            copies.append(tmp_path / f"copy_{len(copies)}")
            shutil.copyfile(image, copies[-1])
        process.communicate()
        assert all_numbers(tmp_path / "place") == undisturbed
        wait_until(lambda: not process_ids(str(tmp_path / "place")), seconds=120)
    assert copies
    for copy in copies:
        with mounted(copy, tmp_path / "place"):
            for path in record_paths(tmp_path / "place"):
                read_record(path)
    with mounted(copies[len(copies) // 2], tmp_path / "place"):
        done = launch(tmp_path / "place", SEEDS, "threads=1", "cluster.workers=2", "--wait", **SETTINGS)
        assert done.returncode == 0, done.stdout + done.stderr
        assert all_numbers(tmp_path / "place") == undisturbed


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


def as_other(*arguments):
    """A command of somebody to whom files of others are closed: root is not asked, and has not its privileges."""
    without = "-dac_override,-dac_read_search,-fowner"
    return subprocess.run(
        ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}", sys.executable, "-m", *arguments],
        cwd=PROJECT,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@needs_root
@pytest.mark.long
def test_another_user(tmp_path, undisturbed):
    """May look at results, and merge them into a folder of his own; to compute there ends in one line."""
    results = tmp_path / "results"
    assert launch(results, "seed=0", "threads=1", "--wait", **SETTINGS).returncode == 0
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    for path in (results, *results.rglob("*")):
        os.chown(path, 65534, 65534)
    these = words(results, "seed=0,1", "threads=1", **SETTINGS)
    looked = as_other("bench.launch", "sweep=demo", *these, "--status")
    assert looked.returncode == 0 and " 1 " in looked.stdout, looked.stderr
    for more in ([], ["--wait"]):
        started = as_other("bench.launch", "sweep=demo", *these, *more)
        assert started.returncode == 2 and started.stderr.count("\n") == 1, started.stderr
        assert "cannot write to" in started.stderr and "Permission denied" in started.stderr
    single = as_other("bench.run", *words(results, "seed=0", "threads=1", **SETTINGS))
    assert single.returncode == 2 and "cannot write to" in single.stderr and "Traceback" not in single.stderr
    for folder in (results, *(path for path in results.rglob("*") if path.is_dir())):
        folder.chmod(0o777)
    single = as_other("bench.run", *words(results, "seed=0", "threads=1", **SETTINGS))
    (line,) = [line for line in single.stderr.splitlines() if line.startswith("error: ")]
    assert single.returncode == 2 and "run.lock (Permission denied)" in line and "Traceback" not in single.stderr
    own = tmp_path / "own"
    merged = as_other("bench.merge", str(results), str(own))
    assert merged.returncode == 0 and "1 new" in merged.stdout, merged.stderr
    run = next(iter(all_numbers(own).values()))
    assert run in undisturbed.values()


@contextlib.contextmanager
def without_privileges():
    """Meanwhile files of others are closed to this thread, as they are to everybody but root."""
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)
    kept, fewer = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, kept) == 0
    fewer[:] = [kept[0] & ~0b1110, *kept[1:]]  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, kept) == 0


def looked(main, arguments):
    """A command in this process; those that only look return, and have no exit status of their own."""
    return here(lambda: sys.exit(main()), *arguments)


def close(folder):
    """As another user leaves a folder whose umask is 077."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, 65534, 65534)
    folder.chmod(0o700)


@pytest.fixture
def shared(tmp_path):
    """Results of three runs, one of them in a folder that its owner has closed, and a launch of the same user."""
    results = tmp_path / "shared"
    generate(results, expand(["sweep=demo", "seed=0"]))
    closed = sorted((results / "runs").iterdir())[-1]
    (results / "launch/20260101T000000-abcdef/slurm").mkdir(parents=True)
    close(results / "launch/20260101T000000-abcdef")
    close(closed)
    return results, closed


@needs_root
@pytest.mark.parametrize(
    ("main", "words_of", "status", "told"),
    [
        (launching, ["sweep=demo", "seed=0", "results={}", "--status"], 0, "damaged: "),
        (launching, ["sweep=demo", "seed=0", "results={}", "--dry-run"], 0, "with workers already, 2 done, 1 damaged"),
        (planning, ["sweep=demo", "seed=0", "--results", "{}"], None, " 3           2 "),
        (merging, ["{}", "{}/../own"], 1, "1 closed to you, 2 new"),
        (migrating, ["{}"], 1, "2 already there, 1 left as it is"),
    ],
)
def test_a_run_that_its_owner_has_closed(shared, main, words_of, status, told):
    """Is told in one line, and the others are looked at; all runs closed, that is told."""
    results, closed = shared
    arguments = [word.format(results) for word in words_of]
    with without_privileges():
        done = looked(main, arguments)
    said = done.stdout + done.stderr
    assert done.returncode == (status or 0) and told in said, said
    (line,) = [line for line in said.splitlines() if "Permission denied" in line]
    assert f"cannot read {closed / RECORD} (Permission denied): ask its owner to let you read it" in line
    if main is not launching:
        close(results / "runs")
        with without_privileges():
            done = looked(main, arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: cannot read {results}/runs (Permission denied): ask its owner")


@needs_root
def test_what_else_is_closed(shared):
    """A run of a report, a model, columns of data: one line each, with the right remedy."""
    results, closed = shared
    with without_privileges():
        failures = [*filter(None, collect(results, "demo").runs["failure"])]
    assert failures == [f"cannot read {closed / RECORD} (Permission denied): ask its owner to let you read it"]
    with without_privileges():
        done = here(framed(lambda: of_run(closed)))
    assert done.returncode == 2 and done.stderr.startswith(f"error: cannot open {closed}"), done.stderr
    with without_privileges():
        done = here(framed(lambda: read_columns(closed)))
    assert (
        done.stderr == f"error: cannot read {closed}/meta.json (Permission denied): ask its owner to let you read it\n"
    )


@needs_root
def test_processes_of_another_user_are_not_cancelled(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    monkeypatch.setattr(os, "kill", refuse)
    with pytest.raises(UserError, match="process 12 is another user's"):
        ending._send({12}, signal.SIGTERM)
    (tmp_path / "pool.pid").write_text("here 12")
    assert ending._pool_of(tmp_path) == [12]
