"""The pairs of some structures, gathered from a dataset and its neighbour lists; compiled."""

import numpy as np
from jaxtyping import Float, Int
from numba import prange

from bench.data.neighbours import Neighbours
from bench.data.structures import Structures
from bench.model.compiled import compiled, torch_threads


def gather_pairs(
    data: Structures, neighbours: Neighbours, picked: Int[np.ndarray, " picked"]
) -> tuple[
    Int[np.ndarray, " atoms_and_1"], Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Float[np.ndarray, "pairs 3"]
]:
    """Where the pairs of each atom begin, centres and neighbours (rows of the picked atoms), r_j + shift − r_i in Å.

    The same as `Neighbours.pairs_of`, in float64.
    """
    n_atoms = data.n_atoms[picked]
    n_pairs = neighbours.offsets[picked + 1] - neighbours.offsets[picked]
    first_atom, first_of = np.cumsum(n_atoms) - n_atoms, np.cumsum(n_pairs) - n_pairs
    total = int(n_pairs.sum())
    centres, others, vectors = np.empty(total, np.int64), np.empty(total, np.int64), np.empty((total, 3))
    first_pair = np.empty(int(n_atoms.sum()) + 1, np.int64)
    first_pair[-1] = total
    shifts = np.zeros((0, 3), np.int16) if neighbours.shifts is None else neighbours.shifts
    with torch_threads():
        _gather(
            picked, data.offsets, data.positions, data.cells, neighbours.offsets, neighbours.centres,
            neighbours.neighbours, shifts, first_atom, first_of, first_pair, centres, others, vectors,
        )  # fmt: skip
    return first_pair, centres, others, vectors


@compiled
def _gather_one(
    structure, atom, positions, cell, source, centres_in, neighbours_in, shifts, first, n_atoms, to, first_pair, centres,
    neighbours, vectors, n_pairs,
):  # fmt: skip
    periodic, row = len(shifts) > 0, 0
    for p in range(n_pairs):
        i, j = int(centres_in[source + p]), int(neighbours_in[source + p])
        while row <= i:
            first_pair[first + row] = to + p
            row += 1
        centres[to + p], neighbours[to + p] = first + i, first + j
        for axis in range(3):
            vector = positions[atom + j, axis] - positions[atom + i, axis]
            if periodic:
                for edge in range(3):
                    vector += shifts[source + p, edge] * cell[edge, axis]
            vectors[to + p, axis] = vector
    while row < n_atoms:
        first_pair[first + row] = to + n_pairs
        row += 1


def _gather_all(
    picked, offsets, positions, cells, pair_offsets, centres_in, neighbours_in, shifts, first_atom, first_of, first_pair,
    centres, neighbours, vectors,
):  # fmt: skip
    for n in prange(len(picked)):
        s = picked[n]
        _gather_one(
            s, offsets[s], positions, cells[s], pair_offsets[s], centres_in, neighbours_in, shifts, first_atom[n],
            offsets[s + 1] - offsets[s], first_of[n], first_pair, centres, neighbours, vectors,
            pair_offsets[s + 1] - pair_offsets[s],
        )  # fmt: skip


_gather = compiled(_gather_all, parallel=True)
