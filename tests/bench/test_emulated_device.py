"""What a GPU would be asked to do, without one: nothing is left on the host, and nothing is fetched unseen."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import SMALL, make_builder, make_potential
from emulated_device import META, HiddenTransferError, LeftOnTheHostError, Watch

from bench.config.plugins import plugin
from bench.config.schema import TrainingSettings
from bench.kernels.base import Embedding, KernelInputs
from bench.kernels.descriptor import Descriptor
from bench.kernels.last_layer import LastLayer
from bench.kernels.random_projection import RandomProjection
from bench.potentials.base import Draw
from bench.potentials.gmnn import invariants, moments, potential
from bench.potentials.gmnn.potential import MomentPotential
from bench.potentials.scaling import EnergyScaling
from bench.training.fit import Job, fit, fit_many
from bench.training.groups import Group, Model, in_groups

RATES = {"network": 0.03, "radial": 0.02, "shift": 0.05, "scale": 0.001}
QUICK = TrainingSettings(epochs=4, minibatch=3, learning_rates=RATES, force_weight=4.0, validation_checks=2)
ENERGIES = dataclasses.replace(QUICK, force_weight=0.0)
NORMALISED = dataclasses.replace(SMALL, normalise_invariants=True)
FITTED = ("fit._outcome", "state.best_of_models")
"""Where the results of a finished training are fetched."""
SELECTED = (
    *("base._contents", "base.__init__", "base._largest", "base.among", "base.pick"),
    *("max_diag.select", "max_det.select", "max_det._pick", "max_dist.select"),
    *("lcmd.select", "lcmd._next", "lcmd._likely", "lcmd._farthest"),
    *("distances.nearest_centres", "distances._compare_exactly"),
)
"""A greedy selection is the host's: it asks for every pick."""
KERNELS = [
    LastLayer("GP(LL)", posterior=True),
    RandomProjection("GP(RP)", posterior=True, n_projections=40),
    LastLayer("FEAT(LL)", posterior=False),
    Descriptor("FEAT(D)"),
]


@pytest.fixture(autouse=True)
def _tables():
    """Constant tables are kept by device: those of one kind of `meta` are not the other's."""
    for one in (invariants._choices, invariants._expansion):
        one.cache_clear()
    yield
    for one in (invariants._choices, invariants._expansion):
        one.cache_clear()


def on_device(data, settings=SMALL, dtype=torch.float64):
    return dataclasses.replace(make_builder(data, settings, dtype), device=META)


def moved(model):
    parameters = {name: values.to(META) for name, values in model.parameters.items()}
    return MomentPotential(model.architecture, model.species, parameters, model.energy_scale.to(META))


def four_steps(data, settings=QUICK, model=SMALL, with_data=False):
    """Training in lockstep, minibatch by minibatch, with its validation."""
    scaling = EnergyScaling(1.0, np.zeros(len(data.species)), False)
    sets = ([0, 1, 2, 4], [4, 3, 2, 1])
    models = [Model(np.array(rows), np.array([5]), Draw(seed, 0, 4, scaling)) for seed, rows in enumerate(sets)]
    with Watch(with_data=with_data) as watch:
        (group,) = in_groups(on_device(data, model), settings, models)
        for step in range(4):
            group.step(step, step / 4)
        group.check()
    assert not watch.sent and {"baddbmm", "_fused_adam_"} <= watch.seen
    return group, models


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize(("settings", "model"), [(QUICK, SMALL), (QUICK, NORMALISED), (ENERGIES, NORMALISED)])
def test_a_minibatch_and_a_validation_ask_the_device_for_nothing(mixed_data, settings, model, with_data):
    group, models = four_steps(mixed_data, settings, model, with_data)
    everything = [*group.potential.parameters.values(), *group.state.best.values(), group.state.history[0]]
    assert all(values.device == META for values in everything)
    assert all(values.device == META for of_one in group.optimizer.moments.values() for values in of_one.values())
    if with_data:  # the same numbers as on the CPU
        for place, alone in enumerate(in_groups(make_builder(mixed_data, model), settings, models)):
            for step in range(4):
                alone.step(step, step / 4)
            for name, values in alone.potential.parameters.items():
                torch.testing.assert_close(group.potential.parameters[name].values[place : place + 1], values)


def test_a_training_is_fetched_at_its_end_alone(mixed_data):
    jobs = [Job(np.array(rows), np.array([5]), seed) for seed, rows in enumerate(([0, 1, 2, 4], [4, 3, 2, 1]))]
    jobs.append(Job(np.array([1, 2, 3, 0]), np.array([4]), 7, members=2))
    with Watch(with_data=True, declared=FITTED) as watch:
        results = fit_many(on_device(mixed_data), QUICK, jobs)
    assert watch.sent.total() == 4 + 3, "the best check of every model, and the errors of every job"
    for one, job in zip(results, jobs, strict=True):
        np.testing.assert_allclose(one.validation, fit(make_builder(mixed_data), QUICK, job).validation, rtol=1e-7)


@pytest.mark.parametrize("model", [SMALL, NORMALISED])
@pytest.mark.parametrize("forces", [True, False])
def test_a_prediction_stays_on_the_device(mixed_data, model, forces):
    builder, drawn = on_device(mixed_data, model), make_potential(mixed_data, model, models=2)
    with Watch() as watch:
        inputs = builder.prepare(np.arange(6), forces=forces).gather(np.tile(np.arange(6), (2, 1)))
        one = moved(drawn)
        energies, found = one.predict(inputs, forces=forces)
        assert energies.device == META and (found is None or found.device == META)
        if forces:
            assert one.predict_in_full(inputs).virials.device == META
    assert not watch.sent


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("with_data", [False, True])
def test_features_stay_on_the_device(mixed_data, kernel, with_data):
    """One number is fetched: the noise of a posterior."""
    drawn, everything = make_potential(mixed_data), np.arange(len(mixed_data))
    if kernel.uncertainty_of and not with_data:
        kernel = dataclasses.replace(kernel, posterior=False)
    with Watch(with_data=with_data, declared=("posterior.fit_posterior",)) as watch:
        inputs = KernelInputs(moved(drawn), on_device(mixed_data), everything[:3], 0)
        found = kernel.prepare(inputs).embed(everything)
    assert all(values.device == META for values in (found.pool, found.diagonal, found.training))
    assert watch.sent.total() == (1 if kernel.uncertainty_of else 0)
    if with_data:
        expected = kernel.prepare(KernelInputs(drawn, make_builder(mixed_data), everything[:3], 0)).embed(everything)
        torch.testing.assert_close(found.pool.values, expected.pool, rtol=1e-9, atol=1e-9)


METHODS = ["max_diag.MaxDiag", "max_det.MaxDet", "max_dist.MaxDist", "lcmd.LargestClusterMaximumDistance"]


@pytest.mark.parametrize("target", METHODS)
def test_selections_pick_the_same_and_fetch_little(generator, target):
    """Copies in the pool included; what is fetched grows with the batch, not with the pool."""
    method = plugin({"_target_": f"bench.selection.{target}", "name": "x"}, "selection")
    fetched = []
    for size in (60, 600):
        training, pool = generator.normal(size=(5, 16)), generator.normal(size=(size, 16))
        pool[7] = pool[3]
        arrays = [(pool**2).sum(1), pool, training]
        expected = method.select(Embedding(*map(torch.from_numpy, arrays)), 12, np.random.default_rng(0)).rows
        with Watch(with_data=True, declared=SELECTED) as watch:
            here = Embedding(*(torch.from_numpy(one).to(META) for one in arrays))
            assert method.select(here, 12, np.random.default_rng(0)).rows.tolist() == expected.tolist()
        fetched.append(watch.sent.total())
    assert fetched[1] <= 1.5 * fetched[0] + 12


def to_the_host(array, device):
    return torch.from_numpy(array)


def on_the_host_unless_large(array, device):
    return torch.from_numpy(array).to(device) if array.ndim > 1 else torch.from_numpy(array)


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.parametrize(
    ("where", "name", "fault", "error"),
    [
        (moments, "to_device", to_the_host, LeftOnTheHostError),
        (potential, "to_device", on_the_host_unless_large, LeftOnTheHostError),
        (Group, "step", lambda self, minibatch, done: float(self.potential.energy_scale[0]), HiddenTransferError),
        (Group, "step", lambda self, minibatch, done: torch.zeros(3) + 1, LeftOnTheHostError),
        (Group, "step", lambda self, minibatch, done: self.potential.energy_scale.cpu(), HiddenTransferError),
        (
            Group,
            "step",
            lambda self, minibatch, done: self.potential.energy_scale * torch.as_tensor(np.float64(2.0)),
            LeftOnTheHostError,
        ),
    ],
)
def test_planted_faults_are_found(mixed_data, monkeypatch, where, name, fault, error, with_data):
    monkeypatch.setattr(where, name, fault)
    with pytest.raises(error):
        four_steps(mixed_data, with_data=with_data)


@pytest.mark.parametrize("with_data", [False, True])
def test_a_sum_whose_size_the_device_knows_alone_is_found(mixed_data, monkeypatch, with_data):
    """It was so: features counted the atoms of structures on the device."""
    original = torch.repeat_interleave
    monkeypatch.setattr(torch, "repeat_interleave", lambda what, counts, output_size=None: original(what, counts))
    everything, drawn = np.arange(len(mixed_data)), make_potential(mixed_data)
    kernel = LastLayer("FEAT(LL)", posterior=False)
    with Watch(with_data=with_data), pytest.raises(HiddenTransferError):
        kernel.prepare(KernelInputs(moved(drawn), on_device(mixed_data), everything[:3], 0)).embed(everything)
