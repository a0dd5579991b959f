"""A trained potential as an ASE calculator: energies in eV (reference energies included), eV/Å and eV/Å³."""

import warnings
from collections.abc import Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress

from bench.config.places import path_of
from bench.config.plugins import name_plugins
from bench.data.structures import Structures, check_structures
from bench.errors import UserError
from bench.learning.models import Model
from bench.potentials.base import View
from bench.runs.record import MODEL, checksums_beside
from bench.training.store import load_potential
from bench.uncertainty.estimate import Deviations, Estimator
from bench.uncertainty.kept import of_file, of_model

UNCERTAINTIES = ("energy_std", "energies_std", "forces_std", "max_force_std")


class NoStressError(UserError, PropertyNotImplementedError):
    """Stress is asked of atoms without a volume."""


class PotentialCalculator(Calculator):
    """The model of a finished run (`model.pt`), or one trained by `bench.api.train`; a committee predicts its mean.

    The free energy is the energy: the forces and the stress are its derivatives. The stress, like ASE's own, is that of
    the whole cell, periodic or not; without three cell vectors there is none. `plugins` names the module of a potential
    from outside the project.

    `uncertainty` asks for standard deviations (`bench.uncertainty.estimate` has the formulas): `energy_std` of the
    energy, `energies_std` of the atoms' own energies, in eV, and of a committee `forces_std` of the atoms' forces and
    their largest, `max_force_std`, in eV/Å. They are multiplied by the scale found on the run's validation set unless
    `calibrated` is false. The first time this reads the data of the run; the result is kept beside the model.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 (ASE's way)

    def __init__(
        self,
        path: str | Path | Model,
        device: str = "cpu",
        plugins: str | Sequence[str] = (),
        uncertainty: str | None = None,
        calibrated: bool = True,
        **keywords: Any,
    ) -> None:
        super().__init__(**keywords)
        name_plugins([plugins] if isinstance(plugins, str) else plugins)
        file = path.file if isinstance(path, Model) else path_of(path)
        if file.is_dir():
            file /= MODEL
        loaded = (
            (path.potential, path.reference_energies, path.seen)
            if isinstance(path, Model)
            else load_potential(file, device, checksums_beside(file))
        )
        self.potential, self.reference_energies, self.trained_on = loaded
        self._warned: set[tuple[int, int]] = set()
        self.calibrated = calibrated
        self.estimator: Estimator | None = None
        if uncertainty is not None:
            fitted = of_model(path, uncertainty) if isinstance(path, Model) else None
            fitted = fitted or of_file(file, self.potential, uncertainty, calibrated=calibrated)
            self.estimator = fitted.of(self.potential)
            offered = UNCERTAINTIES if uncertainty == "committee" else UNCERTAINTIES[:2]
            self.implemented_properties = [*self.implemented_properties, *offered]

    def __getstate__(self) -> dict[str, Any]:
        """Without the feature maps, which are functions: `__setstate__` makes them again."""
        return self.__dict__ | {"estimator": self.estimator and self.estimator.fitted}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if state["estimator"] is not None:
            self.estimator = state["estimator"].of(self.potential)

    def calculate(
        self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        """Compute everything at once.

        Raises UserError for an element that no training structure held, and warns once of each pair of elements that
        was never within the cutoff in training: nothing is known of their interaction.
        """
        super().calculate(atoms, properties, system_changes)
        self._check_elements()
        if "stress" in properties and self.atoms.cell.rank < 3:
            raise NoStressError(
                f"no stress of atoms with {self.atoms.cell.rank} cell vectors, which have no volume: give three"
            )
        n_atoms, potential = len(self.atoms), self.potential
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
        precision, device = str(potential.dtype).removeprefix("torch."), str(potential.device)
        view: View = potential.architecture.on(data, precision, device)
        self._warn_of_pairs(view)
        prepared = view.prepare(np.array([0]), forces=True)
        predicted = potential.predict_in_full(prepared.gather(np.zeros((potential.n_models, 1), dtype=np.int64)))
        references = np.array([self.reference_energies[int(z)] for z in self.atoms.numbers])
        if predicted.atomic is None:
            energy = float(predicted.energies.double().mean()) + float(references.sum())
            self.results = {"energy": energy, "free_energy": energy}
        else:
            by_model = predicted.atomic.double().reshape(potential.n_models, n_atoms)
            energy = float(by_model.sum(1).mean()) + float(references.sum())
            energies = by_model.mean(0).cpu().numpy() + references
            self.results = {"energy": energy, "free_energy": energy, "energies": energies}
        forces = predicted.forces.double().reshape(potential.n_models, n_atoms, 3)
        self.results["forces"] = forces.mean(0).cpu().numpy()
        if self.atoms.cell.rank == 3:
            virial = predicted.virials[:, 0].mean(0).cpu().numpy()
            self.results["stress"] = full_3x3_to_voigt_6_stress((virial + virial.T) / 2) / self.atoms.get_volume()
        if self.estimator is not None:
            found = self.estimator.of_one(prepared, predicted, calibrated=self.calibrated)
            self.results |= {name: values for name, values in _results(found).items() if values is not None}

    def energy_interval(self, coverage: float, atoms: Any = None) -> tuple[float, float]:
        """The energies in eV between which the true one lies with at least this probability (conformal).

        That holds for structures drawn as those of the validation set were. Raises UserError.
        """
        known = self.estimator.fitted.energy if self.estimator else None
        if known is None or not self.calibrated:
            raise UserError(
                "an interval needs a calibrated uncertainty: PotentialCalculator(path, uncertainty='gp_ll')"
            )
        energy = self.get_property("energy", atoms)
        half = known.half_width(self.get_property("energy_std", atoms), coverage)
        return energy - half, energy + half

    def _check_elements(self) -> None:
        """A file of an earlier version does not say what it was trained on: then its reference energies do."""
        present = set(self.atoms.numbers.tolist())
        declared = set(self.reference_energies)
        if present - declared:
            raise UserError(
                f"the model knows Z = {sorted(declared)} but the atoms hold Z = {sorted(present - declared)}"
            )
        trained = set(self.trained_on.get("elements", declared))
        if present - trained:
            raise UserError(
                f"the model was trained on {_symbols(trained)}; {_symbols(present - trained)} was declared, but no"
                " training structure held it: train on structures that do"
            )

    def _warn_of_pairs(self, view: View) -> None:
        if "pairs" not in self.trained_on:
            return
        numbers = self.atoms.numbers.astype(np.int64)
        told = {(a, b) for a, b in self.trained_on["pairs"]} | self._warned
        if told.issuperset(combinations_with_replacement(np.unique(numbers).tolist(), 2)):
            return
        centres, neighbours, _ = view.neighbours.pairs_of(view.data, np.array([0]))
        pairs = np.stack([numbers[centres], numbers[neighbours]], axis=1)
        present = {(int(a), int(b)) for a, b in np.unique(np.sort(pairs, axis=1), axis=0)}
        unseen = sorted(present - told)
        if unseen:
            self._warned |= set(unseen)
            named = ", ".join(f"{chemical_symbols[a]}-{chemical_symbols[b]}" for a, b in unseen)
            warnings.warn(
                f"no training structure held {named} within the cutoff of {view.neighbours.r_max:g} Å: their"
                " interaction is a guess",
                stacklevel=2,
            )


def _results(found: Deviations) -> dict[str, Any]:
    largest = None if found.forces is None else float(found.forces.max())
    return dict(zip(UNCERTAINTIES, (float(found.energy[0]), found.energies, found.forces, largest), strict=True))


def _symbols(numbers: set[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in sorted(numbers))
