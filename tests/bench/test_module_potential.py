"""A torch module as a potential: contracts, features by hooks, training, schedules, committees, resume, calculator."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from ase import Atoms
from conftest import make_structures, random_crystal, random_molecule
from module_gradients import check_features
from module_potential import Messages
from small_sweeps import SIZES

from bench.calculator import PotentialCalculator
from bench.check import check_potential
from bench.config.compose import compose_run
from bench.config.files import ConfigFiles
from bench.config.places import CONF
from bench.config.schema import TrainingSettings
from bench.errors import UserError
from bench.learning.cycle import run_active_learning
from bench.learning.pack import run_pack
from bench.potentials.base import Draw
from bench.potentials.modules.architecture import ModuleArchitecture
from bench.potentials.scaling import EnergyScaling
from bench.runs import stopping
from bench.training.checkpoint import Checkpoint
from bench.training.fit import Job, fit
from bench.training.schedule import plateaus, rate_factor

YAML = """
_target_: module_potential.Messages
name: MESSAGES
r_max: 4.0
minibatch: 2
learning_rates: {weights: 0.01, shift: 0.05}
decay: plateau
decay_factor: 0.7
decay_every: 1
"""
WORDS = [
    *(word for word in SIZES if not word.startswith(("model", "training.minibatch"))),
    *("scenario=demo", "model=messages", "scenario.final=6", "training.epochs=4", "threads=1"),
    *("plugins=module_potential", "training.minibatch=${model.minibatch}"),
]
MESSAGES = {"_target_": "module_potential.Messages", "name": "MESSAGES", "r_max": 4.0}
SCALING = EnergyScaling(0.7, np.zeros(3), False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "conf"
    (folder / "model").mkdir(parents=True)
    (folder / "model/messages.yaml").write_text(YAML)
    return ConfigFiles(folders=(str(CONF), str(folder)))


def run_of(files, results, *words):
    return compose_run([*WORDS, f"results={results}", *words], files)


@pytest.fixture
def view(generator):
    molecules = [random_molecule(generator, n) for n in (3, 6, 5, 1)] + [random_crystal(generator, 4, (1, 6, 8))]
    data = make_structures(molecules)
    data = dataclasses.replace(
        data, energies=generator.normal(size=len(data)), forces=generator.normal(size=data.positions.shape)
    )
    return Messages(4.0, "MESSAGES").on(data, "float64", "cpu")


def drawn(view, members=1):
    return view.draw([Draw(0, member, 10, SCALING) for member in range(members)])


def test_the_contract(files):
    run_of(files, "r")  # names the module
    check_potential(MESSAGES)


def test_features_are_gradients(view):
    potential = drawn(view)
    assert potential.layer_sizes == [(5, 6), (6, 6), (7, 1)]
    inputs = view.prepare(np.array([4, 1, 0, 3, 2]), forces=False).gather(np.arange(5)[None])
    check_features(
        lambda: potential.energies(0, inputs.graphs[0])[0],
        potential._layers,
        lambda: potential.last_layer_features()(inputs),
        lambda projections: potential.projected_features(projections)(inputs),
    )


@dataclasses.dataclass(frozen=True)
class Table(Messages):
    """A layer on a table of the elements, and one that is called by a keyword."""

    def module(self, species):
        net = super().module(species)
        net.of_table = torch.nn.Linear(len(species), self.width)
        plain, table = net.forward, torch.eye(len(species))

        def forward(graph):
            return plain(graph) + net.last(input=torch.sin(net.of_table(table)[graph.species]))

        net.forward = forward
        return net


@pytest.mark.parametrize("n_species", [2, 5])
def test_rows_that_are_as_many_as_others_by_chance(generator, n_species):
    """A table of two or five elements is neither two structures nor five atoms."""
    elements = (1, 6, 7, 8, 9)[:n_species]
    data = make_structures([random_molecule(generator, n, elements) for n in (3, 6, 5)])
    data = dataclasses.replace(data, reference_energies=dict.fromkeys(elements, 0.0))
    view = Table(4.0, "TABLE").on(data, "float64", "cpu")
    potential = view.draw([Draw(0, 0, 10, EnergyScaling(0.7, np.zeros(n_species), False))])
    assert potential.layer_sizes == [(5, 6), (6, 6), (7, 1)]
    for structures in ([0, 1, 2], [0, 1]):
        inputs = view.prepare(np.array(structures), forces=False).gather(np.arange(len(structures))[None])
        check_features(
            lambda inputs=inputs: potential.energies(0, inputs.graphs[0])[0],
            potential._layers,
            lambda inputs=inputs: potential.last_layer_features()(inputs),
            lambda projections, inputs=inputs: potential.projected_features(projections)(inputs),
        )


def test_drawing_leaves_torch_as_it_was(view):
    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    first, again = drawn(view, 2), drawn(view, 2)
    assert torch.equal(torch.get_rng_state(), before) and torch.get_default_dtype() == dtype
    weights = first.parameters["module.mix.weight"]
    assert torch.equal(weights, again.parameters["module.mix.weight"]) and not torch.equal(*weights)
    assert "module.frozen" in first.parameters and "module.frozen" not in first.rates


@pytest.mark.parametrize("algorithm", ["lcmd_feat_ll", "maxdet_gp_rp", "maxdiag_qbc_f", "maxdiag_ae_e"])
def test_algorithms(files, tmp_path, algorithm):
    record = run_active_learning(run_of(files, tmp_path, f"algorithm={algorithm}"))
    assert [step.n_train for step in record.steps] == [2, 4, 6] and record.content.status == "done"
    identity = record.content.identity
    assert identity["model"] == {"name": "MESSAGES", "version": 1, "r_max": 4.0}
    chosen = {key: identity["training"].get(key) for key in ("decay", "decay_factor", "decay_every", "minibatch")}
    assert chosen == {"decay": "plateau", "decay_factor": 0.7, "decay_every": 1, "minibatch": 2}
    assert record.content.sessions[0].sources["model"]["class"] == "module_potential.Messages"


def test_packs_and_continued_runs(files, tmp_path):
    words = ("algorithm=maxdet_gp_ll",)
    alone = {
        final: run_active_learning(run_of(files, tmp_path / f"alone_{final}", f"scenario.final={final}", *words)).steps
        for final in (4, 6)
    }
    packed = [run_of(files, tmp_path / "pack", f"seed={seed}", *words) for seed in (0, 1)]
    assert [one.metrics for one in next(iter(run_pack(packed))).steps] == [one.metrics for one in alone[6]]
    shutil.copytree(tmp_path / "alone_4", tmp_path / "continued")
    longer = run_active_learning(run_of(files, tmp_path / "continued", "scenario.final=6", *words)).steps
    assert [one.picked for one in longer] == [one.picked for one in alone[6]]
    assert longer[-1].metrics == alone[6][-1].metrics


SETTINGS = TrainingSettings(
    epochs=12,
    minibatch=2,
    learning_rates={"weights": 0.3, "shift": 0.3},
    force_weight=4.0,
    validation_checks=10,
    decay="plateau",
    decay_factor=0.5,
    decay_every=1,
)


def test_a_training_goes_on_where_it_stopped(view, tmp_path, monkeypatch):
    """With the same numbers, also where the rates depend on the errors so far."""
    job = Job(np.arange(4), np.array([4]), seed=0, members=2)
    whole = fit(view, SETTINGS, job)
    assert len(set(whole.validation[:, 0])) > 3
    kept = dataclasses.replace(job, checkpoint=Checkpoint(tmp_path / "training.pt", 1e9))
    steps = iter([False] * 15 + [True] * 9)
    with monkeypatch.context() as patched:
        patched.setattr("bench.training.fit.asked", lambda: next(steps, True))
        patched.setattr("bench.training.fit.raise_if_asked", lambda: next(stops))
        stops = iter([None] * 15)
        with pytest.raises(StopIteration):
            fit(view, SETTINGS, kept)
    again = fit(view, SETTINGS, kept)
    np.testing.assert_array_equal(again.validation, whole.validation)
    for name, values in whole.potential.parameters.items():
        assert torch.equal(values, again.potential.parameters[name]), name
    assert not stopping.asked()


def test_schedules():
    settings = dataclasses.replace(SETTINGS, decay="exponential", decay_factor=0.96, decay_every=100)
    assert [rate_factor(settings, step, 0.5, []) for step in (0, 100, 150)] == [1, 0.96, 0.96**1.5]
    assert rate_factor(dataclasses.replace(SETTINGS, decay="none"), 7, 0.5, []) == 1
    assert rate_factor(dataclasses.replace(SETTINGS, decay="linear"), 7, 0.25, []) == 0.75
    epochs = [10, 20, 30, 40, 50, 60]
    assert plateaus([3.0, 2.0, 2.0, 1.0], epochs, 10) == 1
    assert plateaus([3.0, 2.0, 2.0, 1.0], epochs, 20) == 0
    assert plateaus([3.0, 4.0, float("nan"), 4.0, 4.0, 2.0], epochs, 20) == 2
    assert rate_factor(SETTINGS, 7, 0.5, [1.0, 2.0, 2.0]) == 0.25


def test_the_calculator(files, tmp_path, generator):
    record = run_active_learning(run_of(files, tmp_path, "algorithm=maxdiag_qbc_f", "precision=float64"))
    _, positions, cell = random_crystal(generator)
    atoms = Atoms("CHOC", positions=positions, cell=cell, pbc=True)
    atoms.calc = PotentialCalculator(record.folder / "model.pt", plugins="module_potential", uncertainty="committee")
    forces, step, energies = atoms.get_forces(), 1e-5, []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.positions[1, 0] += sign * step
        energies.append(moved.get_potential_energy())
    assert -(energies[0] - energies[1]) / (2 * step) == pytest.approx(forces[1, 0], abs=1e-6)
    assert atoms.calc.get_property("max_force_std", atoms) > 0


@dataclasses.dataclass(frozen=True)
class Wrong(Messages):
    gives: str = "pairs"

    def module(self, species):
        net = super().module(species)
        if self.gives == "nothing":
            return None
        if self.gives == "no forward":
            return torch.nn.Module()
        if self.gives == "pairs":
            net.forward = lambda graph: graph.vectors[:, 0]
        elif self.gives == "tuple":
            net.register_forward_hook(lambda _module, _inputs, outputs: (outputs, None))
        elif self.gives == "mixed":
            plain = net.forward
            net.forward = lambda graph: plain(graph) + net.mix(graph.vectors @ torch.ones(3, 6).double()).sum()
        elif self.gives == "detached":
            net.register_forward_hook(lambda _module, _inputs, outputs: outputs.detach())
        else:
            net.last = torch.nn.Linear(6, 2)
            net.last.register_forward_hook(lambda _module, _inputs, outputs: outputs.sum(1, keepdim=True))
        return net


@pytest.mark.parametrize(
    ("gives", "told"),
    [
        ("nothing", "module gives NoneType, not a torch.nn.Module"),
        ("no forward", "Module, which module gives, has no forward"),
        ("pairs", "its module gives"),
        ("detached", "energies of its module are cut off from its weights and from the positions"),
        ("two", "its last, (7, 2), does not"),
        ("tuple", "its module gives tuple, not a tensor: give one energy for each atom"),
        ("mixed", "a linear layer, (6, 6), is called with pairs and with other rows"),
    ],
)
def test_mistakes_in_one_line(view, gives, told):
    def tried():
        potential = Wrong(4.0, "WRONG", gives=gives).on(view.data, "float64", "cpu").draw([Draw(0, 0, 10, SCALING)])
        inputs = view.prepare(np.arange(2), forces=True).gather(np.arange(2)[None])
        potential.predict(inputs, forces=True)
        projections = [tuple(torch.ones(n, 1).double() for n in size) for size in potential.layer_sizes]
        return potential.projected_features(projections)(inputs)

    with pytest.raises(UserError) as error:
        tried()
    assert told in str(error.value) and "\n" not in str(error.value)


def test_an_architecture_without_a_module_is_told(view):
    with pytest.raises(
        UserError, match=r"model BARE: its class has no module: give one that returns a torch.nn.Module"
    ):
        ModuleArchitecture(4.0, "BARE").on(view.data, "float64", "cpu").draw([Draw(0, 0, 10, SCALING)])
