"""The initial model of a (scenario, seed), trained once for all algorithms and batch sizes that start from it."""

import logging
from pathlib import Path

import numpy as np
from jaxtyping import Int

from bench.data.split import Split
from bench.locks import locked
from bench.model.geometry import GeometryBuilder
from bench.record import make_folder, remove_leftovers
from bench.schema import RunConfig, hash_of
from bench.training.checkpoint import Checkpoint
from bench.training.fit import FitResult, fit
from bench.training.scaling import EnergyScaling
from bench.training.store import load_potential, save_potential

log = logging.getLogger(__name__)


def fit_once(
    run: RunConfig,
    builder: GeometryBuilder,
    labelled: Int[np.ndarray, " labelled"],
    split: Split,
    members: int,
    checkpoint: Checkpoint,
) -> FitResult:
    """Train on the labelled structures; the initial model is taken from disk where another run has trained it.

    Many runs may start at once: one trains, the others wait for its file. The file holds the seconds that training
    took, so that a run's cost counts it as if it had been trained alone.
    """
    if len(labelled) > len(split.initial):
        return _fit(run, builder, labelled, split, members, checkpoint)
    path = initial_model(run, builder.data.checksum, members)
    folder = path.parent
    make_folder(folder)
    with locked(path.with_suffix(".lock"), wait=True):
        remove_leftovers(folder, f"{path.name}.*")
        if path.exists():
            log.info("initial model on %d structures: taken from %s", len(labelled), path)
            return _load(path, run.device)
        checkpoint = Checkpoint(path.with_suffix(".training"), run.checkpoint_seconds)
        fitted = _fit(run, builder, labelled, split, members, checkpoint)
        extra = {
            "scale": fitted.scaling.scale,
            "shift": fitted.scaling.shift.tolist(),
            "degenerate": fitted.scaling.degenerate,
            "check_epochs": fitted.check_epochs,
            "validation": fitted.validation.tolist(),
            "best_epochs": fitted.best_epochs,
            "seconds": fitted.seconds,
            "validation_seconds": fitted.validation_seconds,
        }
        save_potential(path, fitted.potential, builder.data.reference_energies, extra)
        checkpoint.remove()
        return fitted


def initial_model(run: RunConfig, data_checksum: str, members: int) -> Path:
    """Where the initial model lies. It depends on the run's identity without what comes after it."""
    identity = run.identity(data_checksum)
    for later in ("kernel", "selection", "final_kernels", "batch_size"):
        del identity[later]
    del identity["scenario"]["final"]
    return Path(run.results) / "initial" / f"{hash_of(identity | {'members': members})}.pt"


def _fit(
    run: RunConfig,
    builder: GeometryBuilder,
    labelled: Int[np.ndarray, " labelled"],
    split: Split,
    members: int,
    checkpoint: Checkpoint,
) -> FitResult:
    return fit(
        builder,
        run.model,
        run.training,
        labelled,
        split.validation,
        seed=run.seed,
        members=members,
        checkpoint=checkpoint,
    )


def _load(path: Path, device: str) -> FitResult:
    potential, _, extra = load_potential(path, device)
    return FitResult(
        potential=potential,
        scaling=EnergyScaling(extra["scale"], np.array(extra["shift"]), extra["degenerate"]),
        check_epochs=extra["check_epochs"],
        validation=np.array(extra["validation"]),
        best_epochs=extra["best_epochs"],
        seconds=extra["seconds"],
        validation_seconds=extra["validation_seconds"],
    )
