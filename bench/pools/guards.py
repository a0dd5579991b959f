"""What keeps structures out of a selection: broken ones, copies, what the model does not know, and caps."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from bench.config.seeds import stream
from bench.data.neighbours import SHORTEST_DISTANCE, shortest_distances
from bench.data.references import are_far
from bench.data.structures import SMALLEST_VOLUME, Structures, spanned
from bench.errors import NothingLeftError, UserError
from bench.pools.frames import Frames

log = logging.getLogger(__name__)
AT_ONCE = 4096
"""Structures that are compared at a time: what stays in a processor's cache."""
SAME = 1e-8
"""Å, within which structures are the same: the last digit that extended XYZ writes."""
MOST_BETWEEN = 64
"""Structures that lie between two of the same by chance, when all are sorted by a number, are fewer."""
NOT_FINITE = "positions or a cell that are no numbers"
NO_CELL = "periodic without a cell"
UNKNOWN = "elements the model does not know"
COPIES = "copies of an earlier structure of the pool"
TOO_CLOSE = "atoms too close"
FORCES = "predicted forces above max_force"
UNCERTAIN = "uncertainty above max_uncertainty"
NEAR = "near-duplicates"
CAPPED = "beyond a cap"


@dataclass(frozen=True)
class Guards:
    """`min_distance` in Å between any two atoms; `max_force` in eV/Å, of the model's prediction on any atom.

    `max_uncertainty` in eV per atom, where the kernel predicts it. `tolerance`: structures whose features are closer
    than this fraction of the pool's spread are near-duplicates (0: none are). At most `per_file` structures of a file
    (a trajectory), `per_composition` of a composition.
    """

    min_distance: NonNegativeFloat = 0.5
    max_force: PositiveFloat | None = None
    max_uncertainty: PositiveFloat | None = None
    tolerance: NonNegativeFloat = 0.0
    per_file: PositiveInt | None = None
    per_composition: PositiveInt | None = None


class Sieve:
    """Which structures of a pool may be chosen, and how many were kept out for what."""

    def __init__(self, n: int) -> None:
        self.allowed: Bool[np.ndarray, " pool"] = np.ones(n, dtype=bool)
        self.rejected: Counter[str] = Counter()

    def reject(self, rows: Int[np.ndarray, " rows"] | Bool[np.ndarray, " pool"], why: str) -> int:
        """Keep structures out, and count those that were not yet; returns how many."""
        before = int(self.allowed.sum())
        self.allowed[rows] = False
        found = before - int(self.allowed.sum())
        if found:
            self.rejected[why] += found
        return found

    def in_words(self) -> str:
        """What was kept out, the most first."""
        return ", ".join(f"{count} {why}" for why, count in self.rejected.most_common())

    @property
    def rows(self) -> Int[np.ndarray, " allowed"]:
        """What may be chosen."""
        return np.flatnonzero(self.allowed)

    def check(self, n: int, *, at_most: bool = False) -> int:
        """How many can be chosen: `n`, or with `at_most` what is left. Raises UserError, saying what was kept out."""
        left, told = len(self.rows), self.in_words()
        if left == 0:
            raise NothingLeftError(f"none of {len(self.allowed)} structures of the pool can be chosen: {told}")
        if left < n and not at_most:
            raise UserError(
                f"n = {n}, but {left} of {len(self.allowed)} structures are left to choose from"
                + (f" ({told})" if told else "")
                + ": lower n, or loosen the guards"
            )
        return min(n, left)


def sift(
    frames: Frames,
    known: Iterable[int],
    others: Sequence[tuple[str, Structures]],
    guards: Guards,
    *,
    distances: bool = True,
) -> Sieve:
    """Apply the guards that need no prediction. `others`: structures that must not be chosen again, by what they are.

    `known` are the atomic numbers that the model knows; without `distances` atoms may be as close as they like.
    """
    data, sieve = frames.data, Sieve(len(frames))
    _reject_unusable(sieve, data, known)
    for what, structures in others:
        _reject_isolated(sieve, data, structures.isolated, what)
    _reject_copies(sieve, data, others)
    if distances:
        _reject_close(sieve, data, max(guards.min_distance, SHORTEST_DISTANCE))
    return sieve


def usable(data: Structures, known: Iterable[int], what: str) -> Structures:
    """Those of which features can be computed; what is left out is told: `what` says which structures these are."""
    sieve = _usable(data, known)
    if not sieve.rejected:
        return data
    log.warning("note: of the structures %s these do not count as covered: %s", what, sieve.in_words())
    return data.part(sieve.rows)


def check_usable(frames: Frames, known: Iterable[int]) -> None:
    """Raise UserError, naming the first, if there are structures of which no features can be computed."""
    sieve = _usable(frames.data, known)
    if sieve.rejected:
        left, first = int(sieve.allowed.sum()), frames.label(int(np.argmin(sieve.allowed)))
        raise UserError(
            f"of {len(frames) - left} of {len(frames)} structures nothing can be computed ({sieve.in_words()}),"
            f" the first is {first}: leave them out"
        )


def _usable(data: Structures, known: Iterable[int]) -> Sieve:
    sieve = Sieve(len(data))
    _reject_unusable(sieve, data, known)
    _reject_close(sieve, data, SHORTEST_DISTANCE)
    return sieve


def _reject_unusable(sieve: Sieve, data: Structures, known: Iterable[int]) -> None:
    finite = np.isfinite(data.positions).all(1)
    broken = np.zeros(len(data), dtype=bool)
    broken[np.searchsorted(data.offsets, np.flatnonzero(~finite), side="right") - 1] = True
    sieve.reject(broken | ~np.isfinite(data.cells).all((1, 2)), NOT_FINITE)
    if data.periodic.any():
        cells = np.where(np.isfinite(data.cells), data.cells, 0.0)
        sieve.reject(~(spanned(cells, data.periodic) > SMALLEST_VOLUME), NO_CELL)
    strange = np.ones(256, dtype=bool)
    strange[list(known)] = False
    if strange[data.atomic_numbers].any():
        sieve.reject(np.add.reduceat(strange[data.atomic_numbers].astype(np.int64), data.offsets[:-1]) > 0, UNKNOWN)


def _reject_close(sieve: Sieve, data: Structures, closest: float) -> None:
    rows = sieve.rows
    if len(rows):
        shortest = shortest_distances(data, rows, closest)
        sieve.reject(rows[shortest < closest], f"{TOO_CLOSE} (below {closest:g} Å)")


def _reject_isolated(sieve: Sieve, data: Structures, elements: Sequence[int], why: str) -> None:
    """Isolated atoms of elements for which such an atom is known."""
    alone = sieve.rows[data.n_atoms[sieve.rows] == 1] if elements else sieve.rows[:0]
    alone = alone[np.isin(data.atomic_numbers[data.offsets[alone]], elements)]
    far = [are_far(data.periodic[row], data.cells[row]) for row in alone.tolist()]
    sieve.reject(alone[np.array(far, dtype=bool)], why)


def _reject_copies(sieve: Sieve, data: Structures, others: Sequence[tuple[str, Structures]]) -> None:
    """Of structures that are the same: what is known already, and all but the first of the pool."""
    rows = sieve.rows
    if not len(rows):
        return
    own = data if len(rows) == len(data) else data.part(rows)
    sets = _alike([own, *(structures for _, structures in others)])
    what = [why for why, structures in others for _ in range(len(structures))]
    for alike in sets:
        known = next((what[place - len(own)] for place in alike if place >= len(own)), None)
        of_pool = rows[[place for place in alike if place < len(own)]]
        sieve.reject(of_pool if known else of_pool[1:], known or COPIES)


def _alike(parts: Sequence[Structures]) -> list[list[int]]:
    """The sets of structures that are the same, as ascending places in all parts end to end."""
    prints, tolerance = _fingerprints(parts)
    n_atoms = np.concatenate([one.n_atoms for one in parts])
    starts = np.cumsum([0, *(len(one) for one in parts)])
    order = np.argsort(prints[:, 0])
    prints, tolerance, n_atoms = prints[order], tolerance[order], n_atoms[order]
    first = np.arange(len(order))  # an earlier structure of the same set, or itself

    def root(place: int) -> int:
        while first[place] != place:
            place = int(first[place])
        return place

    def same(one: int, other: int) -> bool:
        (a, i), (b, j) = (
            (parts[part], place - int(starts[part]))
            for place in (one, other)
            for part in [int(np.searchsorted(starts, place, side="right")) - 1]
        )
        return _same(a, i, b, j)

    for step in range(1, min(MOST_BETWEEN, len(order))):
        near = np.abs(prints[step:] - prints[:-step]) <= tolerance[step:, None]
        if not near[:, 0].any():
            break
        found = np.flatnonzero(near.all(1) & (n_atoms[step:] == n_atoms[:-step]))
        found = found[first[order[found]] != first[order[found + step]]]
        for one, other in zip(order[found].tolist(), order[found + step].tolist(), strict=True):
            roots = sorted((root(one), root(other)))
            if roots[0] != roots[1] and same(one, other):
                first[roots[1]] = roots[0]
        while not np.array_equal(first, first[first]):
            first = first[first]
    sets: dict[int, list[int]] = {}
    for place in np.flatnonzero(np.isin(first, first[first != np.arange(len(first))])).tolist():
        sets.setdefault(int(first[place]), []).append(place)
    return [sets[key] for key in sorted(sets)]


def _fingerprints(
    parts: Sequence[Structures],
) -> tuple[Float[np.ndarray, "structures 2"], Float[np.ndarray, " structures"]]:
    """Two numbers of each structure, and how far apart they are at most for structures that are the same."""
    n_most = max(int(one.n_atoms.max()) for one in parts if len(one))
    weights = stream(0, "fingerprints").normal(size=(n_most, 3, 2))
    found = []
    for data in parts:
        for start in range(0, len(data), AT_ONCE):
            offsets = data.offsets[start : start + AT_ONCE + 1]
            atoms = slice(offsets[0], offsets[-1])
            of_place = weights[np.arange(offsets[0], offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))]
            of_atoms = np.einsum("ax,axk->ak", data.positions[atoms].astype(np.float64), of_place)
            of_atoms += data.atomic_numbers[atoms][:, None] * of_place[:, 0]
            found.append(np.add.reduceat(of_atoms, offsets[:-1] - offsets[0]))
    values = np.concatenate(found)
    farthest = SAME * np.abs(weights).sum(1).cumsum(0).max(1)
    of_atoms = farthest[np.concatenate([one.n_atoms for one in parts]) - 1]
    return values, of_atoms + 1e-12 * (1 + np.nan_to_num(np.abs(values), posinf=0.0).max())


def _same(one: Structures, row: int, other: Structures, other_row: int) -> bool:
    """Whether two structures of as many atoms agree, atom by atom."""
    a, b = (slice(data.offsets[n], data.offsets[n + 1]) for data, n in ((one, row), (other, other_row)))
    if not np.array_equal(one.atomic_numbers[a], other.atomic_numbers[b]):
        return False
    periodic = one.periodic[row]
    if not np.array_equal(periodic, other.periodic[other_row]):
        return False
    pairs = [(one.positions[a], other.positions[b])]
    if periodic.any():
        pairs.append((one.cells[row], other.cells[other_row]))
    return all(np.abs(x.astype(np.float64) - y).max() <= SAME for x, y in pairs)


def groups_of(frames: Frames, guards: Guards) -> list[tuple[str, int, list[str]]]:
    """The caps that are set: what they are about, how many, and each structure's group."""
    found = []
    if guards.per_file is not None:
        found.append(("file", guards.per_file, [frames.files[one] for one in frames.file]))
    if guards.per_composition is not None:
        found.append(("composition", guards.per_composition, compositions(frames.data)))
    return found


def compositions(data: Structures) -> list[str]:
    """The formula of each structure, elements by atomic number."""
    formulas: dict[bytes, str] = {}
    found = []
    for row in range(len(data)):
        numbers = np.sort(data.atomic_numbers[data.offsets[row] : data.offsets[row + 1]])
        key = numbers.tobytes()
        if key not in formulas:
            elements, counts = np.unique(numbers, return_counts=True)
            pairs = zip(elements.tolist(), counts.tolist(), strict=True)
            formulas[key] = "".join(f"{chemical_symbols[z]}{count if count > 1 else ''}" for z, count in pairs)
        found.append(formulas[key])
    return found


def beyond_caps(
    picked: Int[np.ndarray, " picked"], caps: Sequence[tuple[str, int, list[str]]]
) -> tuple[list[int], dict[str, set[str]]]:
    """The picks, in their order, that exceed no cap, and the groups that are full."""
    counts: dict[str, Counter[str]] = {what: Counter() for what, _, _ in caps}
    kept = []
    for row in picked.tolist():
        if all(counts[what][groups[row]] < most for what, most, groups in caps):
            kept.append(row)
            for what, _, groups in caps:
                counts[what][groups[row]] += 1
    full = {what: {group for group, count in counts[what].items() if count >= most} for what, most, _ in caps}
    return kept, full
