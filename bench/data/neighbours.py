"""Neighbour lists for Eq. (2): all atoms and periodic images within r_max, an atom's own images included."""

from dataclasses import dataclass

import numpy as np
import vesin
from jaxtyping import Float, Int, UInt

from bench.data.structures import Structures, ragged_rows
from bench.errors import UserError

SHORTEST_DISTANCE = 0.1
"""Å; closer atoms are a broken structure."""


@dataclass(frozen=True)
class Neighbours:
    """Directed pairs of every structure, sorted by centre; atom indices count within the structure.

    Pairs of structure i are the rows offsets[i]:offsets[i+1]; `shifts` (cell vectors) is None without periodicity.
    """

    r_max: float
    offsets: Int[np.ndarray, " structures_and_1"]
    centres: UInt[np.ndarray, " pairs"]
    neighbours: UInt[np.ndarray, " pairs"]
    shifts: Int[np.ndarray, "pairs 3"] | None

    def pairs_of(
        self, data: Structures, structures: Int[np.ndarray, " picked"]
    ) -> tuple[Int[np.ndarray, " e"], Int[np.ndarray, " e"], Float[np.ndarray, "e 3"]]:
        """Centre and neighbour rows (counting within the picked atoms) and vectors r_j + shift − r_i in Å, float64."""
        counts = np.diff(self.offsets)[structures]
        rows = ragged_rows(self.offsets[structures], counts)
        first_atom = data.offsets[structures]
        first_picked = np.cumsum(data.n_atoms[structures]) - data.n_atoms[structures]
        centre, neighbour = self.centres[rows].astype(np.int64), self.neighbours[rows].astype(np.int64)
        source = np.repeat(first_atom, counts)
        vectors = data.positions[source + neighbour] - data.positions[source + centre]
        if self.shifts is not None:
            cells = np.repeat(data.cells[structures], counts, axis=0)
            vectors = vectors + np.einsum("es,esc->ec", self.shifts[rows].astype(np.float64), cells)
        target = np.repeat(first_picked, counts)
        return target + centre, target + neighbour, vectors


def find_neighbours(data: Structures, r_max: float) -> Neighbours:
    """Compute the neighbour list of a whole dataset once (vesin). Raises UserError for atoms on top of each other."""
    calculator = vesin.NeighborList(cutoff=r_max, full_list=True, sorted=True, n_threads=1)
    any_periodic = bool(data.periodic.any())
    centres, neighbours, shifts, counts = [], [], [], np.zeros(len(data), dtype=np.int64)
    for structure in range(len(data)):
        rows = slice(data.offsets[structure], data.offsets[structure + 1])
        i, j, s, d = calculator.compute(
            data.positions[rows], data.cells[structure], data.periodic[structure], quantities="ijSd"
        )
        if len(d) and d.min() < SHORTEST_DISTANCE:
            pair = int(np.argmin(d))
            raise UserError(
                f"dataset {data.name}: atoms {i[pair]} and {j[pair]} of structure {structure} are {d[pair]:.3g} Å"
                " apart: remove or mend that structure"
            )
        centres.append(i.astype(np.uint16))
        neighbours.append(j.astype(np.uint16))
        if any_periodic:
            shifts.append(s.astype(np.int16))
        counts[structure] = len(i)
    return Neighbours(
        r_max=r_max,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        centres=np.concatenate(centres),
        neighbours=np.concatenate(neighbours),
        shifts=np.concatenate(shifts) if any_periodic else None,
    )
