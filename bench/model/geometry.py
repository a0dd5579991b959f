"""From structures and neighbour lists to the `Geometry` that Eqs. (2)-(6) are evaluated on, whole or in chunks."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bench.data.neighbours import Neighbours
from bench.data.structures import Structures
from bench.model.moments import MONOMIALS, N_MONOMIALS, Geometry, sum_segments
from bench.model.radial import radial_basis

ATOMS_PER_CHUNK = 4096
"""Bounds the working memory of a pass over many structures; chunk borders do not depend on the models evaluated."""


@dataclass(frozen=True)
class GeometryBuilder:
    """Builds geometries of one dataset; distances and basis are computed in float64 and stored in `dtype`."""

    data: Structures
    neighbours: Neighbours
    r_min: float
    n_gaussians: int
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default=torch.device("cpu"))

    def build(self, picked: Int[np.ndarray, " picked"]) -> Geometry:
        """The geometry of some structures at once."""
        data, neighbours = self.data, self.neighbours
        centre, neighbour, vectors = neighbours.pairs_of(data, picked)
        atoms = data.atoms_of(picked)
        n_species = len(data.species)
        species = torch.from_numpy(data.species_index[atoms])
        centres, neighbour_rows = torch.from_numpy(centre), torch.from_numpy(neighbour)
        vector = torch.from_numpy(vectors).to(self.device)
        distances = torch.linalg.vector_norm(vector, dim=1)
        directions = vector / distances[:, None]
        radial, slope = radial_basis(distances, self.r_min, neighbours.r_max, self.n_gaussians)
        radial, slope = radial.to(self.dtype), slope.to(self.dtype)
        angular = _monomials(directions, distances).to(self.dtype)
        segments = (centres * n_species + species[neighbour_rows]).to(self.device)
        basis_moments = torch.bmm(radial[:, :, None], angular[:, None, :, 0])
        return Geometry(
            n_species=n_species,
            n_atoms=torch.from_numpy(data.n_atoms[picked]).to(self.device),
            n_pairs=torch.from_numpy(np.diff(neighbours.offsets)[picked]).to(self.device),
            species=species.to(self.device),
            moments=sum_segments(basis_moments, segments, len(atoms), n_species),
            centres=centres.to(self.device),
            neighbours=neighbour_rows.to(self.device),
            segments=segments,
            radial=radial,
            radial_slope=slope,
            angular=angular,
            directions=directions.to(self.dtype),
        )

    def chunks(
        self, picked: Int[np.ndarray, " picked"], atoms_per_chunk: int = ATOMS_PER_CHUNK
    ) -> Iterator[tuple[slice, Geometry]]:
        """Yield (rows of `picked`, geometry) in order, each of at most `atoms_per_chunk` atoms (or one structure)."""
        start = 0
        ends = np.cumsum(self.data.n_atoms[picked])
        while start < len(picked):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + atoms_per_chunk, side="right")))
            yield slice(start, stop), self.build(picked[start:stop])
            start = stop


def _monomials(directions: Float[Tensor, "pairs 3"], distances: Float[Tensor, " pairs"]) -> Float[Tensor, "pairs 20 4"]:
    """Y_m(r̂) and ∂Y_m(r̂)/∂r_c = (∂_c Y_m − L_m r̂_c Y_m)/r."""
    powers = [torch.ones_like(directions), directions, directions**2, directions**3]
    values = torch.stack([powers[a][:, 0] * powers[b][:, 1] * powers[c][:, 2] for a, b, c in MONOMIALS], dim=1)
    result = values.new_zeros(len(distances), N_MONOMIALS, 4)
    result[:, :, 0] = values
    degrees = torch.tensor([sum(exponents) for exponents in MONOMIALS], dtype=values.dtype, device=values.device)
    for axis in range(3):
        for m, exponents in enumerate(MONOMIALS):
            if exponents[axis]:
                lower = tuple(e - (a == axis) for a, e in enumerate(exponents))
                result[:, m, 1 + axis] = exponents[axis] * values[:, MONOMIALS.index(lower)]
        result[:, :, 1 + axis] -= degrees * values * directions[:, axis, None]
    result[:, :, 1:] /= distances[:, None, None]
    return result
