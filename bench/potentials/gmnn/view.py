"""The network on one dataset: from structures and neighbour lists to the `Geometry` that Eqs. (2)-(6) take."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.data.neighbours import Neighbours, NeighboursOnDemand
from bench.data.structures import Structures
from bench.potentials.base import Draw, OfInputs, Parameters, untrained
from bench.potentials.gmnn.architecture import GaussianMoments
from bench.potentials.gmnn.basis import RadialGrid, make_basis
from bench.potentials.gmnn.compiled.gather import gather_pairs
from bench.potentials.gmnn.compiled.monomials import N_MONOMIALS
from bench.potentials.gmnn.descriptor import with_sums
from bench.potentials.gmnn.invariants import n_invariants
from bench.potentials.gmnn.moments import Geometry
from bench.potentials.gmnn.potential import (
    Batch,
    MomentPotential,
    initial_parameters,
    make_batch,
    make_padded_batch,
)
from bench.potentials.gmnn.products import Products
from bench.potentials.gmnn.ready import make_ready
from bench.potentials.scaling import EnergyScaling

ATOMS_PER_CHUNK = 4096
"""Bounds the working memory of a pass over many structures, whose arrays stay in the cache; models do not matter."""
GPU_ATOMS_PER_CHUNK = 32768
"""The same where a device has to be kept busy: about 4 GB at 100 pairs an atom, counted, not measured."""
MOST_SUMS = 2**26
"""Of the basis moments of structures to train on so many numbers are kept, 256 MB in single precision."""


@dataclass(frozen=True)
class MomentView:
    """See `bench.potentials.base.View`. Pair vectors are computed in float64, the rest in `dtype`.

    `plain` asks for the plain engine on the CPU too, where it serves as the compiled one's reference.
    """

    architecture: GaussianMoments
    data: Structures
    neighbours: Neighbours | NeighboursOnDemand
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default=torch.device("cpu"))
    plain: bool = False
    products: Products = field(default=Products())

    @property
    def compiled(self) -> bool:
        """Whether the compiled engine evaluates the geometries: on the CPU."""
        return self.device.type == "cpu" and not self.plain

    @property
    def lockstep(self) -> bool:
        """Batching models gains nothing on a CPU; and so a model's numbers do not depend on what is beside it."""
        return not self.compiled

    @property
    def side_by_side(self) -> bool:
        """See `View`; the plain engine would gain nothing."""
        return self.compiled

    @property
    def atoms_per_chunk(self) -> int:
        """See the constants."""
        return ATOMS_PER_CHUNK if self.device.type == "cpu" else GPU_ATOMS_PER_CHUNK

    def prepare(self, structures: Int[np.ndarray, " n"], *, forces: bool) -> "PreparedGeometry":
        """The geometry of some structures."""
        return PreparedGeometry(self.build(structures, with_pairs=forces), forces)

    def build(self, picked: Int[np.ndarray, " picked"], *, with_pairs: bool = True) -> Geometry:
        """The geometry of some structures at once; without pairs it serves energies and features, not forces."""
        data, lists, picked = self.neighbours.of(self.data, picked)
        species = torch.from_numpy(data.species_index[data.atoms_of(picked)]).to(self.device)
        pairs = gather_pairs(data, lists, picked)
        grid = RadialGrid(self.architecture.r_min, self.neighbours.r_max, self.architecture.n_gaussians)
        basis = None
        if not self.compiled:
            basis = make_basis(grid, len(data.species), data.n_atoms[picked], species, pairs, self.dtype, with_pairs)
        first_pair, centres, neighbours, vectors = (
            torch.from_numpy(array if basis is None else array[:0]).to(self.device) for array in pairs
        )
        return Geometry(
            grid=grid,
            n_species=len(data.species),
            atom_counts=data.n_atoms[picked],
            pair_counts=lists.offsets[picked + 1] - lists.offsets[picked],
            n_atoms=torch.from_numpy(data.n_atoms[picked]).to(self.device),
            species=species,
            first_pair=first_pair,
            centres=centres,
            neighbours=neighbours,
            vectors=vectors.to(self.dtype),
            basis=basis,
        )

    def draw(self, draws: Sequence[Draw]) -> MomentPotential:
        """Fresh models: W ~ N(0, 1), b = 0, β ~ U(−1, 1), σ = 1, μ of Eq. (4)."""
        n_species = len(self.data.species)
        fresh = [
            initial_parameters(self.architecture, n_species, draw.scaling.shift, draw.generator("weights"))
            for draw in draws
        ]
        parameters = {
            name: torch.from_numpy(np.stack([one[name] for one in fresh])).to(self.device, self.dtype)
            for name in fresh[0]
        }
        return self.potential(parameters, [draw.scaling for draw in draws])

    def potential(self, parameters: Parameters, scalings: Sequence[EnergyScaling]) -> MomentPotential:
        """Models with these parameters; c of Eq. (4) is no parameter."""
        scales = torch.tensor([scaling.scale for scaling in scalings], dtype=self.dtype, device=self.device)
        return MomentPotential(self.architecture, self.data.species, parameters, scales, self.products)

    def descriptor(self) -> tuple[OfInputs, int]:
        """The invariants of one fixed draw of β, averaged over the atoms of a structure."""
        plain = replace(self, architecture=replace(self.architecture, normalise_invariants=False))
        potential: Any = untrained(plain, 0)

        def of_inputs(inputs: Any) -> Float[Tensor, "structures invariants"]:
            geometry = inputs.geometry
            invariants = potential.network_inputs(geometry).double()
            total = invariants.new_zeros(len(geometry), invariants.shape[1])
            return total.index_add_(0, inputs.structure, invariants) / geometry.n_atoms[:, None]

        return of_inputs, n_invariants(self.architecture.n_radial)

    def make_ready(self, force_weight: float) -> None:
        """Compile the kernels, or read them from where compiled code is kept."""
        make_ready(self, force_weight)


@dataclass(frozen=True)
class PreparedGeometry:
    """The geometry of some structures; `with_pairs` where forces are asked for.

    `sums` says where the compiled engine has its basis moments from: with the structures, anew for every minibatch of
    sets that are too large for that, or nowhere, where inputs serve once.
    """

    geometry: Geometry
    with_pairs: bool
    sums: Literal["kept", "anew", ""] = ""

    def repeated(self) -> "PreparedGeometry":
        """See `bench.potentials.base.Repeated`."""
        geometry = self.geometry
        if geometry.basis is not None:
            return self
        channels = geometry.n_species * geometry.grid.n_gaussians
        if len(geometry.species) * channels * N_MONOMIALS > MOST_SUMS:
            return replace(self, sums="anew")
        return replace(self, sums="kept", geometry=with_sums(geometry))

    def with_padding(self) -> "PreparedGeometry | None":
        """See `bench.potentials.base.Padded`: for the plain engine."""
        if self.geometry.basis is None:
            return None
        return replace(self, geometry=self.geometry.with_padding())

    def gather_padded(
        self, rows: Int[Tensor, "models structures"], n_atoms: Int[Tensor, "models structures"], atoms_each: int
    ) -> tuple[Batch, Int[Tensor, " atoms"]]:
        """See `bench.potentials.base.Padded`."""
        return make_padded_batch(self.geometry, rows, n_atoms, atoms_each)

    def gather(self, rows: Int[np.ndarray, "models structures"]) -> Batch:
        """The batch of minibatches, one for each model."""
        batch = make_batch(self.geometry, rows, with_pairs=self.with_pairs)
        return replace(batch, geometry=with_sums(batch.geometry)) if self.sums == "anew" else batch
