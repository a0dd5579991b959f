"""A second architecture, as small as one can be: E = c Σ_i (w·x_i/√K + 0.1 b + μ_Z), x_ik = Σ_j h_k(r_ij)."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt

from bench.data.neighbours import Neighbours, find_neighbours
from bench.data.structures import Structures, ragged_rows
from bench.potentials.base import Draw, Prediction
from bench.potentials.scaling import EnergyScaling


@dataclass(frozen=True)
class Pairs:
    """The architecture."""

    r_max: PositiveFloat
    name: str = "PAIR"
    n_gaussians: PositiveInt = 8
    rate_groups: ClassVar = ("weights", "shift")
    gradient_features: ClassVar = True
    version: ClassVar = 1

    def on(self, data, precision, device):
        neighbours = find_neighbours(data, self.r_max)
        return PairView(self, data, neighbours, getattr(torch, precision), torch.device(device))

    def load(self, state, device):
        return PairPotential(self, {k: v.to(device) for k, v in state["parameters"].items()}, state["scale"].to(device))


@dataclass(frozen=True)
class PairView:
    """The architecture on a dataset."""

    architecture: Pairs
    data: Structures
    neighbours: Neighbours
    dtype: torch.dtype
    device: torch.device
    lockstep: ClassVar = True
    atoms_per_chunk: ClassVar = 500

    def prepare(self, structures, *, forces):
        return SimpleNamespace(gather=lambda rows: self._inputs(structures[rows]))

    def _inputs(self, structures):
        flat = structures.flatten()
        centres, neighbours, vectors = map(torch.from_numpy, self.neighbours.pairs_of(self.data, flat))
        counts = torch.from_numpy(self.data.n_atoms[flat])
        atoms = ragged_rows(self.data.offsets[flat], self.data.n_atoms[flat])
        atoms_of_models = counts.reshape(len(structures), -1).sum(1)
        return SimpleNamespace(
            n_models=len(structures),
            atoms_of_models=atoms_of_models,
            sum_models=lambda values: torch.stack([one.sum() for one in values.split(atoms_of_models.tolist())]),
            structure=torch.repeat_interleave(torch.arange(len(flat)), counts),
            n_structures=len(flat),
            species=torch.from_numpy(self.data.species_index[atoms]),
            centres=centres,
            neighbours=neighbours,
            vectors=vectors.to(self.dtype),
        )

    def draw(self, draws):
        weights = np.stack([draw.generator("weights").normal(size=self.architecture.n_gaussians) for draw in draws])
        parameters = {
            "weight": torch.from_numpy(weights).to(self.dtype),
            "bias": torch.zeros(len(draws), dtype=self.dtype),
            "shift": torch.from_numpy(np.stack([draw.scaling.shift for draw in draws])).to(self.dtype),
        }
        return self.potential(parameters, [draw.scaling for draw in draws])

    def potential(self, parameters, scalings):
        return PairPotential(
            self.architecture, parameters, torch.tensor([one.scale for one in scalings], dtype=self.dtype)
        )

    def descriptor(self):
        last = self.draw([Draw(0, 0, 0, EnergyScaling(1.0, np.zeros(len(self.data.species)), False))])
        return last.last_layer_features(), self.architecture.n_gaussians + 1

    def make_ready(self, force_weight):
        pass


@dataclass(frozen=True)
class PairPotential:
    """Parameters of some models."""

    architecture: Pairs
    parameters: dict
    scale: torch.Tensor
    rates: ClassVar = {"weight": "weights", "bias": "weights", "shift": "shift"}

    @property
    def n_models(self):
        return len(self.scale)

    dtype = property(lambda self: self.scale.dtype)
    device = property(lambda self: self.scale.device)

    def _basis(self, inputs, vectors):
        k, cutoff = self.architecture.n_gaussians, self.architecture.r_max
        r = torch.linalg.vector_norm(vectors, dim=1)[:, None]
        h = (
            torch.exp(-(((r - torch.linspace(0.5, cutoff, k)) * k / cutoff) ** 2))
            * torch.cos(r * np.pi / 2 / cutoff) ** 2
        )
        return h.new_zeros(len(inputs.species), k).index_add_(0, inputs.centres, h.to(vectors.dtype))

    def _energies(self, inputs, vectors):
        model = inputs.structure * self.n_models // inputs.n_structures
        weight, bias, shift = (self.parameters[name][model] for name in ("weight", "bias", "shift"))
        basis = self._basis(inputs, vectors)
        atomic = (weight * basis).sum(1) * basis.shape[1] ** -0.5 + 0.1 * bias
        atomic = self.scale[model] * (atomic + shift[torch.arange(len(model)), inputs.species])
        total = atomic.new_zeros(inputs.n_structures).index_add_(0, inputs.structure, atomic)
        return total.reshape(self.n_models, -1), atomic

    def _forces(self, inputs, vectors, energies, **options):
        (by_pair,) = torch.autograd.grad(energies.sum(), vectors, **options)
        forces = by_pair.new_zeros(len(inputs.species), 3)
        return forces.index_add(0, inputs.centres, by_pair).index_add(0, inputs.neighbours, -by_pair), by_pair

    @torch.enable_grad()
    def predict_in_full(self, inputs):
        vectors = inputs.vectors.clone().requires_grad_()
        energies, atomic = self._energies(inputs, vectors)
        forces, by_pair = self._forces(inputs, vectors, energies)
        virials = by_pair.new_zeros(inputs.n_structures, 3, 3).index_add_(
            0, inputs.structure[inputs.centres], by_pair[:, :, None] * inputs.vectors[:, None, :]
        )
        return Prediction(energies.detach(), forces, virials.reshape(self.n_models, -1, 3, 3), atomic.detach())

    def predict(self, inputs, *, forces):
        found = self.predict_in_full(inputs)
        return found.energies, found.forces if forces else None

    @torch.enable_grad()
    def loss_gradient(self, inputs, energies, forces, force_weight):
        vectors = inputs.vectors.clone().requires_grad_()
        own = {name: values.detach().requires_grad_() for name, values in self.parameters.items()}
        predicted, _ = PairPotential(self.architecture, own, self.scale)._energies(inputs, vectors)
        loss = ((predicted - energies) ** 2).sum(1)
        if forces is not None:
            found, _ = self._forces(inputs, vectors, predicted, create_graph=True)
            loss = loss + force_weight * inputs.sum_models((found - forces) ** 2)
        gradients = torch.autograd.grad(loss.sum(), list(own.values()))
        return loss.detach(), dict(zip(own, gradients, strict=True))

    def observe(self, inputs, rate):
        pass

    def member(self, index):
        one = slice(index, index + 1)
        return PairPotential(self.architecture, {k: v[one] for k, v in self.parameters.items()}, self.scale[one])

    def state(self):
        return {"parameters": self.parameters, "scale": self.scale}

    layer_sizes = property(lambda self: [(self.architecture.n_gaussians + 1, 1)])

    def last_layer_features(self):
        def of_inputs(inputs):
            basis = self._basis(inputs, inputs.vectors).double()
            rows = torch.cat([basis * basis.shape[1] ** -0.5, basis.new_full((len(basis), 1), 0.1)], dim=1)
            summed = rows.new_zeros(inputs.n_structures, rows.shape[1]).index_add_(0, inputs.structure, rows)
            return self.scale.double() * summed

        return of_inputs

    def projected_features(self, projections):
        ((u_in, u_out),) = projections
        last = self.last_layer_features()
        return lambda inputs: last(inputs) @ u_in.double() * u_out[0] * u_in.shape[1] ** -0.5
