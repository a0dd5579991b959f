"""Units of own data: refused where energies and forces disagree or no electrons have such energies, else told."""

import dataclasses
import logging
import re

import ase
import ase.build
import ase.io
import ase.units
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import PROJECT, make_structures

from bench.config.units import ENERGY_UNITS, LENGTH_UNITS, force_unit
from bench.data.consistency import check_consistent, energy_force_slope, unlikely
from bench.data.convert import Plausible
from bench.data.datasets.file import FileDataset
from bench.errors import UserError

WIDE = Plausible(energies=(-60.0, 60.0), forces=(0.0, 30.0), distances=(0.4, 4.0))
KCAL = ase.units.kcal / ase.units.mol


def trajectory(n=24, energy=1.0, force=1.0, length=1.0, wrapped=False):
    """Copper by EMT, in a straight line of random steps; labels in other units by their factors."""
    generator = np.random.default_rng(0)
    atoms = ase.build.bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    atoms.calc = EMT()
    frames = []
    for _ in range(n):
        atoms.positions += 0.03 * generator.normal(size=(len(atoms), 3))
        frame = atoms.copy()
        if wrapped:
            frame.wrap()
        frame.set_cell(frame.cell / length, scale_atoms=True)
        labels = {"energy": atoms.get_potential_energy() / energy, "forces": atoms.get_forces() / force}
        frame.calc = SinglePointCalculator(frame, **labels)
        frames.append(frame)
    return frames


def load(tmp_path, frames, **changes):
    ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
    given = {"name": "mine", "path": str(tmp_path / "a.xyz"), "energy_unit": "eV", "length_unit": "Å"}
    return FileDataset(**{**given, "plausible": WIDE, "reference_energies": None, **changes}).load()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_trajectory_in_one_unit(tmp_path, wrapped):
    """Energies and forces agree, also where atoms jump through the cell's border, and in any unit declared rightly."""
    for unit in ("eV", "kcal/mol"):
        factor = ENERGY_UNITS[unit]
        data = load(tmp_path, trajectory(energy=factor, force=factor, wrapped=wrapped), energy_unit=unit)
        slope = energy_force_slope(data)
        assert slope.value == pytest.approx(1.0, abs=0.05) and slope.pairs >= 8
    both = trajectory(energy=ENERGY_UNITS["Hartree"], force=force_unit("Hartree/Bohr"), wrapped=wrapped)
    assert load(tmp_path, both, energy_unit="Hartree", forces_unit="Hartree/Bohr").forces is not None


DISAGREE = {
    "energies in eV, forces in kcal/mol/Å": (
        {"force": KCAL},
        {},
        "change by 0.04.* set dataset.forces_unit, e.g. kcal/mol/Å instead of eV/Å",
    ),
    "Hartree, Hartree/Bohr": (
        {"energy": ase.units.Hartree, "force": ase.units.Hartree / ase.units.Bohr},
        {"energy_unit": "Hartree"},
        "times what the forces say: .* set dataset.forces_unit, e.g. Hartree/Bohr instead of Hartree/Å",
    ),
    "positions in Bohr, declared Å": (
        {"length": ase.units.Bohr},
        {"plausible": dataclasses.replace(WIDE, distances=(0.1, 9.0))},
        "change by 0.5[0-9]+ times what the forces say: energies, forces and lengths are not",
    ),
    "gradients": ({"force": -1.0}, {}, "change by -(1|0.9).* times .* the forces have the wrong sign"),
}


@pytest.mark.parametrize("case", DISAGREE)
def test_units_that_disagree_are_refused(tmp_path, case):
    factors, changes, message = DISAGREE[case]
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, trajectory(**factors), **changes)
    assert "\n" not in str(caught.value)


def test_forces_of_zero_say_nothing(tmp_path, recwarn):
    assert energy_force_slope(load(tmp_path, trajectory(force=np.inf))) is None
    assert not [one for one in recwarn if one.category is RuntimeWarning]


def test_frames_that_are_no_trajectory_are_not_judged(tmp_path):
    """Independent structures, another cell at every step, and labels without any relation to each other."""
    frames = trajectory(40)
    generator = np.random.default_rng(2)
    for atoms in frames:
        atoms.positions += 0.2 * generator.normal(size=atoms.positions.shape)
        atoms.calc.results["forces"] = generator.normal(size=(len(atoms), 3))
    assert energy_force_slope(load(tmp_path, frames)) is None
    for i, atoms in enumerate(trajectory(40, force=-1.0)):
        frames[i] = atoms
        atoms.set_cell(atoms.cell * (1 + 1e-3 * i))
    assert energy_force_slope(load(tmp_path, frames)) is None


def aspirin(unit, tmp_path):
    """The embedded structures, in eV, declared as another unit."""
    raw = np.load(PROJECT / "bench/data/embedded/rmd17_aspirin_4019.npz")
    frames = []
    for i in range(20):
        frames.append(ase.Atoms(raw["Z"], raw["R"][i]))
        forces = raw["F_eV_A"][i].astype(float)
        frames[-1].calc = SinglePointCalculator(frames[-1], energy=float(raw["E_eV"][i]), forces=forces)
    return load(tmp_path, frames, energy_unit=unit)


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("meV", "the root mean square force is 0.002.* eV/Å, mostly it is 0.05 to 15"),
        ("kJ/mol", "the root mean square force is 0.02.* eV/Å, mostly it is 0.05 to 15"),
        ("kcal/mol", "the median energy is -36.* all electrons would give about -833.*, valence electrons -151"),
        ("eV", None),
    ],
)
def test_an_unlikely_unit_is_told_with_figures(tmp_path, caplog, unit, message):
    data = aspirin(unit, tmp_path)
    lines = list(unlikely(data))
    if message is None:
        assert lines == []
    else:
        (line,) = lines
        assert re.search(message, line), line
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("unit", ["Hartree", "Rydberg"])
def test_an_impossible_unit_is_refused(tmp_path, unit):
    with pytest.raises(UserError, match=r"but all electrons of its atoms have about -833"):
        aspirin(unit, tmp_path)


def test_energies_below_all_electrons_are_refused():
    """Water in Hartree called eV is possible, the other way round it is not; so for energies alone."""
    water = make_structures([([8, 1, 1], [[0, 0, 0], [0, 0, 1.0], [1.0, 0, 0]], None)] * 3)
    for energy, fails in ((-76.4 * ase.units.Hartree, False), (-76.4, False), (-76.4 * ase.units.Hartree**2, True)):
        data = dataclasses.replace(water, energies=np.full(3, energy), forces=None)
        if fails:
            with pytest.raises(UserError, match=r"eV per atom, but all electrons of its atoms have about -69\d"):
                check_consistent(data)
        else:
            check_consistent(data)


def test_units_of_forces():
    assert force_unit("Hartree/Bohr") == pytest.approx(51.42206, rel=1e-6)
    assert force_unit("kcal/mol/Å") == KCAL and force_unit("eV/nm") == 1 / LENGTH_UNITS["nm"]
    for wrong in ("Hartree", "eV/pm", "ev/Å"):
        with pytest.raises(UserError, match=r"forces unit .* is not known: give an energy per length"):
            force_unit(wrong)


def test_published_trajectories_agree(shared_data):
    """Aspirin of MD17: the rule holds on real data."""
    raw = np.load(shared_data / "md17_aspirin_1992.npz")
    n, atoms = len(raw["E_kcal_mol"]), len(raw["Z"])
    base = make_structures([(raw["Z"], raw["R"][0], None)])
    data = dataclasses.replace(
        base,
        atomic_numbers=np.tile(raw["Z"].astype(np.int64), n),
        positions=raw["R"].reshape(-1, 3).astype(float),
        offsets=atoms * np.arange(n + 1),
        cells=np.zeros((n, 3, 3)),
        periodic=np.zeros((n, 3), dtype=bool),
        energies=raw["E_kcal_mol"].ravel().astype(float) * KCAL,
        forces=raw["F_kcal_mol_A"].reshape(-1, 3).astype(float) * KCAL,
    )
    assert energy_force_slope(data).value == pytest.approx(1.0, abs=0.02)
