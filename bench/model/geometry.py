"""From structures and neighbour lists to the `Geometry` that Eqs. (2)-(6) are evaluated on, whole or in chunks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.data.neighbours import Neighbours
from bench.data.structures import Structures
from bench.model.compiled.gather import gather_pairs
from bench.model.moments import MONOMIALS, Basis, Geometry, RadialGrid, sum_segments
from bench.model.radial import radial_basis

ATOMS_PER_CHUNK = 2048
"""Bounds the working memory of a pass over many structures, whose arrays stay in the cache; models do not matter."""
GPU_ATOMS_PER_CHUNK = 32768
"""The same where a device has to be kept busy: about 4 GB at 100 pairs an atom, counted, not measured."""


@dataclass(frozen=True)
class GeometryBuilder:
    """Builds geometries of one dataset; pair vectors are computed in float64, the rest in `dtype`.

    `plain` asks for the plain engine on the CPU too, where it serves as the compiled one's reference.
    """

    data: Structures
    neighbours: Neighbours
    r_min: float
    n_gaussians: int
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default=torch.device("cpu"))
    plain: bool = False

    def build(self, picked: Int[np.ndarray, " picked"], *, with_pairs: bool = True) -> Geometry:
        """The geometry of some structures at once; without pairs it serves energies and features, not forces."""
        data, offsets = self.data, self.neighbours.offsets
        species = torch.from_numpy(data.species_index[data.atoms_of(picked)]).to(self.device)
        first_pair, centres, neighbours, vectors = (
            torch.from_numpy(array).to(self.device) for array in gather_pairs(data, self.neighbours, picked)
        )
        grid = RadialGrid(self.r_min, self.neighbours.r_max, self.n_gaussians)
        return Geometry(
            grid=grid,
            n_species=len(data.species),
            atom_counts=data.n_atoms[picked],
            pair_counts=offsets[picked + 1] - offsets[picked],
            n_atoms=torch.from_numpy(data.n_atoms[picked]).to(self.device),
            species=species,
            first_pair=first_pair,
            centres=centres,
            neighbours=neighbours,
            vectors=vectors.to(self.dtype),
            basis=None
            if self.compiled
            else _basis(grid, len(data.species), species, centres, neighbours, vectors, self.dtype, with_pairs),
        )

    @property
    def compiled(self) -> bool:
        """Whether the compiled engine evaluates the geometries: on the CPU."""
        return self.device.type == "cpu" and not self.plain

    def chunks(
        self,
        picked: Int[np.ndarray, " picked"],
        *,
        with_pairs: bool = True,
        atoms_per_chunk: int | None = None,
        share: int = 1,
    ) -> "Chunks":
        """Go through structures in order, in chunks of at most `atoms_per_chunk` atoms (or one structure).

        `share` is how many models' structures a chunk must have room for.
        """
        usual = ATOMS_PER_CHUNK if self.device.type == "cpu" else GPU_ATOMS_PER_CHUNK
        return Chunks(self, picked, with_pairs, (atoms_per_chunk or usual) // share)


@dataclass(frozen=True)
class Chunks:
    """Iterates over (rows of `picked`, geometry)."""

    builder: GeometryBuilder
    picked: Int[np.ndarray, " picked"]
    with_pairs: bool
    atoms_per_chunk: int

    def __len__(self) -> int:
        return len(self._borders()) - 1

    def __iter__(self) -> Iterator[tuple[slice, Geometry]]:
        for rows in self.rows():
            yield rows, self.builder.build(self.picked[rows], with_pairs=self.with_pairs)

    def rows(self) -> list[slice]:
        """The rows of `picked` in each chunk."""
        return [slice(start, stop) for start, stop in pairwise(self._borders())]

    def _borders(self) -> list[int]:
        ends = np.cumsum(self.builder.data.n_atoms[self.picked])
        borders = [0]
        while borders[-1] < len(ends):
            done = ends[borders[-1] - 1] if borders[-1] else 0
            stop = int(np.searchsorted(ends, done + self.atoms_per_chunk, side="right"))
            borders.append(max(borders[-1] + 1, stop))
        return borders


def _basis(
    grid: RadialGrid,
    n_species: int,
    species: Int[Tensor, " atoms"],
    centres: Int[Tensor, " pairs"],
    neighbours: Int[Tensor, " pairs"],
    vectors: Float[Tensor, "pairs 3"],
    dtype: torch.dtype,
    with_pairs: bool,
) -> Basis:
    length = torch.linalg.vector_norm(vectors, dim=1)
    directions, distances = (vectors / length[:, None]).to(dtype), length.to(dtype)
    radial, radial_slope = radial_basis(distances, grid.r_min, grid.r_max, grid.n_gaussians)
    monomials = _monomials(directions)
    segments = centres * n_species + species[neighbours]
    moments = torch.bmm(radial[:, :, None], monomials[:, None, :])
    kept = slice(None) if with_pairs else slice(0, 0)
    return Basis(
        moments=sum_segments(moments, segments, len(species), n_species),
        centres=centres[kept],
        neighbours=neighbours[kept],
        segments=segments[kept],
        radial=radial[kept],
        radial_slope=radial_slope[kept],
        angular=_with_gradients(monomials[kept], directions[kept], distances[kept]),
        directions=directions[kept],
    )


def _monomials(directions: Float[Tensor, "pairs 3"]) -> Float[Tensor, "pairs 20"]:
    """Y_m(r̂)."""
    powers = [torch.ones_like(directions), directions, directions**2, directions**3]
    return torch.stack([powers[a][:, 0] * powers[b][:, 1] * powers[c][:, 2] for a, b, c in MONOMIALS], dim=1)


def _with_gradients(
    monomials: Float[Tensor, "pairs 20"], directions: Float[Tensor, "pairs 3"], distances: Float[Tensor, " pairs"]
) -> Float[Tensor, "pairs 20 4"]:
    """Y_m(r̂) and, beside it, ∂Y_m(r̂)/∂r_c = (∂_c Y_m − L_m r̂_c Y_m)/r."""
    result = monomials.new_zeros(*monomials.shape, 4)
    result[:, :, 0] = monomials
    degrees = torch.tensor([sum(m) for m in MONOMIALS], dtype=monomials.dtype, device=monomials.device)
    for axis in range(3):
        for m, exponents in enumerate(MONOMIALS):
            if exponents[axis]:
                lower = tuple(e - (a == axis) for a, e in enumerate(exponents))
                result[:, m, 1 + axis] = exponents[axis] * monomials[:, MONOMIALS.index(lower)]
        result[:, :, 1 + axis] -= degrees * monomials * directions[:, axis, None]
    result[:, :, 1:] /= distances[:, None, None]
    return result
