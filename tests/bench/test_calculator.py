"""The ASE calculator: stress by finite differences, every property, and what a model was never trained on."""

import subprocess
import sys
import warnings

import ase
import ase.build
import numpy as np
import pytest
import torch
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.stress import full_3x3_to_voigt_6_stress
from conftest import (
    SMALL,
    make_builder,
    make_potential,
    make_structures,
    random_crystal,
    random_molecule,
    subprocess_environment,
    whole_batch,
)

from bench.calculator import NoStressError, PotentialCalculator
from bench.errors import UserError
from bench.training.store import save_potential, trained_on


def model(path, numbers=(8, 22), models=1, dtype=torch.float64, extra=None, seed=0):
    """A file of a random potential for some elements, reference energies −10 Z eV."""
    data = make_structures([([z], [[0, 0, 0]], None) for z in numbers])
    potential = make_potential(data, models=models, dtype=dtype, seed=seed)
    save_potential(path, potential, {int(z): -10.0 * z for z in numbers}, extra or {})
    return PotentialCalculator(path)


def crystal(generator, pbc=True, cell=None):
    z, positions, triclinic = random_crystal(generator)
    return ase.Atoms(z, positions, cell=triclinic if cell is None else cell, pbc=pbc)


def energies_of_strains(atoms, calculator, step):
    """(E(+ε) − E(−ε))/2ε for the nine strains r → (1 + ε) r, by a fourth-order stencil."""
    found = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            values = []
            for factor in (-2, -1, 1, 2):
                strain = np.eye(3)
                strain[a, b] += factor * step
                strained = atoms.copy()
                strained.set_cell(atoms.cell @ strain.T, scale_atoms=False)
                strained.positions = atoms.positions @ strain.T
                strained.calc = calculator
                values.append(strained.get_potential_energy())
            found[a, b] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
    return found


def shapes(generator):
    slab = crystal(generator, pbc=[True, True, False])
    slab.cell[2] = [0, 0, 15.0]
    rod = crystal(generator, pbc=[False, True, False])
    box = crystal(generator, pbc=False)
    return {"crystal": crystal(generator), "slab in a cell": slab, "rod": rod, "molecule in a box": box}


@pytest.mark.parametrize("shape", ["crystal", "slab in a cell", "rod", "molecule in a box"])
def test_stress_is_the_derivative_with_respect_to_strain(tmp_path, generator, shape):
    """1e-6 relative, by energies of strained cells; ASE's order, unit (eV/Å³) and sign; a committee's mean."""
    atoms = shapes(generator)[shape]
    calculator = model(tmp_path / "model.pt", models=2)
    atoms.calc = calculator
    wanted = energies_of_strains(atoms, calculator, 3e-4) / atoms.get_volume()
    np.testing.assert_allclose(wanted, wanted.T, atol=1e-6 * np.abs(wanted).max())
    stress = atoms.get_stress()
    np.testing.assert_allclose(stress, full_3x3_to_voigt_6_stress(wanted), atol=1e-6 * np.abs(wanted).max())
    assert np.abs(stress).max() > 1e-3


def test_a_model_by_the_folder_of_its_run_or_from_home(tmp_path, generator, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    by_file = model(tmp_path / "model.pt")
    atoms = crystal(generator)
    energies = []
    for calculator in (by_file, PotentialCalculator(tmp_path), PotentialCalculator("~/model.pt")):
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[1] == energies[2]
    (tmp_path / "cl.xyz").write_text("1\n\nH 0 0 0\n")
    with pytest.raises(
        UserError, match=r"cl.xyz is no model of this project .*: give a finished run's model.pt; if it"
    ):
        PotentialCalculator(tmp_path / "cl.xyz")


def test_stress_has_ase_s_sign(tmp_path, generator):
    """A stretched cell pulls, and ASE's own filter goes downhill: positive where E rises with the volume."""
    atoms = crystal(generator)
    atoms.calc = model(tmp_path / "model.pt")
    pressure = -atoms.get_stress()[:3].mean()
    larger = atoms.copy()
    larger.set_cell(atoms.cell * 1.001, scale_atoms=True)
    larger.calc = atoms.calc
    slope = (larger.get_potential_energy() - atoms.get_potential_energy()) / (larger.get_volume() - atoms.get_volume())
    assert slope == pytest.approx(-pressure, rel=0.05, abs=1e-4)


def test_cells_relax(tmp_path, generator):
    """A random potential has a minimum near a soft start: energy falls, forces and stress go to zero."""
    atoms = crystal(generator)
    atoms.calc = model(tmp_path / "model.pt", seed=3)
    before = atoms.get_potential_energy()
    BFGS(FrechetCellFilter(atoms), logfile=None, maxstep=0.05).run(fmax=0.05, steps=25)
    assert atoms.get_potential_energy() < before


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_both_engines_and_predict_agree(generator, plain, dtype, tolerance):
    """Energies and forces are those of `predict`; the virial of either engine is that of the pairs in float64."""
    import dataclasses

    structures = [random_molecule(generator, 5, (8, 22)), random_crystal(generator), random_crystal(generator, 3)]
    data = make_structures(structures)
    exact = make_potential(data, models=2).predict_in_full(
        whole_batch(make_builder(data).build(np.arange(3)), 2, with_pairs=True)
    )
    potential = make_potential(data, models=2, dtype=dtype)
    builder = dataclasses.replace(make_builder(data, dtype=dtype), plain=plain)
    batch = whole_batch(builder.build(np.arange(3)), 2, with_pairs=True)
    full = potential.predict_in_full(batch)
    energies, forces = potential.predict(batch, forces=True)
    by_structure = full.atomic.reshape(2, -1).split(data.n_atoms.tolist(), dim=1)
    torch.testing.assert_close(torch.stack([part.sum(1) for part in by_structure], 1), energies, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(full.forces, forces, rtol=0, atol=0)
    scale = float(exact.virials.abs().max())
    torch.testing.assert_close(full.virials, exact.virials, rtol=0, atol=tolerance * scale)
    # a molecule's virial is also −Σ_i F_i ⊗ r_i
    of_molecule = -torch.einsum("ia,ib->ab", exact.forces[:5], torch.from_numpy(data.positions[:5]))
    torch.testing.assert_close(exact.virials[0, 0], of_molecule, rtol=1e-9, atol=1e-10 * scale)


def test_every_property_and_slabs_without_a_third_vector(tmp_path, generator):
    calculator = model(tmp_path / "model.pt")
    atoms = crystal(generator, pbc=[True, True, False])
    atoms.cell[2] = 0
    atoms.calc = calculator
    assert atoms.get_potential_energy() == atoms.get_potential_energy(force_consistent=True)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    force, values = atoms.get_forces()[3, 1], []
    for step in (-1e-4, 1e-4):
        moved = atoms.copy()
        moved.positions[3, 1] += step
        moved.calc = calculator
        values.append(moved.get_potential_energy())
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(force, abs=1e-5)
    with pytest.raises(NoStressError, match="no stress of atoms with 2 cell vectors, which have no volume"):
        atoms.get_stress()
    thick = atoms.copy()
    thick.cell[2] = [0.3, 0.1, 40]
    thick.calc = calculator
    assert thick.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    isolated = ase.Atoms("O", calculator=calculator)
    assert isolated.get_forces().tolist() == [[0, 0, 0]] and np.isfinite(isolated.get_potential_energy())
    no_length = ase.Atoms("O", pbc=[True, False, False], calculator=calculator)
    with pytest.raises(UserError, match="periodic along a but its cell has no length"):
        no_length.get_potential_energy()


def test_what_was_never_trained(tmp_path, monkeypatch):
    """Elements that only reference energies name are refused; a pair of elements that never met is told once."""
    waters = make_structures([([8, 1], [[0, 0, 0], [0, 0, 1.0]], None), ([22, 22], [[0, 0, 0], [0, 0, 2.0]], None)])
    seen = trained_on(make_builder(waters), np.array([0, 1]))
    assert seen == {"elements": [1, 8, 22], "pairs": [[1, 8], [22, 22]]}
    seen = trained_on(make_builder(waters, SMALL), np.array([0]))
    assert seen == {"elements": [1, 8], "pairs": [[1, 8]]}
    calculator = model(tmp_path / "model.pt", (1, 8, 22), extra=seen)
    with pytest.raises(UserError, match="trained on H, O; Ti was declared, but no training structure held it"):
        ase.Atoms("TiO", [[0, 0, 0], [0, 0, 2]], calculator=calculator).get_potential_energy()
    with pytest.raises(UserError, match=r"knows Z = \[1, 8, 22\] but the atoms hold Z = \[79\]"):
        ase.Atoms("Au", calculator=calculator).get_potential_energy()
    peroxide = ase.Atoms("OO", [[0, 0, 0], [0, 0, 1.4]], calculator=calculator)
    with pytest.warns(UserWarning, match="no training structure held O-O within the cutoff of 4 Å"):
        peroxide.get_potential_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peroxide.rattle(0.01)
        peroxide.get_potential_energy()
        ase.Atoms("OH", [[0, 0, 0], [0, 0, 1]], calculator=calculator).get_potential_energy()
        ase.Atoms("OO", [[0, 0, 0], [0, 0, 4.1]], calculator=calculator).get_potential_energy()
        calculator.trained_on["pairs"] += [[1, 1]]
        monkeypatch.delattr(
            "bench.data.neighbours.Neighbours.pairs_of"
        )  # of elements that all met nothing is looked up
        ase.Atoms("OOH", [[0, 0, 0], [0, 0, 1.4], [0, 1, 0]], calculator=calculator).get_potential_energy()


def test_a_file_of_before_potentials_were_plugins(tmp_path, generator):
    """It names no architecture, and its parameters stand at the top: read as it is."""
    new = model(tmp_path / "new.pt", models=2)
    content = torch.load(tmp_path / "new.pt", weights_only=True)
    settings = {key: value for key, value in content["architecture"].items() if key not in ("_target_", "name")}
    old = {"settings": settings, "reference_energies": content["reference_energies"], "extra": content["extra"]}
    torch.save(old | content["state"], tmp_path / "old.pt")
    atoms = crystal(generator)
    atoms.calc = new
    expected = atoms.get_forces()
    atoms.calc = PotentialCalculator(tmp_path / "old.pt")
    np.testing.assert_array_equal(atoms.get_forces(), expected)


def test_a_potential_from_outside_is_read_where_its_module_is_named(tmp_path):
    import pair_potential

    architecture = pair_potential.Pairs(r_max=4.0)
    parameters = {"weight": torch.ones(1, 8), "bias": torch.zeros(1), "shift": torch.zeros(1, 2)}
    potential = pair_potential.PairPotential(architecture, parameters, torch.ones(1))
    path = tmp_path / "model.pt"
    save_potential(path, potential, {8: 0.0, 22: 0.0}, {})
    code = "import sys; from bench.calculator import PotentialCalculator as P; P(sys.argv[1], plugins=sys.argv[2:])"
    for plugins, message in (([], "is no part of the project"), (["pair_potential"], "")):
        done = subprocess.run(
            [sys.executable, "-c", code, path, *plugins],
            env=subprocess_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) == bool(message) and message in done.stderr
