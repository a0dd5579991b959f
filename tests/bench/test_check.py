"""The contracts hold for everything in conf/, and each of them notices what it is for."""

from dataclasses import replace

import numpy as np
import pair_potential
import pytest
import torch
import yaml
from pair_potential import PairPotential

from bench.check import ContractError, check_dataset, check_kernel, check_potential, check_selection
from bench.config.compose import compose_run
from bench.config.files import PROJECT_FILES
from bench.config.places import CONF
from bench.config.plugins import name_plugins
from bench.kernels.random import Random
from bench.potentials.gmnn import potential
from bench.selection.max_diag import MaxDiag

SMALLER = ["model.hidden=[16,12]", "model.n_radial=3"]
PAIR = {"_target_": "pair_potential.Pairs", "r_max": 4.0, "name": "PAIR"}


@pytest.fixture(autouse=True)
def _named():
    name_plugins("pair_potential")


def filed(group, name):
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))


def own(group):
    """The files of a group that need no extra: the others are tried in test_graph_pes and test_pretrained."""
    needs = ("bench.potentials.graph_pes.", "bench.kernels.pretrained.")
    found = {name: compose_run([f"{group}={name}", "selection=max_diag"]) for name in PROJECT_FILES.options(group)}
    return [name for name, run in found.items() if not getattr(run, group)["_target_"].startswith(needs)]


@pytest.mark.parametrize("name", own("model"))
def test_models(name):
    check_potential(compose_run([f"model={name}", *SMALLER]).model)


@pytest.mark.parametrize("name", own("kernel"))
def test_kernels(name):
    check_kernel(filed("kernel", name), PAIR)


@pytest.mark.parametrize("name", PROJECT_FILES.options("selection"))
def test_selections(name):
    check_selection(filed("selection", name))


def test_the_embedded_dataset():
    check_dataset(filed("dataset", "rmd17_aspirin"))


def test_a_second_architecture():
    check_potential(PAIR)


def _in_batch(old):
    return lambda self, inputs, vectors: old(self, inputs, vectors) * (1 + 0.01 * len(inputs.species))


def _turned(old):
    return lambda self, inputs, vectors: old(self, inputs, vectors) + (vectors[:, 0] ** 2).sum()


def _by_place(old):
    def basis(self, inputs, vectors):
        first = old(self, inputs, vectors)
        return first * (1 + 0.1 * torch.arange(len(first)))[:, None]

    return basis


def _jump(old):
    def basis(self, inputs, vectors):
        near = (torch.linalg.vector_norm(vectors, dim=1) < self.architecture.r_max).to(vectors.dtype)[:, None]
        first = old(self, inputs, vectors)
        return first.index_add(0, inputs.centres, near.expand(-1, first.shape[1]))

    return basis


def _without_bias(old):
    def loss_gradient(self, *arguments):
        loss, gradient = old(self, *arguments)
        return loss, gradient | {"bias": torch.zeros_like(gradient["bias"])}

    return loss_gradient


def _twice(old):
    def loss_gradient(self, *arguments):
        loss, gradient = old(self, *arguments)
        return 2 * loss, {name: 2 * values for name, values in gradient.items()}

    return loss_gradient


BROKEN = {
    "rotation": ("_basis", _turned),
    "exchange of like atoms": ("_basis", _by_place),
    "alone and in a batch": ("_basis", _in_batch),
    "−dE/dr": ("predict_in_full", lambda old: lambda s, i: replace(p := old(s, i), forces=1.001 * p.forces)),
    "dE/dε": ("predict_in_full", lambda old: lambda s, i: replace(p := old(s, i), virials=-p.virials)),
    "cutoff": ("_basis", _jump),
    "gradient of the loss": ("loss_gradient", _without_bias),
    "the loss of Eq. (5)": ("loss_gradient", _twice),
    "a member by itself": ("member", lambda old: lambda self, index: old(self, 0)),
    "loaded from its state": ("state", lambda old: lambda self: old(self) | {"scale": 2 * self.scale}),
    "the last layer alone": ("projected_features", lambda old: lambda self, p: lambda x: 2 * old(self, p)(x)),
    "linear in U_out": ("projected_features", lambda old: lambda self, p: lambda x: old(self, p)(x) ** 2),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_noticed(monkeypatch, what):
    method, breaks = BROKEN[what]
    monkeypatch.setattr(PairPotential, method, breaks(getattr(PairPotential, method)))
    with pytest.raises(ContractError) as told:
        check_potential(PAIR)
    assert what in str(told.value)


def test_gradient_features_that_are_denied(monkeypatch):
    monkeypatch.setattr(pair_potential.Pairs, "gradient_features", False)
    with pytest.raises(ContractError, match="gradient_features of PAIR"):
        check_potential(PAIR)


@pytest.mark.parametrize("name", ["last_layer_features", "projected_features"])
def test_features_of_atoms_that_do_not_add_up_are_noticed(monkeypatch, name):
    original = getattr(potential._OfAtoms, name)
    monkeypatch.setattr(potential._OfAtoms, name, lambda self, *p: lambda x: 2 * original(self, *p)(x))
    with pytest.raises(ContractError, match=f"{name} of atoms, added up"):
        check_potential(compose_run(SMALLER).model)


def test_broken_selections_are_noticed(monkeypatch):
    original, generator = MaxDiag.select, np.random.default_rng()

    def anything(self, embedding, batch_size, given):
        return replace(original(self, embedding, batch_size, given), rows=generator.permutation(12)[:batch_size])

    monkeypatch.setattr(MaxDiag, "select", anything)
    with pytest.raises(ContractError, match="picks of the same pool"):
        check_selection(filed("selection", "max_diag"))


def test_selections_that_alter_what_they_see_are_noticed(monkeypatch):
    def select(self, embedding, batch_size, given):
        found = original(self, embedding, batch_size, given)
        embedding.diagonal.zero_()
        return found

    original = MaxDiag.select
    monkeypatch.setattr(MaxDiag, "select", select)
    with pytest.raises(ContractError, match="diagonal after selecting, which must not alter it"):
        check_selection(filed("selection", "max_diag"))


def test_a_kernel_without_a_model_must_do_without_labels(monkeypatch):
    def stacked(self, inputs):
        torch.stack([torch.zeros(1) for _ in inputs.labelled])
        return prepare(self, inputs)

    prepare = Random.prepare
    monkeypatch.setattr(Random, "prepare", stacked)
    with pytest.raises(ContractError, match="nothing labelled: RuntimeError: stack expects a non-empty"):
        check_kernel(filed("kernel", "rnd"), PAIR)
