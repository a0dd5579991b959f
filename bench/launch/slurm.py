"""The workers of a SLURM cluster: one job array through submitit, its elements as many as there are workers.

What runs and what is left is never asked of SLURM's accounting: results on disk say it, squeue only who is still there.
"""

import contextlib
import getpass
import io
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import submitit
from submitit.helpers import DelayedSubmission
from submitit.slurm.slurm import SlurmExecutor

from bench.errors import UserError, WriteError, cannot_write
from bench.launch.cluster import MB_PER_GB, Slurm, environment
from bench.launch.logs import OF_SLURM, errors_in
from bench.runs.record import make_folder, write_atomically
from bench.runs.stopping import Stopped, raise_if_asked

if TYPE_CHECKING:
    from bench.launch.worker import Worker

log = logging.getLogger(__name__)
PREFIX = "bmdal-bench-"
PLACE = "slurm/place"
"""The file in the folder of a launch that says where this was when it was submitted."""
SECONDS_TO_ANSWER = 30
SECONDS_BETWEEN_LOOKS = 1.0
ENDLESS = 10**6
REPLACED = re.compile("%[0-9]*[A-Za-z%]")
"""What sbatch takes for a number of the job in the names of its files."""
JOB_ID = "SLURM_JOB_ID"
OF_A_JOB = re.compile("SLURM_|SLURMD_|SRUN_|SBATCH_(CPU|MEM)_BIND")
OF_THE_SITE = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
"""Environment variables: those that SLURM sets inside a job, and those like them by which its commands find it."""


class SlurmWorker:
    """What an element of the array does. submitit pickles it, calls it, and queues it anew at the time limit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.worker: Worker | None = None

    def __call__(self) -> None:
        """Work; SIGTERM (preemption, requeue, scancel) stops the run in progress, which is saved."""
        from bench.launch.worker import Worker, log_to_stderr  # noqa: PLC0415 - only here, not where it is submitted

        log_to_stderr()
        self.worker = Worker(self.folder)
        signal.signal(signal.SIGTERM, self._stop)
        status = self.worker.work()
        if status == 2:
            raise UserError("this worker cannot work here: see the error above")

    def checkpoint(self) -> DelayedSubmission:
        """Called near the time limit: save the run in progress; what is left is for the next time."""
        if self.worker is not None:
            self.worker.stop()
            self.worker.wait()
        os.umask(os.umask(0o022) | 0o022)  # what submitit keeps of it is code for the next time
        return DelayedSubmission(SlurmWorker(self.folder))

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        if self.worker is not None:
            self.worker.stop()


def submit(folder: Path, cluster: Slurm, workers: int) -> str:
    """Submit the workers of a launch as one array; returns the job's number. Raises UserError with SLURM's reason."""
    return _submit(folder, cluster, [SlurmWorker(folder)] * workers)


def run(tasks: Sequence[Callable[[], None]], folder: Path, cluster: Slurm) -> None:
    """Have tasks done as the elements of an array, as many at once as `cluster.workers`, and wait for them.

    Raises UserError with SLURM's reason, or with the errors of those that failed.
    """
    limit = most_elements()
    if len(tasks) > limit:
        raise UserError(f"{len(tasks)} tasks are beyond this site's MaxArraySize: ask for {limit} at most")
    place = folder / f"tasks_{uuid.uuid4().hex[:8]}"
    make_folder(place)
    try:
        job = _submit(place, replace(cluster, parallel=cluster.parallel or cluster.workers), tasks)
    except UserError:
        shutil.rmtree(place)
        raise
    log.info("submitted %d tasks as job %s; logs in %s/slurm", len(tasks), job, place)
    try:
        while left := alive().get(place.name, 0):
            log.debug("%d tasks are left", left)
            raise_if_asked()
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except Stopped:
        cancel(place)
        raise
    if told := errors(place):
        raise UserError(f"tasks of job {job} failed: {'; '.join(told)}")


def _submit(folder: Path, cluster: Slurm, calls: Sequence[Callable[[], None]]) -> str:
    if shutil.which("srun") is None or shutil.which("sbatch") is None:
        raise UserError("there is no SLURM here (no sbatch, srun): run this where jobs are submitted, or cluster=local")
    if REPLACED.search(str(folder.resolve())):
        raise UserError(f"SLURM replaces signs such as %j in the name of a file: {folder}: choose results=… without")
    executor = SlurmExecutor(folder=folder / "slurm", max_num_timeout=ENDLESS)
    exports = environment(cluster.cpus_per_worker)
    options: dict[str, Any] = {
        "job_name": PREFIX + folder.name,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "time": cluster.minutes,
        "mem": f"{round(cluster.memory_gb * MB_PER_GB)}M",
        "cpus_per_task": cluster.cpus_per_worker,
        "gpus_per_node": cluster.gpus_per_worker or None,
        "signal_delay_s": cluster.seconds_to_stop,
        "array_parallelism": cluster.parallel or len(calls),
        "stderr_to_stdout": True,
        "setup": [*(f"export {name}={shlex.quote(value)}" for name, value in exports.items()), *cluster.setup],
        # srun does not take it from sbatch since SLURM 22.05
        "srun_args": [f"--cpus-per-task={cluster.cpus_per_worker}"],
        "additional_parameters": {"requeue": True} | (cluster.additional or {}),
    }
    executor.update_parameters(**{key: value for key, value in options.items() if value is not None})
    try:
        # submitit prints what it raises
        with contextlib.redirect_stderr(io.StringIO()), _as_outside_of_jobs(), executor.batch():
            jobs = [executor.submit(call) for call in calls]
    except submitit.core.utils.FailedJobError as error:
        reason = "; ".join(line.removeprefix("sbatch: error: ") for line in str(error).strip().splitlines())
        raise UserError(f"SLURM refuses the job ({reason}): change cluster.… values") from None
    except OSError as error:
        cancel(folder)
        raise cannot_write(error, f"cannot write to {folder} ({error.strerror}): make room, or it writable") from None
    try:
        write_atomically(folder / PLACE, os.fsencode(folder.resolve()))
    except WriteError:
        cancel(folder)
        raise
    return str(jobs[0].job_id).split("_", maxsplit=1)[0]


@contextlib.contextmanager
def _as_outside_of_jobs() -> Iterator[None]:
    """Hide the job that this is part of, if any: sbatch hands its sizes on to the new one, whose srun obeys them."""
    job = [name for name in os.environ if OF_A_JOB.match(name) and name not in OF_THE_SITE]
    hidden = {name: os.environ.pop(name) for name in job} if JOB_ID in os.environ else {}
    try:
        yield
    finally:
        os.environ |= hidden


def most_elements() -> int:
    """How many elements an array may have here: MaxArraySize is the lowest index that is refused."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _output("scontrol", "show", "config"))
    return int(found[1]) if found else 1


def alive() -> Counter[str]:
    """Workers that are queued or at work, by the name of their launch; none where there is no SLURM."""
    if shutil.which("squeue") is None:
        return Counter()
    names = _output("squeue", "--noheader", "--array", "--format=%j", f"--user={getpass.getuser()}").split()
    return Counter(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))


def count(queued: Counter[str], folder: Path) -> int:
    """How many of these workers a launch has. A copy of its folder has none: the original does."""
    try:
        copied = os.fsdecode((folder / PLACE).read_bytes()) != str(folder.resolve())
    except OSError:
        copied = False
    return 0 if copied else queued.get(folder.name, 0)


def cancel(folder: Path) -> None:
    """Cancel the workers of a launch: runs in progress are saved."""
    _output("scancel", f"--name={PREFIX}{folder.name}", f"--user={getpass.getuser()}")


def errors(folder: Path) -> list[str]:
    """What the workers of a launch say went wrong, each once, and SLURM of those that never came to an end.

    What it says of others is past: they were preempted, say, and queued anew.
    """
    logs = sorted((folder / "slurm").glob("*_log.out"))
    ended = {path.name.removesuffix("_result.pkl") for path in (folder / "slurm").glob("*_result.pkl")}
    cut_short = [path for path in logs if path.name.removesuffix("_log.out") not in ended]
    return errors_in(logs) + errors_in(cut_short, OF_SLURM)


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", "") or str(error)
        told = told.decode(errors="replace") if isinstance(told, bytes) else str(told)  # bytes of what timed out
        raise UserError(f"{command[0]} does not answer ({told.strip().splitlines()[-1]}): try again") from None
    return done.stdout
