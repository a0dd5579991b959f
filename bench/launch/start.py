"""A launch begins: its queue is written, and workers are started that no other pool has the cores of."""

import contextlib
import dataclasses
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError, WriteError, cannot_write, counted
from bench.launch import claims, pool, slurm
from bench.launch.cluster import Cluster, Local, Place, Slurm, places, share
from bench.launch.queue import Entry, Queue
from bench.runs.record import make_folder
from bench.runs.record_schema import SCHEMA_VERSION
from bench.runs.system import require_unix


def start(root: Path, cluster: Cluster, todo: Sequence[Entry], *, dry_run: bool) -> Path | None:
    """Write the queue of a launch and start its workers. Returns its folder, None where it is only said."""
    require_unix()
    folder = root / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    most = -(-len(todo) // cluster.pack)
    limit = most if isinstance(cluster, Local) else slurm.most_elements()
    cores = share(cluster) if isinstance(cluster, Local) else cluster.cpus_per_worker
    todo = [_with_threads(entry, cores) for entry in todo]
    threads = max(entry.run.threads or cores for entry in todo)
    if isinstance(cluster, Slurm):
        workers = min(cluster.workers, most, limit)
        if workers < min(cluster.workers, most):
            print(
                f"cluster.workers = {cluster.workers} is beyond this site's MaxArraySize: {counted(workers, 'worker')}"
            )
    else:
        workers = len(places(cluster, most, threads))
    if dry_run:
        packs = f", packs of {cluster.pack}" if cluster.pack > 1 else ""
        print(f"would start {counted(workers, 'worker')} of {counted(threads, 'thread')}{packs} on:")
        print("\n".join(f"{entry.folder.name} {' '.join(entry.words)}" for entry in todo))
        return None
    with contextlib.ExitStack() as held:
        if isinstance(cluster, Local):
            ours, claim = _claimed(folder, cluster, most, threads)
            held.callback(os.close, claim)
        _make(folder)
        held.callback(_closed, folder)
        try:
            Queue(SCHEMA_VERSION, cluster.attempts, cluster.pack, list(todo)).write(folder)
            if isinstance(cluster, Local):
                pool.start(folder, ours, claim)
                size = f"{counted(len(ours), 'worker')} of {counted(threads, 'thread')}"
                told = f"started {size} in the background; log in {folder}/{pool.LOG}"
            else:
                job = slurm.submit(folder, cluster, workers)
                told = f"submitted {counted(workers, 'worker')} as job {job}; logs in {folder}/slurm"
        except UserError as error:
            if isinstance(cluster, Slurm) or isinstance(error, WriteError):  # a pool that ended has a log to look at
                shutil.rmtree(folder)
            raise
        print(told)
    return folder


def _make(folder: Path) -> None:
    """The folder of a launch, nobody else's as long as it is filled. Raises WriteError."""
    make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise cannot_write(error, f"cannot make {folder} ({error.strerror}): make room, or it writable") from None


def _closed(folder: Path) -> None:
    """Let others read what is in the folder of a launch, as far as usual here; what workers will run, nobody alters."""
    usual = os.umask(0o077)
    os.umask(usual)
    with contextlib.suppress(FileNotFoundError):  # nothing was started
        for path in (*folder.rglob("*"), folder):
            with contextlib.suppress(FileNotFoundError):
                path.chmod((0o755 if path.is_dir() else 0o644) & ~usual)


def _claimed(folder: Path, cluster: Local, most: int, threads: int) -> tuple[list[Place], int]:
    """The places of a pool that no other of this user holds, and the descriptor that keeps them. Raises UserError."""
    ours: list[Place] = []

    def choose(others: Sequence[claims.Claim]) -> list[Place]:
        ours[:] = places(cluster, most, threads, [place for other in others for place in other.places])
        if not ours:
            folders = [str(other.folder) for other in others]
            raise claims.TakenError(
                f"the workers of {' and '.join(folders)} hold cores of this machine that this launch needs:"
                " wait for them, ask for fewer (cluster.workers=… threads=1),"
                f" or stop them: --cancel {' '.join(folders)}"
            )
        return ours

    claim = claims.claim(folder, choose, lambda other: not pool.is_running(other))
    return ours, claim


def _with_threads(entry: Entry, threads: int) -> Entry:
    """Fill in the threads of a run. Raises UserError if it asks for more than a worker has."""
    if (entry.run.threads or 1) > threads:
        raise UserError(f"threads = {entry.run.threads}: a worker has {threads} cores; lower it or cluster.workers")
    run = dataclasses.replace(entry.run, threads=entry.run.threads or threads)
    return dataclasses.replace(entry, run=run)
