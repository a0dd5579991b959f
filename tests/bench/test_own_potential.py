"""A second architecture from outside: one file and one yaml carry it through everything that the project does."""

import shutil

import numpy as np
import pytest
import yaml
from ase import Atoms
from bench_commands import records
from conftest import PROJECT, random_crystal
from own_folder import in_folder
from small_sweeps import SIZES

from analysis.records.collect import Collector
from analysis.records.found import read_or_describe, record_paths
from bench.calculator import PotentialCalculator
from bench.config.compose import compose_run
from bench.config.files import PROJECT_FILES, ConfigFiles
from bench.config.places import CONF
from bench.errors import UserError
from bench.learning.cycle import run_active_learning
from bench.learning.pack import run_pack
from bench.selection.pairs import check

YAML = """
_target_: pair_potential.Pairs
name: PAIR
r_max: 4.0
n_gaussians: 8
minibatch: 2
learning_rates: {weights: 0.05, shift: 0.05}
"""
WORDS = [
    *(word for word in SIZES if not word.startswith(("model", "training.minibatch"))),
    *("scenario=demo", "model=pair", "scenario.final=6", "training.epochs=4", "threads=1", "plugins=pair_potential"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "conf"
    (folder / "model").mkdir(parents=True)
    (folder / "model/pair.yaml").write_text(YAML)
    return ConfigFiles(folders=(str(CONF), str(folder)))


def run_of(files, results, *words):
    return compose_run([*WORDS, f"results={results}", *words], files)


def test_every_algorithm(files, tmp_path):
    for algorithm in PROJECT_FILES.options("algorithm"):
        record = run_active_learning(run_of(files, tmp_path, f"algorithm={algorithm}"))
        assert [step.n_train for step in record.steps] == [2, 4, 6] and record.content.status == "done"
    content = record.content
    assert content.identity["model"] == {"name": "PAIR", "version": 1, "r_max": 4.0}
    assert content.identity["training"]["learning_rates"] == {"weights": 0.05, "shift": 0.05}
    assert content.deviations["model.name"] == "PAIR"
    assert {key for key in content.deviations if key.startswith("model")} == {"model.name"}
    assert content.sessions[0].sources["model"]["class"] == "pair_potential.Pairs"
    collector = Collector()
    for path in record_paths(tmp_path):
        collector.add(read_or_describe(path))
    assert len(record_paths(tmp_path)) == 15


def test_packs_and_continued_runs(files, tmp_path):
    """In lockstep as alone, and a longer run from the model of a shorter: the same numbers."""
    asked = [(seed, final) for seed in (0, 1) for final in (4, 6)]
    alone = {}
    for seed, final in asked:
        run = run_of(
            files, tmp_path / f"alone_{final}", f"seed={seed}", f"scenario.final={final}", "algorithm=maxdet_gp_ll"
        )
        alone[seed, final] = run_active_learning(run)
    together = [run_of(files, tmp_path / "pack", f"seed={seed}", "algorithm=maxdet_gp_ll") for seed in (0, 1)]
    for seed, record in enumerate(run_pack(together)):
        ours, theirs = record.steps, alone[seed, 6].steps
        assert [one.picked for one in ours] == [one.picked for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.metrics.given() == pytest.approx(other.metrics.given(), rel=1e-5)
    shutil.copytree(tmp_path / "alone_4", tmp_path / "continued")
    run = run_of(files, tmp_path / "continued", "seed=0", "scenario.final=6", "algorithm=maxdet_gp_ll")
    longer = run_active_learning(run)
    assert [one.picked for one in longer.steps] == [one.picked for one in alone[0, 6].steps]
    assert longer.steps[-1].metrics == alone[0, 6].steps[-1].metrics


def test_the_calculator(files, tmp_path, generator):
    run = run_of(files, tmp_path, "algorithm=maxdiag_qbc_f", "precision=float64")
    record = run_active_learning(run)
    calculator = PotentialCalculator(record.folder / "model.pt")
    _, positions, cell = random_crystal(generator)
    atoms = Atoms("CHOC", positions=positions, cell=cell, pbc=True, calculator=calculator)
    forces, stress = atoms.get_forces(), atoms.get_stress(voigt=False)
    step = 1e-5
    for atom in range(4):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = calculator
            moved.positions[atom, 0] += sign * step
            energies.append(moved.get_potential_energy())
        assert -(energies[0] - energies[1]) / (2 * step) == pytest.approx(forces[atom, 0], abs=1e-6)
    strained = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.calc = calculator
        moved.set_cell(atoms.cell * (1 + sign * step), scale_atoms=True)
        strained.append(moved.get_potential_energy())
    assert (strained[0] - strained[1]) / (2 * step) == pytest.approx(np.trace(stress) * atoms.get_volume(), abs=1e-5)


def test_kernels_that_need_gradients_are_refused(files, monkeypatch):
    import pair_potential

    run = run_of(files, "r", "algorithm=maxdet_gp_rp")
    check(run)
    monkeypatch.setattr(pair_potential.Pairs, "gradient_features", False)
    check(run_of(files, "r", "algorithm=maxdiag_qbc_e"))
    with pytest.raises(
        UserError, match=r"kernel GP\(RP\) needs gradient features, which model PAIR does not offer"
    ) as told:
        check(run)
    assert "\n" not in str(told.value)


MISTAKES = {
    "~model.learning_rates.shift": "PAIR has weights, shift; give a rate for each",
    "model.n_gaussians=0": "configuration key model.n_gaussians = 0",
    "model.name=GM-NN": "model.name = 'GM-NN' belongs to bench.potentials.gmnn.architecture.GaussianMoments",
    "model._target_=pair_potential.PairView": "unknown configuration key model.",
}


@pytest.mark.parametrize("word", MISTAKES)
def test_mistakes_in_one_line(files, word):
    with pytest.raises(UserError) as told:
        check(run_of(files, "r", word))
    assert MISTAKES[word].lower() in str(told.value).lower() and "\n" not in str(told.value)


def test_from_a_folder_of_its_own(files, tmp_path, monkeypatch):
    """The command line and a launch, in a folder that holds the file and the yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_potential.py").write_text((PROJECT / "tests/pair_potential.py").read_text())
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/mine.yaml").write_text(
        yaml.safe_dump(yaml.safe_load(YAML) | {"_target_": "my_potential.Pairs", "name": "MINE"})
    )
    words = [word for word in WORDS if not word.startswith(("model", "plugins", "scenario=", "threads"))]
    own = ["--config-dir=conf", "model=mine", "plugins=my_potential", *words, "algorithm=lcmd_feat_ll", "results=out"]
    done = in_folder("bench.run", *own, "scenario=demo", "threads=1")
    assert done.returncode == 0, done.stderr
    launched = in_folder("bench.launch", "sweep=demo", *own, "seed=0,1", "--wait")
    assert launched.returncode == 0, launched.stderr
    found = records(tmp_path / "out")
    assert [one["status"] for one in found] == ["done"] * 2
    assert {one["identity"]["model"]["name"] for one in found} == {"MINE"}
