"""Faults of launches, pools and workers: what is damaged, stopped, gone, or there twice harms nothing else."""

import contextlib
import errno
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import ase
import ase.io
import pytest
import submitit
from ase.calculators.singlepoint import SinglePointCalculator
from bench_commands import command, records
from conftest import PROJECT, subprocess_environment
from small_sweeps import launch, process_ids, states, wait_until, words

from bench.commands.frame import CLOSED_PIPE, framed
from bench.config.compose import compose_run
from bench.config.sweep import expand
from bench.errors import BusyError, UserError, WriteError
from bench.launch import claims, ending, launches, pool, slurm
from bench.launch.__main__ import main
from bench.launch.cluster import Local, Place, cluster_of, places, share, this_code
from bench.launch.queue import QUEUE, Queue, entries_of
from bench.learning.cycle import run_active_learning
from bench.runs.locks import is_locked, locked
from bench.runs.record_schema import SCHEMA_VERSION

two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a core for each of two workers")


def run_main(monkeypatch, results, *more, **settings):
    """`python -m bench.launch` in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["bench.launch", "sweep=demo", *words(results, *more, **settings)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.fixture
def cores(monkeypatch):
    """Eight cores, by name at least."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.fixture
def claimed(tmp_path, monkeypatch):
    """A folder of claims of its own."""
    monkeypatch.setenv(claims.VARIABLE, str(tmp_path / "claims"))
    return tmp_path / "claims"


@contextlib.contextmanager
def at_work(results, *more):
    """A launch whose pool seems to be at work; yields its folder."""
    folder = results / "launch" / "20260101T000000-abcdef"
    folder.mkdir(parents=True)
    entries = entries_of(expand(["sweep=demo", *words(results, *more)]))
    Queue(SCHEMA_VERSION, 3, 1, entries).write(folder)
    (folder / pool.PLACES).write_text('[{"cores":[0],"gpu":null}]')
    with locked(folder / pool.LOCK, wait=False):
        yield folder


def test_threads_do_not_depend_on_what_is_left(tmp_path, cores, claimed, monkeypatch, capsys):
    """Nor on how many workers there come to be: one thread where nothing is said, else a share of the cores."""
    assert share(Local(None, 0, 1, 1)) == 1 and share(Local(3, 0, 1, 1)) == 2
    assert places(Local(3, 0, 1, 1), 1, 2) == [Place([0, 1], None)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert share(Local(None, 1, 1, 1)) == 4
    for more, told in [
        (["seed=0"], "1 worker of 1 thread on"),
        (["seed=0", "cluster.workers=3"], "1 worker of 2 threads"),
    ]:
        assert run_main(monkeypatch, tmp_path, *more, "--dry-run") == 0
        assert told in capsys.readouterr().out


def test_a_launch_tells_its_sizes(tmp_path, monkeypatch, capsys):
    """How many runs, and a line of sizes for each scenario of the sweep, before anything is started."""
    assert run_main(monkeypatch, tmp_path, "seed=0,1", "batch_size=2,5", "--dry-run") == 0
    runs, sizes, started = capsys.readouterr().out.splitlines()[:3]
    run = compose_run(words(tmp_path)).scenario
    assert runs.startswith("4 runs: 4 to do") and started.startswith("would start")
    assert sizes == (
        f"demo: {run.initial} to {run.final} labelled for training, in batches of 2, 5, from a pool of {run.pool};"
        f" {run.validation} more labelled for validation, {run.test} for the test"
    )


def test_forces_that_are_not_there_are_told_before_anything_starts(tmp_path, monkeypatch, capsys):
    frames = [ase.Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 0.01 * n]]) for n in range(40)]
    for n, frame in enumerate(frames):
        frame.calc = SinglePointCalculator(frame, energy=0.1 * n)
    ase.io.write(tmp_path / "h2.xyz", frames)
    own = [f"dataset.path={tmp_path / 'h2.xyz'}", "dataset.energy_unit=eV", f"results={tmp_path / 'results'}"]
    monkeypatch.setattr(sys, "argv", ["bench.launch", "sweep=own", "seed=0", *own])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and not (tmp_path / "results").exists()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "has no forces, but training.force_weight > 0: choose training=energies" in told[0]


def test_a_run_that_goes_on_with_other_threads_says_so(tmp_path, caplog):
    import torch

    before = torch.get_num_threads()
    try:
        for threads, final in [(1, 4), (1, 6), (2, 8)]:
            torch.set_num_threads(threads)
            run_active_learning(compose_run(words(tmp_path, final=final)))
    finally:
        torch.set_num_threads(before)
    (record,) = records(tmp_path)
    assert [session["differs"] for session in record["sessions"]] == [[], [], ["threads: 1 -> 2"]]
    assert "goes on elsewhere: threads: 1 -> 2" in caplog.text


def test_an_initial_model_that_was_trained_with_other_threads_is_told(tmp_path, caplog):
    import torch

    before = torch.get_num_threads()
    try:
        for threads, batch_size in [(1, 2), (1, 3), (2, 1)]:
            torch.set_num_threads(threads)
            run_active_learning(compose_run([*words(tmp_path, final=5), f"batch_size={batch_size}"]))
    finally:
        torch.set_num_threads(before)
    found = {record["identity"]["batch_size"]: record["sessions"][0]["differs"] for record in records(tmp_path)}
    assert found == {2: [], 3: [], 1: ["initial model, threads: 1 -> 2"]}
    assert "goes on from elsewhere: initial model, threads: 1 -> 2" in caplog.text


def test_a_plugin_that_exits_fails_its_run(tmp_path, monkeypatch):
    """Neither is that the end of the run nor of the process: else a worker would begin it again and again."""
    run = compose_run(words(tmp_path, final=4))
    monkeypatch.setattr("small_methods.Misbehaving.prepare", lambda *_: sys.exit(0))
    with pytest.raises(RuntimeError, match=r"exit\(0\) was called"):
        run_active_learning(run)
    (record,) = records(tmp_path)
    assert record["status"] == "failed" and record["failure"]["error"] == "RuntimeError"
    monkeypatch.undo()
    (model,) = tmp_path.glob("initial/*.pt")
    model.with_suffix(".training.0.tmp").touch()  # of one that was killed while it saved its training
    assert run_active_learning(run).done and not list(tmp_path.rglob("*.tmp"))


def test_results_by_another_path(tmp_path, monkeypatch, capsys):
    """By a symlink and by `..` they are the same results."""
    results = tmp_path / "results"
    (tmp_path / "link").symlink_to(results)
    with at_work(results, "seed=0,1"):
        assert run_main(monkeypatch, tmp_path / "link", "seed=0,1", "--status") == 0
        assert "workers: 1" in capsys.readouterr().out
        assert run_main(monkeypatch, results / "launch" / "..", "seed=0,1") == 0
        assert "0 to do, 2 with workers already" in capsys.readouterr().out


def test_a_launch_at_work_covers_its_own_ends(tmp_path, monkeypatch, capsys):
    """One to a smaller size leaves the larger one to be done; both are stopped by the words of either."""
    with at_work(tmp_path, "seed=0") as folder:
        assert set(launches.runs_of(folder).values()) == {0}
        assert run_main(monkeypatch, tmp_path, "seed=0", "scenario.final=8,10", "--dry-run") == 0
        told = capsys.readouterr().out
        assert "2 runs: 1 to do, 1 with workers already" in told and "scenario.final=10" in told
        assert run_main(monkeypatch, tmp_path, "seed=0", "scenario.final=10", "--status") == 0
        assert "workers: 1" in capsys.readouterr().out


def test_a_damaged_queue_blocks_nothing(tmp_path, monkeypatch, capsys):
    """Whose runs a launch does cannot be known then; its workers are told of, and how to stop them."""
    with at_work(tmp_path, "seed=0") as folder:
        (folder / QUEUE).unlink()
        assert launches.runs_of(folder) is None
        for damage in ("", '{"entries": 3}', '{"entries": [3]}', "3", "[" * 100_000, '{"entries": [{"folder": null}]}'):
            (folder / QUEUE).write_text(damage)
            assert launches.runs_of(folder) is None
        (folder / pool.PLACES).write_text("[{")
        for more in ("--status", "--dry-run", "--cancel"):
            assert run_main(monkeypatch, tmp_path, "seed=0", more) == 0
            told = capsys.readouterr()
            assert more == "--dry-run" or f"--cancel {folder}" in told.err
            assert "workers: 1" in told.out or more != "--status"


def test_a_queue_of_another_version_is_known_all_the_same(tmp_path, monkeypatch, capsys):
    with at_work(tmp_path, "seed=0") as folder:
        content = json.loads((folder / QUEUE).read_text())
        entries = [{"folder": entry["folder"], "new": 1} for entry in content["entries"]]
        (folder / QUEUE).write_text(json.dumps({"schema_version": 99, "entries": entries}))
        assert run_main(monkeypatch, tmp_path, "seed=0,1", "--dry-run") == 0
        told = capsys.readouterr()
        assert "1 to do, 1 with workers already" in told.out and not told.err


def test_a_pool_that_ends_at_its_start_is_told(tmp_path, claimed, monkeypatch, capsys):
    """With the reason, and exit status 2; what it held is free again."""
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101T000000")
    monkeypatch.setattr("uuid.uuid4", lambda: type("Same", (), {"hex": "abcdef0"}))
    lock = tmp_path / "launch" / "20260101T000000-abcdef" / pool.LOCK
    lock.mkdir(parents=True)
    assert run_main(monkeypatch, tmp_path, "seed=0") == 2
    told = capsys.readouterr()
    assert f"ended at its start: {lock} is no file" in told.err and "started" not in told.out
    assert not claims.held(claimed)


def test_locks_that_are_no_files(tmp_path):
    """Nobody waits for them, and they are named."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("fifo", "folder", "loop"):
        assert not is_locked(tmp_path / name)
        for wait in (True, False):
            with pytest.raises(UserError, match=f"{name} is no file"), locked(tmp_path / name, wait=wait):
                pass
    with pytest.raises(UserError, match=r"cannot lock .*No such file"), locked(tmp_path / "no" / "lock", wait=True):
        pass
    with pytest.raises(UserError, match="is no file"), locked(tmp_path / "fifo" / "lock", wait=True):
        pass


def test_errors_of_single_runs_do_not_stop_a_worker(tmp_path):
    """A damaged initial model is trained again; a folder that cannot be written is left; the others are done."""
    entries = entries_of(expand(["sweep=demo", *words(tmp_path, "seed=0,1,2", "threads=1")]))
    by_seed = {entry.run.seed: entry for entry in entries}
    by_seed[0].initial.parent.mkdir(parents=True)
    by_seed[0].initial.write_bytes(b"PK\x03\x04 no model")
    by_seed[1].folder.parent.mkdir(parents=True)
    by_seed[1].folder.write_text("in the way")
    folder = tmp_path / "launch" / "one"
    folder.mkdir(parents=True)
    Queue(SCHEMA_VERSION, 3, 1, entries).write(folder)
    done = command(str(folder), str(os.getpid()), module="bench.launch.worker")
    assert done.returncode == 2, done.stderr
    assert f"run {by_seed[1].folder.name} is left: cannot write to {by_seed[1].folder}" in done.stderr
    assert f"{by_seed[0].initial} is damaged" in done.stderr and "Traceback" not in done.stderr
    assert [by_seed[seed].state() for seed in (0, 2)] == ["done", "done"]
    by_seed[1].folder.unlink()
    assert by_seed[1].state() == "missing"  # the remedy suffices: no failure is recorded


@pytest.fixture
def stubborn(tmp_path, monkeypatch):
    """Starts a process in place of a pool; those left are killed."""
    monkeypatch.setattr(ending, "MODULES", ("stubborn",))
    monkeypatch.setattr(ending, "SECONDS_TO_SAVE", 1.0)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / QUEUE).touch()
    started = []

    def start(*more):
        arguments = [sys.executable, "-m", "stubborn", str(tmp_path / "one"), *more]
        process = subprocess.Popen(
            arguments, env=subprocess_environment(), stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout.readline() == b"ready\n"
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", ["stopped", "ignores"])
def test_cancel_ends_what_does_not_react(tmp_path, stubborn, how, capsys, monkeypatch):
    process = stubborn(*(["ignore"] if how == "ignores" else []))
    if how == "stopped":
        os.kill(process.pid, signal.SIGSTOP)
    assert ending.processes(tmp_path / "one") == [process.pid]
    monkeypatch.setattr(sys, "argv", ["bench.launch", "--cancel", str(tmp_path / "one")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert process.wait(10) == -(signal.SIGTERM if how == "stopped" else signal.SIGKILL)
    assert ("what is left is killed" in capsys.readouterr().out) == (how == "ignores")


def test_cancel_says_what_is_left(tmp_path, stubborn, capsys, monkeypatch):
    process = stubborn()
    monkeypatch.setattr(ending, "_send", lambda *_: None)
    monkeypatch.setattr(ending, "SECONDS_TO_DIE", 0.2)
    assert launches.cancel([tmp_path / "one"]) == 1
    assert f"SIGKILL does not end: {process.pid}" in capsys.readouterr().err
    with pytest.raises(UserError, match="there is no launch nowhere"):
        launches.named(["nowhere"])


def test_pools_never_share_cores(tmp_path, cores, claimed):
    """Whatever their results; the second takes what is left, or is refused with the name of the first."""

    def choose(cluster, threads=1, most=99):
        def chosen(others):
            found = places(cluster, most, threads, [place for other in others for place in other.places])
            if not found:
                raise claims.TakenError(" ".join(str(other.folder) for other in others))
            return found

        return chosen

    def pool_is_dead(_):
        return False

    first = claims.claim(tmp_path / "a" / "first", choose(Local(None, 0, 1, 1), most=3), pool_is_dead)
    assert [claim.places for claim in claims.held(claimed)] == [[Place([core], None) for core in range(3)]]
    second = claims.claim(tmp_path / "b" / "second", choose(Local(None, 0, 1, 1), threads=2), pool_is_dead)
    (_, found) = claims.held(claimed)
    assert found.places == [Place([3, 4], None), Place([5, 6], None)]
    with pytest.raises(claims.TakenError, match=r"a/first .*b/second"):
        claims.claim(tmp_path / "c" / "third", choose(Local(4, 0, 1, 1)), pool_is_dead)
    os.close(first)
    third = claims.claim(tmp_path / "c" / "third", choose(Local(4, 0, 1, 1)), pool_is_dead)
    assert [claim.folder.name for claim in claims.held(claimed)] == ["second", "third"]
    assert sorted(path.name for path in claimed.glob("*.json")) == ["second.json", "third.json"]
    os.close(second), os.close(third)


def test_one_launch_at_a_time(tmp_path, claimed, monkeypatch, capsys):
    """What another has started meanwhile is seen: looked at again once it is one's turn."""
    started = []

    @contextlib.contextmanager
    def another_first(root):
        with at_work(tmp_path, "seed=0"):
            yield

    monkeypatch.setattr(launches, "alone", another_first)
    monkeypatch.setattr(pool, "start", lambda *arguments: started.append(arguments))
    assert run_main(monkeypatch, tmp_path, "seed=0") == 0
    assert "0 to do, 1 with workers already" in capsys.readouterr().out and not started
    monkeypatch.undo()
    lock = tmp_path / "launch" / launches.LOCK
    with launches.alone(tmp_path / "launch"), pytest.raises(BusyError), locked(lock, wait=False):
        pass


SLOW = ["seed=0", "threads=1", "checkpoint_seconds=0"]


def start_run(results, *more, seconds=60.0, **options):
    """A run that has done its first training and goes on for long."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.run", *words(results, *SLOW, *more, epochs=4, seconds=seconds)],
        cwd=PROJECT,
        env=subprocess_environment(),
        **options,
    )
    wait_until(lambda: list(results.glob("initial/*.pt")))
    return process


def test_a_closed_terminal_stops_a_run_and_saves_it(tmp_path):
    """SIGHUP, with a terminal that is gone, is like the other signals."""
    controller, terminal = pty.openpty()
    ends = {"stdin": terminal, "stdout": terminal, "stderr": terminal, "start_new_session": True}
    # tests under nohup have it ignored, also for children
    process = start_run(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL), **ends)
    os.close(terminal)
    os.close(controller)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 128 + signal.SIGHUP
    (record,) = records(tmp_path)
    assert record["status"] == "running" and "failure" not in record
    assert not is_locked(tmp_path / "runs" / record["run_id"] / "run.lock")


def test_nohup_goes_on(tmp_path):
    def ignoring():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = start_run(tmp_path, seconds=1.0, preexec_fn=ignoring, stdout=subprocess.DEVNULL)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    assert [record["status"] for record in records(tmp_path)] == ["done"]


def test_output_that_nobody_reads(tmp_path):
    """`… | head` ends a command quietly, and a run saved."""
    done = unread([sys.executable, "-c", "from bench.commands.frame import framed; framed(lambda: print('x' * 100))()"])
    assert (done.stderr, done.stdout.split()) == ("", [str(CLOSED_PIPE)])
    done = unread([sys.executable, "-m", "bench.run", *words(tmp_path, "seed=0", "threads=1")], "2>&1")
    assert done.stdout.split() == [str(CLOSED_PIPE)]
    (record,) = records(tmp_path)
    assert record["status"] == "running" and "failure" not in record and len(record["steps"]) < 4


def unread(arguments, more=""):
    """A command whose output nobody reads; its exit status is what is printed."""
    script = f"exec 3>&1; ({shlex.join(arguments)} {more}; echo $? >&3) | true; wait"
    return subprocess.run(
        ["bash", "-c", script], cwd=PROJECT, env=subprocess_environment(), capture_output=True, text=True, check=False
    )


def test_closed_descriptors(tmp_path):
    """What is printed there goes nowhere, of processes that are started, too; no file that is opened gets it."""
    code = (
        "import subprocess, sys; from bench.commands.frame import framed; from bench.runs.progress import progress\n"
        "def main():\n"
        "    print('x', file=sys.stderr)\n"
        f"    with open({str(tmp_path / 'file')!r}, 'w') as file:\n"
        "        subprocess.run(['sh', '-c', 'echo y; echo z >&2'], check=True)\n"
        '        file.write(f\'{file.fileno()} {list(progress([1], "", unit=""))}\')\n'
        "framed(main)()"
    )
    script = f"{shlex.join([sys.executable, '-c', code])} <&- >&- 2>&-"
    done = subprocess.run(["bash", "-c", script], cwd=PROJECT, env=subprocess_environment(), check=False)
    assert (done.returncode, (tmp_path / "file").read_text()) == (0, "3 [1]")


LOST = "error: cannot write the output (No space left on device): make room, or send it elsewhere\n"


@pytest.mark.parametrize(("end", "status"), [("None", 2), ("sys.exit()", 2), ("sys.exit(0)", 2), ("sys.exit(1)", 1)])
def test_output_that_is_lost(end, status):
    """However a command ends, 0 is for what was written."""
    code = f"import sys; from bench.commands.frame import framed; framed(lambda: (print('x'), {end}))()"
    done = on_a_full_disk(code, PYTHONUNBUFFERED="")
    assert (done.returncode, done.stderr) == (status, LOST)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_is_lost_on_the_way(unbuffered):
    code = "from bench.commands.frame import framed; framed(lambda: print('x', flush=True))()"
    done = on_a_full_disk(code, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (2, LOST)


def on_a_full_disk(code, **environment):
    """Python code whose output finds no room."""
    with Path("/dev/full").open("w") as full:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=PROJECT,
            env=subprocess_environment() | environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )


@framed
def misbehaves(error):
    raise error


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("a b"), 2), (BrokenPipeError(), CLOSED_PIPE), (KeyboardInterrupt(), 130)]
)
def test_the_frame_of_a_command(error, status, capsys):
    with pytest.raises(SystemExit) as end:
        misbehaves(error)
    assert end.value.code == status
    assert capsys.readouterr().err == ("error: a b\n" if status == 2 else "")


@two_cores
@pytest.mark.long
def test_two_launches_at_the_same_moment(tmp_path):
    """One starts the workers, the other finds them at work; two results at once share no core."""
    options, gate = ["seed=0,1,2,3", "threads=1", "cluster.workers=2"], tmp_path / "gate"
    gate.touch()
    arguments = [sys.executable, "-m", "bench.launch", "sweep=demo", *words(tmp_path / "a", *options, gate=gate)]
    starting = [
        subprocess.Popen(arguments, cwd=PROJECT, env=subprocess_environment(), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate()[0] for process in starting]
    assert sum("started 2 workers" in one for one in told) == 1
    assert sum("0 to do, 4 with workers already" in one for one in told) == 1
    other = launch(tmp_path / "b", *options)
    assert other.returncode == 2 and f"the workers of {tmp_path}/a/launch/" in other.stderr, other.stderr
    gate.unlink()
    done = launch(tmp_path / "a", *options, "--wait", gate=gate)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "a" / "launch").glob("2*"))) == 1
    assert launch(tmp_path / "b", *options, "--wait").returncode == 0


@pytest.mark.long
def test_cancel_of_a_stopped_run_and_a_dead_pool(tmp_path):
    """By another path, with all files of the launch damaged, after SIGSTOP of a run, and after kill -9 of its pool."""
    options = ["seed=0", "threads=1", "cluster.workers=1"]
    (tmp_path / "link").symlink_to(tmp_path)
    for kill_pool in (False, True):
        assert launch(tmp_path, *options, seconds=60.0).returncode == 0
        wait_until(lambda: list(tmp_path.glob("initial/*.pt")) and len(process_ids(str(tmp_path / "launch"))) == 3)
        pool_id, *_, run_id = sorted(process_ids(str(tmp_path / "launch")))
        os.kill(run_id, signal.SIGSTOP)
        if kill_pool:
            os.kill(pool_id, signal.SIGKILL)
            stopped = launch(tmp_path / "link", *options, "--cancel", seconds=60.0)
        else:
            (folder,) = (tmp_path / "launch").glob("2*")
            for name in (QUEUE, pool.PLACES, pool.PID):
                (folder / name).write_text("?")
            stopped = launch(tmp_path / "link", *options, "--cancel", seconds=60.0)
            assert stopped.returncode == 0 and f"--cancel {folder}" in stopped.stderr
            stopped = command("--cancel", str(folder), module="bench.launch")
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert not process_ids(str(tmp_path / "launch"))
        assert set(states(tmp_path, "seed=0", "threads=1", seconds=60.0).values()) == {"interrupted"}


def test_what_workers_run_is_the_user_s_alone(tmp_path, claimed, monkeypatch):
    """Whatever the umask: nobody else can write to the folder of a launch, or to what is in it."""
    before = os.umask(0o002)
    try:
        seen = []
        monkeypatch.setattr(pool, "start", lambda folder, *_: seen.append((folder, folder.stat().st_mode & 0o777)))
        assert run_main(monkeypatch, tmp_path, "seed=0") == 0
    finally:
        os.umask(before)
    ((folder, mode),) = seen
    assert mode == 0o700 and folder.stat().st_mode & 0o777 == 0o755
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {QUEUE: 0o644}


def test_the_working_folder_is_in_no_worker_s_path(monkeypatch):
    """An empty entry of PYTHONPATH would be it; and what a path holds is no command of a job's script."""
    for given, more in [("", []), (":", []), (":/a::/b:", ["/a", "/b"])]:
        monkeypatch.setenv("PYTHONPATH", given)
        assert this_code()["PYTHONPATH"].split(":") == [str(PROJECT), *more]
    told = []

    class Executor:
        def __init__(self, **_):
            pass

        def update_parameters(self, **options):
            told.extend(options["setup"])
            raise UserError("enough")

    monkeypatch.setenv("PYTHONPATH", '/a"; touch /tmp/x; "$(id)')
    monkeypatch.setattr(slurm, "SlurmExecutor", Executor)
    monkeypatch.setattr("shutil.which", lambda name: name)
    with pytest.raises(UserError, match="enough"):
        slurm.submit(Path("here"), cluster_of(["cluster=slurm"]), 1)
    script = "\n".join([*told, 'echo "$PYTHONPATH"'])
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f'{PROJECT}:/a"; touch /tmp/x; "$(id)'


UNLIMITED = {
    "minutes=0": "cluster.minutes = 0: must be at least 1",
    "minutes=-1": "cluster.minutes = -1: must be at least 1",
    "minutes=3": "cluster.minutes = 3: .*seconds_to_stop = 120 s.* give at least 4",
    "seconds_to_stop=86400": "cluster.minutes = 1440: .*give at least 1442",
    "memory_gb=0": "cluster.memory_gb = 0.0: must be above 0",
    "memory_gb=0.0001": "cluster.memory_gb = 0.0001: must be above 0",
    "memory_gb=.inf": "cluster.memory_gb = ",
    "cpus_per_worker=0": "cluster.cpus_per_worker = 0: must be at least 1",
    "parallel=0": "cluster.parallel = 0: must be at least 1",
    "parallel=-2": "cluster.parallel = -2: must be at least 1",
}


@pytest.mark.parametrize("word", UNLIMITED)
def test_what_slurm_would_take_for_no_limit(word):
    with pytest.raises(UserError, match=UNLIMITED[word]):
        cluster_of(["cluster=slurm", f"cluster.{word}"])


def test_options_of_ones_own_for_sbatch():
    assert cluster_of(["cluster=slurm"]).additional is None
    for word in ("cluster.additional={constraint:rack1}", "+cluster.additional={constraint:rack1}"):
        assert cluster_of(["cluster=slurm", word]).additional == {"constraint": "rack1"}


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """Commands of a SLURM made of files: what `sbatch` answers is in `answer`, what was called in `called`."""
    folder = tmp_path / "commands"
    folder.mkdir()
    (folder / "answer").write_text("echo Submitted batch job 7")
    for name in ("sbatch", "srun", "scancel"):
        script = f'#!/bin/sh\necho {name} "$@" >> {folder}/called\n. {folder}/answer\n'
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_slurm_s_whole_reason_is_told_in_one_line(sbatch, tmp_path, capfd):
    (sbatch / "answer").write_text(
        "echo 'sbatch: error: invalid partition specified: nope' >&2\n"
        "echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2\nexit 1"
    )
    reason = "invalid partition specified: nope; Batch job submission failed: Invalid partition name specified"
    with pytest.raises(UserError, match=f"^SLURM refuses the job \\({reason}\\): change cluster"):
        slurm.submit(tmp_path / "here", cluster_of(["cluster=slurm"]), 1)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["%j", "q%%A", "%10a"])
def test_folders_in_which_slurm_would_put_a_job_s_number(sbatch, tmp_path, name):
    """The submission is refused before there is a job; a lone sign is none."""
    with pytest.raises(UserError, match="SLURM replaces signs such as %j"):
        slurm.submit(tmp_path / name / "here", cluster_of(["cluster=slurm"]), 1)
    assert not (sbatch / "called").exists() and not (tmp_path / name).exists()
    assert slurm.submit(tmp_path / "100%" / "here", cluster_of(["cluster=slurm"]), 1) == "7"


def test_a_job_that_cannot_be_recorded_is_cancelled(sbatch, tmp_path, monkeypatch):
    def full(path, content):
        raise WriteError("cannot write: make room")

    monkeypatch.setattr(slurm, "write_atomically", full)
    with pytest.raises(WriteError, match="make room"):
        slurm.submit(tmp_path / "here", cluster_of(["cluster=slurm"]), 1)
    called = (sbatch / "called").read_text().splitlines()
    assert [line.split()[0] for line in called] == ["sbatch", "scancel"] and "--name=bmdal-bench-here" in called[1]


FULL = [
    (submitit.core.utils.DelayedSubmission, "dump", OSError(errno.ENOSPC, "No space left on device")),
    (Queue, "write", WriteError("cannot write queue.json (No space left on device): make room")),
]


@pytest.mark.parametrize(("writer", "method", "error"), FULL)
def test_a_full_disk_leaves_no_part_of_a_launch(sbatch, tmp_path, monkeypatch, capsys, writer, method, error):
    def write(self, path):
        path.parent.joinpath("part").touch()
        raise error

    monkeypatch.setattr(slurm, "alive", Counter)
    monkeypatch.setattr(slurm, "most_elements", lambda: 10)
    monkeypatch.setattr(writer, method, write)
    assert run_main(monkeypatch, tmp_path, "seed=0", "cluster=slurm") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: cannot write ") and "(No space left on device): make room" in line
    assert not [path for path in (tmp_path / "launch").iterdir() if path.is_dir()]


def test_a_full_disk_leaves_no_part_of_an_array_of_tasks(sbatch, tmp_path, monkeypatch):
    def dump(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(slurm, "most_elements", lambda: 10)
    monkeypatch.setattr(submitit.core.utils.DelayedSubmission, "dump", dump)
    with pytest.raises(WriteError, match="make room"):
        slurm.run([print], tmp_path, cluster_of(["cluster=slurm"]))
    assert not list(tmp_path.glob("tasks_*"))


def test_a_job_submitted_from_inside_another_inherits_nothing_of_it(sbatch, tmp_path, monkeypatch):
    """SLURM exports what sbatch has around it; what finds the site stays, and outside of a job all stays."""
    (sbatch / "answer").write_text(f"env > {sbatch}/environment; echo Submitted batch job 7")
    site = {"SLURM_CONF": "/etc/here", "SLURM_CLUSTERS": "one", "SBATCH_ACCOUNT": "mine"}
    job = {"SLURM_MEM_PER_CPU": "100", "SLURM_CPU_BIND": "quiet", "SRUN_CPUS_PER_TASK": "2", "SBATCH_MEM_BIND": "local"}
    for name, value in (site | job | {"SLURM_JOB_ID": "1"}).items():
        monkeypatch.setenv(name, value)
    for place, handed_on in (("inside", site), ("outside", site | job)):
        slurm.submit(tmp_path / place, cluster_of(["cluster=slurm"]), 1)
        environment = dict(line.split("=", 1) for line in (sbatch / "environment").read_text().splitlines())
        assert {name: environment[name] for name in site | job if name in environment} == handed_on
        assert {name: os.environ[name] for name in site | job} == site | job
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_what_slurm_says_of_workers_that_never_ended_is_told(tmp_path, monkeypatch, capsys):
    """What it says of one that was preempted and did its work later is past."""
    folder = tmp_path / "launch" / "20260101T000000-abcdef"
    (folder / "slurm").mkdir(parents=True)
    Queue(SCHEMA_VERSION, 3, 1, entries_of(expand(["sweep=demo", *words(tmp_path, "seed=0")]))).write(folder)
    reasons = ["srun: fatal: SLURM_MEM_PER_CPU and SLURM_MEM_PER_NODE are mutually exclusive."]
    reasons += ["srun: error: vm: task 0: Killed", "slurmstepd-vm: error: Detected 1 oom-kill event(s)"]
    (folder / "slurm" / "7_0_0_log.out").write_text("\n".join(["srun: forcing job termination", *reasons, ""]))
    (folder / "slurm" / "7_1_0_log.out").write_text("slurmstepd-vm: error: *** JOB 7 CANCELLED DUE TO PREEMPTION ***\n")
    (folder / "slurm" / "7_1_0_result.pkl").touch()
    monkeypatch.setattr(slurm, "alive", Counter)
    assert run_main(monkeypatch, tmp_path, "seed=0", "--status") == 0
    assert capsys.readouterr().err.splitlines() == [f"error: {reason}" for reason in reasons]


def test_a_command_of_slurm_that_hangs_is_told_in_words(sbatch, monkeypatch):
    """What it has said until then are bytes."""
    (sbatch / "scancel").write_text("#!/bin/sh\necho 'scancel: error: cannot stat file' >&2\nexec sleep 30\n")
    monkeypatch.setattr(slurm, "SECONDS_TO_ANSWER", 1)
    with pytest.raises(UserError, match=r"^scancel does not answer \(scancel: error: cannot stat file\): try again$"):
        slurm.cancel(Path("here"))


def test_slurm_that_does_not_answer_stops_no_local_launch(tmp_path, claimed, monkeypatch, capsys):
    """It is said that its workers are not known of; a launch on SLURM ends with the reason."""
    (tmp_path / "launch" / "20250101T000000-123456" / "slurm").mkdir(parents=True)
    asked = []

    def silent():
        asked.append(1)
        raise UserError("squeue does not answer (timed out): try again")

    monkeypatch.setattr(slurm, "alive", silent)
    monkeypatch.setattr(launches, "_silent", set())
    for more in ("--dry-run", "--status"):
        assert run_main(monkeypatch, tmp_path, "seed=0", more) == 0
    told = capsys.readouterr().err
    assert told.count("squeue does not answer") == len(asked) == 1 and "is not known" in told
    monkeypatch.setattr(launches, "_silent", set())
    assert run_main(monkeypatch, tmp_path, "seed=0", "--status", "cluster=slurm") == 2
    assert capsys.readouterr().err.startswith("error: squeue does not answer")


def test_a_copy_of_results_has_no_workers_in_slurm(tmp_path, monkeypatch):
    """Those that are queued under a launch's name are the original's."""
    monkeypatch.setattr(slurm, "alive", lambda: Counter({"20250101T000000-123456": 3}))
    folder = tmp_path / "a" / "launch" / "20250101T000000-123456"
    (folder / "slurm").mkdir(parents=True)
    assert slurm.count(slurm.alive(), folder) == 3  # of an earlier version
    (folder / slurm.PLACE).write_bytes(os.fsencode(folder.resolve()))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    found = [slurm.count(slurm.alive(), tmp_path / name / "launch" / folder.name) for name in ("a", "link", "b")]
    assert found == [3, 3, 0]
    cancelled = []
    monkeypatch.setattr(slurm, "cancel", cancelled.append)
    assert launches.cancel([tmp_path / "b" / "launch" / folder.name]) == 0 and not cancelled
