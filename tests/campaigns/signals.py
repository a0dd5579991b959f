"""Random signals on sweeps with default threads: python -m tests.campaigns.signals [--slurm] [--count N] [--seed N].

At the end every run is done, equal bit for bit to the undisturbed sweep, and nothing is left over.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench_commands import records
from conftest import PROJECT, subprocess_environment
from slurm_cluster import SlurmCluster
from small_sweeps import all_numbers, launch, process_ids, words

RUNS = ["seed=" + ",".join(map(str, range(21))), "batch_size=1,2"]
SETTINGS = {"epochs": 20, "seconds": 0.6}
SLURM = ["cluster=slurm", "cluster.cpus_per_worker=1", "cluster.memory_gb=0.5", "cluster.minutes=10"]
LOCAL = ["cluster.workers=2"]
MOST_OF_A_SWEEP = 100
"""Signals sent to one sweep before it is left to end."""
KINDS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSTOP]
OF_SLURM = ["process", "process", "scancel", "requeue", "USR2", "preempt"]


def disturb(results: Path, count: int, seed: int, slurm: SlurmCluster | None = None) -> Counter[str]:
    """Launch a sweep until it is done, and meanwhile send up to `count` signals; returns what was sent."""
    chance, sent = random.Random(seed), Counter()
    arguments = [*RUNS, *(SLURM if slurm else LOCAL), *(["cluster.workers=3"] if slurm else [])]
    arguments += ["cluster.attempts=999", "checkpoint_seconds=0.2"]
    command = [sys.executable, "-m", "bench.launch", "sweep=demo", *words(results, *arguments, **SETTINGS)]
    while True:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=subprocess_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if sent.total() < count and chance.random() < 0.3:
            time.sleep(chance.uniform(1.0, 6.0))
            sent += _signal(process.pid, chance, "launch")
        told = process.communicate()[0].decode()
        assert "Traceback" not in told or told.rstrip().endswith("KeyboardInterrupt"), told
        if " 0 to do, 0 with workers" in told:
            break
        while slurm.jobs() if slurm else process_ids(str(results)):
            time.sleep(chance.uniform(0.0, 3.5) if not slurm else chance.uniform(2.0, 6.0))
            if slurm:
                _start_now(slurm)
            if sent.total() < count:
                sent += _by_slurm(slurm, results, chance) if slurm else _by_hand(results, chance)
    return sent


def _by_hand(results: Path, chance: random.Random) -> Counter[str]:
    found = process_ids(str(results))
    if not found:
        return Counter()
    target = chance.choice(found)
    kind = "pool" if b"launch.pool" in _cmdline(target) else "worker or run"
    # the pool seldom: after it everything is over until the next launch
    if kind == "pool" and chance.random() < 0.8:
        return Counter()
    return _signal(target, chance, kind)


def _signal(target: int, chance: random.Random, kind: str) -> Counter[str]:
    number = chance.choice(KINDS)
    with contextlib.suppress(ProcessLookupError):
        os.kill(target, number)
        if number == signal.SIGSTOP:
            time.sleep(chance.uniform(0.1, 2.0))
            os.kill(target, signal.SIGCONT)
        return Counter({f"{kind} {number.name}": 1})
    return Counter()


def _by_slurm(slurm: SlurmCluster, results: Path, chance: random.Random) -> Counter[str]:
    """What SLURM does to an element, or a signal to one of its processes."""
    running, what = slurm.jobs("RUNNING"), chance.choice(OF_SLURM)
    if not running:
        return Counter()
    element = chance.choice(running)
    if what == "process":
        found = [process for process in process_ids(str(results)) if b"sbatch" not in _cmdline(process)]
        return _signal(chance.choice(found), chance, "process in a job") if found else Counter()
    if what == "preempt":
        wait = ["--partition=urgent", "--ntasks=1", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 3"]
        slurm("sbatch", *wait, check=False)
    else:
        how = {"scancel": ["scancel"], "requeue": ["scontrol", "requeue"], "USR2": ["scancel", "--signal=USR2"]}
        slurm(*how[what], element, check=False)
    return Counter({f"SLURM {what}": 1})


def _start_now(slurm: SlurmCluster) -> None:
    """SLURM holds a requeued job back for minutes."""
    for element in slurm.jobs("PENDING"):
        slurm("scontrol", "update", f"jobid={element}", "starttime=now", check=False)


def _cmdline(process: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def undisturbed(results: Path) -> None:
    """The same sweep on the local pool, left alone."""
    done = launch(results, *RUNS, *LOCAL, "--wait", **SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr


def check(results: Path, expected: dict) -> None:
    """Nothing is missing, failed, other than undisturbed, or left over."""
    found = all_numbers(results)
    assert len(found) == len(expected) == 42
    assert found == expected, sorted(run for run in expected if found.get(run) != expected[run])
    assert not any(session.get("differs") for record in records(results) for session in record["sessions"])
    left = [*results.rglob("training.pt"), *results.rglob("*.training"), *results.rglob("*.tmp")]
    assert not left, left
    assert not process_ids(str(results))


def campaign(folder: Path, count: int, seed: int, *, on_slurm: bool = False) -> Counter[str]:
    """Sweeps one after another until `count` signals were sent; returns them by target and kind."""
    undisturbed(folder / "undisturbed")
    expected = all_numbers(folder / "undisturbed")
    sent: Counter[str] = Counter()
    with contextlib.ExitStack() as held:
        slurm = None
        if on_slurm:
            (folder / "slurm").mkdir()
            slurm = SlurmCluster(folder / "slurm", max_array_size=4)
            held.callback(slurm.stop)
        while sent.total() < count:
            results = folder / f"disturbed_{seed}"
            these = disturb(results, min(MOST_OF_A_SWEEP, count - sent.total()), seed, slurm)
            check(results, expected)
            sent, seed = sent + these, seed + 1
            sessions = max(len(record["sessions"]) for record in records(results))
            now = time.strftime("%H:%M:%S", time.gmtime())
            print(f"{now} seed {seed - 1}: {these.total()} signals, all 42 runs equal, up to {sessions} sessions a run")
            print(f"   {sent.total()} so far: {dict(sorted(sent.items()))}", flush=True)
    return sent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--slurm", action="store_true")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        os.environ["BMDAL_BENCH_POOLS"] = f"{made}/pools"
        campaign(Path(made), asked.count, asked.seed, on_slurm=asked.slurm)
