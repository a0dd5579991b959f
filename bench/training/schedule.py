"""What the learning rates are multiplied by in the course of a training: a function of what has been done and found."""

import math
from collections.abc import Sequence

from bench.config.schema import TrainingSettings


def rate_factor(settings: TrainingSettings, minibatch: int, done: float, errors: Sequence[float]) -> float:
    """The factor for a minibatch, counted from 0, after a fraction `done` of all, given the errors of checks so far."""
    if settings.decay == "linear":
        return 1 - done
    if settings.decay == "exponential":
        return settings.decay_factor ** (minibatch / settings.decay_every)
    if settings.decay == "plateau":
        return settings.decay_factor ** plateaus(errors, settings.check_epochs(), settings.decay_every)
    return 1.0


def plateaus(errors: Sequence[float], check_epochs: Sequence[int], patience: int) -> int:
    """How often the validation error did not fall for at least `patience` epochs, looked at when it is measured."""
    lowest, since, found = math.inf, 0, 0
    for epoch, error in zip(check_epochs, errors, strict=False):
        if error < lowest:
            lowest, since = error, epoch
        elif epoch - since >= patience:
            found, since = found + 1, epoch
    return found
