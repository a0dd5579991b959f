"""SchNet, PaiNN, TensorNet, NequIP and MACE of graph-pes: configuration, contracts, a step, features by hooks."""

import importlib.util
import re

import numpy as np
import pytest
import torch
from bench_commands import command, records
from conftest import make_structures, random_crystal, random_molecule
from module_gradients import check_features
from small_sweeps import SIZES

from bench.calculator import PotentialCalculator
from bench.check import check_potential
from bench.config.compose import compose_run
from bench.config.files import PROJECT_FILES
from bench.config.identity import identity_of
from bench.config.places import CONF
from bench.config.plugins import plugin
from bench.errors import UserError
from bench.learning.cycle import run_active_learning
from bench.potentials.base import Draw
from bench.potentials.scaling import EnergyScaling
from bench.selection.pairs import check

MODELS = ("schnet", "painn", "tensornet", "nequip", "mace")
SMALL = {
    "schnet": "model.arguments={channels:8,expansion_features:6,layers:2}",
    "painn": "model.arguments={channels:8,radial_features:5,layers:2}",
    "tensornet": "model.arguments={channels:6,radial_features:5,layers:2}",
    "nequip": "model.arguments={layers:2,features:{channels:4,l_max:1,use_odd_parity:true}}",
    "mace": "model.arguments={channels:4,l_max:1,hidden_irreps:0e + 1o,layers:2,correlation:2,readout_width:4}",
}
HERE = importlib.util.find_spec("graph_pes") is not None
needs_graph_pes = pytest.mark.skipif(not HERE, reason="needs graph-pes: pip install 'bmdal-bench[graph-pes]'")
SCALING = EnergyScaling(0.7, np.zeros(3), False)


def run_of(model, *words):
    return compose_run(["scenario=demo", f"model={model}", *words])


def test_every_file_is_here():
    assert {name for name in PROJECT_FILES.options("model") if not name.startswith("gmnn")} == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_every_file_says_where_its_values_are_from(model):
    head = [line for line in (CONF / "model" / f"{model}.yaml").read_text().splitlines() if line.startswith("#")]
    told = " ".join(line.removeprefix("# ") for line in head)
    assert re.search(r"(NIPS|ICML|NeurIPS|Nat\. Commun\.) 20\d\d", told) and "Not theirs: " in told


@pytest.mark.parametrize("model", MODELS)
def test_configuration(model):
    """Rates, minibatch and schedule are the model's; nothing of it needs the library."""
    run = run_of(model, "training.minibatch=${model.minibatch}", "algorithm=lcmd_feat_rp")
    check(run)
    assert run.training.minibatch in (5, 8, 10, 32) and run.training.decay in ("exponential", "plateau")
    identity = identity_of(run, "0")
    assert identity["model"]["model"] == identity["model"]["name"] and "version" not in identity["model"]
    assert identity["training"]["decay"] == run.training.decay


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    architecture = plugin(run_of("schnet").model, "model")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="SchNet needs graph-pes, which is not installed: pip install") as told:
        architecture.module((1, 6))
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="SchNet needs graph-pes"):
        run_active_learning(run_of("schnet", f"results={tmp_path}"))
    assert not list(tmp_path.glob("runs/*"))


@needs_graph_pes
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model.arguments.channel=8"], "model.arguments.channel: did you mean 'channels'"),
        (["model.arguments.cutoff=8"], "model.arguments.cutoff"),
        (["model.arguments.layers=a"], "SchNet of graph-pes refuses them"),
    ],
)
def test_mistakes_in_one_line(words, told):
    architecture = plugin(
        run_of("schnet", *(f"+{word}".replace("+model.arguments.l", "model.arguments.l") for word in words)).model,
        "model",
    )
    with pytest.raises(UserError) as error:
        architecture.module((1, 6))
    assert told in str(error.value) and "\n" not in str(error.value)


@needs_graph_pes
@pytest.mark.parametrize("model", [*MODELS[:2], *(pytest.param(model, marks=pytest.mark.long) for model in MODELS[2:])])
def test_contract(model):
    check_potential(run_of(model, SMALL[model]).model)


def small_view(model, *words):
    generator = np.random.default_rng(1)
    data = make_structures([random_molecule(generator, n) for n in (4, 6)] + [random_crystal(generator, 4, (1, 6, 8))])
    return plugin(run_of(model, *words).model, "model").on(data, "float64", "cpu")


@needs_graph_pes
@pytest.mark.parametrize("model", ["schnet", "painn", "mace"])
def test_features_are_gradients(model):
    view = small_view(model, SMALL[model])
    potential = view.draw([Draw(0, 0, 10, SCALING)])
    inputs = view.prepare(np.array([2, 0, 1]), forces=False).gather(np.arange(3)[None])
    check_features(
        lambda: potential.energies(0, inputs.graphs[0])[0],
        potential._layers,
        lambda: potential.last_layer_features()(inputs),
        lambda projections: potential.projected_features(projections)(inputs),
    )


def one_step(model, *words):
    """Train two steps; the loss is finite, and falls for a small step along its gradient."""
    view = small_view(model, *words)
    potential = view.draw([Draw(0, 0, 10, SCALING)])
    inputs = view.prepare(np.arange(3), forces=True).gather(np.arange(3)[None])
    labels = torch.ones(1, 3, dtype=torch.float64), torch.ones(14, 3, dtype=torch.float64)
    before, gradient = potential.loss_gradient(inputs, *labels, 4.0)
    squares = sum(float((values**2).sum()) for values in gradient.values())
    assert np.isfinite(squares) and squares > 0
    for name, values in gradient.items():
        potential.parameters[name].sub_(values, alpha=1e-4 * float(before) / squares)
    after, _ = potential.loss_gradient(inputs, *labels, 4.0)
    assert float(after) / float(before) == pytest.approx(1 - 1e-4, abs=2e-5)


@needs_graph_pes
@pytest.mark.parametrize("model", MODELS)
def test_one_step(model):
    one_step(model, SMALL[model])


@needs_graph_pes
@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_one_step_of_the_published_size(model):
    one_step(model)


@needs_graph_pes
@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_a_launch_in_packs(tmp_path, model):
    """Two seeds of each model by one worker, as a pack; once more, and everything is there."""
    words = [word for word in SIZES if not word.startswith("model")]
    words += ["scenario.final=4", "training.epochs=2", "algorithm=maxdet_gp_ll", "seed=0,1", "cluster.pack=2"]
    for _ in range(2):
        done = command(
            "sweep=demo", f"model={model}", SMALL[model], *words, f"results={tmp_path}", "--wait", module="bench.launch"
        )
        assert done.returncode == 0, done.stderr
    found = records(tmp_path)
    assert [one["status"] for one in found] == ["done"] * 2 and [len(one["steps"]) for one in found] == [2, 2]


@needs_graph_pes
def test_a_run_and_its_calculator(tmp_path):
    from ase.build import molecule

    words = [word for word in SIZES if not word.startswith("model")]
    run = run_of(
        "schnet", *words, SMALL["schnet"], "scenario.final=4", "training.epochs=2", "algorithm=lcmd_feat_ll",
        "threads=1", f"results={tmp_path}",
    )  # fmt: skip
    record = run_active_learning(run)
    assert record.content.status == "done"
    assert record.content.deviations["model.name"] == "SchNet"
    atoms = molecule("CH3OH")
    atoms.calc = PotentialCalculator(record.folder / "model.pt", uncertainty="gp_ll")
    assert np.isfinite(atoms.get_forces()).all() and atoms.calc.get_property("energy_std", atoms) > 0
