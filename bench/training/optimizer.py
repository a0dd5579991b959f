"""Adam (Eq. 5) over the parameters of many models, with a rate for each of their groups."""

import torch
from torch import Tensor

from bench.config.schema import TrainingSettings
from bench.potentials.base import Parameters, Potential


class Optimizer:
    """Changes the parameters in place; one learning rate per group (`Potential.rates`), scaled by the schedule."""

    def __init__(self, potential: Potential, settings: TrainingSettings) -> None:
        self.settings = settings
        self.parameters = {k: v for k, v in potential.parameters.items() if k in potential.rates}
        by_rate: dict[float, list[Tensor]] = {}
        for name, values in self.parameters.items():
            by_rate.setdefault(settings.learning_rates[potential.rates[name]], []).append(values)
        self.rates = list(by_rate)
        groups = [{"params": values, "lr": rate} for rate, values in by_rate.items()]
        self.adam = torch.optim.Adam(groups, betas=settings.adam_betas, eps=settings.adam_epsilon, fused=True)

    def step(self, gradient: Parameters, done: float) -> None:
        """One step after a fraction `done` of all minibatches."""
        decay = 1 - done if self.settings.decay == "linear" else 1.0
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * decay
        for name, values in self.parameters.items():
            values.grad = gradient[name].reshape(values.shape)
        self.adam.step()
