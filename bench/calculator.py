"""A trained potential as an ASE calculator: energies in eV (reference energies included) and forces in eV/Å."""

from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from bench.data.neighbours import find_neighbours
from bench.data.structures import Structures, check_structures
from bench.errors import UserError
from bench.model.geometry import GeometryBuilder
from bench.model.potential import whole_batch
from bench.training.store import load_potential


class PotentialCalculator(Calculator):
    """The model of a finished run (`model.pt`); a committee predicts its mean."""

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012 (ASE's way)

    def __init__(self, path: str | Path, device: str = "cpu", **keywords: Any) -> None:
        super().__init__(**keywords)
        self.potential, self.reference_energies, _ = load_potential(Path(path), device)

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        """Compute energy and forces. Raises UserError for an element the model was not trained on."""
        super().calculate(atoms, properties, system_changes)
        unknown = sorted(set(self.atoms.numbers.tolist()) - set(self.reference_energies))
        if unknown:
            raise UserError(f"the model knows Z = {sorted(self.reference_energies)} but the atoms hold Z = {unknown}")
        n_atoms, settings = len(self.atoms), self.potential.settings
        data = Structures(
            name="atoms",
            atomic_numbers=self.atoms.numbers.astype(np.int64),
            positions=self.atoms.positions.astype(np.float64),
            offsets=np.array([0, n_atoms]),
            cells=np.asarray(self.atoms.cell, dtype=np.float64)[None],
            periodic=np.asarray(self.atoms.pbc, dtype=bool)[None],
            energies=np.zeros(1),
            forces=None,
            reference_energies=self.reference_energies,
        )
        check_structures(data)
        neighbours = find_neighbours(data, settings.r_max)
        potential = self.potential
        builder = GeometryBuilder(
            data, neighbours, settings.r_min, settings.n_gaussians, potential.dtype, potential.device
        )
        batch = whole_batch(builder.build(np.array([0])), potential.n_models, with_pairs=True)
        energies, forces = potential.predict(batch, forces=True)
        energy = float(energies.double().mean()) - float(data.residual_energies[0])
        self.results = {"energy": energy, "free_energy": energy}
        if forces is not None:
            by_model = forces.double().reshape(potential.n_models, n_atoms, 3)
            self.results["forces"] = by_model.mean(0).cpu().numpy()
