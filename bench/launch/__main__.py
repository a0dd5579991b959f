"""A whole sweep on many workers: python -m bench.launch sweep=… [cluster=local|slurm] [cluster.…=… overrides …]"""

import argparse
import contextlib
import dataclasses
import json
import logging
import sys
from collections import Counter
from pathlib import Path

from bench.commands import called
from bench.commands.frame import framed
from bench.config.command_line import OneLineParser, add_config_flags, files_of
from bench.config.compose import split_cluster
from bench.config.files import parse
from bench.config.sweep import expand
from bench.errors import UserError, counted
from bench.launch import launches
from bench.launch.cluster import Slurm, cluster_of
from bench.launch.queue import Entry, entries_of
from bench.launch.start import start
from bench.launch.watch import Watch, sizes

MOST_FAILURES_SHOWN = 10


@framed
def main() -> None:
    """Entry point; exits with 0 only if all is submitted or, with --wait, done; with 2 after a mistake in the input."""
    parser = OneLineParser(prog=called("launch"), description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="sweep=NAME", help="a sweep, a cluster, and overrides of both")
    add_config_flags(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--wait", action="store_true", help="stay, with a live table, until no worker is left")
    what.add_argument("--dry-run", action="store_true", help="say what would be done")
    what.add_argument("--status", action="store_true", help="show how far the sweep is")
    what.add_argument(
        "--cancel", action="store_true", help="stop its workers, or those of a launch's folder; runs are saved"
    )
    parser.add_argument("--retry-failed", action="store_true", help="do failed runs once more")
    parser.add_argument(
        "--json", action="store_true", help="with --status: for scripts; keys as in bench/launch/watch.py"
    )
    try:
        arguments = parser.parse_intermixed_args()
        if arguments.json and not arguments.status:
            raise UserError("--json goes with --status: add it")
        # for what is said of data and sizes
        logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
        by_name = launches.named(arguments.words) if arguments.cancel else []
        status = launches.cancel(by_name) if by_name else _launch(arguments)
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
    root, names = Path(entries[0].run.results) / "launch", {entry.folder.name for entry in entries}
    watch = Watch(entries)
    on_slurm = isinstance(cluster, Slurm)
    if arguments.status:
        at_work = launches.at_work(root, names, slurm_must_answer=on_slurm)
        watch.look()
        workers = sum(launch.workers for launch in at_work)
        launches.tell_of_unknown(at_work)
        if arguments.json:
            print(json.dumps(watch.status(workers), indent=1))
            return 0
        print("\n".join(watch.table(workers)))
        _tell_failures(watch)
        if not at_work and {"missing", "interrupted"} & set(watch.state.values()):
            launches.tell_why(root, launches.last(root, names))
        return 0
    if arguments.cancel:
        at_work = launches.at_work(root, names, slurm_must_answer=on_slurm)
        known = [launch.folder for launch in at_work if launch.runs is not None]
        launches.tell_of_unknown(at_work)
        return launches.cancel([*known, *launches.orphaned(root, names)])
    with contextlib.ExitStack() as alone:
        todo, queued = _left(root, watch, retry_failed=arguments.retry_failed, on_slurm=on_slurm)
        if todo and not arguments.dry_run:
            alone.enter_context(launches.alone(root))
            todo, queued = _left(root, watch, retry_failed=arguments.retry_failed, on_slurm=on_slurm)
        counts = Counter(watch.state.values())
        print(
            f"{counted(len(entries), 'run')}: {len(todo)} to do, {queued} with workers already"
            + "".join(f", {counts[state]} {state}" for state in ("done", "failed", "damaged") if counts[state])
        )
        print("\n".join(sizes(entries)))
        started = start(root, cluster, todo, dry_run=arguments.dry_run) if todo else None
    if not arguments.wait:
        if started:
            print("how far they are and what failed: --status; --wait stays, and ends with 0 only if all is done")
        launches.tell_of_unknown(launches.at_work(root, names, slurm_must_answer=on_slurm))
        _tell_failures(watch)
        return 0
    watched: dict[Path, None] = {started: None} if started else {}

    def workers_left() -> int:
        at_work = launches.at_work(root, names, slurm_must_answer=on_slurm)
        watched.update(dict.fromkeys(launch.folder for launch in at_work))
        return sum(launch.workers for launch in at_work)

    final = watch.until_nobody_works(workers_left)
    _tell_failures(watch)
    if final["done"] == len(entries):
        return 0
    launches.tell_why(root, watched)
    return 1


def _left(root: Path, watch: Watch, *, retry_failed: bool, on_slurm: bool) -> tuple[list[Entry], int]:
    """The runs that nobody is to do yet, and how many others have workers already."""
    watch.look()
    covered: dict[tuple[str, int | None], int] = {}
    names = {entry.folder.name for entry in watch.entries}
    for launch in launches.at_work(root, names, slurm_must_answer=on_slurm):
        covered |= launch.runs or {}
    todo, queued = [], 0
    for entry in watch.entries:
        state, failures, (folder, final) = watch.state[entry.end], entry.failures(), entry.end
        before = covered.get((folder.name, final), covered.get((folder.name, None)))
        # one that has failed since the launch at work began is not done again by it
        waits = before is not None and not (state == "failed" and failures > before)
        queued += waits
        if not waits and _is_to_do(state, retry_failed=retry_failed):
            todo.append(dataclasses.replace(entry, failures_before=failures))
    return todo, queued


def _is_to_do(state: str, *, retry_failed: bool) -> bool:
    """Damaged records are left for the user to look at; those running without a launch are done by someone else."""
    return state in ("missing", "interrupted", "running") or (state == "failed" and retry_failed)


def _tell_failures(watch: Watch) -> None:
    failed = [entry for entry in watch.entries if watch.state[entry.end] in ("failed", "damaged")]
    for entry in failed[:MOST_FAILURES_SHOWN]:
        print(f"{watch.state[entry.end]}: {entry.folder} ({' '.join(entry.words)}): {entry.reason()}")
    if len(failed) > MOST_FAILURES_SHOWN:
        print(
            f"and {len(failed) - MOST_FAILURES_SHOWN} more failed: python -m analysis.plan … --csv FILE lists every run"
        )
    if any(watch.state[entry.end] == "failed" for entry in failed):
        print("failed runs are done again with --retry-failed, once their cause is gone")


if __name__ == "__main__":
    main()
