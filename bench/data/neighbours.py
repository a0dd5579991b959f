"""Neighbour lists for Eq. (2): all atoms and periodic images within r_max, an atom's own images included."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt

from bench.data.columns import META, is_right, read_columns, write_columns
from bench.data.molecules import is_small, pairs, shortest
from bench.data.structures import SMALLEST_VOLUME, Origin, Structures, ragged_rows
from bench.data.vesin_alone import NeighborList
from bench.errors import UserError, WriteError
from bench.runs.locks import locked
from bench.runs.progress import progress

log = logging.getLogger(__name__)
MANY = 65536
"""Of more structures that pass, the lists of small molecules are made all at once, with an atom's neighbours in another
order than vesin's: sums over them differ in rounding."""
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

    def of(
        self, data: Structures, structures: Int[np.ndarray, " picked"]
    ) -> tuple[Structures, "Neighbours", Int[np.ndarray, " picked"]]:
        """A dataset that holds these structures, its lists, and which of it they are."""
        return data, self, structures

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
        # in float64 whatever the precision of the store: the difference of two coordinates loses digits
        vectors = data.positions[source + neighbour].astype(np.float64)
        vectors -= data.positions[source + centre]
        if self.shifts is not None:
            cells = np.repeat(data.cells[structures], counts, axis=0)
            vectors = vectors + np.einsum("es,esc->ec", self.shifts[rows].astype(np.float64), cells)
        target = np.repeat(first_picked, counts)
        return target + centre, target + neighbour, vectors


@dataclass(frozen=True)
class NeighboursOnDemand:
    """Lists that are made of the structures asked for, each time: nothing is kept of a pair."""

    r_max: float

    def of(
        self, data: Structures, structures: Int[np.ndarray, " picked"]
    ) -> tuple[Structures, Neighbours, Int[np.ndarray, " picked"]]:
        """See `Neighbours.of`. Raises UserError for atoms on top of each other."""
        part = data.part(structures)
        lists = _of_molecules(part, self.r_max) if len(data) > MANY and is_small(part) else _compute(part, self.r_max)
        return part, lists, np.arange(len(part))

    def pairs_of(
        self, data: Structures, structures: Int[np.ndarray, " picked"]
    ) -> tuple[Int[np.ndarray, " e"], Int[np.ndarray, " e"], Float[np.ndarray, "e 3"]]:
        """See `Neighbours.pairs_of`."""
        part, lists, rows = self.of(data, structures)
        return lists.pairs_of(part, rows)


def find_neighbours(data: Structures, r_max: float) -> Neighbours | NeighboursOnDemand:
    """The neighbour list of a whole dataset; that of a prepared one is made once and shared by all processes.

    Raises UserError for atoms on top of each other.
    """
    if data.passing:
        return NeighboursOnDemand(r_max)
    if data.origin is None:
        return _compute(data, r_max)
    folder = data.origin.folder / f"neighbours_{float(r_max)!r}"
    found = None
    try:
        kept = _kept(folder, data.origin)
        if kept is None:
            with locked(data.origin.folder / "neighbours.lock", wait=True, at_work="makes the neighbour lists"):
                kept = _kept(folder, data.origin)
                if kept is None:
                    log.info("dataset %s: neighbour lists within %g Å, made once: %s", data.name, r_max, folder)
                    found = _compute(data, r_max)
                    _save(folder, found, data.origin)
                    kept = _kept(folder, data.origin)
    except (OSError, WriteError) as error:
        log.info("note: the neighbour lists are not kept (%s)", error)
        return found or _compute(data, r_max)
    return kept or found or _compute(data, r_max)


def _kept(folder: Path, origin: Origin) -> Neighbours | None:
    """The lists in a folder, None if they are not there, of other structures, or damaged: they are made again then.

    A store can be replaced while it is used.
    """
    if not (folder / META).is_file():
        return None
    try:
        columns, meta = read_columns(folder)
        if meta.get("store") != origin.checksum:
            return None
        # those of an earlier version have no checksum
        if is_right(folder, lambda: meta.get("sha256") in (None, _digest(columns))):
            shifts = columns.get("shifts")
            return Neighbours(
                meta["r_max"], columns["offsets"], columns["centres"], columns["neighbours"], shifts=shifts
            )
    except (UserError, KeyError):
        pass
    log.warning("%s is damaged: the neighbour lists are made again", folder)
    return None


def _digest(columns: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(columns.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _save(folder: Path, neighbours: Neighbours, origin: Origin) -> None:
    columns = {key: getattr(neighbours, key) for key in ("offsets", "centres", "neighbours")}
    if neighbours.shifts is not None:
        columns["shifts"] = neighbours.shifts
    facts = {"r_max": neighbours.r_max, "store": origin.checksum, "sha256": _digest(columns)}
    write_columns(folder, columns, facts)


def _compute(data: Structures, r_max: float) -> Neighbours:
    """Look for all pairs within r_max (vesin)."""
    calculator = NeighborList(cutoff=r_max, full_list=True, sorted=True, n_threads=1)
    any_periodic = bool(data.periodic.any())
    index = np.uint16 if data.n_atoms.max() <= 1 << 16 else np.uint32
    centres, neighbours, shifts, counts = [], [], [], np.zeros(len(data), dtype=np.int64)
    for structure in progress(range(len(data)), "neighbour lists", unit="structure"):
        i, j, s, d = _within(data, structure, calculator, "ijSd")
        if len(d) and d.min() < SHORTEST_DISTANCE:
            pair = int(np.argmin(d))
            raise _too_close(data, structure, int(i[pair]), int(j[pair]), float(d[pair]))
        centres.append(i.astype(index))
        neighbours.append(j.astype(index))
        if any_periodic:
            fit = np.abs(s).max(initial=0) <= np.iinfo(np.int16).max
            shifts.append(s.astype(np.int16) if fit else s)
        counts[structure] = len(i)
    return Neighbours(
        r_max=r_max,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        centres=np.concatenate(centres),
        neighbours=np.concatenate(neighbours),
        shifts=np.concatenate(shifts) if any_periodic else None,
    )


def _of_molecules(data: Structures, r_max: float) -> Neighbours:
    """The same of small molecules, at once. Raises UserError for atoms on top of each other."""
    structures, centres, neighbours, squared = pairs(data, r_max)
    if len(squared) and squared.min() < SHORTEST_DISTANCE**2:
        pair = int(np.argmin(squared))
        distance = float(squared[pair]) ** 0.5
        raise _too_close(data, int(structures[pair]), int(centres[pair]), int(neighbours[pair]), distance)
    counts = np.bincount(structures, minlength=len(data))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Neighbours(r_max, offsets, centres.astype(np.uint16), neighbours.astype(np.uint16), None)


def _too_close(data: Structures, structure: int, one: int, other: int, distance: float) -> UserError:
    return UserError(
        f"dataset {data.name}: atoms {one} and {other} of structure {structure} are {distance:.3g} Å apart: remove or"
        " fix that structure"
    )


def shortest_distances(
    data: Structures, structures: Int[np.ndarray, " picked"], farthest: float
) -> Float[np.ndarray, " picked"]:
    """The shortest distance between two atoms or images of each of some structures in Å; infinite beyond `farthest`."""
    if data.passing and len(structures) and is_small(data):
        found = shortest(data if len(structures) == len(data) else data.part(structures))
        return np.where(found < farthest, found, np.inf)
    calculator = NeighborList(cutoff=farthest, full_list=False, sorted=False, n_threads=1)
    result = np.full(len(structures), np.inf)
    for row, structure in enumerate(progress(structures.tolist(), "shortest distances", unit="structure")):
        (distances,) = _within(data, structure, calculator, "d")
        result[row] = distances.min(initial=np.inf)
    return result


def _within(data: Structures, structure: int, calculator: NeighborList, quantities: str) -> Sequence[np.ndarray]:
    rows = slice(data.offsets[structure], data.offsets[structure + 1])
    return calculator.compute(
        data.positions[rows].astype(np.float64, copy=False),
        _completed(data.cells[structure], data.periodic[structure]),
        data.periodic[structure],
        quantities=quantities,
    )


def _completed(cell: Float[np.ndarray, "3 3"], periodic: Bool[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """A cell with a volume: vectors that do not count are replaced where the search could not do with them.

    No pair crosses a border that is not periodic, so any vector serves there.
    """
    if not periodic.any() or periodic.all() or abs(np.linalg.det(cell)) > SMALLEST_VOLUME:
        return cell
    completed = np.where(periodic[:, None], cell, 0.0)
    # the missing directions are those that the periodic vectors leave free
    free = np.linalg.svd(completed)[2][int(periodic.sum()) :]
    completed[~periodic] = free
    return completed
