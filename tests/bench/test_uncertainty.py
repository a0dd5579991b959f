"""Uncertainties of a trained potential: formulas, calibration, what is kept beside a model, and the observer."""

import dataclasses
import logging
import pickle
import shutil
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.verlet import VelocityVerlet
from conftest import make_builder, make_potential, make_structures, random_crystal, random_molecule

from bench import api
from bench.calculator import PotentialCalculator
from bench.config.compose import compose_run
from bench.config.plugins import filed, plugin
from bench.errors import UserError, WriteError
from bench.learning import models
from bench.learning.cycle import run_active_learning
from bench.training.store import save_potential
from bench.uncertainty import kept
from bench.uncertainty.calibration import Calibration, calibrate
from bench.uncertainty.estimate import fit_uncertainty, held_out
from bench.uncertainty.observer import TooUncertain, UncertaintyObserver


def labelled_data(generator):
    """Eight molecules and crystals of two elements with random labels."""
    parts = [random_molecule(generator, n, (8, 22)) for n in (3, 6, 5, 4)]
    parts += [random_crystal(generator, n) for n in (2, 4, 3, 4)]
    data = make_structures(parts)
    labels = {"energies": generator.normal(size=8), "forces": generator.normal(size=data.positions.shape)}
    return dataclasses.replace(data, **labels)


def atoms_of(data, structure):
    rows = slice(data.offsets[structure], data.offsets[structure + 1])
    cell, pbc = data.cells[structure], data.periodic[structure]
    return ase.Atoms(data.atomic_numbers[rows], data.positions[rows], cell=cell, pbc=pbc)


def calculator(path, data, potential, fitted, **options):
    save_potential(path, potential, data.reference_energies, {})
    kept.keep(path, fitted)
    return PotentialCalculator(path, uncertainty=fitted.method, **options)


def kernel_space_variance(training, rows):
    """Eq. (20) as it stands: k(x, x) − k(x, X) (k(X, X) + σ² 1)⁻¹ k(X, x), σ² = tr[φᵀφ]/(N_train d_feature)."""
    gram = training @ training.T
    noise = np.trace(gram) / training.size
    cross = rows @ training.T
    return (rows**2).sum(1) - (cross @ np.linalg.inv(gram + noise * np.eye(len(gram))) * cross).sum(1)


@pytest.mark.parametrize("method", ["gp_ll", "gp_rp"])
def test_gp_of_structures_and_atoms_equals_the_kernel_space_formula(tmp_path, generator, method):
    data = labelled_data(generator)
    view, potential = make_builder(data), make_potential(data)
    labelled, validation = np.array([0, 1, 4, 5]), np.array([2, 3, 6, 7])
    fitted = fit_uncertainty(method, potential, view, labelled, validation, seed=3)
    asked = calculator(tmp_path / "model.pt", data, potential, fitted, calibrated=False)
    maps = plugin(filed("kernel")[{"gp_ll": "GP(LL)", "gp_rp": "GP(RP)"}[method]], "kernel").maps(potential, 3, 4)

    def features(of_inputs, structures):
        inputs = view.prepare(structures, forces=False).gather(np.arange(len(structures))[None])
        return of_inputs(inputs).numpy()

    training = features(maps.of_structures, labelled)
    for structure in range(len(data)):
        atoms = atoms_of(data, structure)
        one = np.array([structure])
        of_atoms = features(maps.of_atoms, one)
        np.testing.assert_allclose(of_atoms.sum(0), features(maps.of_structures, one)[0], rtol=1e-9, atol=1e-9)
        energy = asked.get_property("energy_std", atoms)
        energies = asked.get_property("energies_std", atoms)
        expected = kernel_space_variance(training, np.concatenate([of_atoms.sum(0, keepdims=True), of_atoms]))
        np.testing.assert_allclose(np.append(energy, energies) ** 2, expected, rtol=1e-6, atol=1e-9 * training.max())
        assert energy <= energies.sum() * (1 + 1e-9)
    with pytest.raises(PropertyNotImplementedError):
        asked.get_property("forces_std", atoms)


def test_last_layer_features_of_atoms_are_the_gradients_of_their_energies(generator):
    """An atom's energy is linear in the last layer: φ_i · (w, b) = E_i − c μ_Z."""
    data = labelled_data(generator)
    potential, view = make_potential(data), make_builder(data)
    inputs = view.prepare(np.arange(8), forces=True).gather(np.arange(8)[None])
    rows = potential.of_atoms().last_layer_features()(inputs)
    last = len(potential.weights) - 1
    weights = torch.cat([potential.parameters[f"{name}{last}"].flatten() for name in ("weight", "bias")])
    shift = potential.parameters["shift"][0][torch.from_numpy(data.species_index)] * potential.energy_scale[0]
    atomic = potential.predict_in_full(inputs).atomic
    torch.testing.assert_close(rows @ weights, atomic - shift, rtol=1e-9, atol=1e-9)


def test_committee_is_the_scatter_of_its_members(tmp_path, generator):
    data = labelled_data(generator)
    view, potential = make_builder(data), make_potential(data, models=3)
    validation = np.array([2, 3, 6, 7])
    fitted = fit_uncertainty("committee", potential, view, np.array([0, 1]), validation)
    plain = calculator(tmp_path / "model.pt", data, potential, fitted, calibrated=False)
    scaled = PotentialCalculator(tmp_path / "model.pt", uncertainty="committee")
    members = []
    for member in range(3):
        save_potential(tmp_path / f"{member}.pt", potential.member(member), data.reference_energies, {})
        members.append(PotentialCalculator(tmp_path / f"{member}.pt"))
    ratios_of_energy, ratios_of_force = [], []
    for structure in validation:
        atoms = atoms_of(data, structure)
        energy, energies, forces = (
            np.array([one.get_property(name, atoms) for one in members]) for name in ("energy", "energies", "forces")
        )
        assert plain.get_property("energy_std", atoms) == pytest.approx(energy.std(), rel=1e-9)
        np.testing.assert_allclose(plain.get_property("energies_std", atoms), energies.std(0), rtol=1e-9)
        by_atom = np.sqrt((np.linalg.norm(forces - forces.mean(0), axis=2) ** 2).mean(0))
        np.testing.assert_allclose(plain.get_property("forces_std", atoms), by_atom, rtol=1e-9)
        assert plain.get_property("max_force_std", atoms) == pytest.approx(by_atom.max(), rel=1e-9)
        rows = slice(data.offsets[structure], data.offsets[structure + 1])
        ratios_of_energy.append(abs(energy.mean() - data.energies[structure]) / energy.std())
        ratios_of_force += [*(np.linalg.norm(forces.mean(0) - data.forces[rows], axis=1) / by_atom)]
        assert scaled.get_property("energy_std", atoms) / energy.std() == pytest.approx(fitted.energy.scale)
        assert scaled.get_property("max_force_std", atoms) / by_atom.max() == pytest.approx(fitted.force.scale)
    np.testing.assert_allclose(fitted.energy.ratios, np.sort(ratios_of_energy), rtol=1e-7)
    np.testing.assert_allclose(fitted.force.ratios, np.sort(ratios_of_force), rtol=1e-7)
    low, high = scaled.energy_interval(0.75, atoms)
    assert (high - low) / 2 == pytest.approx(fitted.energy.ratios[3] * energy.std())
    assert (high + low) / 2 == pytest.approx(energy.mean())
    with pytest.raises(UserError, match="calibrated uncertainty"):
        plain.energy_interval(0.75, atoms)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_conformal_intervals_hold_what_they_promise(generator, coverage):
    """Over 4000 draws, of any distribution: at least the coverage, and at most 1/(n + 1) more."""
    draws = generator.standard_cauchy((4000, 20))
    held = [abs(one[-1]) <= calibrate(one[:-1], np.ones(19), "").quantile(coverage) for one in draws]
    assert coverage - 0.025 <= np.mean(held) <= coverage + 1 / 20 + 0.025


def test_calibration_by_hand():
    known = Calibration(np.array([0.5, 1.0, 2.0, 3.0]))
    assert known.scale == pytest.approx(np.sqrt((0.25 + 1 + 4 + 9) / 4))
    assert [known.quantile(c) for c in (0.2, 0.21, 0.6, 0.8)] == [0.5, 1.0, 2.0, 3.0]
    assert known.half_width(2 * known.scale, 0.6) == pytest.approx(4.0)
    with pytest.raises(UserError, match=r"coverage = 0.81 from 4 held-out values: at most 0.8; validate on more"):
        known.quantile(0.81)
    with pytest.raises(UserError, match="give a fraction"):
        known.quantile(95.0)
    assert calibrate(np.zeros(0), np.zeros(0), "") is None
    with pytest.raises(UserError, match=r"energies: 1 of 2 held-out deviations are zero or not finite, e.g. 0 beside"):
        calibrate(np.ones(2), np.array([1.0, 0.0]), "energies")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small finished run of two steps, with a committee."""
    results = tmp_path_factory.mktemp("results")
    words = [
        *("scenario=demo", "algorithm=maxdiag_qbc_e", "batch_size=3", "scenario.initial=4", "scenario.final=7"),
        *("scenario.pool=20", "scenario.validation=10", "scenario.test=12", "model.hidden=[8,8]", "model.n_radial=2"),
        *("training.epochs=3", "training.minibatch=2", "training.validation_checks=1", f"results={results}"),
    ]
    return run_active_learning(compose_run(words)).folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, which a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / finished.name))


@pytest.mark.parametrize(("method", "column"), [("gp_ll", "GP(LL)"), ("gp_rp", "GP(RP)"), ("committee", "QBC(E)")])
def test_a_finished_run_is_enough(run, method, column):
    """What its record names is found, and deviations are those that the run itself wrote for its test set."""
    asked = PotentialCalculator(run / "model.pt", uncertainty=method, calibrated=False)
    data = plugin(compose_run(["scenario=demo"]).dataset, "dataset").load()
    with np.load(run / "end_7.npz") as end:
        for row in range(3):
            expected = end[f"uncertainty {column}"][row]
            found = asked.get_property("energy_std", atoms_of(data, end["structure"][row]))
            assert found == pytest.approx(expected, rel=2e-4)
    assert (run / f"model.{method}.npz").exists() == (method != "committee")
    scaled = PotentialCalculator(run / "model.pt", uncertainty=method)
    assert scaled.estimator.fitted.n_train == 7
    assert len(scaled.estimator.fitted.energy.ratios) == 10
    atoms = atoms_of(data, 0)
    assert scaled.get_property("energy_std", atoms) == pytest.approx(
        scaled.estimator.fitted.energy.scale * asked.get_property("energy_std", atoms), rel=1e-6
    )
    assert (run / f"model.{method}.npz").exists()


def test_it_is_fitted_once_and_made_again_where_it_is_damaged_or_another_s(run, monkeypatch, caplog):
    first = PotentialCalculator(run / "model.pt", uncertainty="gp_ll").estimator.fitted
    path = run / "model.gp_ll.npz"
    content = path.read_bytes()

    def gone(config):
        raise UserError("dataset water: no file frames.xyz: set dataset.path=FILE")

    with monkeypatch.context() as without_data:
        without_data.setattr(models, "loaded", gone)
        again = PotentialCalculator(run / "model.pt", uncertainty="gp_ll").estimator.fitted
        torch.testing.assert_close(again.posterior.factor, first.posterior.factor, rtol=0, atol=0)
        np.testing.assert_array_equal(again.energy.ratios, first.energy.ratios)
        with pytest.raises(UserError) as error:
            PotentialCalculator(run / "model.pt", uncertainty="gp_rp")
        assert "needs the run and its data once (dataset water: no file" in str(error.value)
        assert "or copy model.gp_rp.npz to it from where it was made" in str(error.value)
    for damaged in (content[:1000], b"", content[:-900] + bytes(byte ^ 1 for byte in content[-900:])):
        path.write_bytes(damaged)
        with caplog.at_level(logging.WARNING):
            PotentialCalculator(run / "model.pt", uncertainty="gp_ll")
        assert "is damaged" in caplog.text and path.read_bytes() == content
        caplog.clear()
    # another model's: of other bytes
    (run / "other.gp_ll.npz").write_bytes(content)
    (run / "other.pt").write_bytes((run / "model.pt").read_bytes() + b" ")
    assert kept._read(run / "other.pt", "gp_ll", torch.device("cpu")) is None
    assert kept._read(run / "model.pt", "gp_ll", torch.device("cpu")) is not None


def test_where_nothing_can_be_written_it_is_fitted_and_told(run, monkeypatch, caplog):
    def full(path, content):
        raise WriteError(f"cannot write {path} (No space left on device)")

    monkeypatch.setattr(kept, "write_atomically", full)
    with caplog.at_level(logging.WARNING):
        found = PotentialCalculator(run / "model.pt", uncertainty="gp_ll").estimator.fitted
    assert found.energy is not None and not (run / "model.gp_ll.npz").exists()
    assert "is not kept, and will be fitted again: cannot write" in caplog.text


def test_a_model_trained_on_atoms_needs_no_run(tmp_path, generator):
    """bench.api.train keeps no record: its structures are at hand."""
    frames = []
    for _ in range(12):
        atoms = ase.Atoms("OTi", [[0, 0, 0], [0, 0, generator.uniform(1.5, 2.5)]])
        labels = {"energy": float(generator.normal()), "forces": generator.normal(size=(2, 3))}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    words = [f"results={tmp_path}", "model.hidden=[8,8]", "model.n_radial=2", "training.epochs=2"]
    model = api.train(frames, words=words)
    found = PotentialCalculator(model, uncertainty="gp_rp")
    again = PotentialCalculator(model.file, uncertainty="gp_rp")
    deviation = found.get_property("energy_std", frames[0])
    assert deviation > 0 and again.get_property("energy_std", frames[0]) == deviation
    carried = pickle.loads(pickle.dumps(found))
    carried.reset()
    assert carried.get_property("energy_std", frames[0]) == deviation


def test_random_projections_are_those_of_the_models_seed(tmp_path, generator):
    """The calculator and bench.api say the same of a model that was trained with another seed than 0."""
    frames = [ase.Atoms("OTi", [[0, 0, 0], [0, 0, generator.uniform(1.5, 2.5)]]) for _ in range(12)]
    for atoms in frames:
        atoms.calc = SinglePointCalculator(
            atoms, energy=float(generator.normal()), forces=generator.normal(size=(2, 3))
        )
    words = [f"results={tmp_path}", "model.hidden=[8,8]", "model.n_radial=2", "training.epochs=2"]
    model = api.train(frames, seed=1, words=words)
    expected = api.uncertainty(model, frames[:1], "gp_rp")[0]
    calculator = PotentialCalculator(model, uncertainty="gp_rp", calibrated=False)
    assert calculator.get_property("energy_std", frames[0]) == pytest.approx(expected, rel=1e-6)
    features = [api.features(model, frames, "feat_rp", seed=seed) for seed in (0, 1)]
    assert abs(features[0] - features[1]).max() > 1e-3


def test_other_data_under_the_same_name_are_refused(run, monkeypatch):
    data = plugin(compose_run(["scenario=demo"]).dataset, "dataset").load()
    other = dataclasses.replace(data, energies=data.energies + 1.0)
    monkeypatch.setattr(models, "loaded", lambda config: other)
    with pytest.raises(UserError, match=r"has checksum .*, run .* was trained on .*: give the structures as they were"):
        PotentialCalculator(run / "model.pt", uncertainty="gp_ll")


def test_mistakes_are_told_in_one_line(tmp_path, run, generator):
    data = labelled_data(generator)
    save_potential(tmp_path / "one.pt", make_potential(data), data.reference_energies, {})
    for method, message in (
        ("gp_lll", "uncertainty = 'gp_lll': did you mean 'gp_ll'?"),
        ("committee", "holds a single model: choose gp_ll or gp_rp, or train a committee"),
    ):
        with pytest.raises(UserError) as error:
            PotentialCalculator(tmp_path / "one.pt", uncertainty=method)
        assert message in str(error.value)
    (tmp_path / "apart").mkdir()
    save_potential(tmp_path / "apart" / "one.pt", make_potential(data), data.reference_energies, {})
    with pytest.raises(UserError, match=r"one.pt is no folder of a finished run .*or copy one.gp_ll.npz to it"):
        PotentialCalculator(tmp_path / "apart" / "one.pt", uncertainty="gp_ll")
    shutil.copy(run / "model.pt", run / "copy.pt")
    with pytest.raises(UserError, match=r"copy.pt: the model of its run is model.pt: give that file"):
        PotentialCalculator(run / "copy.pt", uncertainty="gp_ll")
    (run / "split.npz").unlink()
    with pytest.raises(UserError, match=r"has no split.npz: run again"):
        PotentialCalculator(run / "model.pt", uncertainty="gp_ll")
    fitted = fit_uncertainty("gp_ll", make_potential(data), make_builder(data), np.arange(4), np.arange(0))
    assert fitted.energy is None
    with pytest.raises(UserError, match="without validation structures: give calibrated=False"):
        calculator(tmp_path / "one.pt", data, make_potential(data), fitted)
    assert calculator(tmp_path / "one.pt", data, make_potential(data), fitted, calibrated=False)


def test_held_out_does_not_depend_on_chunks(generator, monkeypatch):
    data = labelled_data(generator)
    view, potential = make_builder(data), make_potential(data, models=2)
    fitted = fit_uncertainty("committee", potential, view, np.arange(2), np.arange(0))
    whole = held_out(fitted, potential, view, np.arange(8))
    monkeypatch.setattr("bench.potentials.gmnn.view.ATOMS_PER_CHUNK", 5)
    parts = held_out(fitted, potential, view, np.arange(8))
    np.testing.assert_allclose(parts.energy_error, whole.energy_error, rtol=1e-9)
    np.testing.assert_allclose(parts.force_error, whole.force_error, rtol=1e-9)
    np.testing.assert_allclose(parts.deviations.forces, whole.deviations.forces, rtol=1e-9)


def test_atoms_that_feel_no_force_calibrate_none(generator):
    """A lone atom has none, and all members say so: nothing can be compared with a deviation of zero."""
    data = make_structures([random_molecule(generator, n, (8, 22)) for n in (3, 6, 1, 5)])
    labels = {"energies": generator.normal(size=4), "forces": generator.normal(size=data.positions.shape)}
    data = dataclasses.replace(data, **labels)
    view, potential = make_builder(data), make_potential(data, models=2)
    fitted, without = (
        fit_uncertainty("committee", potential, view, np.arange(2), np.array(validation))
        for validation in ([1, 2, 3], [1, 3])
    )
    assert len(fitted.energy.ratios) == 3 and len(fitted.force.ratios) == 11
    np.testing.assert_allclose(fitted.force.ratios, without.force.ratios, rtol=1e-9)


class Drifting(Calculator):
    """A free particle, of which less is known the farther it is from the origin."""

    implemented_properties = ["energy", "forces", "energy_std", "energies_std", "forces_std", "max_force_std"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        away = np.linalg.norm(self.atoms.positions, axis=1)
        forces = np.zeros_like(self.atoms.positions)
        self.results = {"energy": 0.0, "forces": forces, "energy_std": float(away.sum()), "energies_std": away}
        self.results |= {"forces_std": 2 * away, "max_force_std": float(2 * away.max())}


def drift(**options):
    """Two atoms; one moves by 0.1 Å a step."""
    atoms = ase.Atoms("H2", [[0, 0, 0], [0, 0, 0]], calculator=Drifting())
    dynamics = VelocityVerlet(atoms, timestep=1.0)
    atoms.set_velocities([[0, 0, 0], [0.1, 0, 0]])
    return dynamics, UncertaintyObserver(atoms, **options)


def test_the_observer_stops_and_keeps_the_structure(tmp_path):
    for name, step in (("max_force_std", 4), ("energy_std_per_atom", 16)):
        path = tmp_path / f"{name}.xyz"
        dynamics, observer = drift(**{name: 0.77}, path=path)
        dynamics.attach(observer)
        with pytest.raises(TooUncertain, match=rf"{name} = .* > 0.77") as stopped:
            dynamics.run(100)
        assert dynamics.nsteps == step
        (frame,) = ase.io.read(path, ":")
        x = 0.1 * dynamics.nsteps
        assert stopped.value.structure.positions[1, 0] == pytest.approx(x)
        np.testing.assert_allclose(frame.positions[1], [x, 0, 0], atol=1e-7)
        assert frame.info["energy_std"] == pytest.approx(x) and frame.info["max_force_std"] == pytest.approx(2 * x)
        np.testing.assert_allclose(frame.arrays["energies_std"], [0, x], atol=1e-7)
        np.testing.assert_allclose(frame.arrays["forces_std"], [0, 2 * x], atol=1e-7)
        assert frame.get_potential_energy() == 0 and observer.structures[0].get_forces().shape == (2, 3)


def test_the_observer_tells_at_once_that_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write to .*file"):
        drift(max_force_std=0.75, path=tmp_path / "file/kept.xyz")
    with pytest.raises(UserError, match="is a folder: name a file"):
        drift(max_force_std=0.75, path=tmp_path)
    dynamics, observer = drift(max_force_std=0.75, path=tmp_path / "new/kept.xyz")
    dynamics.attach(observer)
    (tmp_path / "new/kept.xyz").mkdir()
    with pytest.raises(WriteError, match=r"cannot write .*kept.xyz"):
        dynamics.run(20)


def test_the_observer_collects_without_stopping(tmp_path):
    dynamics, observer = drift(max_force_std=0.75, stop=False, path=tmp_path / "kept.xyz")
    dynamics.attach(observer, interval=3)
    dynamics.run(12)
    kept_frames = ase.io.read(tmp_path / "kept.xyz", ":")
    np.testing.assert_allclose([frame.positions[1, 0] for frame in kept_frames], [0.6, 0.9, 1.2], atol=1e-7)
    assert observer.largest["max_force_std"] == pytest.approx(2.4)
    assert len(observer.structures) == 3


def test_the_observer_stops_where_nothing_is_known():
    _, observer = drift(max_force_std=1e9)
    observer()
    observer.atoms.calc.results["max_force_std"] = np.nan
    with pytest.raises(TooUncertain, match=r"max_force_std = nan > 1e\+09"):
        observer()
    assert observer.largest == {"max_force_std": np.inf} and len(observer.structures) == 1


def test_the_observer_needs_a_bound_and_a_calculator_that_says_it(tmp_path, generator):
    with pytest.raises(UserError, match="needs a bound"):
        UncertaintyObserver(ase.Atoms("H"))
    with pytest.raises(UserError, match=r"max_force_std = -1.0: give a bound above zero"):
        UncertaintyObserver(ase.Atoms("H"), max_force_std=-1.0)
    data = labelled_data(generator)
    potential, view = make_potential(data), make_builder(data)
    fitted = fit_uncertainty("gp_ll", potential, view, np.arange(4), np.arange(4, 8))
    atoms = atoms_of(data, 0)
    atoms.calc = calculator(tmp_path / "model.pt", data, potential, fitted)
    with pytest.raises(UserError, match=r"the calculator PotentialCalculator does not say it.*'committee'"):
        UncertaintyObserver(atoms, max_force_std=1.0)()
    observer = UncertaintyObserver(atoms, energy_std_per_atom=1e-9)
    with pytest.raises(TooUncertain):
        observer()
    assert observer.structures[0].arrays["energies_std"].shape == (len(atoms),)
    atoms.set_array("energies_std", np.zeros(len(atoms), dtype=int))
    with pytest.raises(TooUncertain):
        observer()
    np.testing.assert_array_equal(observer.structures[1].arrays["energies_std"], atoms.calc.results["energies_std"])
