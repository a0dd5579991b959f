"""Training (Eq. 5): minibatches, Adam with layer-wise rates decaying linearly to zero, early stopping; many models."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.data.structures import Structures
from bench.model.geometry import GeometryBuilder
from bench.model.moments import Geometry
from bench.model.potential import NORMALISATION, Batch, Parameters, Potential, initial_parameters, make_batch
from bench.progress import progress
from bench.schema import ModelSettings, TrainingSettings
from bench.seeds import stream
from bench.stopping import asked, deferred, raise_if_asked
from bench.training.checkpoint import Checkpoint, key_of
from bench.training.scaling import EnergyScaling, fit_scaling
from bench.training.state import TrainingState

log = logging.getLogger(__name__)

NORMALISATION_RATE = 0.01
"""How far each minibatch moves the running mean and variance of the invariants, where they are normalised."""


@dataclass(frozen=True)
class FitResult:
    """The best potential of each model and how it came about; validation rows are (check, model), in eV and eV/Å."""

    potential: Potential
    scaling: EnergyScaling
    check_epochs: list[int]
    validation: Float[np.ndarray, "checks models"]
    best_epochs: list[int]
    seconds: float
    validation_seconds: float


@dataclass(frozen=True)
class Labels:
    """Targets of some structures: energies relative to the references (eV) and forces (eV/Å) with atom offsets."""

    energies: Float[Tensor, " structures"]
    forces: Float[Tensor, "atoms 3"] | None


def labels_of(data: Structures, picked: Int[np.ndarray, " picked"], builder: GeometryBuilder, forces: bool) -> Labels:
    """The labels of some structures in the precision and on the device of the model."""
    energies = torch.from_numpy(data.residual_energies[picked]).to(builder.device, builder.dtype)
    if not forces or data.forces is None:
        return Labels(energies, None)
    return Labels(energies, torch.from_numpy(data.forces[data.atoms_of(picked)]).to(builder.device, builder.dtype))


def fit(
    builder: GeometryBuilder,
    model: ModelSettings,
    settings: TrainingSettings,
    training: Int[np.ndarray, " train"],
    validation: Int[np.ndarray, " valid"],
    *,
    seed: int,
    members: int,
    checkpoint: Checkpoint | None = None,
) -> FitResult:
    """Train `members` models on the same structures from scratch; they differ in weights and minibatch order only.

    Every draw is keyed by (seed, use, N_train, member), so that member 0 is the single model (METHOD section 1).
    With a checkpoint the training goes on from where it was saved, with the same numbers; it is saved now and then, and
    when a signal asks this process to stop, which then raises Stopped.
    Raises FloatingPointError if no check of some model gave a finite validation error.
    """
    started = time.perf_counter()
    data = builder.data
    composition = _composition(data, training)
    scaling = fit_scaling(data.residual_energies[training], composition, settings.energy_scale_factor)
    if scaling.degenerate:
        log.warning("all training energies are equal: the energy scale c of Eq. (4) is set to 1 eV")
    potential = _initialise(builder, model, scaling, seed, len(training), members)
    optimizer = _Optimizer(potential, settings)
    minibatches = _Minibatches(builder, training, settings, seed, members)
    held_out = [
        (geometry, labels_of(data, validation[rows], builder, settings.forces))
        for rows, geometry in builder.chunks(validation, with_pairs=settings.forces)
    ]
    state = TrainingState(potential, optimizer.adam)
    key = key_of(training, members)
    earlier = checkpoint.load(key, builder.device) if checkpoint else None
    if earlier:
        state.restore(earlier)
        log.info("training on %d structures goes on after %d minibatches", len(training), state.minibatches)
    before = state.seconds

    def seconds() -> float:
        return before + time.perf_counter() - started

    def save_or_stop() -> None:
        if checkpoint and (asked() or checkpoint.due()):
            checkpoint.save(key, state.saved(seconds()))
        raise_if_asked()

    checks = settings.check_epochs()
    n_steps = settings.epochs * minibatches.per_epoch
    epochs_done, skip = divmod(state.minibatches, minibatches.per_epoch)
    with deferred():
        for epoch in progress(
            range(epochs_done + 1, settings.epochs + 1), f"training on {len(training)}", unit="epoch"
        ):
            for batch, energies, forces in minibatches.of(epoch, skip):
                save_or_stop()
                potential.observe(batch, max(NORMALISATION_RATE, 1 / (state.minibatches + 1)))
                _, gradient = potential.loss_gradient(batch, energies, forces, settings.force_weight)
                optimizer.step(gradient, decay(settings, state.minibatches / n_steps))
                state.minibatches += 1
            skip = 0
            if epoch in checks:
                check_started = time.perf_counter()
                state.check(validation_error(potential, held_out, settings))
                state.validation_seconds += time.perf_counter() - check_started
        save_or_stop()
    if not bool((state.best_check >= 0).all()):
        raise FloatingPointError(
            f"training on {len(training)} structures diverged: no finite validation error at any check"
        )
    return FitResult(
        potential=Potential(model, data.species, state.best, potential.energy_scale),
        scaling=scaling,
        check_epochs=checks,
        validation=torch.stack(state.history).double().cpu().numpy(),
        best_epochs=[checks[int(check)] for check in state.best_check],
        seconds=seconds(),
        validation_seconds=state.validation_seconds,
    )


def decay(settings: TrainingSettings, done: float) -> float:
    """What the learning rates are multiplied by after this fraction of all minibatches."""
    return 1 - done if settings.decay == "linear" else 1.0


def validation_error(
    potential: Potential, held_out: list[tuple[Geometry, Labels]], settings: TrainingSettings
) -> Float[Tensor, " models"]:
    """What early stopping compares, per model: MAE(E) per structure in eV plus MAE(F) per component in eV/Å.

    With `settings.early_stopping` one of them alone (without forces always MAE(E)), or the mean loss of a structure.
    """
    n_structures = sum(len(labels.energies) for _, labels in held_out)
    n_components = sum(labels.forces.numel() for _, labels in held_out if labels.forces is not None)
    by = settings.early_stopping
    total = torch.zeros(potential.n_models, dtype=potential.dtype, device=potential.device)
    for geometry, labels in held_out:
        everyone = torch.arange(len(geometry), device=potential.device).expand(potential.n_models, -1)
        batch = make_batch(geometry, everyone, with_pairs=labels.forces is not None, whole=True)
        energies, forces = potential.predict(batch, forces=labels.forces is not None)
        error = energies - labels.energies
        if by == "loss":
            total += (error**2).sum(1) / n_structures
        elif by != "forces":
            total += error.abs().sum(1) / n_structures
        if forces is not None and labels.forces is not None:
            force_error = forces.reshape(potential.n_models, -1, 3) - labels.forces
            if by == "loss":
                total += settings.force_weight * (force_error**2).sum((1, 2)) / n_structures
            elif by != "energies":
                total += force_error.abs().sum((1, 2)) / n_components
    return total


class _Minibatches:
    """Minibatches of an epoch: all structures where they fit into one, else parts of a new order."""

    def __init__(
        self,
        builder: GeometryBuilder,
        training: Int[np.ndarray, " train"],
        settings: TrainingSettings,
        seed: int,
        members: int,
    ) -> None:
        self.geometry = builder.build(training, with_pairs=settings.forces)
        self.labels = labels_of(builder.data, training, builder, settings.forces)
        self.with_pairs, self.seed, self.members, self.n_train = settings.forces, seed, members, len(training)
        self.size = min(settings.minibatch, self.n_train)
        rest = self.n_train % self.size > 0 and settings.last_minibatch == "keep"
        self.per_epoch = self.n_train // self.size + rest
        everyone = torch.arange(self.n_train, device=builder.device).expand(members, -1)
        self.whole = self._gather(everyone, whole=True) if self.size == self.n_train else None

    def of(
        self, epoch: int, skip: int = 0
    ) -> Iterator[tuple[Batch, Float[Tensor, "models structures"], Tensor | None]]:
        """Batches with energies and forces, the first `skip` left out; every member has its own order."""
        if self.whole is not None:
            yield self.whole
            return
        orders = [
            stream(self.seed, "order", n_train=self.n_train, member=member, epoch=epoch).permutation(self.n_train)
            for member in range(self.members)
        ]
        order = torch.from_numpy(np.stack(orders)).to(self.labels.energies.device)
        for step in range(skip, self.per_epoch):
            yield self._gather(order[:, step * self.size : (step + 1) * self.size])

    def _gather(
        self, picked: Int[Tensor, "models structures"], whole: bool = False
    ) -> tuple[Batch, Float[Tensor, "models structures"], Tensor | None]:
        batch = make_batch(self.geometry, picked, with_pairs=self.with_pairs, whole=whole)
        forces = self.labels.forces
        if forces is not None:
            forces = forces[self.geometry.atom_rows(picked.flatten())]
        return batch, self.labels.energies[picked], forces


class _Optimizer:
    """Adam over the parameters of all models, one rate per kind of parameter, scaled by the schedule."""

    def __init__(self, potential: Potential, settings: TrainingSettings) -> None:
        self.parameters = {k: v for k, v in potential.parameters.items() if k not in NORMALISATION}
        self.rates = {name: settings.learning_rates.of(name) for name in self.parameters}
        groups = [{"params": [values], "lr": self.rates[name]} for name, values in self.parameters.items()]
        self.adam = torch.optim.Adam(groups, betas=settings.adam_betas, eps=settings.adam_epsilon, fused=True)

    def step(self, gradient: Parameters, decay: float) -> None:
        for group, (name, values) in zip(self.adam.param_groups, self.parameters.items(), strict=True):
            values.grad = gradient[name].reshape(values.shape)
            group["lr"] = self.rates[name] * decay
        self.adam.step()


def _initialise(
    builder: GeometryBuilder, model: ModelSettings, scaling: EnergyScaling, seed: int, n_train: int, members: int
) -> Potential:
    drawn = [
        initial_parameters(
            model, len(builder.data.species), scaling.shift, stream(seed, "weights", n_train=n_train, member=member)
        )
        for member in range(members)
    ]
    parameters = {
        name: torch.from_numpy(np.stack([one[name] for one in drawn])).to(builder.device, builder.dtype)
        for name in drawn[0]
    }
    energy_scale = torch.full((members,), scaling.scale, dtype=builder.dtype, device=builder.device)
    return Potential(model, builder.data.species, parameters, energy_scale)


def _composition(data: Structures, picked: Int[np.ndarray, " picked"]) -> Int[np.ndarray, "picked species"]:
    counts = np.zeros((len(picked), len(data.species)), dtype=np.int64)
    structure = np.repeat(np.arange(len(picked)), data.n_atoms[picked])
    np.add.at(counts, (structure, data.species_index[data.atoms_of(picked)]), 1)
    return counts
