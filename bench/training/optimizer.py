"""Adam (Eq. 5) over the parameters of many models, with a rate for each of their groups."""

from typing import NamedTuple

import torch
from torch import Tensor

from bench.config.schema import TrainingSettings
from bench.potentials.base import Parameters, Potential


class _Group(NamedTuple):
    """Parameters of one rate and one type, with what Adam keeps of each."""

    rate: float
    names: list[str]
    parameters: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]


class Optimizer:
    """Changes the parameters in place; one learning rate per group (`Potential.rates`), scaled by the schedule.

    By the operation of torch itself: its class imports the compiler of torch, which takes a second, and its function
    takes several times as long as the operation where a network is small. `moments` is what Adam keeps of every
    parameter: the number of steps, and the running means of the gradient and of its square.
    """

    def __init__(self, potential: Potential, settings: TrainingSettings) -> None:
        self.settings = settings
        parameters = {k: v for k, v in potential.parameters.items() if k in potential.rates}
        # one tensor, of which every parameter has an element: they all count together
        self.steps = torch.zeros(len(parameters), device=potential.device)
        self.moments: dict[str, dict[str, Tensor]] = {
            name: {
                "step": self.steps[n],
                "exp_avg": torch.zeros_like(values),
                "exp_avg_sq": torch.zeros_like(values),
            }
            for n, (name, values) in enumerate(parameters.items())
        }
        by_rate: dict[tuple[float, torch.dtype], list[str]] = {}
        for name, values in parameters.items():
            rate = settings.learning_rates[potential.rates[name]]
            by_rate.setdefault((rate, values.dtype), []).append(name)
        self.groups = [
            _Group(
                rate,
                names,
                [parameters[name] for name in names],
                *([self.moments[name][key] for name in names] for key in ("exp_avg", "exp_avg_sq", "step")),
            )
            for (rate, _), names in by_rate.items()
        ]

    @torch.no_grad()
    def step(self, gradient: Parameters, factor: float) -> None:
        """One step, with the initial rates multiplied by a factor (`bench.training.schedule`)."""
        beta1, beta2 = self.settings.adam_betas
        self.steps += 1
        for group in self.groups:
            torch._fused_adam_(
                group.parameters,
                [gradient[name].reshape(of.shape) for name, of in zip(group.names, group.parameters, strict=True)],
                group.means,
                group.squares,
                [],
                group.steps,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group.rate * factor,
                weight_decay=0.0,
                eps=self.settings.adam_epsilon,
                maximize=False,
            )
