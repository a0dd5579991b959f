"""The Gaussian-moment neural network potential: energies (Eqs. 1 and 4), forces (Eq. 6), and the gradient of Eq. (5).

Many models run at once: parameters carry a leading axis of models, and a `Batch` holds the structures of every model,
the same number each. A single model is the case of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.potentials.base import OfInputs, Parameters, Prediction, Projections, to_device
from bench.potentials.gmnn import gradients, network
from bench.potentials.gmnn.architecture import GaussianMoments
from bench.potentials.gmnn.descriptor import Descriptor, describe, sum_classes
from bench.potentials.gmnn.invariants import n_invariants
from bench.potentials.gmnn.moments import Geometry
from bench.potentials.gmnn.products import Products

INVARIANT_MEAN, INVARIANT_VARIANCE = "invariant_mean", "invariant_variance"
NORMALISATION = (INVARIANT_MEAN, INVARIANT_VARIANCE)
"""Parameters that are observed, not trained; they exist with `normalise_invariants` only."""
NORMALISATION_FACTOR = 0.4


@dataclass(frozen=True)
class Batch:
    """Structures of every model, model by model; atoms are laid out in slots (models, widest) for the network.

    `slots` says where an atom lies, `atom_of_slot` which atom lies there, one behind all of them where none does. The
    last structure of every model may be `padding` (`Geometry.select_padded`): atoms without pairs, for the shape's sake
    alone, so that all models have as many and nothing is laid out.
    """

    geometry: Geometry
    n_models: int
    structure: Int[Tensor, " atoms"]
    slots: Int[Tensor, " atoms"] | None
    atom_of_slot: Int[Tensor, " models_slots"] | None
    slot_count: int
    padding: bool = False

    @cached_property
    def model(self) -> Int[Tensor, " atoms"]:
        """The model of each atom."""
        return torch.div(self.structure * self.n_models, len(self.geometry), rounding_mode="floor")

    @cached_property
    def model_species(self) -> Int[Tensor, " atoms"]:
        """The model and the species of each atom as one number: model · n_species + species."""
        species = self.geometry.species
        return species if self.n_models == 1 else self.model * self.geometry.n_species + species

    @property
    def atoms_of_models(self) -> Int[Tensor, " models"]:
        """How many atoms each model has."""
        of_structures = self.geometry.n_atoms.reshape(self.n_models, -1)
        return of_structures[:, : of_structures.shape[1] - self.padding].sum(1)

    def to_slots(self, values: Float[Tensor, "atoms ..."]) -> Float[Tensor, "models slots ..."]:
        """Lay out per-atom values by model; empty slots hold zero."""
        if self.atom_of_slot is not None:
            values = torch.cat([values, values.new_zeros(1, *values.shape[1:])]).index_select(0, self.atom_of_slot)
        return values.reshape(self.n_models, self.slot_count, *values.shape[1:])

    @property
    def alike(self) -> int | None:
        """The number of models where all have as many atoms and are padded (`sum_classes`)."""
        return self.n_models if self.padding else None

    def sum_models(self, of_atoms: Float[Tensor, "atoms columns"]) -> Float[Tensor, " models"]:
        """The sum over all atoms and columns of each model."""
        return self.to_slots(of_atoms).sum((1, 2))

    def from_slots(self, values: Float[Tensor, "models slots ..."]) -> Float[Tensor, "atoms ..."]:
        """The inverse of `to_slots`."""
        flat = values.flatten(0, 1)
        return flat if self.slots is None else flat.index_select(0, self.slots)


def make_batch(geometry: Geometry, picked: Int[np.ndarray, "models structures"], *, with_pairs: bool) -> Batch:
    """Gather a batch: row m holds the structures of model m, all of them the same number."""
    n_models, rows = len(picked), picked.flatten()
    whole = np.array_equal(rows, np.arange(len(geometry)))
    chosen = geometry if whole else geometry.select(rows, with_pairs=with_pairs)
    counts = chosen.atom_counts.reshape(n_models, -1).sum(1)
    widest = int(counts.max())
    slots = atom_of_slot = None
    if (counts != widest).any():
        device, total = chosen.species.device, len(chosen.species)
        of_models, first = to_device(counts, device), to_device(np.cumsum(counts) - counts, device)
        shift = torch.arange(n_models, device=device) * widest - first
        slots = torch.arange(total, device=device) + torch.repeat_interleave(shift, of_models, output_size=total)
        place = torch.arange(widest, device=device)
        atom_of_slot = torch.where(place < of_models[:, None], first[:, None] + place, total).flatten()
    return Batch(chosen, n_models, chosen.structure, slots, atom_of_slot, widest)


def make_padded_batch(
    geometry: Geometry,
    rows: Int[Tensor, "models structures"],
    n_atoms: Int[Tensor, "models structures"],
    atoms_each: int,
) -> tuple[Batch, Int[Tensor, " atoms"]]:
    """`make_batch` of as many atoms for every model, from a geometry `with_padding`; and the rows they had there."""
    n_models = len(rows)
    chosen, atoms = geometry.select_padded(rows.flatten(), n_atoms.flatten(), n_models * atoms_each)
    return Batch(chosen, n_models, chosen.structure, None, None, atoms_each, padding=True), atoms


class MomentPotential:
    """Parameters of one or many models and what can be computed with them.

    `energy_scale` is c of Eq. (4) in eV, one per model. Energies are relative to the dataset's reference energies.
    `products` says how the network multiplies in training and prediction.
    """

    def __init__(
        self,
        architecture: GaussianMoments,
        species: tuple[int, ...],
        parameters: Parameters,
        energy_scale: Float[Tensor, " models"],
        products: Products = Products(),  # noqa: B008 - immutable
    ) -> None:
        self.architecture = architecture
        self.products = products
        self.species = species
        self.parameters = parameters
        self.energy_scale = energy_scale
        self.n_models = len(energy_scale)
        self.observed: tuple[Batch, int, Descriptor] | None = None
        """What `observe` has worked out for the step that follows, and how often β had been changed by then."""
        n_layers = len(layer_widths(architecture)) - 1
        self.weights = [parameters[f"weight{layer}"] for layer in range(n_layers)]
        self.biases = [parameters[f"bias{layer}"] for layer in range(n_layers)]

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return self.energy_scale.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.energy_scale.device

    def described(self, batch: Batch, *, differentiate: bool) -> Descriptor:
        """The invariants of a batch."""
        beta = self.parameters["beta"].flatten(0, 1)
        return describe(batch.geometry, beta, batch.model_species, differentiate=differentiate, alike=batch.alike)

    def normalise(
        self, invariants: Float[Tensor, "models slots invariants"]
    ) -> Float[Tensor, "models slots invariants"]:
        """The network's inputs: G, or 0.4 (G − mean)/deviation with one deviation for all invariants of a model."""
        if not self.architecture.normalise_invariants:
            return invariants
        return self.through_normalisation(invariants - self.parameters[INVARIANT_MEAN][:, None])

    def through_normalisation(self, values: Float[Tensor, "models slots invariants"]) -> Tensor:
        """Carry tangents of the invariants to the network's inputs, or derivatives back: the same factor."""
        if not self.architecture.normalise_invariants:
            return values
        return values * (NORMALISATION_FACTOR * self.parameters[INVARIANT_VARIANCE].rsqrt())[:, None, None]

    @torch.no_grad()
    def observe(self, batch: Batch, rate: float | Tensor) -> None:
        """Move the mean and the variance of the invariants towards those of a batch's atoms, by a fraction `rate`.

        Constants of the loss: no gradient passes through them. Does nothing unless invariants are normalised.
        """
        if not self.architecture.normalise_invariants:
            return
        descriptor = self.described(batch, differentiate=True)
        self.observed = batch, self.parameters["beta"]._version, descriptor
        values = descriptor.invariants
        if batch.padding:
            atoms = batch.atoms_of_models
            by_model = batch.to_slots(values)
            real = torch.arange(batch.slot_count, device=atoms.device) < atoms[:, None]
            mean = (by_model * real[:, :, None]).sum(1) / atoms[:, None]
            squares = ((by_model - mean[:, None]) ** 2).mean(2)
            variance = (squares * real).sum(1) / atoms
        elif self.n_models == 1:
            mean = values.mean(0, keepdim=True)
            variance = torch.sub(values, mean).square_().mean()[None]
        else:
            atoms = batch.atoms_of_models.to(self.dtype)[:, None]
            mean = values.new_zeros(self.n_models, values.shape[1]).index_add_(0, batch.model, values) / atoms
            squares = ((values - mean[batch.model]) ** 2).mean(1)
            variance = values.new_zeros(self.n_models).index_add_(0, batch.model, squares) / atoms[:, 0]
        self.parameters[INVARIANT_MEAN].lerp_(mean, rate)
        self.parameters[INVARIANT_VARIANCE].lerp_(variance, rate)

    @torch.no_grad()
    def predict(
        self, batch: Batch, *, forces: bool
    ) -> tuple[Float[Tensor, "models structures"], Float[Tensor, "atoms 3"] | None]:
        """Energies in eV relative to the references and, if asked, forces in eV/Å (atoms of all models in order)."""
        state = _Evaluation(self, batch, forces)
        return state.energies, -state.energy_gradient if forces else None

    @torch.no_grad()
    def predict_in_full(self, batch: Batch) -> "Prediction":
        """What a simulation asks for."""
        state, geometry = _Evaluation(self, batch, forces=True), batch.geometry
        by_pair = state.descriptor.pull_back_pairs(state.invariant_gradient).double()
        centres, vectors = geometry.pairs
        of_structure = batch.structure[centres]
        products = by_pair[:, :, None] * vectors.double()[:, None, :]
        virials = products.new_zeros(len(geometry), 3, 3).index_add_(0, of_structure, products)
        virials = virials.reshape(self.n_models, -1, 3, 3)
        return Prediction(state.energies, -state.energy_gradient, virials, state.atomic)

    @property
    def rates(self) -> dict[str, str]:
        """β, σ and μ have rates of their own."""
        own = {"beta": "radial", "scale": "scale", "shift": "shift"}
        return {name: own.get(name, "network") for name in self.parameters if name not in NORMALISATION}

    @property
    def layer_sizes(self) -> list[tuple[int, int]]:
        """(inputs + 1, outputs) of each layer."""
        return [(weight.shape[1] + 1, weight.shape[2]) for weight in self.weights]

    def last_layer_features(self) -> OfInputs:
        """Eq. (14)."""
        return gradients.last_layer(self.weights, self.biases, self.entering())

    def projected_features(self, projections: Projections) -> OfInputs:
        """Eq. (19)."""
        return gradients.projected(self.weights, self.biases, self.entering(), projections)

    def of_atoms(self) -> "_OfAtoms":
        """The same features, a row for each atom."""
        return _OfAtoms(self)

    def entering(self, *, of_atoms: bool = False) -> Callable[[Batch], gradients.Entering]:
        """What the features start from; `of_atoms` makes every atom a structure of its own."""
        slopes = (self.energy_scale[0] * self.parameters["scale"][0]).double()

        def entering(batch: Batch) -> gradients.Entering:
            geometry = batch.geometry
            first = geometry.first_atom
            if of_atoms:
                first = torch.arange(len(geometry.species) + 1, dtype=first.dtype, device=first.device)
            return gradients.Entering(self.network_inputs(geometry), slopes[geometry.species], first)

        return entering

    def state(self) -> dict[str, Any]:
        """Species, c of Eq. (4), parameters, and how the network multiplies where that is rounded."""
        return {
            "species": list(self.species),
            "energy_scale": self.energy_scale.cpu(),
            "parameters": {name: values.cpu().contiguous() for name, values in self.parameters.items()},
            **({"products": self.products.rounded} if self.products.rounded else {}),
        }

    @torch.no_grad()
    def network_inputs(self, geometry: Geometry) -> Float[Tensor, "atoms invariants"]:
        """What enters the network of a single model for some structures: gradient features start from it."""
        beta = self.parameters["beta"].flatten(0, 1)
        invariants = describe(geometry, beta, geometry.species, differentiate=False).invariants
        return self.normalise(invariants[None])[0]

    @torch.no_grad()
    def loss_gradient(
        self,
        batch: Batch,
        energies: Float[Tensor, "models labelled"],
        forces: Float[Tensor, "atoms 3"] | None,
        force_weight: float,
    ) -> tuple[Float[Tensor, " models"], Parameters]:
        """The loss Σ_k |ΔE_k|² + w Σ_i |ΔF_i|² of Eq. (5), w = λ_F/3N, per model, and its gradient, in closed form."""
        descriptor = None
        if self.observed and self.observed[0] is batch and self.observed[1] == self.parameters["beta"]._version:
            descriptor = self.observed[2]
        self.observed = None
        evaluation = _Evaluation(self, batch, forces=forces is not None, gradient=True, descriptor=descriptor)
        return evaluation.loss_gradient(energies, forces, force_weight)

    def member(self, index: int) -> "MomentPotential":
        """One model of many."""
        chosen = slice(index, index + 1)
        return MomentPotential(
            self.architecture,
            self.species,
            {k: v[chosen] for k, v in self.parameters.items()},
            self.energy_scale[chosen],
            self.products,
        )


@dataclass(frozen=True)
class _OfAtoms:
    """The gradient features of a model with a row for each atom."""

    potential: MomentPotential

    @property
    def layer_sizes(self) -> list[tuple[int, int]]:
        return self.potential.layer_sizes

    def last_layer_features(self) -> OfInputs:
        one = self.potential
        return gradients.last_layer(one.weights, one.biases, one.entering(of_atoms=True))

    def projected_features(self, projections: Projections) -> OfInputs:
        one = self.potential
        return gradients.projected(one.weights, one.biases, one.entering(of_atoms=True), projections)


class _Evaluation:
    """One evaluation of a batch; keeps what a gradient needs. E = Σ_i c (σ_Z y_i + μ_Z)."""

    def __init__(
        self,
        potential: MomentPotential,
        batch: Batch,
        forces: bool,
        *,
        gradient: bool = False,
        descriptor: Descriptor | None = None,
    ) -> None:
        parameters = potential.parameters
        self.potential, self.batch = potential, batch
        # c of every atom, or of all of them
        self.scale = potential.energy_scale if batch.n_models == 1 else potential.energy_scale[batch.model]
        self.output_weights = self.scale * parameters["scale"].flatten().index_select(0, batch.model_species)
        differentiate = forces or gradient
        self.descriptor = descriptor or potential.described(batch, differentiate=differentiate)
        inputs = potential.normalise(batch.to_slots(self.descriptor.invariants))
        order = forces + gradient
        self.passed = network.forward(potential.weights, potential.biases, inputs, potential.products, order)
        self.outputs = batch.from_slots(self.passed.outputs)
        shifts = parameters["shift"].flatten().index_select(0, batch.model_species)
        self.atomic = self.output_weights * self.outputs + self.scale * shifts
        self.energies = self._sum_structures(self.atomic)
        if differentiate:
            self.slopes = self.passed.slopes
        if forces:
            output_weights = batch.to_slots(self.output_weights)
            self.backward = network.backward(potential.weights, self.slopes, output_weights, potential.products)
            input_gradient = potential.through_normalisation(self.backward.inputs)
            self.invariant_gradient = batch.from_slots(input_gradient)
            self.energy_gradient = self.descriptor.pull_back(self.invariant_gradient)

    def loss_gradient(
        self,
        energies: Float[Tensor, "models structures"],
        forces: Float[Tensor, "atoms 3"] | None,
        force_weight: float,
    ) -> tuple[Float[Tensor, " models"], Parameters]:
        potential, batch = self.potential, self.batch
        energy_error = self.energies[:, : energies.shape[1]] - energies
        loss = (energy_error**2).sum(1)
        adjoint = 2 * energy_error
        if batch.padding:
            adjoint = torch.nn.functional.pad(adjoint, (0, self.energies.shape[1] - energies.shape[1]))
        atom_adjoint = adjoint.flatten().index_select(0, batch.structure)
        tangent = None
        if forces is not None:
            force_error = -self.energy_gradient - forces
            loss = loss + force_weight * batch.sum_models(force_error**2)
            invariant_tangent = self.descriptor.push_forward(-2 * force_weight * force_error)
            input_tangent = potential.through_normalisation(batch.to_slots(invariant_tangent))
            tangent = (self.backward, batch.to_slots(self.output_weights), input_tangent)

        output_adjoint = batch.to_slots(atom_adjoint * self.output_weights)
        weights, biases, input_adjoint, output_tangent = network.parameter_gradient(
            potential.weights, self.passed, self.slopes, output_adjoint, tangent, potential.products
        )
        invariant_adjoint = batch.from_slots(potential.through_normalisation(input_adjoint))
        beta = self.descriptor.beta_gradient(invariant_adjoint)
        scale_adjoint = self.scale * (atom_adjoint * self.outputs + batch.from_slots(output_tangent))
        gradient: Parameters = {
            "beta": beta.reshape(potential.parameters["beta"].shape),
            "scale": self._sum_species(scale_adjoint),
            "shift": self._sum_species(self.scale * atom_adjoint),
        }
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            gradient[f"weight{layer}"] = weight
            gradient[f"bias{layer}"] = bias
        return loss, gradient

    def _sum_structures(self, atomic: Float[Tensor, " atoms"]) -> Float[Tensor, "models structures"]:
        batch = self.batch
        total = sum_classes(atomic, batch.structure, len(batch.geometry), batch.alike)
        return total.reshape(batch.n_models, -1)

    def _sum_species(self, atomic: Float[Tensor, "atoms ..."]) -> Float[Tensor, "models species ..."]:
        n_models, n_species = self.batch.n_models, self.batch.geometry.n_species
        total = sum_classes(atomic, self.batch.model_species, n_models * n_species, self.batch.alike)
        return total.reshape(n_models, n_species, *atomic.shape[1:])


def layer_widths(settings: GaussianMoments) -> list[int]:
    """Width of every layer, from the invariants (360) to the single output."""
    return [n_invariants(settings.n_radial), *settings.hidden, 1]


def initial_parameters(
    settings: GaussianMoments, n_species: int, shift: Float[np.ndarray, " species"], generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw one model's parameters: W ~ N(0, 1), b = 0, β ~ U(−1, 1), σ = 1, μ = `shift` (docs/method.md, Potential)."""
    widths = layer_widths(settings)
    parameters = {
        "beta": generator.uniform(-1, 1, (n_species, settings.n_radial, n_species * settings.n_gaussians)),
        "scale": np.ones(n_species),
        "shift": shift,
    }
    if settings.normalise_invariants:
        parameters |= {INVARIANT_MEAN: np.zeros(widths[0]), INVARIANT_VARIANCE: np.ones(())}
    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        parameters[f"weight{layer}"] = generator.standard_normal((inputs, outputs))
        parameters[f"bias{layer}"] = np.zeros(outputs)
    return parameters
