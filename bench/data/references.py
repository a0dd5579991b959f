"""Reference energies: given by element, a constant per atom for one composition, or from isolated atoms of the data."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from ase.data import atomic_numbers as numbers_of_symbols
from ase.data import chemical_symbols
from ase.geometry import complete_cell, minkowski_reduce
from jaxtyping import Bool, Float, Integer
from pydantic import BeforeValidator

from bench.data.raw import RawStructures
from bench.data.structures import SMALLEST_VOLUME, spanned
from bench.errors import UserError, nearest

ISOLATED_ATOMS = "isolated_atoms"
APART = 8.0
"""Å; an atom whose images are all farther away is isolated, as in a large cell of a plane-wave code."""
SAME = 1e-6
"""Relative difference of energies that are the same."""
FAR = 50.0
"""eV per atom; a first structure farther from the others is no measure of them."""


def by_number(given: Any) -> Any:
    """Element symbols as keys become atomic numbers. Raises ValueError for an unknown symbol."""
    if not isinstance(given, Mapping):
        return given
    numbers: dict[Any, Any] = {}
    for key, energy in given.items():
        if isinstance(key, str) and not key.isdigit() and key not in numbers_of_symbols:
            raise ValueError(f"{key!r} is no element, {nearest(key, chemical_symbols[1:])}")
        number = numbers_of_symbols.get(key, key)
        if number in numbers:
            raise ValueError(f"{key!r} is given twice")
        numbers[number] = energy
    return numbers


References = Annotated[dict[int, float], BeforeValidator(by_number)] | Literal["isolated_atoms"] | None
"""eV per atomic number or symbol; `isolated_atoms` takes them from the data; None for data of one composition."""


def constant_per_atom(
    name: str,
    atomic_numbers: Integer[np.ndarray, " atoms"],
    n_atoms: Integer[np.ndarray, " structures"],
    energies: Float[np.ndarray, " structures"],
) -> dict[int, float]:
    """The first structure's energy per atom in eV, rounded to 10 meV, for every element of the only composition.

    The median takes its place where it is far from all others. Raises UserError for several compositions.
    """
    elements, kinds = np.unique(atomic_numbers, return_inverse=True)
    if len(energies) == 0 or not n_atoms.all() or not atomic_numbers.all():  # what check_structures refuses
        return dict.fromkeys(elements.tolist(), 0.0)
    counts = np.zeros((len(energies), len(elements)))
    np.add.at(counts, (np.repeat(np.arange(len(energies)), n_atoms), kinds), 1)
    fractions = counts / counts.sum(1, keepdims=True)
    if not np.allclose(fractions, fractions[0]):
        zeros = ",".join(f"{chemical_symbols[z]}:0" for z in elements.tolist())
        raise UserError(
            f'dataset {name} holds different compositions: give "dataset.reference_energies={{{zeros}}}", instead of'
            " the zeros the energies of isolated atoms, or others that suit, in eV; or, where the data hold isolated"
            f" atoms, dataset.reference_energies={ISOLATED_ATOMS}"
        )
    per_atom = energies / n_atoms
    median = float(np.median(per_atom))
    constant = float(per_atom[0]) if not abs(per_atom[0] - median) > FAR else median
    return dict.fromkeys(elements.tolist(), round(constant, 2))


def take_isolated_atoms(
    name: str, raw: RawStructures, energy: float, length: float
) -> tuple[dict[int, float], RawStructures]:
    """Reference energies in eV from the isolated atoms of the data, and the data without them.

    `energy` is one unit of the file's energies in eV, `length` one of its lengths in Å. Raises UserError if an element
    has none, or two that differ.
    """
    starts = np.cumsum(raw.n_atoms) - raw.n_atoms
    found: dict[int, tuple[float, str]] = {}
    alone = [row for row in range(len(raw.energies)) if is_isolated(raw, row, length)]
    for row in alone:
        number, value = int(raw.atomic_numbers[starts[row]]), float(raw.energies[row]) * energy
        before, label = found.setdefault(number, (value, raw.labels[row]))
        if abs(value - before) > SAME * max(1.0, abs(value)):
            symbol = chemical_symbols[number]
            raise UserError(
                f"dataset {name}: isolated {symbol} has {before:.6g} eV in {label} and {value:.6g} eV in"
                f" {raw.labels[row]}: remove one, or give dataset.reference_energies={{{symbol}:…}}"
            )
    rest = raw.take(np.setdiff1d(np.arange(len(raw.energies)), np.array(alone, dtype=np.int64)))
    missing = sorted(set(np.unique(rest.atomic_numbers).tolist()) - set(found))
    if missing:
        have = ", ".join(chemical_symbols[z] for z in sorted(found)) or "none"
        raise UserError(
            f"dataset {name}: no isolated atom of {', '.join(chemical_symbols[z] for z in missing)} (found: {have}):"
            " add a frame of that atom alone without periodicity, or marked config_type=IsolatedAtom, or give"
            " dataset.reference_energies by element"
        )
    return {number: value for number, (value, _) in sorted(found.items())}, rest


def is_isolated(raw: RawStructures, row: int, length: float) -> bool:
    """Whether a structure is one atom alone: marked as such, not periodic, or with images that are far away.

    `length` is one unit of the file's lengths in Å.
    """
    if raw.n_atoms[row] != 1:
        return False
    if raw.periodic is None or raw.cells is None or not raw.periodic[row].any():
        return True
    if raw.isolated is not None and raw.isolated[row]:
        return True
    return are_far(raw.periodic[row], raw.cells[row] * length)


def are_far(periodic: Bool[np.ndarray, " 3"], cell: Float[np.ndarray, "3 3"]) -> bool:
    """Whether the periodic images of an atom, in a cell in Å, are too far away to be felt."""
    if not periodic.any():
        return True
    if not np.isfinite(cell).all() or spanned(cell[None], periodic[None])[0] <= SMALLEST_VOLUME:
        return False
    reduced, _ = minkowski_reduce(complete_cell(cell), periodic)
    return bool(np.linalg.norm(reduced[periodic], axis=1).min() > APART)
