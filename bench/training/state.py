"""The state of a training between two minibatches: the best parameters so far and how far it has come (Eq. 5)."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.model.potential import Parameters, Potential


class TrainingState:
    """Early stopping keeps, for every model, the parameters with the lowest validation error of all checks."""

    def __init__(self, potential: Potential, adam: torch.optim.Adam) -> None:
        models, dtype, device = potential.n_models, potential.dtype, potential.device
        self.potential, self.adam = potential, adam
        self.best: Parameters = {name: values.clone() for name, values in potential.parameters.items()}
        self.best_error: Float[Tensor, " models"] = torch.full((models,), math.inf, dtype=dtype, device=device)
        self.best_check: Int[Tensor, " models"] = torch.full((models,), -1, dtype=torch.int64, device=device)
        self.history: list[Float[Tensor, " models"]] = []
        self.minibatches = 0
        self.seconds = 0.0
        self.validation_seconds = 0.0

    def check(self, error: Float[Tensor, " models"]) -> None:
        """Take note of a validation error, and of the parameters of the models for which it is the lowest."""
        better = error < self.best_error
        self.best_error = torch.where(better, error, self.best_error)
        self.best_check = torch.where(better, len(self.history), self.best_check)
        for name, values in self.potential.parameters.items():
            self.best[name] = torch.where(better.reshape(-1, *[1] * (values.ndim - 1)), values, self.best[name])
        self.history.append(error)

    def saved(self, seconds: float) -> dict[str, Any]:
        """Everything that the rest of the training depends on; `seconds` is what it took so far."""
        return {
            "parameters": self.potential.parameters,
            "adam": self.adam.state_dict(),
            "best": self.best,
            "best_error": self.best_error,
            "best_check": self.best_check,
            "history": self.history,
            "minibatches": self.minibatches,
            "seconds": seconds,
            "validation_seconds": self.validation_seconds,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to what `saved` gave: in place, for the optimizer holds the same tensors."""
        for name, values in self.potential.parameters.items():
            values.copy_(saved["parameters"][name])
        self.adam.load_state_dict(saved["adam"])
        for name in ("best", "best_error", "best_check", "history", "minibatches", "seconds", "validation_seconds"):
            setattr(self, name, saved[name])
