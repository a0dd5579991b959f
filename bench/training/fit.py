"""Training (Eq. 5): minibatches, Adam with layer-wise rates decaying linearly to zero, early stopping; many models.

Models with training sets of one size are trained in lockstep, be they the members of a committee or of several runs. On
a GPU a step of all of them is one batched computation. On a CPU each model's step is done by itself: batching gains
nothing there, and so a model's numbers do not depend on what is trained beside it.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.config.schema import TrainingSettings
from bench.config.seeds import stream
from bench.data.structures import Structures, ragged_rows
from bench.potentials.base import Draw, Inputs, Parameters, Potential, View, rows_of_chunks, to_device
from bench.potentials.scaling import EnergyScaling, fit_scaling
from bench.runs.progress import progress
from bench.runs.stopping import asked, deferred, raise_if_asked
from bench.training.checkpoint import Checkpoint, key_of
from bench.training.state import TrainingState

log = logging.getLogger(__name__)

OBSERVATION_RATE = 0.01
"""How far each minibatch moves running means, such as those by which the invariants are normalised."""


@dataclass(frozen=True)
class FitResult:
    """The best potential of each model and how it came about; validation rows are (check, model), in eV and eV/Å.

    `lockstep` is how many models were trained together; the seconds are this potential's share of theirs. `differs`
    says on what else than here it was trained, where rounding depends on it.
    """

    potential: Potential
    scaling: EnergyScaling
    check_epochs: list[int]
    validation: Float[np.ndarray, "checks models"]
    best_epochs: list[int]
    seconds: float
    validation_seconds: float
    lockstep: int = 1
    differs: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class Labels:
    """Targets of some structures: energies relative to the references (eV) and forces (eV/Å) with atom offsets."""

    energies: Float[Tensor, " structures"]
    forces: Float[Tensor, "atoms 3"] | None


Minibatch = tuple[Inputs, Float[Tensor, "models structures"], Float[Tensor, "atoms 3"] | None]
"""Structures of some models with their energies and forces."""


def labels_of(view: View, picked: Int[np.ndarray, " picked"], forces: bool) -> Labels:
    """The labels of some structures in the precision and on the device of the model."""
    data = view.data
    energies = torch.from_numpy(data.residual_energies[picked]).to(view.device, view.dtype)
    if not forces or data.forces is None:
        return Labels(energies, None)
    return Labels(energies, torch.from_numpy(data.forces[data.atoms_of(picked)]).to(view.device, view.dtype))


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
        saved = (job.checkpoint.load(_key(job), view.device) if job.checkpoint else None) or {"minibatches": 0}
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
    """Jobs at the same minibatch, as models in groups: a group is one batched computation."""

    def __init__(self, view: View, settings: TrainingSettings, jobs: Sequence[Job]) -> None:
        self.view, self.settings, self.jobs = view, settings, jobs
        self.started = time.perf_counter()
        self.before = [0.0] * len(jobs)
        self.validation_before = [0.0] * len(jobs)
        self.validation_seconds = 0.0
        self.minibatches = 0
        self.scalings = [_scaling(view.data, job.training, settings) for job in jobs]
        self.n_models = sum(job.members for job in jobs)
        self.groups = _groups(view, settings, jobs, self.scalings)
        self.members: list[list[tuple[_Group, int]]] = [[] for _ in jobs]
        """The group of each member of a job, and its position there."""
        for group in self.groups:
            for position, (index, _) in enumerate(group.models):
                self.members[index].append((group, position))

    def restore(self, earlier: Sequence[dict[str, Any]], minibatches: int) -> None:
        """Go on from what `save` saved of every job."""
        self.minibatches = minibatches
        self.before = [saved["seconds"] for saved in earlier]
        self.validation_before = [saved["validation_seconds"] for saved in earlier]
        for group in self.groups:
            group.state.restore([earlier[index]["models"][member] for index, member in group.models])
        log.info("training on %d structures goes on after %d minibatches", len(self.jobs[0].training), self.minibatches)

    def run(self) -> list[FitResult | FloatingPointError]:
        """Train to the end."""
        settings, checks = self.settings, self.settings.check_epochs()
        done_after = self.groups[0].minibatches.done_after
        n_steps = done_after(settings.epochs)
        epochs = [epoch for epoch in range(1, settings.epochs + 1) if done_after(epoch) > self.minibatches]
        with deferred():
            for epoch in progress(epochs, f"training on {len(self.jobs[0].training)}", unit="epoch"):
                while self.minibatches < done_after(epoch):
                    self._save_or_stop()
                    for group in self.groups:
                        group.step(self.minibatches, decay(settings, self.minibatches / n_steps))
                    self.minibatches += 1
                if epoch in checks:
                    check_started = time.perf_counter()
                    for group in self.groups:
                        group.state.check(validation_error(group.potential, group.held_out, settings))
                    self.validation_seconds += time.perf_counter() - check_started
            self._save_or_stop()
        return [self._outcome(index, checks) for index in range(len(self.jobs))]

    def _save_or_stop(self) -> None:
        # all at the same minibatch, so that they stay in lockstep when they go on
        if asked() or any(job.checkpoint and job.checkpoint.due() for job in self.jobs):
            for index, job in enumerate(self.jobs):
                if job.checkpoint:
                    job.checkpoint.save(_key(job), self._saved(index))
        raise_if_asked()

    def _saved(self, index: int) -> dict[str, Any]:
        return {
            "minibatches": self.minibatches,
            "seconds": self._seconds(index),
            "validation_seconds": self._validation_seconds(index),
            "models": [group.state.saved(position) for group, position in self.members[index]],
        }

    def _share(self, index: int) -> float:
        return self.jobs[index].members / self.n_models

    def _seconds(self, index: int) -> float:
        return self.before[index] + self._share(index) * (time.perf_counter() - self.started)

    def _validation_seconds(self, index: int) -> float:
        return self.validation_before[index] + self._share(index) * self.validation_seconds

    def _outcome(self, index: int, checks: list[int]) -> FitResult | FloatingPointError:
        states = [(group.state, position) for group, position in self.members[index]]
        best_checks = [int(state.best_check[position]) for state, position in states]
        if min(best_checks) < 0:
            return FloatingPointError(
                f"training on {len(self.jobs[index].training)} structures diverged:"
                " no finite validation error at any check"
            )
        parameters = {
            name: torch.cat([state.best[name][position : position + 1] for state, position in states])
            for name in states[0][0].best
        }
        history = [torch.stack(state.history)[:, position] for state, position in states]
        return FitResult(
            potential=self.view.potential(parameters, [self.scalings[index]] * len(states)),
            scaling=self.scalings[index],
            check_epochs=checks,
            validation=torch.stack(history, dim=1).double().cpu().numpy(),
            best_epochs=[checks[check] for check in best_checks],
            seconds=self._seconds(index),
            validation_seconds=self._validation_seconds(index),
            lockstep=self.n_models,
        )


class _Group:
    """Models that one batched computation trains; `models` lists their (job, member)."""

    def __init__(
        self,
        settings: TrainingSettings,
        models: list[tuple[int, int]],
        potential: Potential,
        minibatches: "_Minibatches",
        held_out: list[Minibatch],
    ) -> None:
        self.settings, self.models, self.potential = settings, models, potential
        self.minibatches, self.held_out = minibatches, held_out
        self.optimizer = _Optimizer(potential, settings)
        self.state = TrainingState(potential, self.optimizer.adam)

    def step(self, minibatch: int, decay: float) -> None:
        """One minibatch, counted from 0, of every model."""
        inputs, energies, forces = self.minibatches.at(minibatch)
        self.potential.observe(inputs, max(OBSERVATION_RATE, 1 / (minibatch + 1)))
        _, gradient = self.potential.loss_gradient(inputs, energies, forces, self.settings.force_weight)
        self.optimizer.step(gradient, decay)


def _groups(
    view: View,
    settings: TrainingSettings,
    jobs: Sequence[Job],
    scalings: Sequence[EnergyScaling],
) -> list[_Group]:
    """All models of all jobs in one group; without lockstep each by itself, a job's sharing their data."""
    everyone = list(range(len(jobs)))
    groups = []
    for chosen in [everyone] if view.lockstep else [[index] for index in everyone]:
        models = [(index, member) for index in chosen for member in range(jobs[index].members)]
        together = [models] if view.lockstep else [[one] for one in models]
        data = _TrainingData(view, settings, [jobs[index].training for index in chosen])
        held_out = _held_out(view, settings, [jobs[index].validation for index, _ in together[0]])
        for group in together:
            draws = [Draw(jobs[index].seed, member, data.n_train, scalings[index]) for index, member in group]
            sets = [chosen.index(index) for index, _ in group]
            potential, minibatches = view.draw(draws), _Minibatches(data, settings, sets, draws)
            groups.append(_Group(settings, group, potential, minibatches, held_out))
    return groups


def decay(settings: TrainingSettings, done: float) -> float:
    """What the learning rates are multiplied by after this fraction of all minibatches."""
    return 1 - done if settings.decay == "linear" else 1.0


def validation_error(
    potential: Potential, held_out: list[Minibatch], settings: TrainingSettings
) -> Float[Tensor, " models"]:
    """What early stopping compares, per model: MAE(E) per structure in eV plus MAE(F) per component in eV/Å.

    With `settings.early_stopping` one of them alone (without forces always MAE(E)), or the mean loss of a structure.
    """
    n_structures = sum(energies.shape[1] for _, energies, _ in held_out)
    n_components = sum(3 * inputs.atoms_of_models for inputs, _, forces in held_out if forces is not None)
    by = settings.early_stopping
    total = torch.zeros(potential.n_models, dtype=potential.dtype, device=potential.device)
    for inputs, energies, forces in held_out:
        predicted, predicted_forces = potential.predict(inputs, forces=forces is not None)
        error = predicted - energies
        if by == "loss":
            total += (error**2).sum(1) / n_structures
        elif by != "forces":
            total += error.abs().sum(1) / n_structures
        if forces is not None and predicted_forces is not None and by != "energies":
            of_atoms = (predicted_forces - forces).abs()
            if by == "loss":
                total += settings.force_weight * inputs.sum_models(of_atoms**2) / n_structures
            else:
                total += inputs.sum_models(of_atoms) / n_components
    return total


class _TrainingData:
    """Training sets of one size, end to end: the structures and their labels on the device."""

    def __init__(self, view: View, settings: TrainingSettings, sets: Sequence[Int[np.ndarray, " train"]]) -> None:
        picked = np.concatenate(sets)
        self.n_train = len(sets[0])
        self.prepared = view.prepare(picked, forces=settings.forces)
        self.labels = labels_of(view, picked, settings.forces)
        self.n_atoms = view.data.n_atoms[picked]
        self.first_atom = np.cumsum(self.n_atoms) - self.n_atoms

    def gather(self, rows: Int[np.ndarray, "models structures"]) -> Minibatch:
        """Inputs with their energies and forces."""
        device, forces = self.labels.energies.device, self.labels.forces
        if forces is not None:
            flat = rows.flatten()
            forces = forces[to_device(ragged_rows(self.first_atom[flat], self.n_atoms[flat]), device)]
        return self.prepared.gather(rows), self.labels.energies[to_device(rows, device)], forces


class _Minibatches:
    """All structures where they fit into one minibatch, else parts of an order that is new in every epoch.

    Model m draws from set `sets[m]` of the data, in the order of its own draw. What is left of an epoch that
    minibatches do not divide is dropped, kept as a smaller one, or carried into the first minibatch of the next epoch.
    """

    def __init__(
        self, data: _TrainingData, settings: TrainingSettings, sets: Sequence[int], draws: Sequence[Draw]
    ) -> None:
        self.data, self.draws, self.settings = data, draws, settings
        self.first = np.array(sets)[:, None] * data.n_train
        self.size = min(settings.minibatch, data.n_train)
        self.order, self.order_of = np.tile(np.arange(data.n_train), (len(sets), 1)), -1
        self.whole = data.gather(self.order + self.first) if self.size == data.n_train else None

    def done_after(self, epochs: int) -> int:
        """The minibatches of so many epochs."""
        return self.settings.minibatches(self.data.n_train, epochs)

    def at(self, minibatch: int) -> Minibatch:
        """A minibatch of the training, counted from 0; every model has its own order."""
        if self.whole is not None:
            return self.whole
        carry = self.settings.last_minibatch == "carry"
        if carry:
            epoch, start = divmod(minibatch * self.size, self.data.n_train)
        else:
            epoch, step = divmod(minibatch, self.done_after(1))
            start = step * self.size
        rows = self._order(epoch)[:, start : start + self.size]
        if carry and (missing := self.size - rows.shape[1]):
            rows = np.concatenate([rows, self._order(epoch + 1)[:, :missing]], axis=1)
        return self.data.gather(rows + self.first)

    def _order(self, epoch: int) -> Int[np.ndarray, "models train"]:
        if epoch != self.order_of:
            n_train = self.data.n_train
            orders = [
                stream(one.seed, "order", n_train=n_train, member=one.member, epoch=epoch + 1).permutation(n_train)
                for one in self.draws
            ]
            self.order, self.order_of = np.stack(orders), epoch
        return self.order


def _held_out(view: View, settings: TrainingSettings, sets: Sequence[Int[np.ndarray, " valid"]]) -> list[Minibatch]:
    """The validation sets of some models, of one size, in chunks of as many structures each."""
    held = []
    for rows in rows_of_chunks(view, sets[0], share=len(sets)):
        picked = np.concatenate([one[rows] for one in sets])
        everything = _TrainingData(view, settings, [picked])
        held.append(everything.gather(np.arange(len(picked)).reshape(len(sets), -1)))
    return held


FEWEST, FAR, FAR_ALONE = 5, 100.0, 10.0
"""Of so many labels one is told that lies so many times as far from the median as half of them, and as the next."""


class _Optimizer:
    """Adam over the parameters of all models, one rate per kind of parameter, scaled by the schedule."""

    def __init__(self, potential: Potential, settings: TrainingSettings) -> None:
        self.parameters = {k: v for k, v in potential.parameters.items() if k in potential.rates}
        by_rate: dict[float, list[Tensor]] = {}
        for name, values in self.parameters.items():
            by_rate.setdefault(settings.learning_rates[potential.rates[name]], []).append(values)
        self.rates = list(by_rate)
        groups = [{"params": values, "lr": rate} for rate, values in by_rate.items()]
        self.adam = torch.optim.Adam(groups, betas=settings.adam_betas, eps=settings.adam_epsilon, fused=True)

    def step(self, gradient: Parameters, decay: float) -> None:
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * decay
        for name, values in self.parameters.items():
            values.grad = gradient[name].reshape(values.shape)
        self.adam.step()


def _key(job: Job) -> str:
    return key_of(job.training, job.members)


def _scaling(data: Structures, training: Int[np.ndarray, " train"], settings: TrainingSettings) -> EnergyScaling:
    """The constants of Eq. (4); says so where all energies are equal."""
    counts = np.zeros((len(training), len(data.species)), dtype=np.int64)
    structure = np.repeat(np.arange(len(training)), data.n_atoms[training])
    np.add.at(counts, (structure, data.species_index[data.atoms_of(training)]), 1)
    scaling = fit_scaling(data.residual_energies[training], counts, settings.energy_scale_factor)
    if scaling.degenerate:
        log.warning("all training energies are equal: the energy scale c of Eq. (4) is set to 1 eV")
    per_atom = data.residual_energies[training] / data.n_atoms[training]
    away = np.abs(per_atom - np.median(per_atom))
    worst, (next_to, farthest) = int(np.argmax(away)), np.sort(away)[-2:] if len(away) > 1 else (0.0, 0.0)
    if len(away) >= FEWEST and farthest > FAR * np.median(away) and farthest > FAR_ALONE * next_to:
        log.warning(
            "note: the energy of training structure %d, %.6g eV, lies %.3g eV per atom from the median, the next %.3g:"
            " is that label right? It decides the scale of all",
            training[worst],
            data.energies[training[worst]],
            farthest,
            next_to,
        )
    return scaling
