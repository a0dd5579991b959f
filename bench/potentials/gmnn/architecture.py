"""The Gaussian-moment neural network as conf/model/gmnn.yaml configures it; its code is imported when it is used."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from bench.errors import UserError

if TYPE_CHECKING:
    import bench.data.structures


@dataclass(frozen=True)
class GaussianMoments:
    """Cutoff and first centre in Å, Gaussians K, radial functions, hidden widths (docs/method.md).

    `normalise_invariants` feeds the network 0.4 (G − mean)/deviation instead of G: J. Chem. Theory Comput. 2021,
    17, 6658.
    """

    r_max: PositiveFloat
    name: str = "GM-NN"
    r_min: NonNegativeFloat = 0.5
    n_gaussians: PositiveInt = 9
    n_radial: PositiveInt = 5
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (512, 512)
    normalise_invariants: bool = False

    def __post_init__(self) -> None:
        """The centres lie from r_min on below the cutoff. Raises UserError."""
        if self.r_min >= self.r_max:
            raise UserError(f"model.r_min = {self.r_min:g} Å is not below model.r_max = {self.r_max:g} Å: change one")

    rate_groups: ClassVar[tuple[str, ...]] = ("network", "radial", "shift", "scale")
    gradient_features: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float64", "tf32", "bfloat16")

    def on(self, data: "bench.data.structures.Structures", precision: str, device: str) -> Any:
        """See `bench.potentials.architecture.Architecture`."""
        import torch  # noqa: PLC0415 - takes a second, which planning does not need

        from bench.data.neighbours import find_neighbours  # noqa: PLC0415
        from bench.potentials.gmnn.products import Products, parameter_type  # noqa: PLC0415
        from bench.potentials.gmnn.view import MomentView  # noqa: PLC0415

        neighbours, dtype = find_neighbours(data, self.r_max), parameter_type(precision)
        return MomentView(self, data, neighbours, dtype, torch.device(device), products=Products.of(precision))

    def preload(self) -> None:
        """Import what `on` needs, for processes that are forked from this one; starts no thread."""
        import bench.data.neighbours  # noqa: PLC0415
        import bench.potentials.gmnn.view  # noqa: F401, PLC0415 - torch, numba
        from bench.potentials.gmnn.ready import import_all  # noqa: PLC0415

        import_all()

    def load(self, state: Mapping[str, Any], device: str) -> Any:
        """See `bench.potentials.architecture.Architecture`."""
        from bench.potentials.gmnn.potential import MomentPotential  # noqa: PLC0415 - torch
        from bench.potentials.gmnn.products import Products  # noqa: PLC0415

        species, scale = tuple(state["species"]), state["energy_scale"].to(device)
        parameters = {name: values.to(device) for name, values in state["parameters"].items()}
        return MomentPotential(self, species, parameters, scale, Products(state.get("products", "")))
