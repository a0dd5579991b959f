"""The trainings that runs ask for: in lockstep, and the initial model of a (scenario, seed) once for all of them."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from bench.config.schema import RunConfig
from bench.data.split import Split
from bench.errors import UserError
from bench.potentials.base import View
from bench.potentials.scaling import EnergyScaling
from bench.runs.locks import locked
from bench.runs.provenance import what_rounds
from bench.runs.record import initial_model, make_folder, remove_leftovers
from bench.runs.stopping import exits_are_errors
from bench.training.checkpoint import Checkpoint
from bench.training.fit import FitResult, Job, fit_many
from bench.training.store import load_potential, save_potential

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What a run needs trained at a step: `members` models on the labelled structures."""

    run: RunConfig
    view: View
    labelled: Int[np.ndarray, " labelled"]
    split: Split
    members: int
    checkpoint: Checkpoint

    @cached_property
    def initial(self) -> Path | None:
        """Where the model lies if it is the initial one, which other runs start from too."""
        if len(self.labelled) > len(self.split.initial):
            return None
        return initial_model(self.run, self.view.data.checksum, self.members)

    def job(self) -> Job:
        """The training itself."""
        return Job(self.labelled, self.split.validation, self.run.seed, self.members, self.checkpoint)


def trained(requests: Sequence[Request]) -> list[FitResult | Exception]:
    """The trainings that runs ask for, together; where that fails, each by itself, so that one does not fail others.

    Where a device has too little memory for all of them, one half after the other.
    """
    try:
        with exits_are_errors():
            return fit_requests(requests)
    except Exception as error:
        no_memory = isinstance(error, torch.OutOfMemoryError)
        if len(requests) == 1:
            return [_no_memory(requests[0]) if no_memory else error]
        if no_memory:
            log.info("%d runs in lockstep do not fit into the device's memory: one half after the other", len(requests))
        else:
            why = f"{type(error).__name__}: {error}"
            log.warning("training %d runs together failed (%s): each alone", len(requests), why)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    size = (len(requests) + 1) // 2 if no_memory else 1
    parts = [requests[start : start + size] for start in range(0, len(requests), size)]
    return [outcome for part in parts for outcome in trained(part)]


def _no_memory(request: Request) -> UserError:
    """Said of one run: the error of torch would keep alive what does not fit."""
    _, total = torch.cuda.mem_get_info(request.view.device)
    models = f"{request.members} model{'s' * (request.members > 1)}"
    return UserError(
        f"device = {request.run.device}: training {models} on {len(request.labelled)} structures needs more memory"
        f" than is free of its {total / 2**30:.1f} GiB: end what else uses it, lower training.minibatch, or set"
        " device=cpu"
    )


def fit_requests(requests: Sequence[Request]) -> list[FitResult | Exception]:
    """Train what several runs of one view and training ask for at one N_train; errors are returned.

    Initial models are taken from disk where another run has trained them. Many runs may start at once: one trains, the
    others wait for its file. The file holds the seconds that training took, so that a run's cost counts it as if it had
    been trained alone. Raises Stopped.
    """
    if requests[0].initial is None:
        return _train(requests)
    found: dict[Path, FitResult | Exception] = {}
    missing: dict[Path, Request] = {}
    with contextlib.ExitStack() as locks:
        # always in the same order: processes that wait for each other's models would wait for ever
        for path, request in sorted(_by_initial(requests).items()):
            make_folder(path.parent)
            locks.enter_context(locked(path.with_suffix(".lock"), wait=True, at_work="trains the initial model"))
            remove_leftovers(path.parent, f"{path.stem}.*")
            taken = _load(path, request.run.device)
            if taken:
                log.info("initial model on %d structures: taken from %s", len(request.labelled), path)
                found[path] = taken
            else:
                checkpoint = Checkpoint(path.with_suffix(".training"), request.run.checkpoint_seconds)
                missing[path] = replace(request, checkpoint=checkpoint)
        trained = _train(list(missing.values())) if missing else []
        for (path, request), outcome in zip(missing.items(), trained, strict=True):
            found[path] = outcome
            if isinstance(outcome, FitResult):
                _save(path, outcome, request.view.data.reference_energies)
                request.checkpoint.remove()
    return [found[request.initial] for request in requests if request.initial]


def _by_initial(requests: Sequence[Request]) -> dict[Path, Request]:
    """One request for each initial model."""
    return {request.initial: request for request in requests if request.initial}


def _train(requests: Sequence[Request]) -> list[FitResult | Exception]:
    first = requests[0]
    return [*fit_many(first.view, first.run.training, [request.job() for request in requests])]


def _save(path: Path, fitted: FitResult, reference_energies: dict[int, float]) -> None:
    extra = {
        "scale": fitted.scaling.scale,
        "shift": fitted.scaling.shift.tolist(),
        "degenerate": fitted.scaling.degenerate,
        "check_epochs": fitted.check_epochs,
        "validation": fitted.validation.tolist(),
        "best_epochs": fitted.best_epochs,
        "seconds": fitted.seconds,
        "validation_seconds": fitted.validation_seconds,
        "processor_seconds": fitted.processor_seconds,
        "lockstep": fitted.lockstep,
        "trained_with": what_rounds(fitted.potential.device.type),
    }
    save_potential(path, fitted.potential, reference_energies, extra)


def _differences(before: dict[str, Any], here: dict[str, Any]) -> tuple[str, ...]:
    """On what else an initial model was trained; nothing where its file does not say it."""
    return tuple(f"initial model, {key}: {old} -> {here[key]}" for key, old in before.items() if old != here[key])


def _load(path: Path, device: str) -> FitResult | None:
    """What was trained here, or None; a file that cannot be read costs the time of training it again."""
    if not path.exists():
        return None
    try:
        potential, _, extra = load_potential(path, device)
        return FitResult(
            potential=potential,
            scaling=EnergyScaling(extra["scale"], np.array(extra["shift"]), extra["degenerate"]),
            check_epochs=extra["check_epochs"],
            validation=np.array(extra["validation"]),
            best_epochs=extra["best_epochs"],
            seconds=extra["seconds"],
            validation_seconds=extra["validation_seconds"],
            processor_seconds=extra.get("processor_seconds"),
            lockstep=extra.get("lockstep", 1),
            differs=_differences(extra.get("trained_with", {}), what_rounds(device)),
        )
    except (UserError, KeyError, TypeError) as error:
        log.warning("%s is damaged (%s): it is trained again", path, error)
        return None
