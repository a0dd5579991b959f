"""From what a file holds to `Structures`: units converted, everything checked, also whether the units can be right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from bench.config.units import energy_unit, force_unit, length_unit
from bench.data.raw import RawStructures
from bench.data.references import constant_per_atom
from bench.data.structures import Structures, check_elements, check_structures
from bench.errors import UserError


@dataclass(frozen=True)
class Plausible:
    """Ranges that hold for the right units only, in eV and Å.

    `energies`: every energy per atom, relative to the reference energies. `forces`: the root mean square length of the
    forces on atoms that are not alone in their cell, where they are zero. `distances`: above the first lie all
    distances between atoms, below the second the shortest one of most structures.
    """

    energies: tuple[float, float]
    distances: tuple[float, float]
    forces: tuple[float, float] | None = None


def to_structures(
    name: str,
    raw: RawStructures,
    units: tuple[str, str],
    reference_energies: Mapping[int, float],
    forces_unit: str | None = None,
) -> Structures:
    """Convert to eV and Å. `units` of energy and length hold where the source says none. Raises UserError.

    Forces are in the energy's unit per length's, or in `forces_unit`. Where nothing has to be converted, positions and
    forces keep their precision; converted ones are float64. Without reference energies a dataset of one composition
    gets a constant per atom (`bench.data.references`): a choice of the zero that no result depends on.
    """
    energy = energy_unit(raw.energy_unit or units[0])
    length = length_unit(raw.length_unit or units[1])
    n = len(raw.energies)
    check_elements(raw.atomic_numbers, f"dataset {name}")
    force = energy / length if forces_unit is None else force_unit(forces_unit)
    energies = raw.energies.astype(np.float64) * energy
    data = Structures(
        name=name,
        atomic_numbers=raw.atomic_numbers.astype(np.uint8),
        positions=_scaled(raw.positions, length),
        offsets=np.concatenate([[0], np.cumsum(raw.n_atoms, dtype=np.int64)]),
        cells=np.zeros((n, 3, 3)) if raw.cells is None else raw.cells.astype(np.float64) * length,
        periodic=np.zeros((n, 3), dtype=bool) if raw.periodic is None else raw.periodic,
        energies=energies,
        forces=None if raw.forces is None else _scaled(raw.forces, force),
        reference_energies=dict(reference_energies)
        or constant_per_atom(name, raw.atomic_numbers, raw.n_atoms, energies),
        like_forces=raw.like_forces,
    )
    check_structures(data, raw.labels)
    return data


def check_plausible(
    data: Structures,
    plausible: Plausible,
    labels: Sequence[str],
    measured: Int[np.ndarray, " measured"],
    shortest: Float[np.ndarray, " measured"],
) -> None:
    """Refuse data whose units cannot be the declared ones. Raises UserError naming what was found and expected.

    `shortest` are the shortest distances in Å of the structures `measured`, infinite above `plausible.distances`.
    """
    per_atom = data.residual_energies / data.n_atoms
    low, high = plausible.energies
    outside = np.maximum(per_atom - high, low - per_atom) > 0
    worst = int(np.argmax(np.where(outside, np.abs(per_atom - np.median(per_atom)), -1)))
    remedy = "check the units, or whether this is that dataset (dataset.plausible holds the ranges)"
    if not low <= per_atom[worst] <= high:
        raise UserError(
            f"dataset {data.name}: energy of structure {worst} ({labels[worst]}) is {per_atom[worst]:.4g} eV per atom"
            f" relative to the reference energies, expected {low:g} to {high:g}: {remedy}"
        )
    typical = typical_force(data)
    if typical is not None and plausible.forces is not None:
        low, high = plausible.forces
        if not low <= typical <= high:
            raise UserError(
                f"dataset {data.name}: root mean square force is {typical:.4g} eV/Å, expected {low:g} to {high:g}:"
                f" {remedy}"
            )
    low, high = plausible.distances
    if len(measured) and not shortest.min() >= low:
        closest = int(np.argmin(shortest))
        structure = int(measured[closest])
        raise UserError(
            f"dataset {data.name}: two atoms of structure {structure} ({labels[structure]}) are"
            f" {shortest[closest]:.3g} Å apart, expected at least {low:g}: {remedy}"
        )
    molecules = shortest[data.n_atoms[measured] > 1]
    if len(molecules) and np.isinf(np.median(molecules)):
        raise UserError(
            f"dataset {data.name}: in half of the structures no two atoms are closer than {high:g} Å: {remedy}"
        )


def typical_force(data: Structures) -> float | None:
    """The root mean square length of the forces in eV/Å on atoms that are not alone in their cell; None without any."""
    if data.forces is None or not (data.n_atoms > 1).any():
        return None
    together = np.repeat(data.n_atoms > 1, data.n_atoms)
    forces = data.forces if together.all() else data.forces[together]
    return float(np.sqrt(3 * np.mean(np.square(forces, dtype=np.float64))))


def _scaled(array: Float[np.ndarray, "atoms 3"], factor: float) -> Float[np.ndarray, "atoms 3"]:
    return array if factor == 1 else array.astype(np.float64) * factor
