"""An observer of ASE's dynamics that stops where the model knows too little, and keeps the structure."""

import io
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

from bench.errors import UserError, cannot_write
from bench.runs.record import make_folder

OF_STRUCTURE = ("energy_std", "max_force_std")
OF_ATOMS = ("energies_std", "forces_std")


class TooUncertain(Exception):  # noqa: N818 (it ends a run as asked)
    """The uncertainty has passed its bound; `structure` is where."""

    def __init__(self, message: str, structure: Any) -> None:
        super().__init__(message)
        self.structure = structure


class UncertaintyObserver:
    """Keeps structures whose uncertainty is above a bound, and stops the run at the first of them::

        observer = UncertaintyObserver(atoms, max_force_std=0.5, path="uncertain.xyz")
        dynamics.attach(observer)
        with contextlib.suppress(TooUncertain):
            dynamics.run(1000)

    The bounds are in the calculator's numbers: `energy_std_per_atom`, the energy's deviation over the number of atoms
    in eV, and `max_force_std` in eV/Å (committees); one of them suffices. Structures are appended to `path` as extended
    XYZ and stand in `structures`: the prediction as energy and forces, deviations as `energy_std`, `max_force_std`
    (info), `energies_std`, `forces_std` (arrays). With `stop=False` the run goes on and they are collected; attached
    with an interval, only every so many steps are looked at. What is no number counts as above the bound.
    """

    def __init__(
        self,
        atoms: Any,
        *,
        energy_std_per_atom: float | None = None,
        max_force_std: float | None = None,
        path: str | Path | None = None,
        stop: bool = True,
    ) -> None:
        given = {"energy_std_per_atom": energy_std_per_atom, "max_force_std": max_force_std}
        self.bounds = {name: bound for name, bound in given.items() if bound is not None}
        if not self.bounds:
            raise UserError("an UncertaintyObserver needs a bound: give energy_std_per_atom=… (eV) or max_force_std=…")
        for name, bound in self.bounds.items():
            if not bound > 0:
                raise UserError(f"{name} = {bound}: give a bound above zero")
        self.atoms, self.path, self.stop = atoms, None if path is None else Path(path), stop
        if self.path is not None:
            make_folder(self.path.absolute().parent)
            if self.path.is_dir():
                raise UserError(f"path = {self.path} is a folder: name a file")
        self.structures: list[Any] = []
        self.largest = dict.fromkeys(self.bounds, 0.0)
        """The largest values seen so far."""

    def __call__(self) -> None:
        """Look at the atoms as they are. Raises TooUncertain where it is to stop."""
        values = {name: self._value(name) for name in self.bounds}
        for name, value in values.items():
            self.largest[name] = max(self.largest[name], np.inf if np.isnan(value) else value)
        above = [name for name, value in values.items() if not value <= self.bounds[name]]
        if not above:
            return
        structure = with_uncertainty(self.atoms)
        self.structures.append(structure)
        if self.path is not None:
            text = io.StringIO()
            ase.io.write(text, structure, format="extxyz")
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(text.getvalue())
            except OSError as error:
                raise cannot_write(error, f"cannot write {self.path} ({error.strerror}): make room there") from None
        if self.stop:
            what = ", ".join(f"{name} = {values[name]:.4g} > {self.bounds[name]:g}" for name in above)
            raise TooUncertain(what, structure)

    def _value(self, name: str) -> float:
        calculator = self.atoms.calc
        asked = "max_force_std" if name == "max_force_std" else "energy_std"
        if asked not in getattr(calculator, "implemented_properties", ()):
            method = "'committee'" if name == "max_force_std" else "'gp_ll'"
            raise UserError(
                f"{name}: the calculator {type(calculator).__name__} does not say it as it is made: give"
                f" PotentialCalculator(path, uncertainty={method})"
            )
        value = calculator.get_property(asked, self.atoms)
        return float(value) if asked == name else float(value) / len(self.atoms)


def with_uncertainty(atoms: Any) -> Any:
    """A copy of atoms that holds what their calculator found: energy and forces, deviations in info and arrays."""
    from ase.calculators.singlepoint import SinglePointCalculator  # noqa: PLC0415 - ASE's own import is slow

    results = atoms.calc.results
    copy = atoms.copy()
    copy.info |= {name: results[name] for name in OF_STRUCTURE if name in results}
    for name in OF_ATOMS:
        if name in results:
            copy.arrays[name] = np.array(results[name])  # set_array would keep the type of one that is there
    copy.calc = SinglePointCalculator(copy, energy=results["energy"], forces=results["forces"])
    return copy
