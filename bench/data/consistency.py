"""Whether energies, forces and units of own data can be right: refused where impossible, told where unlikely.

Along a trajectory the energy changes by what the forces do, E_2 − E_1 ≈ −(F_1 + F_2)·(r_2 − r_1)/2: this compares the
units (and signs) of energies, forces and lengths with each other. A common wrong unit of energies and forces shows
nowhere but in the size of total energies and of forces.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase.units import Hartree
from jaxtyping import Float

from bench.config.units import force_unit
from bench.data.convert import typical_force
from bench.data.structures import Structures
from bench.errors import UserError

NEAR = 0.3
"""Å; atoms of consecutive frames of a trajectory move less."""
FEWEST, MOST = 8, 2000
"""Pairs of frames that can be judged, and that are looked at."""
AGREE, WITHIN = 0.8, 1.25
"""A ratio is taken for real if this part of the pairs has it within this factor."""
SAME_UNITS = 1.4
"""Å and Bohr, the nearest two units, differ by 1.9; the trapezoid rule errs by less than this factor."""
FORCE_UNITS = ("eV/Å", "meV/Å", "kcal/mol/Å", "kJ/mol/Å", "Hartree/Å", "Hartree/Bohr", "Rydberg/Bohr", "eV/Bohr")
USUAL_FORCES = (0.05, 15.0)
"""eV/Å, root mean square: relaxed structures below, collisions above."""
RELATIVE_ENERGIES = (-20.0, 20.0)
"""eV per atom above isolated atoms, elements at rest, or the reference states of plane-wave codes."""
LOWEST = 1.2
"""No energy lies below the nonrelativistic one of all electrons by more than this factor."""
VALENCE_ENERGIES = {
    1: -13.6,
    5: -71.4,
    6: -148.0,
    7: -266.9,
    8: -433.1,
    9: -658.8,
    14: -103.1,
    15: -176.8,
    16: -276.4,
    17: -408.4,
}
"""eV: minus the sum of the ionisation energies of the valence shell, what pseudopotential codes give an atom."""

_UNIT = "is dataset.energy_unit right?"


@dataclass(frozen=True)
class Slope:
    """ΔE = `value` · (−F·Δr) over so many pairs of consecutive frames, in the units as declared."""

    value: float
    pairs: int


def check_consistent(data: Structures) -> None:
    """Refuse energies and forces of different units, or signs, and energies that no electrons have.

    Raises UserError naming the figures and the remedy.
    """
    slope = energy_force_slope(data)
    if slope is not None and slope.value < 0:
        raise UserError(
            f"dataset {data.name}: along {slope.pairs} pairs of consecutive frames energies change by {slope.value:.3g}"
            " times what the forces say: the forces have the wrong sign (they are gradients): negate them in the file"
        )
    if slope is not None and not 1 / SAME_UNITS < slope.value < SAME_UNITS:
        raise UserError(
            f"dataset {data.name}: along {slope.pairs} pairs of consecutive frames energies change by {slope.value:.3g}"
            " times what the forces say: energies, forces and lengths are not in the units declared"
            f" (dataset.energy_unit, length_unit; where only the forces differ, {_unit_for(slope.value)})"
        )
    per_atom, bound = data.energies / data.n_atoms, LOWEST * _all_electrons(data) / data.n_atoms
    below = np.flatnonzero(per_atom < bound)
    if below.size:
        first = int(below[0])
        raise UserError(
            f"dataset {data.name}: the energy of structure {first} is {per_atom[first]:.4g} eV per atom, but all"
            f" electrons of its atoms have about {bound[first] / LOWEST:.4g}: dataset.energy_unit cannot be right"
        )


def unlikely(data: Structures) -> Iterator[str]:
    """What is possible and seldom: a line each, with figures."""
    typical = typical_force(data)
    low, high = USUAL_FORCES
    if typical is not None and not low <= typical <= high:
        kind = "structures at rest have such" if typical < low else "colliding atoms have such"
        yield f"the root mean square force is {typical:.3g} eV/Å, mostly it is {low:g} to {high:g}: {kind}; {_UNIT}"
    per_atom = float(np.median(data.energies / data.n_atoms))
    if RELATIVE_ENERGIES[0] <= per_atom <= RELATIVE_ENERGIES[1]:
        return
    if per_atom > 0:
        yield f"the median energy is {per_atom:.4g} eV per atom, total energies are negative: {_UNIT}"
        return
    every = float(np.median(_all_electrons(data) / data.n_atoms))
    if not set(np.unique(data.atomic_numbers).tolist()) <= set(VALENCE_ENERGIES):
        return
    valence = float(np.median(_sums(data, VALENCE_ENERGIES) / data.n_atoms))
    if not (0.75 < per_atom / valence < 1.25 or 0.9 < per_atom / every < 1.1):
        yield (
            f"the median energy is {per_atom:.4g} eV per atom; for these elements all electrons would give about"
            f" {every:.4g}, valence electrons {valence:.4g}, and energies relative to atoms lie above"
            f" {RELATIVE_ENERGIES[0]:g}: {_UNIT}"
        )


def energy_force_slope(data: Structures) -> Slope | None:
    """How energies change along a trajectory, measured by its forces; None where no such pairs of frames agree."""
    if data.forces is None or len(data) < FEWEST:
        return None
    rows = np.unique(np.linspace(0, len(data) - 2, MOST).astype(np.int64))
    changes = [change for row in rows.tolist() if (change := _change(data, row)) is not None]
    if len(changes) < FEWEST:
        return None
    energy, work = np.array(changes).T
    # small changes are lost in the rounding of what the file prints
    large = np.abs(work) >= np.median(np.abs(work))
    if not work[large].all():
        return None
    ratios, weights = energy[large] / work[large], np.abs(work[large])
    if not np.isfinite(ratios).all() or len(ratios) < FEWEST:
        return None
    order = np.argsort(ratios)
    middle = int(np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2))
    value = float(ratios[order][middle])
    agree = (ratios / value > 1 / WITHIN) & (ratios / value < WITHIN) if value else np.zeros(1)
    return Slope(value, len(ratios)) if agree.mean() >= AGREE else None


def _change(data: Structures, row: int) -> tuple[float, float] | None:
    """ΔE and −F·Δr from a structure to the next; None unless they are frames of one trajectory in one cell."""
    one, other = (slice(data.offsets[i], data.offsets[i + 1]) for i in (row, row + 1))
    same = np.array_equal(data.atomic_numbers[one], data.atomic_numbers[other])
    if not same or not np.array_equal(data.cells[row], data.cells[row + 1]) or data.forces is None:
        return None
    moved = data.positions[other].astype(np.float64) - data.positions[one]
    periodic = data.periodic[row]
    if periodic.any():
        moved = _unwrapped(moved, data.cells[row][periodic])
    farthest = float(np.abs(moved).max())
    if not 0 < farthest < NEAR:
        return None
    work = -0.5 * float(np.sum((data.forces[one].astype(np.float64) + data.forces[other]) * moved))
    return float(data.energies[row + 1] - data.energies[row]), work


def _unwrapped(moved: Float[np.ndarray, "atoms 3"], vectors: Float[np.ndarray, "axes 3"]) -> np.ndarray:
    """Displacements without jumps by whole cell vectors."""
    return moved - np.round(moved @ np.linalg.pinv(vectors)) @ vectors


def _unit_for(slope: float) -> str:
    """The unit of forces that would make energies and forces agree."""
    ratios = {
        f"{unit} instead of {declared}": force_unit(unit) / force_unit(declared)
        for unit, declared in itertools.permutations(FORCE_UNITS, 2)
    }
    near = min(ratios, key=lambda name: abs(np.log(ratios[name] / slope)))
    return f"set dataset.forces_unit, e.g. {near}"


def _all_electrons(data: Structures) -> Float[np.ndarray, " structures"]:
    """Nonrelativistic energies of the separate atoms in eV: −0.7687 Z^(7/3) + Z²/2 − 0.2699 Z^(5/3) Hartree each.

    The statistical atom with Scott's and Schwinger's terms, right within a few percent (H 8, C 1, Ti 0.1).
    """
    numbers = np.unique(data.atomic_numbers).astype(np.float64)
    energies = Hartree * (-0.7687 * numbers ** (7 / 3) + 0.5 * numbers**2 - 0.2699 * numbers ** (5 / 3))
    return _sums(data, dict(zip(numbers.astype(int).tolist(), energies.tolist(), strict=True)))


def _sums(data: Structures, of_elements: dict[int, float]) -> Float[np.ndarray, " structures"]:
    table = np.zeros(max(of_elements) + 1)
    table[list(of_elements)] = list(of_elements.values())
    return np.add.reduceat(table[data.atomic_numbers], data.offsets[:-1])


def remarks(data: Structures, labels: Sequence[str]) -> Iterator[str]:
    """Lines about the unlikely, and about a label that stands far from all others."""
    yield from unlikely(data)
    per_atom = data.residual_energies / data.n_atoms
    away = np.abs(per_atom - np.median(per_atom))
    usual = float(np.median(away))
    worst = int(np.argmax(away))
    if len(data) >= FEWEST and away[worst] > max(1.0, 50 * usual):
        yield (
            f"the energy of structure {worst} ({labels[worst]}) lies {away[worst]:.3g} eV per atom from the median,"
            f" half of all within {usual:.2g}: is that label right?"
        )
