"""Commands of this project side by side: on cores of their own here, or as the elements of a SLURM array."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.launch import slurm
from bench.launch.cluster import Cluster, Local, Place, environment, places
from bench.runs.stopping import raise_if_asked
from bench.runs.system import bind_to, cores

log = logging.getLogger(__name__)
POLL = 0.2


class Task:
    """One command, `python -m MODULE WORDS`; submitit pickles it and calls it."""

    def __init__(self, module: str, words: Sequence[str]) -> None:
        self.module, self.words = module, list(words)

    def __call__(self) -> None:
        """Run it. Raises UserError if it fails."""
        done = subprocess.run([sys.executable, "-m", self.module, *self.words], check=False)
        if done.returncode:
            raise UserError(f"{self.module} {' '.join(self.words)} ended with exit status {done.returncode}")

    def checkpoint(self) -> Any:
        """Called near the time limit of SLURM: the command goes on from what it has kept."""
        from submitit.helpers import DelayedSubmission  # noqa: PLC0415 - half a second

        return DelayedSubmission(Task(self.module, self.words))


def do(tasks: Sequence[Task], cluster: Cluster, folder: Path) -> None:
    """Have all of them done; returns when they are.

    Raises UserError if one fails, after the others have ended; Stopped after a signal, when they are stopped.
    """
    if isinstance(cluster, Local):
        _here(tasks, cluster)
    else:
        slurm.run(tasks, folder, cluster)


def _here(tasks: Sequence[Task], cluster: Local) -> None:
    waiting, failed = list(tasks), 0
    running: dict[subprocess.Popen[bytes], Place] = {}
    free = places(cluster, len(tasks), max(1, len(cores()) // (cluster.workers or len(cores()))))
    everywhere = cores()
    try:
        while waiting or running:
            while waiting and free:
                task, place = waiting.pop(0), free.pop(0)
                bind_to(place.cores)
                try:
                    command = [sys.executable, "-m", task.module, *task.words]
                    process = subprocess.Popen(command, env=os.environ | environment(len(place.cores)))
                finally:
                    bind_to(everywhere)
                running[process] = place
            for process in [one for one in running if one.poll() is not None]:
                failed += process.returncode != 0
                free.append(running.pop(process))
                log.info("%d of %d tasks done", len(tasks) - len(waiting) - len(running), len(tasks))
            raise_if_asked()
            time.sleep(POLL)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    if failed:
        raise UserError(f"{failed} of {len(tasks)} tasks failed: see above; the same command goes on from here")
