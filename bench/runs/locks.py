"""Locks between processes and machines: flock where the file system has it, else a lease with a heartbeat."""

import contextlib
import errno
import logging
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BusyError, UserError, cannot_write
from bench.runs.system import fcntl, require_unix

log = logging.getLogger(__name__)
HEARTBEAT = 10.0
LEASE_LASTS = 60.0
"""Seconds between the heartbeats of a lease, and without one until it may be taken over."""

_PROBES_PASS = (0.0, *(0.02,) * 50)
_NO_FILE = {errno.EISDIR, errno.ENXIO, errno.ENOTDIR, errno.ELOOP}
_NO_FLOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextlib.contextmanager
def locked(path: Path, *, wait: bool, at_work: str = "") -> Iterator[None]:
    """Hold an exclusive lock on a file; it is released when the process ends, however it ends.

    Raises BusyError if another process holds it and `wait` is False, UserError if the file is none or cannot be opened,
    or on a system without such locks. The log says what another process is at, `at_work`, when it is waited for. Where
    locks of different machines do not see each other, two may hold it: all that is written is then written twice.
    """
    require_unix()
    with _opened(path) as descriptor:
        try:
            _flock(descriptor, wait, at_work)
        except BlockingIOError:
            raise _busy(path) from None
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
        else:
            yield
            return
        with _leased(path, wait, at_work):
            yield


def _busy(path: Path) -> BusyError:
    return BusyError(f"{path.parent} is being computed by another process: wait for it or stop it")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The file of a lock, open. What a file's name can hold but a file is refused, and never waited for."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _no_file(path) from None
        raise cannot_write(error, f"cannot lock {path} ({error.strerror}): make room, or it writable") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _no_file(path)
        yield descriptor
    finally:
        os.close(descriptor)


def _no_file(path: Path) -> UserError:
    return UserError(f"{path} is no file, as a lock must be: remove it")


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file; never where that cannot be opened, or the system has no locks."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return False
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        return _age(_lease(path)) < LEASE_LASTS
    finally:
        os.close(descriptor)
    return False


def _flock(descriptor: int, wait: bool, at_work: str) -> None:
    """Take the lock; without `wait` try for a moment all the same: `is_locked` holds it for an instant."""
    for pause in _PROBES_PASS:
        time.sleep(pause)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return
    if not wait:
        raise BlockingIOError
    _tell(at_work)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def _tell(at_work: str) -> None:
    if at_work:
        log.info("another process %s: waiting for it", at_work)


@contextlib.contextmanager
def _leased(locked_path: Path, wait: bool, at_work: str) -> Iterator[None]:
    path = _lease(locked_path)
    token = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
    told = False
    while not _create(path, token):
        if _is_abandoned(path, wait):
            _take_away(path)
        elif not wait:
            raise _busy(locked_path)
        elif not told:
            told = True
            _tell(at_work)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(HEARTBEAT):
            with contextlib.suppress(OSError):
                os.utime(path)

    heart = threading.Thread(target=renew, daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == token:
                path.unlink()


def _lease(path: Path) -> Path:
    return path.with_name(f"{path.name}.lease")


def _create(path: Path, token: str) -> bool:
    """Create a lease with its content at once: by a link, which fails where there is one."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        draft.write_text(token, encoding="utf-8")
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    except OSError as error:
        raise cannot_write(error, f"cannot lock {path} ({error.strerror}): make room, or it writable") from None
    finally:
        draft.unlink(missing_ok=True)
    return True


def _is_abandoned(path: Path, wait: bool) -> bool:
    """Whether nobody renews a lease: its age says so and, as clocks jump, watching it for a while says so too."""
    if _age(path) < LEASE_LASTS:
        if wait:
            time.sleep(min(1.0, HEARTBEAT))
        return False
    seen = _renewed(path)
    started = time.monotonic()
    while time.monotonic() - started < 3 * HEARTBEAT:
        time.sleep(HEARTBEAT / 5)
        if _renewed(path) != seen:
            return False
    return True


def _take_away(path: Path) -> None:
    """Of several that find a lease abandoned one removes it: each renames it to a name of its own."""
    grave = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(grave)
        grave.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path} cannot be taken away ({error.strerror}): remove it") from None


def _age(path: Path) -> float:
    """Seconds since the last heartbeat by the clock of the file system, whichever way it jumped; inf without lease.

    By this machine's clock where nothing can be written.
    """
    renewed = _renewed(path)
    if renewed is None:
        return float("inf")
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        now = probe.stat().st_mtime_ns
        probe.unlink()
    except OSError:
        now = time.time_ns()
    return abs(now - renewed) / 1e9


def _renewed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
