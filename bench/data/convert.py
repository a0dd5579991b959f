"""From what a file holds to `Structures`: units converted, everything checked, also whether the units can be right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from bench.data.structures import Structures, check_structures
from bench.errors import UserError
from bench.units import energy_unit, length_unit


@dataclass(frozen=True)
class RawStructures:
    """Structures as a source holds them: atoms flat, structure after structure, in the units of the source.

    `labels` are the names the source gives them. `cells` and `periodic` are None for molecules. The units are None
    where the source does not say them.
    """

    labels: list[str]
    n_atoms: Integer[np.ndarray, " structures"]
    atomic_numbers: Integer[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    energies: Float[np.ndarray, " structures"]
    forces: Float[np.ndarray, "atoms 3"] | None = None
    cells: Float[np.ndarray, "structures 3 3"] | None = None
    periodic: Bool[np.ndarray, "structures 3"] | None = None
    energy_unit: str | None = None
    length_unit: str | None = None

    def part(self, start: int, stop: int) -> "RawStructures":
        """The structures start:stop. Raises UserError if they are not there."""
        if not 0 <= start < stop <= len(self.energies):
            raise UserError(f"there are no rows {start}:{stop}: give two of 0 to {len(self.energies)}, ascending")
        ends = np.concatenate([[0], np.cumsum(self.n_atoms, dtype=np.int64)])
        rows, atoms = slice(start, stop), slice(ends[start], ends[stop])
        return replace(
            self,
            labels=self.labels[rows],
            n_atoms=self.n_atoms[rows],
            atomic_numbers=self.atomic_numbers[atoms],
            positions=self.positions[atoms],
            energies=self.energies[rows],
            forces=None if self.forces is None else self.forces[atoms],
            cells=None if self.cells is None else self.cells[rows],
            periodic=None if self.periodic is None else self.periodic[rows],
        )


@dataclass(frozen=True)
class Plausible:
    """Ranges that hold for the right units only, in eV and Å.

    `energies`: every energy per atom, relative to the reference energies. `forces`: the root mean square length of the
    forces on atoms. `distances`: above the first lie all distances between atoms, below the second the shortest one of
    most structures.
    """

    energies: tuple[float, float]
    distances: tuple[float, float]
    forces: tuple[float, float] | None = None


def to_structures(
    name: str, raw: RawStructures, units: tuple[str, str], reference_energies: Mapping[int, float]
) -> Structures:
    """Convert to eV and Å. `units` of energy and length hold where the source says none. Raises UserError.

    Where nothing has to be converted, positions and forces keep their precision; converted ones are float64. Without
    reference energies a dataset of one composition gets a constant per atom, the first structure's energy rounded to
    10 meV: a choice of the zero that no result depends on; several compositions need references.
    """
    energy = energy_unit(raw.energy_unit or units[0])
    length = length_unit(raw.length_unit or units[1])
    n = len(raw.energies)
    energies = raw.energies.astype(np.float64) * energy
    data = Structures(
        name=name,
        atomic_numbers=raw.atomic_numbers.astype(np.uint8),
        positions=_scaled(raw.positions, length),
        offsets=np.concatenate([[0], np.cumsum(raw.n_atoms, dtype=np.int64)]),
        cells=np.zeros((n, 3, 3)) if raw.cells is None else raw.cells.astype(np.float64) * length,
        periodic=np.zeros((n, 3), dtype=bool) if raw.periodic is None else raw.periodic,
        energies=energies,
        forces=None if raw.forces is None else _scaled(raw.forces, energy / length),
        reference_energies=dict(reference_energies) or _constant_per_atom(name, raw, energies),
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
    worst = int(np.argmax(np.maximum(per_atom - high, low - per_atom)))
    remedy = "check the units, or whether this is that dataset (dataset.plausible holds the ranges)"
    if not low <= per_atom[worst] <= high:
        raise UserError(
            f"dataset {data.name}: energy of structure {worst} ({labels[worst]}) is {per_atom[worst]:.4g} eV per atom"
            f" relative to the reference energies, expected {low:g} to {high:g}: {remedy}"
        )
    if data.forces is not None and plausible.forces is not None:
        typical = float(np.sqrt(3 * np.mean(np.square(data.forces, dtype=np.float64))))
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


def _scaled(array: Float[np.ndarray, "atoms 3"], factor: float) -> Float[np.ndarray, "atoms 3"]:
    return array if factor == 1 else array.astype(np.float64) * factor


def _constant_per_atom(name: str, raw: RawStructures, energies: Float[np.ndarray, " structures"]) -> dict[int, float]:
    if len(energies) == 0:
        return {}
    elements, kinds = np.unique(raw.atomic_numbers, return_inverse=True)
    counts = np.zeros((len(energies), len(elements)))
    np.add.at(counts, (np.repeat(np.arange(len(energies)), raw.n_atoms), kinds), 1)
    fractions = counts / counts.sum(1, keepdims=True)
    if not np.allclose(fractions, fractions[0]):
        zeros = ",".join(f"{z}:0" for z in elements.tolist())
        raise UserError(
            f"dataset {name} holds different compositions: give dataset.reference_energies={{{zeros}}}, instead of the"
            " zeros the energies of isolated atoms, or others that suit, in eV"
        )
    constant = round(float(energies[0] / raw.n_atoms[0]), 2)
    return dict.fromkeys(elements.tolist(), constant)
