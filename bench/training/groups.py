"""The models of a training in groups, each one batched computation.

On a GPU a step of all models is one computation. On a CPU each model is a group: batching gains nothing there, and so a
model's numbers do not depend on what is trained beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from torch import Tensor

from bench.config.schema import TrainingSettings
from bench.potentials.base import Draw, Parameters, Potential, View
from bench.training import replay
from bench.training.minibatches import Minibatch, Minibatches, TrainingData, held_out
from bench.training.optimizer import Optimizer
from bench.training.schedule import rate_factor
from bench.training.state import TrainingState
from bench.training.validation import validation_error

OBSERVATION_RATE = 0.01
"""How far each minibatch moves running means, such as those by which the invariants are normalised."""


@dataclass(frozen=True)
class Model:
    """One model to train: its structures, and what its parameters and minibatch order are drawn from.

    Models that train on the same structures one after another share one array of them.
    """

    training: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " valid"]
    draw: Draw


class Group:
    """Models that one batched computation trains."""

    def __init__(
        self, settings: TrainingSettings, potential: Potential, minibatches: Minibatches, held_out: list[Minibatch]
    ) -> None:
        self.settings, self.potential = settings, potential
        self.minibatches, self.held_out = minibatches, held_out
        self.optimizer = Optimizer(potential, settings)
        self.state = TrainingState(potential, self.optimizer.moments)
        self.replay = None
        if replay.serves(minibatches, potential.n_models, potential.device):
            self.replay = replay.Replay(minibatches, potential.device, potential.dtype)
        self._told: list[float] = []

    def step(self, minibatch: int, done: float) -> None:
        """One minibatch, counted from 0, of every model, after a fraction `done` of all minibatches."""
        rate = max(OBSERVATION_RATE, 1 / (minibatch + 1))
        if self.replay is None:
            gradient = self._gradient(self.minibatches.at(minibatch), rate)
        else:
            gradient = self.replay.gradient(minibatch, rate, self._gradient)
        self.optimizer.step(gradient, rate_factor(self.settings, minibatch, done, self._errors()))

    def _gradient(self, minibatch: Minibatch, rate: float | Tensor) -> Parameters:
        """The gradient of the loss on a minibatch, when running means have been moved towards it."""
        inputs, energies, forces = minibatch
        self.potential.observe(inputs, rate)
        return self.potential.loss_gradient(inputs, energies, forces, self.settings.force_weight)[1]

    def _errors(self) -> list[float]:
        """The validation errors so far where the learning rates depend on them: of the one model of this group."""
        if self.settings.decay != "plateau":
            return []
        if len(self._told) != len(self.state.history):
            self._told = [float(error[0]) for error in self.state.history]
        return self._told

    def check(self) -> None:
        """Take note of the validation error of every model."""
        self.state.check(validation_error(self.potential, self.held_out, self.settings))


def in_groups(view: View, settings: TrainingSettings, models: Sequence[Model]) -> list[Group]:
    """All models in one group, in their order; each by itself where the view does not serve lockstep.

    So, too, where learning rates follow the validation error, which is each model's own.
    """
    gathered: dict[tuple[int, ...], tuple[TrainingData, list[Minibatch]]] = {}
    groups = []
    lockstep = view.lockstep and settings.decay != "plateau"
    for together in [models] if lockstep else [[one] for one in models]:
        sets = {id(one.training): one.training for one in together}
        key = tuple(sets)
        if key not in gathered:
            held = held_out(view, settings, [one.validation for one in together])
            gathered[key] = TrainingData(view, settings, list(sets.values())), held
        data, held = gathered[key]
        draws = [one.draw for one in together]
        minibatches = Minibatches(data, settings, [key.index(id(one.training)) for one in together], draws)
        groups.append(Group(settings, view.draw(draws), minibatches, held))
    return groups
