"""A worker does one run (or pack) of a queue after another, in a process of its own, until none is left for it.

What is done, and what another process is running, it leaves alone: so workers share a queue without talking, the
work of one that dies is taken over by the others, and doing a run twice is harmless.
"""

import contextlib
import importlib
import itertools
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from types import FrameType

from bench.config.identity import identity_of
from bench.config.plugins import class_of, plugin
from bench.config.schema import RunConfig
from bench.errors import BusyError, NoRoomError, UserError, tell
from bench.launch.queue import DIED, Entry, Queue, read_queue
from bench.learning.pack import alike, run_pack
from bench.runs.device import prepare_device
from bench.runs.locks import locked
from bench.runs.record import LOCK, RunRecord, make_folder
from bench.runs.stopping import SIGNALS, Stopped, die_with, listen, not_ignored
from bench.selection.pairs import check

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 0.3


class Outcome(IntEnum):
    """How the process of a run ended, beside the signals that may kill it.

    FAILED is the run's own fault; REFUSED means that no run can be done here: no such device, no room on the disk.
    """

    DONE = 0
    FAILED = 1
    REFUSED = 2
    STOPPED = 3


class Worker:
    """Works on the queue in `folder`; `stop` may come from a signal handler.

    With `linger` it stays until nothing is left that others are running, for they may die.
    """

    def __init__(self, folder: Path, *, linger: bool = False) -> None:
        self.queue: Queue = read_queue(folder)
        self.linger = linger
        self.stopping = False
        # a run may die of what was beside it in a pack: it is tried alone as often as is asked
        self.attempts = self.queue.attempts + (self.queue.pack > 1)
        self._settled: set[tuple[Path, int]] = set()
        self._status = 0
        self._child: multiprocessing.process.BaseProcess | None = None

    def work(self) -> int:
        """Do what is left. Returns 0, or the exit status of a worker that was stopped or could not do all."""
        if any(entry.run.final_kernels for entry in self.queue.entries):
            importlib.import_module("scipy.stats")  # their correlations: once, before runs are forked
        while not self.stopping:
            first = self._next()
            if first is None:
                if not self.linger or len(self._settled) == len(self.queue.entries):
                    return self._status
                time.sleep(SECONDS_BETWEEN_LOOKS)
                continue
            with contextlib.ExitStack() as locks:
                pack = list(itertools.islice(self._taken(first, locks), self.queue.pack))
                if pack and self._do(pack) == Outcome.REFUSED:
                    return int(Outcome.REFUSED)
        return 128 + signal.SIGTERM

    def _taken(self, first: Entry, locks: contextlib.ExitStack) -> Iterator[Entry]:
        """A run and others that can be trained in lockstep with it, locked one after another as they are asked for.

        Left out is what another process runs, or has done since this one looked; what has died once is done alone.
        """
        others = (entry for entry in self.queue.entries if entry is not first and alike(entry.run, first.run))
        for entry in itertools.chain([first], others):
            alone = entry.failures() > entry.failures_before
            others_run_it = not entry.is_open(self.attempts) or entry.waits_for_another()
            if entry is not first and (alone or entry.end in self._settled or others_run_it):
                continue
            with contextlib.ExitStack() as own:
                try:
                    make_folder(entry.folder)
                    own.enter_context(locked(entry.folder / LOCK, wait=False))
                except BusyError:
                    continue
                except NoRoomError:
                    raise
                except UserError as error:
                    self._give_up(entry, error)
                    continue
                if entry.is_open(self.attempts, mine=True):
                    locks.push(own.pop_all())
                    yield entry
            if entry is first and alone:
                return

    def _give_up(self, entry: Entry, why: object) -> None:
        """Leave a run whose failure cannot be recorded; the others go on."""
        print(f"error: run {entry.folder.name} is left: {why}", file=sys.stderr)
        self._settled.add(entry.end)
        self._status = int(Outcome.REFUSED)

    def stop(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Ask the run in progress to save and stop, and start no other."""
        self.stopping = True
        if self._child is not None and self._child.is_alive():
            self._child.terminate()

    def wait(self) -> None:
        """Wait until the run in progress has stopped."""
        if self._child is not None:
            self._child.join()

    def _next(self) -> Entry | None:
        """The first run that nobody does, rather one that need not wait for an initial model trained elsewhere."""
        waiting = None
        for entry in self.queue.entries:
            if entry.end in self._settled:
                continue
            if entry.is_open(self.attempts):
                if not entry.waits_for_another():
                    return entry
                waiting = waiting or entry
            elif entry.state() != "running":
                self._settled.add(entry.end)
        return waiting

    def _do(self, pack: list[Entry]) -> Outcome:
        """Do runs in a process of their own, which a crash, a leak or the out-of-memory killer may end.

        Their locks are held here, and by that process too should this one die first.
        """
        for entry in pack:
            log.info("run %s starts: %s", entry.folder.name, " ".join(entry.words))
        started = time.monotonic()
        runs, failures = [entry.run for entry in pack], [entry.failures() for entry in pack]
        with contextlib.suppress(Exception):  # its mistakes are the run's
            preload(runs[0])
        self._child = multiprocessing.get_context("fork").Process(target=_attempt, args=(runs, os.getpid()))
        with _blocked():
            self._child.start()
        if self.stopping:
            self._child.terminate()
        self._child.join()
        code = self._child.exitcode or 0
        died = code not in list(Outcome)
        for entry, failures_before in zip(pack, failures, strict=True):
            state = entry.state(mine=True)
            silent = state != "done" and entry.failures() == failures_before and not self.stopping
            if silent and died:
                how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
                try:
                    record = RunRecord.open(entry.folder, entry.run, identity_of(entry.run, entry.data_checksum))
                    record.fail(DIED, f"its process ended by {how} after {len(record.steps)} steps")
                    state = "failed"
                except UserError as error:
                    self._give_up(entry, f"its process ended by {how}, and {error}")
            elif silent and code == Outcome.FAILED:
                self._give_up(entry, "see above")
            log.info("run %s is %s after %.1f s", entry.folder.name, state, time.monotonic() - started)
        return Outcome.FAILED if died else Outcome(code)


def preload(run: RunConfig) -> None:
    """Import what all runs need, before the fork."""
    check(run)
    class_of(run.dataset, "dataset")
    getattr(plugin(run.model, "model"), "preload", lambda: None)()


def work_until_stopped(folder: Path) -> int:
    """A worker that the usual signals stop; for `python -m`."""
    worker = Worker(folder, linger=True)
    for number in not_ignored():
        signal.signal(number, worker.stop)
    return worker.work()


def _attempt(runs: list[RunConfig], parent: int) -> None:
    """Some runs in the process made for them; how it ended is the exit status."""
    listen(own=True)
    code = Outcome.DONE
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        die_with(parent)
        prepare_device(runs[0])
        for outcome in run_pack(runs, lock=False):
            if isinstance(outcome, UserError):
                tell(outcome)
                code = max(code, Outcome.REFUSED if isinstance(outcome, NoRoomError) else Outcome.FAILED)
            elif isinstance(outcome, Exception):
                log.error("run failed", exc_info=outcome)
                code = max(code, Outcome.FAILED)
    except Stopped as stop:
        log.info("%s", stop)
        code = Outcome.STOPPED
    except KeyboardInterrupt:  # asked twice
        code = Outcome.STOPPED
    except UserError as error:  # of the device: it is every run's
        tell(error)
        code = Outcome.REFUSED
    except Exception:
        log.exception("run failed")
        code = Outcome.FAILED
    sys.exit(code)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Signals wait meanwhile: a process just forked must not run its parent's handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def log_to_stderr() -> None:
    """The log of a worker, with times."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


if __name__ == "__main__":
    log_to_stderr()
    try:
        die_with(int(sys.argv[2]))  # the pool may have died while this process imported
        sys.exit(work_until_stopped(Path(sys.argv[1])))
    except UserError as mistake:
        tell(mistake)
        sys.exit(2)
