"""A potential that is a torch module: what its class and its yaml say. The module is imported when it is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PositiveFloat

if TYPE_CHECKING:
    import bench.data.structures


@dataclass(frozen=True)
class ModuleArchitecture:
    """To inherit from: the class says how its `module` is made, its fields are the yaml's keys (docs/potentials.md).

    The module is called with a `bench.potentials.modules.graph.Graph` and returns an energy y_i for every atom. The
    energy of a structure is c Σ_i (y_i + μ_Z) with c and μ of Eq. (4); forces are its derivatives.
    """

    r_max: PositiveFloat
    name: str

    rate_groups: ClassVar[tuple[str, ...]] = ("weights", "shift")
    gradient_features: ClassVar[bool] = True
    version: ClassVar[int] = 1
    atoms_per_chunk: ClassVar[int] = 512
    """How many atoms a pass over many structures takes at once: bounds its memory."""

    def module(self, species: tuple[int, ...]) -> Any:
        """The torch module for these elements, its parameters drawn by torch's own generator.

        Two modules of one architecture differ in parameters only. Import torch here, not at the head of the file.
        """
        raise NotImplementedError

    def on(self, data: "bench.data.structures.Structures", precision: str, device: str) -> Any:
        """See `bench.potentials.architecture.Architecture`."""
        import torch  # noqa: PLC0415 - takes a second, which planning does not need

        from bench.data.neighbours import find_neighbours  # noqa: PLC0415
        from bench.potentials.modules.view import ModuleView  # noqa: PLC0415

        neighbours = find_neighbours(data, self.r_max)
        return ModuleView(self, data, neighbours, getattr(torch, precision), torch.device(device))

    def load(self, state: Mapping[str, Any], device: str) -> Any:
        """See `bench.potentials.architecture.Architecture`."""
        from bench.potentials.modules.potential import ModulePotential  # noqa: PLC0415 - torch

        parameters = {name: values.to(device) for name, values in state["parameters"].items()}
        return ModulePotential(self, tuple(state["species"]), parameters, state["energy_scale"].to(device))
