"""Steps that a GPU replays: padded minibatches change nothing, and no step depends on what the host held before."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import SMALL, make_builder
from emulated_device import META, LeftOnTheHostError, Watch

from bench.config.schema import TrainingSettings
from bench.potentials.base import Draw
from bench.potentials.gmnn import invariants
from bench.potentials.gmnn.descriptor import sum_classes
from bench.potentials.scaling import EnergyScaling
from bench.training import replay
from bench.training.groups import Group, Model, in_groups
from bench.training.minibatches import TrainingData
from bench.training.replay import Recorder

RATES = {"network": 0.03, "radial": 0.02, "shift": 0.05, "scale": 0.001}
QUICK = TrainingSettings(epochs=8, minibatch=3, learning_rates=RATES, force_weight=4.0, validation_checks=2)
NORMALISED = dataclasses.replace(SMALL, normalise_invariants=True)
SETS = ([0, 1, 2, 4], [4, 3, 2, 1])
STEPS = 16


@pytest.fixture
def replays(monkeypatch):
    """As on a GPU, where there is memory enough; a step is asked for again instead of being replayed."""
    monkeypatch.setattr(replay, "serves", lambda minibatches, models, device: minibatches.data.pad())
    monkeypatch.setattr(replay, "gpu_memory_of", lambda work, device: (work(), 1))
    monkeypatch.setattr(Recorder, "free_bytes", lambda self: 3)
    monkeypatch.setattr(Recorder, "record", lambda self, work: work)


def a_group(data, settings, model=SMALL, sets=SETS, **view):
    scaling = EnergyScaling(1.0, np.zeros(len(data.species)), False)
    drawn = [Model(np.array(rows), np.array([5]), Draw(seed, 0, len(rows), scaling)) for seed, rows in enumerate(sets)]
    (group,) = in_groups(dataclasses.replace(make_builder(data, model), **view), settings, drawn)
    return group


def trained(group):
    for step in range(STEPS):
        group.step(step, step / STEPS)
    return group


def assert_close(one, other):
    for name, values in one.potential.parameters.items():
        here = getattr(values, "values", values) if values.device == META else values
        torch.testing.assert_close(here, other.potential.parameters[name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("last", ["drop", "keep", "carry"])
@pytest.mark.parametrize("forces", [True, False])
@pytest.mark.parametrize("model", [SMALL, NORMALISED])
def test_padding_changes_nothing(mixed_data, replays, monkeypatch, model, forces, last):
    settings = dataclasses.replace(QUICK, force_weight=4.0 if forces else 0.0, last_minibatch=last)
    padded = trained(a_group(mixed_data, settings, model, plain=True))
    assert padded.minibatches.whole is None and padded.replay._graphs
    monkeypatch.setattr(replay, "serves", lambda minibatches, models, device: False)
    assert_close(padded, trained(a_group(mixed_data, settings, model, plain=True)))


def test_a_training_set_of_one_minibatch(mixed_data, replays, monkeypatch):
    settings = dataclasses.replace(QUICK, minibatch=10)
    padded = trained(a_group(mixed_data, settings, NORMALISED, plain=True))
    assert padded.minibatches.whole[0].padding and list(padded.replay._graphs) == ["whole"]
    monkeypatch.setattr(replay, "serves", lambda minibatches, models, device: False)
    assert_close(padded, trained(a_group(mixed_data, settings, NORMALISED, plain=True)))


@pytest.fixture
def taped(replays, monkeypatch):
    """Recorded steps on the emulated device."""
    for table in (invariants._choices, invariants._expansion):  # kept by device
        table.cache_clear()
    with Watch(with_data=True) as watch:

        def record(self, work):
            first, again = watch.record(work)
            found = iter([first])
            return lambda: next(found, None) or again()

        monkeypatch.setattr(Recorder, "record", record)
        yield watch
    for table in (invariants._choices, invariants._expansion):
        table.cache_clear()


@pytest.mark.parametrize("minibatch", [3, 10])
@pytest.mark.parametrize("forces", [True, False])
def test_a_recorded_step_looks_at_nothing_of_the_host(mixed_data, taped, monkeypatch, forces, minibatch):
    settings = dataclasses.replace(QUICK, force_weight=4.0 if forces else 0.0, minibatch=minibatch)
    group = trained(a_group(mixed_data, settings, NORMALISED, device=META))
    recorded = group.replay._graphs
    assert taped.replays == STEPS - len(group.replay._bytes) - len(recorded) > STEPS // 3
    with torch.utils._python_dispatch._disable_current_modes():
        monkeypatch.setattr(replay, "serves", lambda minibatches, models, device: False)
        assert_close(group, trained(a_group(mixed_data, settings, NORMALISED, plain=True)))


def test_a_number_of_the_host_in_a_recorded_step_is_found(mixed_data, taped, monkeypatch):
    """The share by which means move falls from minibatch to minibatch."""
    original, shares = Group._gradient, iter([1 / (step + 1) for step in range(STEPS)])
    monkeypatch.setattr(Group, "_gradient", lambda self, minibatch, rate: original(self, minibatch, next(shares)))
    group = trained(a_group(mixed_data, QUICK, NORMALISED, device=META))
    with torch.utils._python_dispatch._disable_current_modes():
        monkeypatch.setattr(Group, "_gradient", original)
        monkeypatch.setattr(replay, "serves", lambda minibatches, models, device: False)
        with pytest.raises(AssertionError, match=r"^(invariant|weight|beta|shift|scale|bias)"):
            assert_close(group, trained(a_group(mixed_data, QUICK, NORMALISED, plain=True)))


def test_an_array_of_the_host_in_a_recorded_step_is_found(mixed_data, taped, monkeypatch):
    original = TrainingData.gather_padded

    def gather_padded(self, places, atoms_each):
        inputs, energies, forces = original(self, places, atoms_each)
        return inputs, energies + torch.from_numpy(np.zeros(3)).to(META), forces

    monkeypatch.setattr(TrainingData, "gather_padded", gather_padded)
    with pytest.raises(LeftOnTheHostError, match="is recorded with what the host holds"):
        trained(a_group(mixed_data, QUICK, device=META))


def test_where_steps_are_replayed(mixed_data, monkeypatch):
    """On a GPU, of a potential that can be padded, unless there is too much of that."""
    group = a_group(mixed_data, QUICK, plain=True)
    minibatches, n_atoms = group.minibatches, group.minibatches.data.n_atoms
    on_gpu = 2, torch.device("cuda")
    assert group.replay is None and not replay.serves(minibatches, 2, torch.device("cpu"))
    assert replay.serves(minibatches, *on_gpu)
    monkeypatch.setattr(replay, "MOST_ATOMS", 2 * 3 * n_atoms.mean() - 1)
    assert not replay.serves(minibatches, *on_gpu)
    monkeypatch.setattr(minibatches.data, "n_atoms", np.full(len(n_atoms), n_atoms.max()))
    assert replay.serves(minibatches, *on_gpu), "nothing is padded"
    compiled = a_group(mixed_data, QUICK, sets=SETS[:1])
    assert not replay.serves(compiled.minibatches, *on_gpu)


def without_graphs(data, monkeypatch):
    group = trained(a_group(data, QUICK, plain=True))
    assert set(group.replay._graphs.values()) == {None}
    monkeypatch.setattr(replay, "serves", lambda minibatches, models, device: False)
    assert_close(group, trained(a_group(data, QUICK, plain=True)))


def test_without_memory_for_a_graph_steps_are_asked_for_one_by_one(mixed_data, replays, monkeypatch):
    """There must be room for a step beside it, too."""
    monkeypatch.setattr(Recorder, "free_bytes", lambda self: 2)
    monkeypatch.setattr(Recorder, "record", None)
    without_graphs(mixed_data, monkeypatch)


def test_where_memory_ends_as_a_graph_is_recorded(mixed_data, replays, monkeypatch):
    def record(self, work):
        work()  # which a recording does not carry out

    monkeypatch.setattr(Recorder, "record", record)
    without_graphs(mixed_data, monkeypatch)


def test_learning_rates_that_follow_the_error(mixed_data, replays, monkeypatch):
    """Every model is a group; those that train on the same structures share them."""
    settings = dataclasses.replace(QUICK, decay="plateau", decay_factor=0.5, decay_every=2)
    scaling = EnergyScaling(1.0, np.zeros(len(mixed_data.species)), False)
    rows = np.array(SETS[0])
    drawn = [Model(rows, np.array([5]), Draw(0, member, 4, scaling)) for member in range(2)]
    found = []
    for _ in range(2):
        both = in_groups(dataclasses.replace(make_builder(mixed_data), plain=True), settings, drawn)
        assert len(both) == 2 and both[0].minibatches.data is both[1].minibatches.data
        found.append([trained(group) for group in both])
        monkeypatch.setattr(replay, "serves", lambda minibatches, models, device: False)
    for one, other in zip(*found, strict=True):
        assert one.replay._graphs and other.replay is None
        assert_close(one, other)


def test_shapes_are_few_and_little_is_wasted(mixed_data, replays, generator):
    data = a_group(mixed_data, QUICK, plain=True).minibatches.data
    data.n_atoms = generator.integers(6, 96, size=200)
    found = set()
    for _ in range(500):
        rows = generator.integers(200, size=(2, 10))
        places, atoms = data.places(rows)
        needed = data.n_atoms[rows].sum(1)
        assert needed.max() <= atoms <= 1.125 * needed.max()
        assert np.array_equal(places[1].sum(1), [atoms, atoms]) and (places[0, :, -1] == 200).all()
        found.add(atoms)
    assert len(found) < 20
    data.n_atoms = np.full(200, 21)
    assert data.places(rows)[1] == 210, "structures of one size need no padding"


def test_sums_by_products_are_those_by_index(generator):
    classes = np.sort(generator.integers(4, size=(3, 20)), axis=1) + 4 * np.arange(3)[:, None]
    values, classes = torch.from_numpy(generator.normal(size=(60, 2, 3))), torch.from_numpy(classes.flatten())
    torch.testing.assert_close(sum_classes(values, classes, 12, 3), sum_classes(values, classes, 12, None))
