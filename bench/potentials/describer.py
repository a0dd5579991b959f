"""What describes structures without any label of ours: a model that others trained, or a fixed descriptor."""

import importlib.util
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from ase import Atoms
from jaxtyping import Float

from bench.data.structures import SMALLEST_VOLUME, Structures
from bench.errors import UserError


@runtime_checkable
class Describer(Protocol):
    """A dataclass that a kernel's yaml names as its `source`; the fields are the keys."""

    def content(self) -> str:
        """All that its features depend on beside the structures: settings, version of the library, weights."""

    def check(self, data: Structures) -> None:
        """Refuse what it cannot describe: a library that is missing, elements, molecules. Raises UserError."""

    def describe(
        self, structures: Sequence[Atoms], species: tuple[int, ...]
    ) -> Float[np.ndarray, "structures features"]:
        """A row for each structure, in float64, independent of the others; `species` are the dataset's elements."""


def check_installed(package: str, source: str, extra: str, where: str = "") -> None:
    """Raise UserError where a package is missing."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{source} needs {package}, which is not installed: pip install 'bmdal-bench[{extra}]'{where}")


def check_elements(data: Structures, known: Sequence[int], source: str) -> None:
    """Raise UserError where a dataset holds elements that a model was not trained on."""
    missing = sorted(set(np.unique(data.atomic_numbers).tolist()) - set(known))
    if missing:
        raise UserError(f"{source} does not know Z = {missing} of dataset {data.name}: choose another kernel")


def check_cells(data: Structures, source: str) -> None:
    """Raise UserError where a structure has no cell of three vectors."""
    flat = np.flatnonzero(np.abs(np.linalg.det(data.cells)) < SMALLEST_VOLUME)
    if len(flat):
        raise UserError(
            f"{source} needs a cell around every structure, and structure {flat[0]} of dataset {data.name} has none:"
            " set kernel.source.box=10, which puts so many Å of vacuum around molecules"
        )


def in_box(atoms: Atoms, box: float) -> Atoms:
    """A molecule in a periodic cell with `box` Å between its images; a structure with a cell as it is."""
    if abs(np.linalg.det(atoms.cell.array)) >= SMALLEST_VOLUME:
        return atoms
    extent = np.ptp(atoms.positions, axis=0)
    return Atoms(atoms.numbers, positions=atoms.positions - atoms.positions.min(0), cell=extent + box, pbc=True)
