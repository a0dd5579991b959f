"""Pairs and shortest distances of small structures without periodicity, many at once: all distances are computed."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from bench.data.structures import Structures

LARGEST = 64
"""Atoms; of larger structures a search over cells is faster."""
AT_ONCE = 200_000
"""Distances that are held at a time: what stays in a processor's cache."""


def is_small(data: Structures) -> bool:
    """Whether all structures are molecules of at most LARGEST atoms."""
    return not data.periodic.any() and int(data.n_atoms.max()) <= LARGEST


def pairs(
    data: Structures, r_max: float
) -> tuple[Int[np.ndarray, " e"], Int[np.ndarray, " e"], Int[np.ndarray, " e"], Float[np.ndarray, " e"]]:
    """Structure, centre and neighbour (counting within it) and squared distance of all pairs within `r_max`, sorted."""
    found = []
    for rows, squared in _distances(data):
        structure, centre, neighbour = np.nonzero(squared <= r_max * r_max)
        found.append((rows[structure], centre, neighbour, squared[structure, centre, neighbour]))
    structures, centres, neighbours, squared = (np.concatenate(column) for column in zip(*found, strict=True))
    if (np.diff(structures) < 0).any():
        order = np.argsort(structures, kind="stable")
        structures, centres, neighbours, squared = (one[order] for one in (structures, centres, neighbours, squared))
    return structures, centres, neighbours, squared


def shortest(data: Structures) -> Float[np.ndarray, " structures"]:
    """The shortest distance between two atoms of each structure in Å; infinite for an atom alone."""
    result = np.empty(len(data))
    for rows, squared in _distances(data):
        result[rows] = np.sqrt(squared.reshape(len(rows), -1).min(1))
    return result


def _distances(data: Structures) -> Iterator[tuple[Int[np.ndarray, " some"], Float[np.ndarray, "some n n"]]]:
    """Squared distances in Å², infinite on the diagonal, of some structures of one size at a time."""
    for n in np.unique(data.n_atoms).tolist():
        of_size = np.flatnonzero(data.n_atoms == n)
        for start in range(0, len(of_size), max(1, AT_ONCE // (n * n))):
            rows = of_size[start : start + max(1, AT_ONCE // (n * n))]
            positions = data.positions[data.atoms_of(rows)].astype(np.float64).reshape(len(rows), n, 3)
            squared = np.zeros((len(rows), n, n))
            for axis in range(3):
                along = positions[:, :, axis]
                squared += np.square(along[:, :, None] - along[:, None, :])
            squared[:, range(n), range(n)] = np.inf
            yield rows, squared
