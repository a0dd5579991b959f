"""The state of a training between two minibatches: the best parameters so far and how far it has come (Eq. 5)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.potentials.base import Parameters, Potential


@dataclass(frozen=True)
class Best:
    """The best parameters of one model (a leading axis of one), at which check (-1: none was finite), all errors."""

    parameters: Parameters
    check: int
    history: Float[Tensor, " checks"]


class TrainingState:
    """Early stopping keeps, for every model, the parameters with the lowest validation error of all checks."""

    def __init__(self, potential: Potential, moments: dict[str, dict[str, Tensor]]) -> None:
        models, dtype, device = potential.n_models, potential.dtype, potential.device
        self.potential, self.moments = potential, moments
        self.best: Parameters = {name: values.clone() for name, values in potential.parameters.items()}
        self.best_error: Float[Tensor, " models"] = torch.full((models,), math.inf, dtype=dtype, device=device)
        self.best_check: Int[Tensor, " models"] = torch.full((models,), -1, dtype=torch.int64, device=device)
        self.history: list[Float[Tensor, " models"]] = []

    def check(self, error: Float[Tensor, " models"]) -> None:
        """Take note of a validation error, and of the parameters of the models for which it is the lowest."""
        better = error < self.best_error
        self.best_error = torch.where(better, error, self.best_error)
        self.best_check = torch.where(better, len(self.history), self.best_check)
        for name, values in self.potential.parameters.items():
            self.best[name] = torch.where(better.reshape(-1, *[1] * (values.ndim - 1)), values, self.best[name])
        self.history.append(error)

    def best_of_models(self) -> list[Best]:
        """What each model's training has come to."""
        history = torch.stack(self.history)
        return [
            Best(
                {name: values[model : model + 1] for name, values in self.best.items()},
                int(self.best_check[model]),
                history[:, model],
            )
            for model in range(self.potential.n_models)
        ]

    def saved(self) -> list[dict[str, Any]]:
        """Everything that the rest of the training of each model depends on."""
        return [self._saved(slice(model, model + 1)) for model in range(self.potential.n_models)]

    def _saved(self, one: slice) -> dict[str, Any]:
        def part(values: Tensor) -> Tensor:
            return values[one].clone()

        return {
            "parameters": {name: part(values) for name, values in self.potential.parameters.items()},
            "adam": {
                name: {key: part(values) if values.ndim else values.clone() for key, values in of_one.items()}
                for name, of_one in self.moments.items()
            },
            "best": {name: part(values) for name, values in self.best.items()},
            "best_error": part(self.best_error),
            "best_check": part(self.best_check),
            "history": [part(error) for error in self.history],
        }

    def restore(self, saved: Sequence[dict[str, Any]]) -> None:
        """Go back to what `saved` gave for every model: in place, for the optimizer holds the same tensors."""

        def joined(*keys: str) -> Tensor:
            found: list[Any] = list(saved)
            for key in keys:
                found = [one[key] for one in found]
            return torch.cat(found)

        for name, values in self.potential.parameters.items():
            values.copy_(joined("parameters", name))
            self.best[name] = joined("best", name)
        for name, of_one in self.moments.items():
            for key, values in of_one.items():
                values.copy_(joined("adam", name, key) if values.ndim else saved[0]["adam"][name][key])
        self.best_error, self.best_check = joined("best_error"), joined("best_check")
        self.history = [torch.cat(errors) for errors in zip(*(one["history"] for one in saved), strict=True)]
