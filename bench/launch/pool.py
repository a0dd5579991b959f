"""The workers of one machine: started with cores and GPUs of their own, started again when they die.

python -m bench.launch.pool FOLDER, in the background of `python -m bench.launch`
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from bench.errors import UserError, cannot_write
from bench.launch.cluster import Place, environment, this_code
from bench.launch.logs import errors_in
from bench.runs.locks import is_locked, locked
from bench.runs.record import write_atomically
from bench.runs.system import bind_to, cores

PLACES = "places.json"
PID = "pool.pid"
LOCK = "pool.lock"
LOG = "pool.log"
AT_WORK = "at work"
QUICK = 20.0
MOST_QUICK_DEATHS = 5
POLL = 0.2


def start(folder: Path, places: Sequence[Place], claim: int) -> None:
    """Start the pool in the background, in a session of its own: it outlives this process and its terminal.

    Returns when it is at work; it and its workers keep the descriptor `claim` open. Raises UserError with the reason if
    it ends before.
    """
    write_atomically(folder / PLACES, TypeAdapter(list[Place]).dump_json(list(places)))
    hears, tells = os.pipe()
    try:
        with (folder / LOG).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.launch.pool", str(folder), str(tells), str(claim)],
                env=os.environ | this_code(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(tells, claim),
            )
    except OSError as error:
        os.close(hears)
        raise cannot_write(error, f"cannot write {folder / LOG} ({error.strerror}): make room") from None
    finally:
        os.close(tells)
    with os.fdopen(hears, encoding="utf-8") as file:
        told = file.read().strip()
    if told != AT_WORK:
        status = process.wait()
        reason = told or "".join(errors(folder)[-1:]) or f"exit status {status}, see {folder / LOG}"
        raise UserError(f"the pool of {folder} ended at its start: {reason}")


def errors(folder: Path) -> list[str]:
    """What the pool of a launch and its workers say went wrong, each once."""
    return errors_in([folder / LOG])


def is_running(folder: Path) -> bool:
    """Whether the pool of a launch is at work."""
    return folder.is_dir() and is_locked(folder / LOCK)


def workers(folder: Path) -> int:
    """How many workers the pool of a launch keeps at work; at least one where its file is damaged."""
    if not is_running(folder):
        return 0
    try:
        return len(_places(folder))
    except UserError:
        return 1


def _places(folder: Path) -> list[Place]:
    try:
        return TypeAdapter(list[Place]).validate_json((folder / PLACES).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / PLACES} cannot be read ({type(error).__name__}): launch the sweep again") from None


def supervise(folder: Path, tell: Callable[[str], None], claim: int) -> int:
    """Keep a worker at every place until all have ended by themselves. Returns the exit status."""
    posts = [_Post(folder, place, claim) for place in _places(folder)]
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    with locked(folder / LOCK, wait=False):
        write_atomically(folder / PID, f"{socket.gethostname()} {os.getpid()}".encode())
        tell(AT_WORK)
        while sum(post.ended(stopping) for post in posts) < len(posts):
            time.sleep(POLL)
            if stopping:
                for post in posts:
                    post.terminate()
    return 128 + signal.SIGTERM if stopping else max(post.status for post in posts)


@dataclass
class _Post:
    """One place and whoever works there."""

    folder: Path
    place: Place
    claim: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    quick_deaths: int = 0
    status: int = field(default=0)

    def ended(self, stopping: bool) -> bool:
        """Whether the work is over here; starts a worker where there is none, and again after its death.

        A worker that was killed had bad luck; one that dies by itself as soon as it starts will do so again.
        """
        if self.process is None:
            if not stopping:
                self._start()
            return stopping
        code = self.process.poll()
        if code is None:
            return False
        if stopping or code in (0, 2):
            self.status = code
            return True
        quick = code != -signal.SIGKILL and time.monotonic() - self.started < QUICK
        self.quick_deaths = self.quick_deaths + 1 if quick else 0
        if self.quick_deaths == MOST_QUICK_DEATHS:
            print(f"error: a worker died {MOST_QUICK_DEATHS} times at its start (exit status {code}): see above")
            self.status = 2
            return True
        self.process = None
        return False

    def terminate(self) -> None:
        """Ask the worker to stop."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def _start(self) -> None:
        """Start a worker that inherits its cores: pinned before it imports anything that counts them."""
        everywhere = cores()
        gpu = {} if self.place.gpu is None else {"CUDA_VISIBLE_DEVICES": self.place.gpu}
        bind_to(self.place.cores)
        try:
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.launch.worker", str(self.folder), str(os.getpid())],
                env=os.environ | environment(len(self.place.cores)) | gpu,
                pass_fds=(self.claim,),
            )
        finally:
            bind_to(everywhere)


def _main(folder: Path, tells: int, claim: int) -> int:
    """The pool, in a process of its own; the launch that started it hears on a pipe that it is at work, or why not."""

    def tell(line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(tells, line.encode())
            os.close(tells)

    try:
        return supervise(folder, tell, claim)
    except UserError as mistake:
        tell(str(mistake))
        with contextlib.suppress(OSError):  # the disk may be full
            print(f"error: {mistake}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
