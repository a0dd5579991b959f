"""Kernels of models that others trained and of SOAP: features, what is kept, what is refused, the first batch."""

import copy
import dataclasses
import importlib.util

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write
from conftest import make_structures, random_crystal, random_molecule
from module_gradients import check_features
from own_describer import Distances
from small_sweeps import SIZES

from bench.check import check_kernel
from bench.config.compose import compose_run
from bench.config.files import PROJECT_FILES
from bench.config.identity import identity_of
from bench.config.places import CONF
from bench.config.plugins import name_plugins, plugin
from bench.errors import UserError
from bench.kernels.base import KernelInputs
from bench.learning.cycle import run_active_learning
from bench.potentials.base import Draw
from bench.potentials.gmnn.architecture import GaussianMoments
from bench.potentials.scaling import EnergyScaling
from bench.runs.record import initial_model
from bench.select import select, split_words
from bench.selection.pairs import check

OWN = [
    *("kernel=soap", "selection=lcmd", "kernel.name=OWN", "plugins=own_describer"),
    *(f"~kernel.source.{key}" for key in ("r_cut", "n_max", "l_max", "sigma")),
    "kernel.source._target_=own_describer.Distances",
]
WORDS = [*SIZES, "scenario=demo", "scenario.final=6", "training.epochs=2", "threads=1"]


def needs(package, extra):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"needs {package}: pip install 'bmdal-bench[{extra}]'")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own, but for compiled kernels."""
    folder = tmp_path / "kept"
    monkeypatch.setattr("bench.kernels.kept.cache_folder", lambda: folder)
    Distances.asked.clear()
    return folder


def run_of(results, *words):
    return compose_run([*WORDS, *OWN, f"results={results}", *words])


def test_features_are_kept_by_content(tmp_path, cache):
    record = run_active_learning(run_of(tmp_path / "one"))
    assert [step.n_train for step in record.steps] == [2, 4, 6]
    assert sum(Distances.asked) == 14  # all that could be labelled, no structure twice
    again = run_active_learning(run_of(tmp_path / "two"))
    assert sum(Distances.asked) == 14
    assert [step.picked for step in again.steps] == [step.picked for step in record.steps]
    files = {path: np.load(path)["rows"] for path in cache.glob("features/*/*.npz")}
    damaged = max(files, key=lambda path: len(files[path]))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    third = run_active_learning(run_of(tmp_path / "three"))
    assert sum(Distances.asked) == 14 + len(files[damaged])
    assert [step.picked for step in third.steps] == [step.picked for step in record.steps]
    run_active_learning(run_of(tmp_path / "four", "+kernel.source.widest=5.0"))
    assert sum(Distances.asked) == 28 + len(files[damaged])


def test_a_cache_that_cannot_be_written(tmp_path, cache):
    cache.write_text("a file, no folder")
    assert run_active_learning(run_of(tmp_path / "one", "scenario.final=4")).content.status == "done"


def test_the_first_batch(tmp_path):
    """It is picked from all that it could be drawn from, says so in the identity, and shares no initial model."""
    random = run_active_learning(run_of(tmp_path, "scenario.final=4"))
    run = run_of(tmp_path, "scenario.final=4", "first_batch=selected")
    chosen = run_active_learning(run)
    assert chosen.content.identity["first_batch"] == "selected" and "first_batch" not in random.content.identity
    assert chosen.content.deviations["first_batch"] == "selected"
    splits = [dict(np.load(one.folder / "split.npz")) for one in (random, chosen)]
    pools = [np.sort(np.concatenate([one["initial"], one["pool"]])) for one in splits]
    np.testing.assert_array_equal(*pools)
    for part in ("validation", "test"):
        np.testing.assert_array_equal(splits[0][part], splits[1][part])
    assert len(splits[1]["initial"]) == 2 and set(splits[1]["initial"]) != set(splits[0]["initial"])
    assert not set(chosen.steps[0].picked) & set(splits[1]["initial"])
    models = {
        initial_model(run_of(tmp_path, *words), "0", 1)
        for words in ([], ["first_batch=selected"], ["first_batch=selected", "kernel.name=OTHER"])
    }
    assert len(models) == 3
    asked = sum(Distances.asked)
    longer = run_active_learning(run_of(tmp_path, "first_batch=selected"))
    assert next(iter(longer.steps)).picked == chosen.steps[0].picked
    np.testing.assert_array_equal(np.load(longer.folder / "split.npz")["initial"], splits[1]["initial"])
    assert sum(Distances.asked) == asked


def test_kernels_that_serve_no_first_batch():
    with pytest.raises(
        UserError, match=r"first_batch = 'selected', but kernel FEAT\(LL\) needs a trained model"
    ) as told:
        check(compose_run(["scenario=demo", "algorithm=lcmd_feat_ll", "first_batch=selected"]))
    assert "\n" not in str(told.value)
    check(compose_run(["scenario=demo", "kernel=descriptor", "selection=lcmd", "first_batch=selected"]))


def test_identities_of_before_are_those_of_now():
    run = compose_run(["scenario=demo", "kernel=chgnet", "selection=lcmd"])
    assert identity_of(run, "0")["kernel"] == {"name": "FEAT(CHGNet)"} and "first_batch" not in identity_of(run, "0")


def test_selecting_where_nothing_is_labelled(tmp_path):
    generator = np.random.default_rng(0)
    pool = []
    for _ in range(12):
        one = molecule("CH3OH")
        one.rattle(0.1, rng=generator)
        pool.append(one)
    write(tmp_path / "pool.xyz", pool)
    words = [f"pool={tmp_path}/pool.xyz", "n=3", *OWN, f"output={tmp_path}/selected.xyz"]
    select(*split_words(words, PROJECT_FILES), PROJECT_FILES)
    assert (tmp_path / "selected.xyz").is_file() and sum(Distances.asked) == 12


@pytest.mark.parametrize("kernel", ["chgnet", "sevennet", "soap"])
def test_a_missing_package_is_named(kernel, monkeypatch):
    data = make_structures([random_molecule(np.random.default_rng(0))])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"which is not installed: pip install 'bmdal-bench.{kernel}") as told:
        plugin(compose_run(["scenario=demo", f"kernel={kernel}", "selection=lcmd"]).kernel, "kernel").check_data(data)
    assert "\n" not in str(told.value)


def test_data_are_refused_before_anything_is_trained(tmp_path):
    run = run_of(tmp_path, "+kernel.source.refuses=rmd17_aspirin_4019")
    with pytest.raises(UserError, match="Distances does not know dataset"):
        run_active_learning(run)
    assert not list(tmp_path.glob("runs/*"))


def test_unknown_keys_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"unknown configuration key kernel\.source\.wide") as told:
        run_active_learning(run_of(tmp_path, "+kernel.source.wide=1"))
    assert "\n" not in str(told.value)


def kernel_of(name, *words):
    return plugin(compose_run(["scenario=demo", f"kernel={name}", "selection=lcmd", *words]).kernel, "kernel")


def refused(kernel, data, told):
    with pytest.raises(UserError, match=told) as error:
        kernel.check_data(data)
    assert "\n" not in str(error.value)


def features_of(kernel, data):
    """Of all structures, by the kernel as a run uses it; a turned and shifted structure has the same ones."""

    def found(of):
        view = GaussianMoments(4.0).on(of, "float32", "cpu")
        untrained = view.draw([Draw(0, 0, 0, EnergyScaling(1.0, np.zeros(len(of.species)), False))])
        return kernel.prepare(KernelInputs(untrained, view, np.arange(1), 0)).embed(np.arange(len(of))).pool

    rows = found(data)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    turned = dataclasses.replace(data, positions=data.positions @ turn + 0.7, cells=data.cells @ turn)
    torch.testing.assert_close(found(turned), rows, rtol=2e-3, atol=2e-3 * float(rows.abs().max()))
    return rows


def crystals():
    generator = np.random.default_rng(3)
    return make_structures([random_crystal(generator, n, (8, 22)) for n in (4, 5, 6)])


def contract(name, **source):
    config = yaml.safe_load((CONF / "kernel" / f"{name}.yaml").read_text(encoding="utf-8"))
    check_kernel(config | {"source": config["source"] | source}, {"_target_": "pair_potential.Pairs", **PAIR})


PAIR = {"r_max": 4.0, "name": "PAIR"}


@needs("chgnet", "chgnet")
def test_chgnet(monkeypatch):
    name_plugins("pair_potential")
    contract("chgnet", box=8.0)
    contract("chgnet_rp", box=8.0, n_projections=7)
    assert features_of(kernel_of("chgnet"), crystals()).shape == (3, 65)
    refused(kernel_of("chgnet"), make_structures([random_molecule(np.random.default_rng(0))]), "kernel.source.box=10")
    refused(kernel_of("chgnet"), make_structures([([95], [[0, 0, 0]], np.eye(3) * 9)]), r"does not know Z = \[95\]")
    boxed = kernel_of("chgnet", "kernel.source.box=8.0")
    assert features_of(boxed, make_structures([random_molecule(np.random.default_rng(0), 5)])).shape == (1, 65)
    for module in ("graph.converter", "model.model"):
        monkeypatch.setattr(f"chgnet.{module}.TORCH_DTYPE", torch.float64)
    check_network("bench.potentials.pretrained.chgnet")


@needs("sevenn", "sevennet")
def test_sevennet():
    name_plugins("pair_potential")
    contract("sevennet")
    contract("sevennet_rp", n_projections=7)
    assert features_of(kernel_of("sevennet"), crystals()).shape == (3, 64)
    assert (
        features_of(kernel_of("sevennet"), make_structures([random_molecule(np.random.default_rng(0))])).shape[0] == 1
    )
    refused(kernel_of("sevennet"), make_structures([([2], [[0, 0, 0]], None), ([118], [[0, 0, 0]], None)]), "118")
    check_network("bench.potentials.pretrained.sevennet")


def doubled(values):
    return values.double() if values.is_floating_point() else values


def check_network(module):
    """Features by hooks are the gradients by autograd, in double precision, on structures of different sizes."""
    from bench.potentials.pretrained.network import used_layers

    network = copy.deepcopy(importlib.import_module(module)._loaded())
    network.model = network.model.double()
    if hasattr(network.model, "composition_model"):  # reference energies alone
        network.model.composition_model.float()
    for name, layer in network.model.named_modules():
        if name == "onehot_idx_to_onehot":  # of SevenNet-0: in single precision always
            layer.register_forward_hook(lambda _layer, _inputs, data: data.apply(doubled))
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        layers = used_layers(network)
        cells = [
            bulk("TiO", "rocksalt", 4.2, cubic=True),
            bulk("TiO", "rocksalt", 4.3),
            Atoms("OTi", [[0, 0, 0], [0, 1.8, 0]], cell=[5, 5, 5], pbc=True),
        ]
        for one in cells:
            one.rattle(0.1, seed=1)
        total, owners = network.batch(cells)

        def energies():
            return torch.stack([network.batch([one])[0]() for one in cells])

        check_features(
            energies,
            layers,
            lambda: layers.last_layer(total, owners),
            lambda projections: layers.projected(total, owners, projections),
            matter=0.8,  # the last angles of CHGNet are updated in vain
        )
    finally:
        torch.set_default_dtype(default)


@needs("dscribe", "soap")
def test_soap():
    name_plugins("pair_potential")
    contract("soap")
    features = features_of(kernel_of("soap", "kernel.source.n_max=3", "kernel.source.l_max=2"), crystals())
    assert features.shape == (3, 6 * 7 // 2 * 3) and float(features.std(0).max()) > 0
