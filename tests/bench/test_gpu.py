"""The same numbers on a GPU; these tests need one."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from bench_commands import command, records
from conftest import SMALL, atom_rows, make_builder, make_potential, whole_batch

from bench.config.plugins import plugin
from bench.config.schema import TrainingSettings
from bench.kernels.base import KernelInputs
from bench.kernels.last_layer import LastLayer
from bench.kernels.random_projection import RandomProjection
from bench.potentials.base import Draw
from bench.potentials.gmnn.potential import MomentPotential, make_batch
from bench.potentials.gmnn.products import Products, parameter_type
from bench.potentials.scaling import EnergyScaling
from bench.training import replay
from bench.training.fit import Job, fit, fit_many
from bench.training.groups import Group, Model, in_groups
from bench.training.replay import Recorder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")

RATES = {"network": 0.03, "radial": 0.02, "shift": 0.05, "scale": 0.001}
QUICK = TrainingSettings(epochs=6, minibatch=3, learning_rates=RATES, force_weight=4.0, validation_checks=3)


def sync_debug_mode(mode):
    with warnings.catch_warnings(action="ignore"):  # torch says every time that it is a prototype
        torch.cuda.set_sync_debug_mode(mode)


@pytest.fixture(autouse=True)
def as_runs_do():
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    sync_debug_mode("default")
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def on_gpu(potential):
    moved = {name: values.cuda() for name, values in potential.parameters.items()}
    return MomentPotential(potential.architecture, potential.species, moved, potential.energy_scale.cuda())


def gpu_builder(data, dtype=torch.float64, *, normalised=False):
    settings = dataclasses.replace(SMALL, normalise_invariants=normalised)
    return dataclasses.replace(make_builder(data, settings, dtype), device=torch.device("cuda"))


def test_energies_forces_and_gradients(mixed_data):
    potential = make_potential(mixed_data, models=3)
    picked = np.array([[0, 1, 2], [4, 5, 0], [3, 2, 1]])
    found = []
    for model, builder in ((potential, make_builder(mixed_data)), (on_gpu(potential), gpu_builder(mixed_data))):
        geometry = builder.build(np.arange(len(mixed_data)))
        energies, forces = model.predict(whole_batch(geometry, 3, with_pairs=True), forces=True)
        targets = torch.from_numpy(mixed_data.energies)[picked].to(builder.device)
        labels = torch.from_numpy(mixed_data.forces).to(builder.device)[atom_rows(geometry, picked.flatten())]
        _, gradient = model.loss_gradient(make_batch(geometry, picked, with_pairs=True), targets, labels, 4.0)
        found.append({"energies": energies.cpu(), "forces": forces.cpu()} | {k: v.cpu() for k, v in gradient.items()})
    for name, values in found[0].items():
        scale = float(values.abs().max())
        torch.testing.assert_close(found[1][name], values, rtol=0, atol=1e-10 * scale, msg=name)


def test_a_pack_equals_single_trainings_and_repeats(mixed_data, monkeypatch):
    """In float64 as on the CPU; the same bits again; no minibatch waits for the device."""
    jobs = [Job(np.array(rows), np.array([5]), seed) for seed, rows in enumerate(([0, 1, 2, 4], [4, 3, 2, 1]))]
    jobs.append(Job(np.array([1, 2, 3, 0]), np.array([4]), 7, members=2))
    original = Group.step

    def step(self, *arguments):
        sync_debug_mode("error")
        original(self, *arguments)
        sync_debug_mode("default")

    fit_many(gpu_builder(mixed_data), dataclasses.replace(QUICK, epochs=1), jobs)  # makes constant tables
    monkeypatch.setattr(Group, "step", step)
    first, again = (fit_many(gpu_builder(mixed_data), QUICK, jobs) for _ in range(2))
    monkeypatch.setattr(Group, "step", original)
    for one, same, job in zip(first, again, jobs, strict=True):
        assert np.array_equal(one.validation, same.validation)
        alone = fit(make_builder(mixed_data), QUICK, job)
        np.testing.assert_allclose(one.validation, alone.validation, rtol=1e-7)


@pytest.mark.parametrize("rows", [(0, 1, 2, 4), (2, 4, 1)], ids=["minibatches", "whole"])
@pytest.mark.parametrize("forces", [True, False])
@pytest.mark.parametrize("precision", ["float64", "float32", "tf32", "bfloat16"])
def test_replayed_steps_are_the_same_to_the_bit(mixed_data, monkeypatch, rows, forces, precision):
    """As asked for one by one; after a restart too, which begins without graphs."""
    settings = dataclasses.replace(QUICK, epochs=20, force_weight=4.0 if forces else 0.0, last_minibatch="carry")
    view = gpu_builder(mixed_data, parameter_type(precision), normalised=True)
    view = dataclasses.replace(view, products=Products.of(precision))
    scaling = EnergyScaling(1.0, np.zeros(len(mixed_data.species)), False)
    models = [Model(np.array(rows), np.array([5]), Draw(seed, 0, len(rows), scaling)) for seed in range(3)]

    def after(steps, saved=None):
        (group,) = in_groups(view, settings, models)
        if saved:
            group.state.restore(saved)
        for step in steps:
            group.step(step, step / 40)
        return group

    replayed = after(range(40))
    assert len(replayed.replay._graphs) >= 1 and None not in replayed.replay._graphs.values()
    again = after(range(17, 40), after(range(17)).state.saved())
    monkeypatch.setattr(Recorder, "record", lambda self, work: work)
    one_by_one = after(range(40))
    monkeypatch.setattr(replay, "serves", lambda minibatches, models, device: False)
    unpadded = after(range(40))
    for name, values in replayed.potential.parameters.items():
        assert torch.equal(values, one_by_one.potential.parameters[name]), name
        assert torch.equal(values, again.potential.parameters[name]), name
        if precision == "float64":
            torch.testing.assert_close(values, unpadded.potential.parameters[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kernel", [LastLayer("GP(LL)", posterior=True), RandomProjection("GP(RP)", posterior=True)])
def test_features_and_selections(mixed_data, kernel):
    potential, everything = make_potential(mixed_data), np.arange(len(mixed_data))
    embeddings = [
        kernel.prepare(KernelInputs(model, builder, everything[:2], 0)).embed(everything)
        for model, builder in ((potential, make_builder(mixed_data)), (on_gpu(potential), gpu_builder(mixed_data)))
    ]
    torch.testing.assert_close(embeddings[1].pool.cpu(), embeddings[0].pool, rtol=1e-9, atol=1e-9)
    for target in ("max_diag.MaxDiag", "max_det.MaxDet", "max_dist.MaxDist", "lcmd.LargestClusterMaximumDistance"):
        method = plugin({"_target_": f"bench.selection.{target}", "name": "x"}, "selection")
        rows = [list(method.select(one, 2, np.random.default_rng(0)).rows) for one in embeddings]
        assert rows[0] == rows[1]


def test_runs_of_all_algorithms(tmp_path):
    sizes = ["scenario.final=14", "scenario.pool=40", "scenario.validation=5", "scenario.test=10", "batch_size=4"]
    algorithms = "maxdiag_rnd,maxdiag_ae_f,maxdiag_qbc_f,maxdiag_gp_ll,maxdet_gp_rp,maxdist_feat_ll,lcmd_feat_rp"
    done = command("-m", *sizes, f"algorithm={algorithms}", "training.epochs=5", "device=cuda", f"results={tmp_path}")
    assert done.returncode == 0, done.stderr
    found = records(tmp_path)
    assert len(found) == 7 and all(record["status"] == "done" for record in found)
    assert all("peak_gpu_memory_mb" in record["steps"][0] for record in found)
