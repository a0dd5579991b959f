"""Training (Eq. 5): minibatches, Adam with layer-wise rates decaying linearly to zero, early stopping; many models.

Models with training sets of one size are trained in lockstep, be they the members of a committee or of several runs.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from bench.config.schema import TrainingSettings
from bench.potentials.base import Draw, Potential, View
from bench.potentials.scaling import EnergyScaling
from bench.runs.progress import progress
from bench.runs.stopping import asked, deferred, raise_if_asked
from bench.training.checkpoint import Checkpoint, key_of
from bench.training.groups import Model, in_groups
from bench.training.scaling import scaling_of
from bench.training.side_by_side import SideBySide
from bench.training.state import Best

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """The best potential of each model and how it came about; validation rows are (check, model), in eV and eV/Å.

    `lockstep` is how many models were trained together; the seconds are this potential's share of theirs, those of all
    processors None where an older checkpoint does not tell them. `differs` says on what else than here it was trained,
    where rounding depends on it.
    """

    potential: Potential
    scaling: EnergyScaling
    check_epochs: list[int]
    validation: Float[np.ndarray, "checks models"]
    best_epochs: list[int]
    seconds: float
    validation_seconds: float
    processor_seconds: float | None = None
    lockstep: int = 1
    differs: tuple[str, ...] = ()


class Spent(NamedTuple):
    """Seconds of a training, those of its validation, and those of all its processors."""

    seconds: float
    validation_seconds: float
    processor_seconds: float | None


@dataclass(frozen=True)
class Job:
    """`members` models to train from scratch on the same structures; they differ in weights and minibatch order only.

    Every draw is keyed by (seed, use, N_train, member), so that member 0 is the single model. With a checkpoint
    the training goes on from where it was saved, with the same numbers; it is saved now and then, and when a
    signal asks this process to stop.
    """

    training: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " valid"]
    seed: int
    members: int = 1
    checkpoint: Checkpoint | None = None

    @property
    def key(self) -> str:
        """What tells the trainings of one run apart."""
        return key_of(self.training, self.members)


def fit(view: View, settings: TrainingSettings, job: Job) -> FitResult:
    """Train one job. Raises Stopped, or FloatingPointError if no check of a model gave a finite validation error."""
    (outcome,) = fit_many(view, settings, [job])
    if isinstance(outcome, FloatingPointError):
        raise outcome
    return outcome


def fit_many(view: View, settings: TrainingSettings, jobs: Sequence[Job]) -> list[FitResult | FloatingPointError]:
    """Train jobs with the same numbers of structures in lockstep; where one diverges, its error is returned.

    Jobs that were stopped at different minibatches go on apart, one group after the other. Raises Stopped after a
    signal, when those in progress are saved.
    """
    by_minibatches: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for index, job in enumerate(jobs):
        saved = (job.checkpoint.load(job.key, view.device) if job.checkpoint else None) or {"minibatches": 0}
        by_minibatches.setdefault(saved["minibatches"], []).append((index, saved))
    outcomes: dict[int, FitResult | FloatingPointError] = {}
    for minibatches in sorted(by_minibatches):
        chosen = by_minibatches[minibatches]
        trainings = _Trainings(view, settings, [jobs[index] for index, _ in chosen])
        if minibatches:
            trainings.restore([saved for _, saved in chosen], minibatches)
        outcomes |= zip((index for index, _ in chosen), trainings.run(), strict=True)
    return [outcomes[index] for index in range(len(jobs))]


class _Trainings:
    """Jobs at the same minibatch; their models stand one job after the other, member by member."""

    def __init__(self, view: View, settings: TrainingSettings, jobs: Sequence[Job]) -> None:
        self.view, self.settings, self.jobs = view, settings, jobs
        self.started, self.processor_started = time.perf_counter(), time.process_time()
        self.before = [Spent(0.0, 0.0, 0.0)] * len(jobs)
        self.validation_seconds = 0.0
        self.minibatches = 0
        self.scalings = [scaling_of(view.data, job.training, settings.energy_scale_factor) for job in jobs]
        models = [
            Model(job.training, job.validation, Draw(job.seed, member, len(job.training), scaling))
            for job, scaling in zip(jobs, self.scalings, strict=True)
            for member in range(job.members)
        ]
        self.n_models = len(models)
        self.groups = in_groups(view, settings, models)

    def restore(self, earlier: Sequence[dict[str, Any]], minibatches: int) -> None:
        """Go on from what `save` saved of every job."""
        self.minibatches = minibatches
        self.before = [
            Spent(saved["seconds"], saved["validation_seconds"], saved.get("processor_seconds")) for saved in earlier
        ]
        models = iter([model for saved in earlier for model in saved["models"]])
        for group in self.groups:
            group.state.restore([next(models) for _ in range(group.potential.n_models)])
        log.info("training on %d structures goes on after %d minibatches", len(self.jobs[0].training), self.minibatches)

    def run(self) -> list[FitResult | FloatingPointError]:
        """Train to the end."""
        settings, checks = self.settings, self.settings.check_epochs()
        done_after = self.groups[0].minibatches.done_after
        n_steps = done_after(settings.epochs)
        epochs = [epoch for epoch in range(1, settings.epochs + 1) if done_after(epoch) > self.minibatches]
        with deferred(), SideBySide(self.groups, self._at_once()) as groups:
            for epoch in progress(epochs, f"training on {len(self.jobs[0].training)}", unit="epoch"):
                to_check = done_after(next(check for check in checks if check >= epoch))
                while self.minibatches < done_after(epoch):
                    self._save_or_stop()
                    stop = min(self.minibatches + groups.stretch, to_check)
                    groups.step(self.minibatches, stop, n_steps)
                    self.minibatches = stop
                if epoch in checks:
                    check_started = time.perf_counter()
                    for group in self.groups:
                        group.check()
                    self.validation_seconds += time.perf_counter() - check_started
            self._save_or_stop()
        best = self._of_jobs([one for group in self.groups for one in group.state.best_of_models()])
        return [self._outcome(index, models, checks) for index, models in enumerate(best)]

    def _at_once(self) -> list[int]:
        """How many groups like it go side by side, of every group: the members of a committee, one a thread at most."""
        if not getattr(self.view, "side_by_side", False):
            return [1] * len(self.groups)
        return [min(job.members, torch.get_num_threads()) for job in self.jobs for _ in range(job.members)]

    def _of_jobs(self, of_models: list[Any]) -> list[list[Any]]:
        """What there is for every model, parted by jobs."""
        ends = list(accumulate(job.members for job in self.jobs))
        return [of_models[end - job.members : end] for end, job in zip(ends, self.jobs, strict=True)]

    def _save_or_stop(self) -> None:
        # all at the same minibatch, so that they stay in lockstep when they go on
        if asked() or any(job.checkpoint and job.checkpoint.due() for job in self.jobs):
            states = self._of_jobs([one for group in self.groups for one in group.state.saved()])
            for index, (job, models) in enumerate(zip(self.jobs, states, strict=True)):
                if job.checkpoint:
                    saved = {"minibatches": self.minibatches, **self._spent(index)._asdict(), "models": models}
                    job.checkpoint.save(job.key, saved)
        raise_if_asked()

    def _spent(self, index: int) -> Spent:
        """A job's share, with what earlier sessions spent."""
        share, before = self.jobs[index].members / self.n_models, self.before[index]
        processor = share * (time.process_time() - self.processor_started)
        return Spent(
            before.seconds + share * (time.perf_counter() - self.started),
            before.validation_seconds + share * self.validation_seconds,
            None if before.processor_seconds is None else before.processor_seconds + processor,
        )

    def _outcome(self, index: int, models: list[Best], checks: list[int]) -> FitResult | FloatingPointError:
        """The result of a job from the best of its models."""
        if min(one.check for one in models) < 0:
            return FloatingPointError(
                f"training on {len(self.jobs[index].training)} structures diverged:"
                " no finite validation error at any check; lower the learning rates (model.learning_rates…)"
            )
        parameters = {name: torch.cat([one.parameters[name] for one in models]) for name in models[0].parameters}
        return FitResult(
            potential=self.view.potential(parameters, [self.scalings[index]] * len(models)),
            scaling=self.scalings[index],
            check_epochs=checks,
            validation=torch.stack([one.history for one in models], dim=1).double().cpu().numpy(),
            best_epochs=[checks[one.check] for one in models],
            lockstep=self.n_models,
            **self._spent(index)._asdict(),
        )
