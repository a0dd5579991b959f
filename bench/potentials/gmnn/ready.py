"""Before anything is timed: the kernels of a run are compiled, or read from where compiled code is kept."""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba.core import event
from numba.core.registry import cpu_target

from bench.errors import WriteError
from bench.potentials.base import Draw
from bench.potentials.gmnn.compiled import kept
from bench.potentials.gmnn.compiled.gather import lists_of
from bench.potentials.gmnn.compiled.jit import KERNELS
from bench.potentials.gmnn.dense import silu_and_slope, sum_atoms
from bench.potentials.scaling import EnergyScaling
from bench.runs.locks import locked

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 10.0


def import_all() -> None:
    """What numba imports and reads before it loads a kernel, which takes a third of a second; starts no thread."""
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


def make_ready(view: Any, force_weight: float) -> None:
    """Do once, on one structure, what every step of a run on this view does.

    Of several processes one compiles, others wait.
    """
    types = numba.typeof(lists_of(view.data, view.neighbours)), view.dtype, view.device, force_weight > 0
    with _alone(kept.folder() / f"ready.{kept.digest(*types)}"), event.install_listener("numba:compile", _Teller()):
        _do_everything(view, force_weight)


@torch.no_grad()
def _do_everything(view: Any, force_weight: float) -> None:
    prepared = view.prepare(np.array([0]), forces=force_weight > 0)
    if not view.compiled:
        return
    repeated = prepared.repeated()
    n_species, n_atoms, real = len(view.data.species), int(view.data.n_atoms[0]), view.dtype
    potential = view.draw([Draw(0, 0, 1, EnergyScaling(1.0, np.zeros(n_species), True))])
    potential.predict(prepared.gather(np.array([[0]])), forces=force_weight > 0)
    batch = repeated.gather(np.array([[0, 0]]))
    forces = torch.zeros(2 * n_atoms, 3, dtype=real) if force_weight else None
    potential.loss_gradient(batch, torch.zeros(1, 2, dtype=real), forces, force_weight)
    row, one, total = torch.zeros(1, 1, dtype=real), torch.ones(1, dtype=torch.float64), torch.zeros(1, 1).double()
    for right in (None, silu_and_slope(row)[1]):
        sum_atoms(torch.tensor([0, 1]), one, row, right, total)


class _Teller(event.Listener):
    """Says that kernels are compiled, and how far that is; silent where none is."""

    def __init__(self) -> None:
        self.started: float | None = None
        self.done, self.last = 0, 0.0

    def on_start(self, event: Any) -> None:
        """Numba begins to compile a function."""
        if self.started is None:
            self.started = self.last = time.monotonic()
            log.info("compiling the kernels for this processor: once, a minute or less; kept in %s", kept.folder())

    def on_end(self, event: Any) -> None:
        """It has; what a kernel calls is compiled within the kernel's time."""
        now = time.monotonic()
        self.done += event.data["dispatcher"] in KERNELS
        if self.started is not None and now - self.last > SECONDS_BETWEEN_LINES:
            self.last = now
            log.info("compiled %d of %d kernels after %.0f s", self.done, len(KERNELS), now - self.started)


@contextlib.contextmanager
def _alone(mark: Path) -> Iterator[None]:
    """Hold a lock until the mark is there that all has been compiled, where such files can be written."""
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, WriteError):
            if not mark.exists():
                mark.parent.mkdir(parents=True, exist_ok=True)
                lock = mark.with_name("compiling.lock")
                held.enter_context(locked(lock, wait=True, at_work="compiles the kernels"))
                if mark.exists():
                    held.close()
        yield
        with contextlib.suppress(OSError):
            mark.touch()
