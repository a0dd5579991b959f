"""What a dataset holds: every check that can be made on it, and its oddities as notes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from ase.data import chemical_symbols

from bench.data.convert import Plausible, check_plausible
from bench.data.duplicates import contradictions, first_copies
from bench.data.neighbours import shortest_distances
from bench.data.structures import Structures, check_structures
from bench.errors import UserError

LARGE_FORCE = 20.0
"""eV/Å; structures with a larger force component are counted."""
NET_FORCE = 0.1
"""eV/Å; a larger sum of forces on a structure is worth a note."""

NEAR, PAIRS_DRAWN, SHORTEST_SERIES = 0.1, 50, 10
"""Structures are near if their atoms' distance is below this part of the median of so many random pairs of one kind."""


def describe(
    data: Structures, labels: Sequence[str], plausible: Plausible, checksum: str, published: int
) -> Iterator[str]:
    """Check a dataset and yield lines of what was found; `note:` starts an oddity. Raises UserError on an error."""
    check_structures(data, labels)
    yield f"{len(data)} of {published} structures, {len(data.positions)} atoms; {_composition(data)}"
    if len(data) < published:
        yield f"note: {published - len(data)} of the published structures are not there"
    everyone = np.arange(len(data))
    shortest = shortest_distances(data, everyone, plausible.distances[1])
    check_plausible(data, plausible, labels, everyone, shortest)
    per_atom = data.residual_energies / data.n_atoms
    yield f"energies relative to the references: {per_atom.min():.4f} to {per_atom.max():.4f} eV per atom"
    yield from _forces(data)
    yield f"shortest distance between two atoms: {shortest.min():.3f} Å, in the median {np.median(shortest):.3f} Å"
    yield from _periodicity(data)
    yield from _duplicates(data, labels)
    yield from _series(data, labels)
    actual = replace(data).checksum  # a copy does not remember the store's
    if actual != checksum:
        raise UserError(
            f"dataset {data.name}: the store's checksum is {checksum[:12]}…, its arrays have {actual[:12]}…:"
            f" prepare it again"
        )
    yield f"every value is finite; checksum {actual[:16]}… is right"


def _composition(data: Structures) -> str:
    numbers, counts = np.unique(data.atomic_numbers, return_counts=True)
    atoms = ", ".join(f"{chemical_symbols[z]} {n}" for z, n in zip(numbers.tolist(), counts.tolist(), strict=True))
    return f"{atoms}; {data.n_atoms.min()} to {data.n_atoms.max()} atoms each"


def _forces(data: Structures) -> Iterator[str]:
    if data.forces is None:
        yield "no forces"
        return
    forces = np.asarray(data.forces, dtype=np.float64)
    typical = np.sqrt(3 * np.mean(forces**2))
    yield f"forces: root mean square {typical:.3f}, largest component {np.abs(forces).max():.2f} eV/Å"
    largest = np.maximum.reduceat(np.abs(forces).max(axis=1), data.offsets[:-1])
    if (n := int((largest > LARGE_FORCE).sum())) > 0:
        yield f"note: {n} structures have a force component above {LARGE_FORCE:g} eV/Å"
    net = np.linalg.norm(np.add.reduceat(forces, data.offsets[:-1], axis=0), axis=1)
    yield f"net forces: up to {net.max():.2g} eV/Å on a structure"
    if (n := int((net > NET_FORCE).sum())) > 0:
        yield f"note: {n} structures have a net force above {NET_FORCE:g} eV/Å, which no potential can reproduce"


def _periodicity(data: Structures) -> Iterator[str]:
    periodic = data.periodic.any(axis=1)
    if not periodic.any():
        yield "no periodicity"
        return
    everywhere = data.periodic.all(axis=1)
    partly = int((periodic & ~everywhere).sum())
    line = f"{int(periodic.sum())} periodic structures" + (
        f", {partly} of them not along every vector" if partly else ""
    )
    if everywhere.any():
        volumes = np.abs(np.linalg.det(data.cells[everywhere])) / data.n_atoms[everywhere]
        line += f"; volume per atom {volumes.min():.2f} to {volumes.max():.2f} Å³"
    yield line


def _series(data: Structures, labels: Sequence[str]) -> Iterator[str]:
    """Structures that hardly differ from the one before: frames of a trajectory, steps of a scan."""
    atoms = [slice(a, b) for a, b in zip(data.offsets[:-1], data.offsets[1:], strict=True)]
    kinds = [data.atomic_numbers[rows].tobytes() for rows in atoms]
    of_kind: dict[bytes, list[int]] = {}
    for structure, kind in enumerate(kinds):
        of_kind.setdefault(kind, []).append(structure)

    def distance(one: int, other: int) -> float:
        return float(np.linalg.norm(data.positions[atoms[one]].astype(np.float64) - data.positions[atoms[other]]))

    generator = np.random.default_rng(0)
    usual: dict[bytes, float] = {}
    for kind, members in of_kind.items():
        if len(members) > SHORTEST_SERIES:
            drawn = (generator.choice(members, 2, replace=False).tolist() for _ in range(PAIRS_DRAWN))
            usual[kind] = float(np.median([distance(*pair) for pair in drawn]))
    near = np.zeros(len(data) + 1, dtype=bool)
    for i in range(1, len(data)):
        near[i] = kinds[i] == kinds[i - 1] and distance(i, i - 1) < NEAR * usual.get(kinds[i], 0.0)
    # a series is the structure before the first near one, and all near ones after it
    starts, stops = np.flatnonzero(near[1:] & ~near[:-1]), np.flatnonzero(near[:-1] & ~near[1:]) + 1
    lengths = stops - starts
    if not (lengths >= SHORTEST_SERIES).any():
        yield f"no {SHORTEST_SERIES} structures in a row that hardly differ"
        return
    total, longest = lengths[lengths >= SHORTEST_SERIES].sum(), int(np.argmax(lengths))
    start, stop = int(starts[longest]), int(stops[longest])
    yield (
        f"note: {total} structures are parts of trajectories or scans, the longest from {labels[start]} to"
        f" {labels[stop - 1]} (rows {start}:{stop}): a random split puts neighbours of training structures into the"
        " test set (prepare --rows leaves some out)"
    )


def _duplicates(data: Structures, labels: Sequence[str]) -> Iterator[str]:
    """The same atoms at the same places in the same cell, to the last bit."""
    first = first_copies(data)
    copies = np.flatnonzero(first != np.arange(len(data)))
    if not copies.size:
        yield "no structure occurs twice"
        return
    other = contradictions(data, first)
    energies = f", {other.size} of them with other labels" if other.size else ""
    yield f"note: {copies.size} structures repeat an earlier one, the first {labels[first[copies[0]]]}{energies}"
