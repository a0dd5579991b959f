"""The pairs of some structures, gathered from a dataset and its neighbour lists, or from some prepared; compiled."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt
from numba import prange

from bench.data.neighbours import Neighbours
from bench.data.structures import Structures
from bench.potentials.gmnn.compiled.jit import compiled


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
    _gather(picked, lists_of(data, neighbours), first_atom, first_of, first_pair, centres, others, vectors)
    return first_pair, centres, others, vectors


class Lists(NamedTuple):
    """A dataset with its neighbour lists; without periodicity `shifts` has no rows."""

    offsets: Int[np.ndarray, " structures_and_1"]
    positions: Float[np.ndarray, "atoms 3"]
    cells: Float[np.ndarray, "structures 3 3"]
    pair_offsets: Int[np.ndarray, " structures_and_1"]
    centres: UInt[np.ndarray, " pairs"]
    neighbours: UInt[np.ndarray, " pairs"]
    shifts: Int[np.ndarray, "pairs 3"]


def lists_of(data: Structures, neighbours: Neighbours) -> Lists:
    """What the kernel reads."""
    shifts = np.zeros((0, 3), np.int16) if neighbours.shifts is None else neighbours.shifts
    return Lists(
        data.offsets, data.positions, data.cells, neighbours.offsets, neighbours.centres, neighbours.neighbours, shifts
    )


@compiled
def _gather_one(structure, lists, first, to, first_pair, centres, neighbours, vectors):
    """Write the pairs of a structure whose atoms are the rows from `first`, and whose pairs the rows from `to`."""
    atom, n_atoms = lists.offsets[structure], lists.offsets[structure + 1] - lists.offsets[structure]
    source, row = lists.pair_offsets[structure], 0
    n_pairs = lists.pair_offsets[structure + 1] - source
    for p in range(n_pairs):
        i, j = int(lists.centres[source + p]), int(lists.neighbours[source + p])
        while row <= i:
            first_pair[first + row] = to + p
            row += 1
        centres[to + p], neighbours[to + p] = first + i, first + j
        for axis in range(3):
            # in float64 whatever the precision of the store: the difference of two coordinates loses digits
            vector = np.float64(lists.positions[atom + j, axis]) - np.float64(lists.positions[atom + i, axis])
            if len(lists.shifts) > 0:
                for edge in range(3):
                    vector += lists.shifts[source + p, edge] * lists.cells[structure, edge, axis]
            vectors[to + p, axis] = vector
    while row < n_atoms:
        first_pair[first + row] = to + n_pairs
        row += 1


def _gather_all(picked, lists, first_atom, first_of, first_pair, centres, neighbours, vectors):
    for n in prange(len(picked)):
        _gather_one(picked[n], lists, first_atom[n], first_of[n], first_pair, centres, neighbours, vectors)


_gather = compiled(_gather_all, parallel=True)


class Prepared(NamedTuple):
    """Structures from which minibatches are gathered; `places` are where the atoms were before that."""

    first_atom: Int[np.ndarray, " structures_and_1"]
    first_pair: Int[np.ndarray, " atoms_and_1"]
    centres: Int[np.ndarray, " pairs"]
    neighbours: Int[np.ndarray, " pairs"]
    species: Int[np.ndarray, " atoms"]
    vectors: Float[np.ndarray, "pairs 3"]
    places: Int[np.ndarray, " atoms"]


def select_structures(prepared: Prepared, picked: Int[np.ndarray, " picked"]) -> Prepared:
    """Some of them, in this order, repeats allowed."""
    begin, end = prepared.first_atom[picked], prepared.first_atom[picked + 1]
    first_atom = np.concatenate([[0], np.cumsum(end - begin)])
    n_pairs = prepared.first_pair[end] - prepared.first_pair[begin]
    first_of = np.concatenate([[0], np.cumsum(n_pairs)])
    n_atoms, total = int(first_atom[-1]), int(first_of[-1])
    result = Prepared(
        first_atom,
        np.empty(n_atoms + 1, np.int64),
        np.empty(total, np.int64),
        np.empty(total, np.int64),
        np.empty(n_atoms, prepared.species.dtype),
        np.empty((total, 3), prepared.vectors.dtype),
        np.empty(n_atoms, np.int64),
    )
    result.first_pair[-1] = total
    _select(prepared, picked, first_of, result)
    return result


@compiled
def _select_one(prepared, structure, to, to_pair, result):
    """Write a structure whose atoms become the rows from `to`, and whose pairs the rows from `to_pair`."""
    first, last = prepared.first_atom[structure], prepared.first_atom[structure + 1]
    begin, end = prepared.first_pair[first], prepared.first_pair[last]
    for i in range(first, last):
        result.first_pair[to + i - first] = prepared.first_pair[i] - begin + to_pair
        result.species[to + i - first] = prepared.species[i]
        result.places[to + i - first] = prepared.places[i]
    for p in range(begin, end):
        result.centres[to_pair + p - begin] = prepared.centres[p] - first + to
        result.neighbours[to_pair + p - begin] = prepared.neighbours[p] - first + to
    result.vectors[to_pair : to_pair + end - begin] = prepared.vectors[begin:end]


def _select_all(prepared, picked, first_of, result):
    for n in prange(len(picked)):
        _select_one(prepared, picked[n], result.first_atom[n], first_of[n], result)


_select = compiled(_select_all, parallel=True)
