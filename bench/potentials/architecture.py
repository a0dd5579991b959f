"""What a yaml of conf/model configures: a kind of potential, before it meets data. No torch, no numpy."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from bench.errors import UserError

if TYPE_CHECKING:
    import bench.data.structures
    from bench.potentials.base import Potential, View


@runtime_checkable
class Architecture(Protocol):
    """A dataclass whose fields are the keys of its yaml, which owns the cutoff and the training's usual rates.

    Beside the fields, the yaml says `learning_rates` (one for each of `rate_groups`), `minibatch`, and, where energies
    alone are trained with others, `learning_rates_of_energies`. A class from outside the project has a `version` (1 if
    it says none) to be raised when its results change, and may say its `precisions` (float32 and float64 if it says
    none) and have a `preload`, which imports what `on` will need and starts no thread. The module must not import torch
    at its head: sweeps are planned and checked without it.
    """

    @property
    def name(self) -> str:
        """What the potential is called in records and figures."""

    @property
    def r_max(self) -> float:
        """Cutoff in Å: pairs of atoms farther apart do not see each other."""

    @property
    def rate_groups(self) -> tuple[str, ...]:
        """The groups of parameters that have a learning rate each."""

    @property
    def gradient_features(self) -> bool:
        """Whether its potentials are `GradientFeatures`, which FEAT and GP kernels need."""

    def on(self, data: "bench.data.structures.Structures", precision: str, device: str) -> "View":
        """The architecture on a dataset, computing in one of its precisions on a device of torch."""

    def load(self, state: Mapping[str, Any], device: str) -> "Potential":
        """A potential from what its `state` gave."""


def check_precision(architecture: Architecture, precision: str) -> None:
    """Refuse a precision in which a model does not compute. Raises UserError."""
    offered = getattr(architecture, "precisions", ("float32", "float64"))
    if precision not in offered:
        known = ", ".join(offered)
        raise UserError(f"precision = {precision!r} but model {architecture.name} has {known}: choose one of these")


def without_gradients(kernel: str, architecture: str) -> str:
    """What is said where a kernel needs `GradientFeatures` and there are none."""
    return (
        f"kernel {kernel} needs gradient features, which model {architecture} does not offer: choose one of RND, AE and"
        " QBC, or another model"
    )
