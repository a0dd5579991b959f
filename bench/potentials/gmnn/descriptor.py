"""The invariants G of a batch as a function of β and positions, with the derivatives that Eqs. (5) and (6) need.

Two engines, tested equal: the compiled one (CPU), in closed form from pair vectors, and the plain one (any device), by
batched products and autograd from the precomputed basis moments of `bench.potentials.gmnn.moments`.
"""

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.potentials.gmnn.basis import Basis
from bench.potentials.gmnn.compiled import contractions, pair_kernels
from bench.potentials.gmnn.compiled.monomials import N_MONOMIALS
from bench.potentials.gmnn.invariants import invariants
from bench.potentials.gmnn.moments import Geometry


@runtime_checkable
class Descriptor(Protocol):
    """One evaluation. The calls come in this order; `beta_gradient` works without the two before it."""

    invariants: Float[Tensor, "atoms invariants"]

    def pull_back(self, gradient: Float[Tensor, "atoms invariants"]) -> Float[Tensor, "atoms 3"]:
        """∂E/∂r from Ḡ = ∂E/∂G (Eq. 6 without its sign)."""

    def pull_back_pairs(self, gradient: Float[Tensor, "atoms invariants"]) -> Float[Tensor, "pairs 3"]:
        """The same with respect to each pair's vector r_j − r_i, for what the atoms' positions do not tell: strain."""

    def push_forward(self, velocities: Float[Tensor, "atoms 3"]) -> Float[Tensor, "atoms invariants"]:
        """Ġ for atoms that move with the given velocities."""

    def beta_gradient(self, adjoint: Float[Tensor, "atoms invariants"]) -> Float[Tensor, "rows radial channels"]:
        """∂/∂β of Σ_i adjoint_i · G_i and, after `push_forward`, of Σ_i Ḡ_i · Ġ_i at fixed Ḡ."""


def describe(
    geometry: Geometry,
    beta: Float[Tensor, "rows radial channels"],
    rows: Int[Tensor, " atoms"],
    *,
    differentiate: bool,
    alike: int | None = None,
) -> Descriptor:
    """Evaluate G; `rows` is the row of β of each atom: (structure's model) · n_species + species.

    `alike` is the number of models where all have as many atoms (`sum_classes`).
    """
    if geometry.basis is None:
        return CompiledDescriptor(geometry, beta, rows)
    return PlainDescriptor(geometry.basis, beta, rows, differentiate, alike)


MOST_PRODUCTS = 2**27
"""Of zeros and ones in one sum, 0.5 GB in single precision."""


def sum_classes(
    values: Float[Tensor, "atoms ..."], classes: Int[Tensor, " atoms"], n_classes: int, alike: int | None
) -> Float[Tensor, "classes ..."]:
    """The sums over the atoms of each class; the classes of a model follow one another, as many for each.

    Where all models have as many atoms (`alike` models) by a product with zeros and ones. For a sum by index a GPU has
    to sort, in a score of kernels, if it is to give the same numbers every time.
    """
    if alike is None or n_classes // alike * len(values) > MOST_PRODUCTS:
        return values.new_zeros(n_classes, *values.shape[1:]).index_add_(0, classes, values)
    every = torch.arange(n_classes, device=classes.device).reshape(alike, -1, 1)
    members = (classes.reshape(alike, 1, -1) == every).to(values.dtype)
    return torch.bmm(members, values.reshape(alike, members.shape[2], -1)).reshape(n_classes, *values.shape[1:])


class PlainDescriptor:
    """By autograd: `beta` is expanded to atoms."""

    def __init__(
        self,
        basis: Basis,
        beta: Float[Tensor, "rows radial channels"],
        rows: Int[Tensor, " atoms"],
        differentiate: bool,
        alike: int | None = None,
    ) -> None:
        self.basis, self.rows, self.n_rows, self.alike = basis, rows, len(beta), alike
        self.beta = beta.index_select(0, rows)
        self.moments = torch.bmm(self.beta, basis.moments).requires_grad_(differentiate)
        with torch.set_grad_enabled(differentiate):
            self.graph = invariants(self.moments)
        self.invariants = self.graph.detach()
        self.tangent: tuple[Tensor, Tensor] | None = None

    def pull_back(self, gradient: Float[Tensor, "atoms invariants"]) -> Float[Tensor, "atoms 3"]:
        """See `Descriptor`."""
        self.gradient = gradient.detach().requires_grad_()
        with torch.enable_grad():
            (self.moment_gradient,) = _gradient(self.graph, self.moments, self.gradient, create_graph=True)
        return self.basis.pull_back(torch.bmm(self.beta.transpose(1, 2), self.moment_gradient.detach()))

    def pull_back_pairs(self, gradient: Float[Tensor, "atoms invariants"]) -> Float[Tensor, "pairs 3"]:
        """See `Descriptor`."""
        (moment_gradient,) = _gradient(self.graph, self.moments, gradient, retain_graph=True)
        return self.basis.pull_back_pairs(torch.bmm(self.beta.transpose(1, 2), moment_gradient)).flatten(0, 1)

    def push_forward(self, velocities: Float[Tensor, "atoms 3"]) -> Float[Tensor, "atoms invariants"]:
        """See `Descriptor`."""
        basis_tangent = self.basis.push_forward(velocities)
        invariant_tangent, moment_adjoint = _gradient(
            self.moment_gradient, (self.gradient, self.moments), torch.bmm(self.beta, basis_tangent), retain_graph=True
        )
        self.tangent = basis_tangent, moment_adjoint
        return invariant_tangent

    def beta_gradient(self, adjoint: Float[Tensor, "atoms invariants"]) -> Float[Tensor, "rows radial channels"]:
        """See `Descriptor`."""
        (moment_adjoint,) = _gradient(self.graph, self.moments, adjoint)
        sources = self.basis.moments
        if self.tangent is not None:
            basis_tangent, from_tangent = self.tangent
            moment_adjoint = torch.cat([moment_adjoint + from_tangent, self.moment_gradient.detach()], dim=2)
            sources = torch.cat([sources, basis_tangent], dim=2)
        by_atom = torch.bmm(moment_adjoint, sources.transpose(1, 2))
        return sum_classes(by_atom, self.rows, self.n_rows, self.alike)


def _gradient(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    """By autograd in this thread: in one of the GPU's own torch would warn that cuBLAS finds no context."""
    with torch.autograd.set_multithreading_enabled(False):
        return torch.autograd.grad(*arguments, **options)


class CompiledDescriptor:
    """By the kernels of `pair_kernels` and `contractions`."""

    def __init__(
        self, geometry: Geometry, beta: Float[Tensor, "rows radial channels"], rows: Int[Tensor, " atoms"]
    ) -> None:
        self.geometry, self.n_rows = geometry, len(beta)
        self.first_atom = geometry.first_atom.numpy()
        self.pairs = pairs_of(geometry)
        real = self.pairs.vectors.dtype
        self.coefficients = pair_kernels.coefficients(beta.numpy(), rows.numpy())
        self.moments = np.empty((len(rows), beta.shape[1], N_MONOMIALS), real)
        self.every = np.arange(len(rows))
        kept = kept_sums(geometry)
        if kept is None:
            pair_kernels.moments(self.pairs, self.coefficients, self.moments)
        else:
            pair_kernels.contract(*kept, self.coefficients, self.moments)
        self.invariants = torch.from_numpy(contractions.value(self.moments))
        self.tangent_sums = np.empty((0, self.coefficients.n_channels, N_MONOMIALS), real)
        self.gradient = self.moment_gradient = self.moment_adjoint = self.moments[:0]

    def pull_back(self, gradient: Float[Tensor, "atoms invariants"]) -> Float[Tensor, "atoms 3"]:
        """See `Descriptor`."""
        self.gradient = gradient.contiguous().numpy()
        self.moment_gradient = contractions.pull_back(self.moments, self.gradient)
        result = np.empty((len(self.moments), 3), self.moments.dtype)
        self._pull_back_moments(self.pairs, self.moment_gradient, result)
        return torch.from_numpy(result)

    def pull_back_pairs(self, gradient: Float[Tensor, "atoms invariants"]) -> Float[Tensor, "pairs 3"]:
        """See `Descriptor`. The kernel for atoms, where every pair's neighbour is an atom of its own."""
        moment_gradient = contractions.pull_back(self.moments, gradient.contiguous().numpy())
        n_atoms, pairs = len(self.moments), self.pairs
        own = pairs._replace(
            neighbours=n_atoms + np.arange(len(pairs.neighbours)),
            species=np.concatenate([pairs.species, pairs.species[pairs.neighbours]]),
        )
        result = np.zeros((n_atoms + len(pairs.neighbours), 3), self.moments.dtype)
        self._pull_back_moments(own, moment_gradient, result)
        return torch.from_numpy(result[n_atoms:])

    def _pull_back_moments(
        self,
        pairs: pair_kernels.Pairs,
        moment_gradient: Float[np.ndarray, "atoms radial 20"],
        result: Float[np.ndarray, "_ 3"],
    ) -> None:
        order = pair_kernels.dealt(self.geometry.pair_counts, torch.get_num_threads())
        pair_kernels.pull_back(order, self.first_atom, pairs, self.coefficients, moment_gradient, result)

    def push_forward(self, velocities: Float[Tensor, "atoms 3"]) -> Float[Tensor, "atoms invariants"]:
        """See `Descriptor`."""
        moment_tangent = np.empty_like(self.moments)
        self.tangent_sums = np.empty((len(self.moments), *self.tangent_sums.shape[1:]), self.moments.dtype)
        pair_kernels.basis(self.pairs, velocities.contiguous().numpy(), self.tangent_sums)
        pair_kernels.contract(self.tangent_sums, self.every, self.coefficients, moment_tangent)
        along, self.moment_adjoint = contractions.tangent(self.moments, moment_tangent, self.gradient)
        return torch.from_numpy(along)

    def beta_gradient(self, adjoint: Float[Tensor, "atoms invariants"]) -> Float[Tensor, "rows radial channels"]:
        """See `Descriptor`. Each structure is summed by itself, then the structures of a model in their order."""
        moment_adjoint = contractions.pull_back(self.moments, adjoint.contiguous().numpy())
        if len(self.tangent_sums):
            moment_adjoint += self.moment_adjoint
        n_species, of = self.geometry.n_species, self.coefficients
        by_species = n_species, of.n_parts, of.n_channels, pair_kernels.SHORT_ROW
        by_structure = np.zeros((len(self.geometry), *by_species), self.moments.dtype)
        sums, places = kept_sums(self.geometry) or basis_sums(self.geometry)
        pair_kernels.beta_gradient(
            *(self.first_atom, self.pairs.species, sums, places, self.tangent_sums),
            *(moment_adjoint, self.moment_gradient, by_structure),
        )
        total = by_structure.reshape(self.n_rows // n_species, -1, *by_species).sum(1)
        by_function = total.swapaxes(-1, -2).reshape(self.n_rows, -1, of.n_channels)[:, : of.n_radial]
        return torch.from_numpy(np.ascontiguousarray(by_function))


def pairs_of(geometry: Geometry) -> pair_kernels.Pairs:
    """What the kernels read."""
    grid, vectors = geometry.grid, geometry.vectors.numpy()
    return pair_kernels.Pairs(
        vectors,
        geometry.centres.numpy(),
        geometry.neighbours.numpy(),
        geometry.first_pair.numpy(),
        geometry.species.numpy(),
        np.array([grid.r_min, grid.r_max], vectors.dtype),
        grid.n_gaussians,
    )


Sums = tuple[Float[np.ndarray, "_ channels 20"], Int[np.ndarray, " atoms"]]
"""A of some atoms, and where that of each stands."""


def kept_sums(geometry: Geometry) -> Sums | None:
    """A of every atom where it is kept."""
    if geometry.sums is None or geometry.places is None:
        return None
    return geometry.sums.numpy(), geometry.places.numpy()


def basis_sums(geometry: Geometry) -> Sums:
    """A of every atom."""
    shape = len(geometry.species), geometry.n_species * geometry.grid.n_gaussians, N_MONOMIALS
    sums = np.empty(shape, geometry.vectors.numpy().dtype)
    pair_kernels.basis(pairs_of(geometry), np.empty((0, 3), sums.dtype), sums)
    return sums, np.arange(len(sums))


def with_sums(geometry: Geometry) -> Geometry:
    """The geometry with A of every atom, for the compiled engine."""
    sums, places = map(torch.from_numpy, basis_sums(geometry))
    return replace(geometry, sums=sums, places=places)
