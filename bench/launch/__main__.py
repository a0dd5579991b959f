"""A whole sweep on many workers: python -m bench.launch sweep=… [cluster=local|slurm] [cluster.…=… overrides …]"""

import argparse
import dataclasses
import json
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from bench.command_line import OneLineParser, add_config_flags, files_of
from bench.commands import called
from bench.compose import split_cluster
from bench.config_files import parse
from bench.errors import UserError
from bench.launch import pool, slurm
from bench.launch.cluster import Cluster, Local, Slurm, cluster_of, places
from bench.launch.queue import Entry, Queue, entries_of, read_queue
from bench.launch.watch import Watch
from bench.record import make_folder
from bench.record_schema import SCHEMA_VERSION
from bench.sweep import expand
from bench.system import require_unix

MOST_FAILURES_SHOWN = 10


def main() -> None:
    """Entry point; exits with 0 only if all is submitted or, with --wait, done; with 2 after a mistake in the input."""
    parser = OneLineParser(prog=called("launch"), description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="sweep=NAME", help="a sweep, a cluster, and overrides of both")
    add_config_flags(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--wait", action="store_true", help="stay, with a live table, until no worker is left")
    what.add_argument("--dry-run", action="store_true", help="say what would be done")
    what.add_argument("--status", action="store_true", help="show how far the sweep is")
    what.add_argument("--cancel", action="store_true", help="stop all its workers; runs in progress are saved")
    parser.add_argument("--retry-failed", action="store_true", help="do failed runs once more")
    parser.add_argument(
        "--json", action="store_true", help="with --status: for scripts; keys as in bench/launch/watch.py"
    )
    try:
        arguments = parser.parse_intermixed_args()
        if arguments.json and not arguments.status:
            raise UserError("--json goes with --status: add it")
        status = _launch(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("the workers go on without this command: --status shows, --cancel stops them", file=sys.stderr)
        status = 130
    sys.exit(status)


def _launch(arguments: argparse.Namespace) -> int:
    files, words = files_of(arguments, arguments.words)
    of_cluster, own = split_cluster(words, files)
    cluster = cluster_of(of_cluster, files)
    if cluster.gpus_per_worker and not any(override.key_or_group == "device" for override in parse(own, files)):
        own.append("device=cuda")
    entries = entries_of(expand(own, files))
    root = Path(entries[0].run.results) / "launch"
    watch = Watch(entries)
    at_work = _launches_at_work(root, entries)
    if arguments.status:
        watch.look()
        if arguments.json:
            print(json.dumps(watch.status(sum(at_work.values())), indent=1))
            return 0
        print("\n".join(watch.table(sum(at_work.values()))))
        _tell_failures(watch)
        return 0
    if arguments.cancel:
        for folder in at_work:
            (pool if pool.is_running(folder) else slurm).cancel(folder)
        print(f"stopped {sum(at_work.values())} workers")
        return 0
    covered = {entry.folder for folder in at_work for entry in read_queue(folder).entries}
    counts = watch.look()
    todo = [
        dataclasses.replace(entry, failures_before=entry.failures())
        for entry in entries
        if (entry.folder not in covered or watch.state[entry.folder] == "failed")
        and _is_to_do(watch.state[entry.folder], retry_failed=arguments.retry_failed)
    ]
    kept = {state: counts[state] for state in ("done", "failed", "damaged") if counts[state]}
    queued = len(covered & watch.state.keys())
    print(
        f"{len(entries)} runs: {len(todo)} to do, {queued} with workers already"
        + "".join(f", {count} {state}" for state, count in kept.items())
    )
    if todo:
        _start(root, cluster, todo, dry_run=arguments.dry_run)
    if not arguments.wait:
        _tell_failures(watch)
        return 0
    final = watch.until_nobody_works(lambda: sum(_launches_at_work(root, entries).values()))
    _tell_failures(watch)
    return 0 if final["done"] == len(entries) else 1


def _is_to_do(state: str, *, retry_failed: bool) -> bool:
    """Damaged records are left for the user to look at; those running without a launch are done by someone else."""
    return state in ("missing", "interrupted", "running") or (state == "failed" and retry_failed)


def _start(root: Path, cluster: Cluster, todo: Sequence[Entry], *, dry_run: bool) -> None:
    """Write the queue of a launch and start its workers."""
    require_unix()
    folder = root / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    most = -(-len(todo) // cluster.pack)
    ours = places(cluster, most) if isinstance(cluster, Local) else []
    workers = len(ours)
    if isinstance(cluster, Slurm):
        limit = slurm.most_elements()
        workers = min(cluster.workers, most, limit)
        if workers < min(cluster.workers, most):
            print(f"cluster.workers = {cluster.workers} is beyond this site's MaxArraySize: {workers} workers")
    threads = min(len(place.cores) for place in ours) if ours else getattr(cluster, "cpus_per_worker", 1)
    todo = [_with_threads(entry, threads) for entry in todo]
    if dry_run:
        packs = f", packs of {cluster.pack}" if cluster.pack > 1 else ""
        print(f"would start {workers} workers of {threads} threads{packs} on:")
        print("\n".join(f"{entry.folder.name} {' '.join(entry.words)}" for entry in todo))
        return
    if isinstance(cluster, Local):
        _refuse_a_second_pool(root)
    make_folder(folder)
    Queue(SCHEMA_VERSION, cluster.attempts, cluster.pack, list(todo)).write(folder)
    if isinstance(cluster, Slurm):
        try:
            job = slurm.submit(folder, cluster, workers)
        except UserError:
            shutil.rmtree(folder)
            raise
        print(f"submitted {workers} workers as job {job}; logs in {folder}/slurm")
        return
    pool.start(folder, ours)
    print(f"started {workers} workers of {threads} threads in the background; log in {folder}/pool.log")


def _refuse_a_second_pool(root: Path) -> None:
    """Workers that share cores slow each other several-fold. Raises UserError."""
    for other in root.iterdir() if root.is_dir() else []:
        if pool.is_running(other) and pool.owner(other)[0] == socket.gethostname():
            raise UserError(f"the workers of {other} use this machine: wait for them, or --cancel that sweep")


def _with_threads(entry: Entry, threads: int) -> Entry:
    """Fill in the threads of a run. Raises UserError if it asks for more than a worker has."""
    if (entry.run.threads or 1) > threads:
        raise UserError(f"threads = {entry.run.threads}: a worker has {threads} cores; lower it or cluster.workers")
    run = dataclasses.replace(entry.run, threads=entry.run.threads or threads)
    return dataclasses.replace(entry, run=run)


def _launches_at_work(root: Path, entries: Sequence[Entry]) -> dict[Path, int]:
    """The launches on any of these runs that still have workers, and how many."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir()] if root.is_dir() else []
    ours = {entry.folder for entry in entries}
    queued = slurm.alive() if any((path / "slurm").is_dir() for path in folders) else {}
    found = {}
    for folder in folders:
        workers = queued.get(folder.name, 0) + pool.workers(folder)
        if workers and any(entry.folder in ours for entry in read_queue(folder).entries):
            found[folder] = workers
    return found


def _tell_failures(watch: Watch) -> None:
    failed = [entry for entry in watch.entries if watch.state[entry.folder] in ("failed", "damaged")]
    for entry in failed[:MOST_FAILURES_SHOWN]:
        print(f"{watch.state[entry.folder]}: {entry.folder} ({' '.join(entry.words)}): {entry.reason()}")
    if len(failed) > MOST_FAILURES_SHOWN:
        print(
            f"and {len(failed) - MOST_FAILURES_SHOWN} more failed: python -m analysis.plan … --csv FILE lists every run"
        )


if __name__ == "__main__":
    main()
