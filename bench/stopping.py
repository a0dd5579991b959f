"""Stopping cleanly: a signal (time limit, preemption, Ctrl-C) ends a run where it is safe, to be resumed later."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")
SIGNALS = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)
SECONDS_BEFORE_THE_END = 60.0
_END = "SLURM_JOB_END_TIME"


class Stopped(BaseException):
    """A run was asked to stop; no failure, so that `except Exception` lets it pass."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}: the same command goes on from here")
        self.exit_code = 128 + signum


class _Listener:
    """What has been asked of this process."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferring = 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, signum
        if again and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not again and not self.deferring:
            raise Stopped(signum)


_listener = _Listener()


def listen(*, own: bool = False) -> None:
    """From now on signals stop this process by `Stopped`; so does the end of a SLURM job's time, where it is known.

    A handler of USR1 or USR2 that is there already is left alone, launchers have theirs, unless the process is `own`,
    made for one run by a worker that watches the time.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _listener.received = None
    for number in SIGNALS:
        free = signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler, _listener)
        if own or free or number == signal.SIGTERM:
            signal.signal(number, _listener)
    if _END in os.environ and not own:
        left = float(os.environ[_END]) - time.time() - SECONDS_BEFORE_THE_END
        signal.signal(signal.SIGALRM, _listener)
        signal.setitimer(signal.ITIMER_REAL, max(left, 1.0))


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
