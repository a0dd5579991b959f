"""Stopping cleanly: a signal (time limit, preemption, Ctrl-C) ends a run where it is safe, to be resumed later."""

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)
SECONDS_BEFORE_THE_END = 60.0
_PARENT_DEATH_SIGNAL = 1
_END = "SLURM_JOB_END_TIME"
MOST_DIGITS = 11
"""Of a time in seconds since 1970 that a timer can be set to."""


class Stopped(SystemExit):
    """A run was asked to stop; no failure, so that `except Exception` lets it pass."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}: the same command goes on from here"

    def tell(self) -> None:
        """Say so on stderr, unless it is for want of a reader."""
        if signal.Signals(self.signum).name != "SIGPIPE":
            with contextlib.suppress(OSError):
                print(self, file=sys.stderr)
        logging.getLogger("torch").setLevel(logging.WARNING)  # half imported, it would list its caches at exit


class _Listener:
    """What has been asked of this process."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferring = 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, signum
        if signal.Signals(signum).name == "SIGPIPE":
            logging.raiseExceptions = False  # the log has lost its reader
        if again and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not again and not self.deferring:
            raise Stopped(signum)


_listener = _Listener()


def listen(*, own: bool = False) -> None:
    """From now on signals stop this process by `Stopped`; so does the end of a SLURM job's time, where it is known.

    So does output that nobody reads any more (`… | head`). A handler of USR1 or USR2 that is there already is left
    alone, launchers have theirs, unless the process is `own`, made for one run by a worker that watches the time. A
    hang-up that is ignored (nohup) stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _listener.received = None
    for number in not_ignored():
        free = signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, _listener)
        if own or free or number == signal.SIGTERM:
            signal.signal(number, _listener)
    if not own:
        signal.signal(signal.SIGPIPE, _listener)
    left = _seconds_of_job()
    if left is not None and not own:
        signal.signal(signal.SIGALRM, _listener)
        signal.setitimer(signal.ITIMER_REAL, max(left - SECONDS_BEFORE_THE_END, 1.0))


def _seconds_of_job() -> float | None:
    """Until the end of the SLURM job's time; None where none is told, or it is past: a shell outlived its job."""
    given = os.environ.get(_END, "").strip()
    if not given.isdecimal() or len(given) > MOST_DIGITS:
        return None
    left = int(given) - time.time()
    return left if left > 0 else None


def die_with(parent: int) -> None:
    """Have the system ask this process to stop when its parent is gone (Linux; elsewhere it finishes its work)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def not_ignored() -> list[signal.Signals]:
    """The signals that stop a process, without a hang-up that is ignored."""
    return [
        number for number in SIGNALS if not (number.name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN)
    ]


@contextlib.contextmanager
def exits_are_errors() -> Iterator[None]:
    """In here an exit that nobody asked for, as of a plugin's `sys.exit()`, is an error like others of a run."""
    try:
        yield
    except Stopped:
        raise
    except SystemExit as end:
        raise RuntimeError(f"exit({end.code!r}) was called").with_traceback(end.__traceback__) from None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """In here a signal only makes `raise_if_asked` raise, where the caller has saved what it wants to keep."""
    _listener.deferring += 1
    try:
        yield
    finally:
        _listener.deferring -= 1


def asked() -> bool:
    """Whether a signal has asked this process to stop."""
    return _listener.received is not None


def raise_if_asked() -> None:
    """Raise Stopped after a signal."""
    if _listener.received is not None:
        raise Stopped(_listener.received)
