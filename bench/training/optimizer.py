"""Adam (Eq. 5) over the parameters of many models, with a rate for each of their groups."""

import torch
from torch import Tensor
from torch.optim.adam import adam

from bench.config.schema import TrainingSettings
from bench.potentials.base import Parameters, Potential


class Optimizer:
    """Changes the parameters in place; one learning rate per group (`Potential.rates`), scaled by the schedule.

    By torch's function, for its class imports the compiler of torch, which takes a second. `moments` is what Adam keeps
    of every parameter: the number of steps, and the running means of the gradient and of its square.
    """

    def __init__(self, potential: Potential, settings: TrainingSettings) -> None:
        self.settings = settings
        self.parameters = {k: v for k, v in potential.parameters.items() if k in potential.rates}
        self.names_of_rate: dict[float, list[str]] = {}
        for name in self.parameters:
            self.names_of_rate.setdefault(settings.learning_rates[potential.rates[name]], []).append(name)
        self.moments: dict[str, dict[str, Tensor]] = {
            name: {
                "step": torch.zeros((), device=values.device),
                "exp_avg": torch.zeros_like(values),
                "exp_avg_sq": torch.zeros_like(values),
            }
            for name, values in self.parameters.items()
        }

    @torch.no_grad()
    def step(self, gradient: Parameters, factor: float) -> None:
        """One step, with the initial rates multiplied by a factor (`bench.training.schedule`)."""
        beta1, beta2 = self.settings.adam_betas
        for rate, names in self.names_of_rate.items():
            adam(
                [self.parameters[name] for name in names],
                [gradient[name].reshape(self.parameters[name].shape) for name in names],
                [self.moments[name]["exp_avg"] for name in names],
                [self.moments[name]["exp_avg_sq"] for name in names],
                [],
                [self.moments[name]["step"] for name in names],
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=rate * factor,
                weight_decay=0.0,
                eps=self.settings.adam_epsilon,
                maximize=False,
            )
