"""A potential of torch modules: E = c Σ_i (y_i + μ_Z) (Eq. 4), forces, stress and the loss's gradient by autograd."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench.errors import UserError
from bench.potentials.base import OfInputs, Parameters, Prediction, Projections
from bench.potentials.modules import features
from bench.potentials.modules.architecture import ModuleArchitecture
from bench.potentials.modules.graph import Graph, ModuleInputs

SHIFT = "shift"
"""The name of μ; a module's parameters are called `module.…`."""


def built(
    architecture: ModuleArchitecture, species: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int = 0
) -> nn.Module:
    """A module of an architecture, made in float64, drawn from a seed; torch's global state is left as it was."""
    if type(architecture).module is ModuleArchitecture.module:
        raise UserError(f"model {architecture.name}: its class has no module: give one that returns a torch.nn.Module")
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64)
        try:
            module = architecture.module(species)
        finally:
            torch.set_default_dtype(default)
    if not isinstance(module, nn.Module):
        raise UserError(f"model {architecture.name}: module gives {type(module).__name__}, not a torch.nn.Module")
    if getattr(module.forward, "__func__", None) is nn.Module.forward:
        raise UserError(f"model {architecture.name}: {type(module).__name__}, which module gives, has no forward")
    return module.to(device, dtype).eval()


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a module, each once, by name."""
    return {f"module.{name}": values for name, values in module.named_parameters()}


@dataclass(frozen=True)
class _Evaluated:
    """One model on its structures: energies, the atoms' own, and ∂E/∂vectors."""

    energies: Float[Tensor, " structures"]
    atomic: Float[Tensor, " atoms"]
    by_pair: Float[Tensor, "pairs 3"]

    def forces(self, graph: Graph) -> Float[Tensor, "atoms 3"]:
        """−∂E/∂r."""
        return graph.sum_pairs(self.by_pair).index_add(0, graph.neighbours, -self.by_pair)


class ModulePotential:
    """Parameters of one or many modules, which see them as views: changed in place, they change the modules."""

    def __init__(
        self,
        architecture: ModuleArchitecture,
        species: tuple[int, ...],
        parameters: Parameters,
        energy_scale: Float[Tensor, " models"],
        modules: Sequence[nn.Module] | None = None,
    ) -> None:
        self.architecture, self.species = architecture, species
        self.parameters, self.energy_scale = parameters, energy_scale
        self.n_models = len(energy_scale)
        self.modules = modules or [self._with_parameters(model) for model in range(self.n_models)]

    def _with_parameters(self, model: int) -> nn.Module:
        module = built(self.architecture, self.species, self.dtype, self.device)
        for name, values in parameters_of(module).items():
            values.data = self.parameters[name][model]
        return module

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return self.energy_scale.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.energy_scale.device

    @cached_property
    def rates(self) -> Mapping[str, str]:
        """`weights` for all parameters of a module that it says are trained, `shift` for μ."""
        trained = {name: "weights" for name, one in parameters_of(self.modules[0]).items() if one.requires_grad}
        return trained | {SHIFT: SHIFT}

    def energies(
        self, model: int, graph: Graph, shift: Float[Tensor, " species"] | None = None
    ) -> tuple[Float[Tensor, " structures"], Float[Tensor, " atoms"]]:
        """Energies of one model's structures and of their atoms. Raises UserError where its module gives others."""
        shift = self.parameters[SHIFT][model] if shift is None else shift
        found = self.modules[model](graph)
        if not isinstance(found, Tensor):
            raise UserError(
                f"model {self.architecture.name}: its module gives {type(found).__name__}, not a tensor: give one"
                " energy for each atom"
            )
        if found.numel() != len(graph.numbers):
            raise UserError(
                f"model {self.architecture.name}: its module gives {tuple(found.shape)} for {len(graph.numbers)} atoms:"
                " give one energy for each"
            )
        if graph.vectors.requires_grad and not found.requires_grad:
            raise UserError(
                f"model {self.architecture.name}: the energies of its module are cut off from its weights and from the"
                " positions (by detach, no_grad or NumPy): compute them with torch alone"
            )
        atomic = self.energy_scale[model] * (found.reshape(-1) + shift[graph.species])
        return graph.sum_atoms(atomic), atomic

    def _with_derivatives(self, model: int, graph: Graph, shift: Tensor | None = None, *, train: bool) -> _Evaluated:
        vectors = graph.vectors.detach().requires_grad_()
        energies, atomic = self.energies(model, replace(graph, vectors=vectors), shift)
        (by_pair,) = torch.autograd.grad(
            energies.sum(), vectors, create_graph=train, allow_unused=True, materialize_grads=True
        )
        return _Evaluated(energies, atomic, by_pair)

    def predict(
        self, inputs: ModuleInputs, *, forces: bool
    ) -> tuple[Float[Tensor, "models structures"], Float[Tensor, "atoms 3"] | None]:
        """Energies and, if asked, forces."""
        if forces:
            found = self.predict_in_full(inputs)
            return found.energies, found.forces
        with torch.no_grad():
            every = [self.energies(model, graph)[0] for model, graph in enumerate(inputs.graphs)]
        return torch.stack(every), None

    @torch.enable_grad()
    def predict_in_full(self, inputs: ModuleInputs) -> Prediction:
        """Energies, forces, ∂E/∂ε and the atoms' energies."""
        found = [self._with_derivatives(model, graph, train=False) for model, graph in enumerate(inputs.graphs)]
        together = list(zip(found, inputs.graphs, strict=True))
        virials = [g.sum_atoms(g.sum_pairs(one.by_pair[:, :, None] * g.vectors[:, None, :])) for one, g in together]
        return Prediction(
            energies=torch.stack([one.energies for one in found]).detach(),
            forces=torch.cat([one.forces(graph) for one, graph in together]).detach(),
            virials=torch.stack(virials).detach(),
            atomic=torch.cat([one.atomic for one in found]).detach(),
        )

    @torch.enable_grad()
    def loss_gradient(
        self,
        inputs: ModuleInputs,
        energies: Float[Tensor, "models structures"],
        forces: Float[Tensor, "atoms 3"] | None,
        force_weight: float,
    ) -> tuple[Float[Tensor, " models"], Parameters]:
        """The loss of Eq. (5) of every model and its gradient; a parameter that it does not depend on has zero."""
        of_models = [None] * self.n_models if forces is None else inputs.split_atoms(forces)
        losses, gradients = [], []
        for model, (graph, targets) in enumerate(zip(inputs.graphs, of_models, strict=True)):
            own: Parameters = {n: p for n, p in parameters_of(self.modules[model]).items() if p.requires_grad}
            own[SHIFT] = self.parameters[SHIFT][model].detach().requires_grad_()
            if targets is None:
                predicted, _ = self.energies(model, graph, own[SHIFT])
                loss = ((predicted - energies[model]) ** 2).sum()
            else:
                found = self._with_derivatives(model, graph, own[SHIFT], train=True)
                away = found.forces(graph) - targets
                loss = ((found.energies - energies[model]) ** 2).sum() + force_weight * (away**2).sum()
            by_parameter = torch.autograd.grad(loss, list(own.values()), allow_unused=True, materialize_grads=True)
            losses.append(loss.detach())
            gradients.append(dict(zip(own, by_parameter, strict=True)))
        return torch.stack(losses), {name: torch.stack([one[name] for one in gradients]) for name in gradients[0]}

    def observe(self, inputs: ModuleInputs, rate: float) -> None:
        """Nothing: modules are evaluated as they are, without running means or dropout."""

    def member(self, index: int) -> "ModulePotential":
        """One model of many."""
        one = slice(index, index + 1)
        parameters = {name: values[one] for name, values in self.parameters.items()}
        return ModulePotential(self.architecture, self.species, parameters, self.energy_scale[one], self.modules[one])

    def state(self) -> dict[str, Any]:
        """What `ModuleArchitecture.load` needs."""
        parameters = {name: values.detach().cpu() for name, values in self.parameters.items()}
        return {"species": list(self.species), "parameters": parameters, "energy_scale": self.energy_scale.cpu()}

    @cached_property
    def _layers(self) -> features.Layers:
        # made from fixed small graphs, once
        module, where = self.modules[0], (self.species, self.architecture.r_max, self.dtype, self.device)
        graphs = [features.small_graph(sizes, *where) for sizes in ((2, 3), (2, 3, 2))]
        tries = [(partial(module, graph), features.owners_of(graph)) for graph in graphs]
        return features.layers_of(features.linear_layers(module), tries)

    @property
    def layer_sizes(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer in the order of their first use, a bias counted as an input."""
        return self._layers.sizes(self.architecture.name)

    def last_layer_features(self) -> OfInputs:
        """Σ x̃ ∂E/∂z of the last layer (Eq. 14)."""
        self.layer_sizes  # noqa: B018 - says so where the last layer is none
        return lambda inputs: self._layers.last_layer(*self._total(inputs))

    def projected_features(self, projections: Projections) -> OfInputs:
        """Eq. (19) over all linear layers."""
        self.layer_sizes  # noqa: B018
        return lambda inputs: self._layers.projected(*self._total(inputs), projections)

    def _total(self, inputs: ModuleInputs) -> tuple[features.Total, features.Owners]:
        graph = inputs.graphs[0]

        def total() -> Float[Tensor, ""]:
            energies, _ = self.energies(0, graph)
            return energies.sum()

        return total, features.owners_of(graph)
