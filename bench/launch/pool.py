"""The workers of one machine: started with cores and GPUs of their own, started again when they die.

python -m bench.launch.pool FOLDER, in the background of `python -m bench.launch`
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from bench.errors import UserError
from bench.launch.cluster import Place, environment, this_code
from bench.locks import is_locked, locked
from bench.record import write_atomically
from bench.system import bind_to, cores

PLACES = "places.json"
PID = "pool.pid"
LOCK = "pool.lock"
QUICK = 20.0
MOST_QUICK_DEATHS = 5
POLL = 0.2


def start(folder: Path, places: Sequence[Place]) -> None:
    """Start the pool in the background, in a session of its own: it outlives this process and its terminal."""
    write_atomically(folder / PLACES, TypeAdapter(list[Place]).dump_json(list(places)))
    with (folder / "pool.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.launch.pool", str(folder)],
            env=os.environ | this_code(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while process.poll() is None and not is_running(folder):
        time.sleep(POLL / 10)


def is_running(folder: Path) -> bool:
    """Whether the pool of a launch is at work."""
    return folder.is_dir() and is_locked(folder / LOCK)


def workers(folder: Path) -> int:
    """How many workers the pool of a launch keeps at work."""
    return len(TypeAdapter(list[Place]).validate_json((folder / PLACES).read_bytes())) if is_running(folder) else 0


def owner(folder: Path) -> tuple[str, int]:
    """The host and process number of the pool of a launch."""
    host, number = (folder / PID).read_text().split()
    return host, int(number)


def cancel(folder: Path) -> None:
    """Ask the pool of a launch to stop: runs in progress are saved. Returns when it has."""
    host, number = owner(folder)
    if host != socket.gethostname():
        raise UserError(f"the workers of {folder} are on {host}: use --cancel there")
    os.kill(number, signal.SIGTERM)
    while is_running(folder):
        time.sleep(POLL)


def supervise(folder: Path) -> int:
    """Keep a worker at every place until all have ended by themselves. Returns the exit status."""
    places = TypeAdapter(list[Place]).validate_json((folder / PLACES).read_bytes())
    write_atomically(folder / PID, f"{socket.gethostname()} {os.getpid()}".encode())
    posts = [_Post(folder, place) for place in places]
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        for post in posts:
            post.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with locked(folder / LOCK, wait=False):
        while sum(post.ended(stopping) for post in posts) < len(posts):
            time.sleep(POLL)
    return 128 + signal.SIGTERM if stopping else max(post.status for post in posts)


@dataclass
class _Post:
    """One place and whoever works there."""

    folder: Path
    place: Place
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
            )
        finally:
            bind_to(everywhere)


if __name__ == "__main__":
    try:
        sys.exit(supervise(Path(sys.argv[1])))
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(2)
