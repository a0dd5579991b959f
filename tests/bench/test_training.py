"""Training: scaling, schedule, early stopping, the rules for minibatches, and repeatability."""

import dataclasses
import os
import signal
import threading

import numpy as np
import pytest
import torch
from conftest import PROJECT, SMALL, make_builder

from bench.config.plugins import plugin
from bench.config.schema import TrainingSettings
from bench.data.neighbours import find_neighbours
from bench.potentials.base import Draw
from bench.potentials.gmnn.potential import MomentPotential
from bench.potentials.gmnn.view import MomentView
from bench.potentials.scaling import EnergyScaling, fit_scaling
from bench.runs import stopping
from bench.training import fit as module
from bench.training.checkpoint import Checkpoint, key_of
from bench.training.fit import Job, fit, fit_many
from bench.training.groups import Group
from bench.training.minibatches import TrainingData, held_out
from bench.training.optimizer import Optimizer
from bench.training.validation import validation_error

RATES = {"network": 0.03, "radial": 0.02, "shift": 0.05, "scale": 0.001}
QUICK = TrainingSettings(epochs=12, minibatch=32, learning_rates=RATES, force_weight=4.0, validation_checks=6)


def fit_one(builder, model, settings, training, validation, **job):
    return fit(dataclasses.replace(builder, architecture=model), settings, Job(training, validation, **job))


@pytest.fixture(scope="module")
def aspirin():
    import yaml

    config = yaml.safe_load((PROJECT / "conf/dataset/rmd17_aspirin.yaml").read_text())
    return plugin(config, "dataset").load()


@pytest.fixture(scope="module")
def builder(aspirin):
    return MomentView(SMALL, aspirin, find_neighbours(aspirin, SMALL.r_max))


def test_embedded_data_load(aspirin):
    assert len(aspirin) == 4019
    assert np.abs(aspirin.residual_energies).max() < 3
    assert np.sqrt((aspirin.forces**2).mean()) == pytest.approx(1.2727, rel=1e-3)


def test_scaling_by_hand():
    """Two species, three structures: Ē = 10/6, c from its definition, μ from the normal equations."""
    energies = np.array([1.0, 3.0, 6.0])
    composition = np.array([[1, 0], [1, 1], [1, 2]])
    scaling = fit_scaling(energies, composition)
    mean = 10 / 6
    excess = energies - np.array([1, 2, 3]) * mean
    scale = np.sqrt((excess**2 / np.array([1, 2, 3])).sum() / 6)
    ridge = np.linalg.inv(composition.T @ composition + np.eye(2)) @ composition.T @ excess
    assert scaling.scale == pytest.approx(scale)
    np.testing.assert_allclose(scaling.shift, (ridge + mean) / scale)
    assert not scaling.degenerate


def test_equal_energies_have_no_scale():
    scaling = fit_scaling(np.full(4, 2.0), np.array([[1, 1]] * 4))
    assert scaling.degenerate and scaling.scale == 1.0
    np.testing.assert_allclose(scaling.shift, [1.0, 1.0])


def test_equal_total_energies_have_no_scale():
    """Their differences are what rounding leaves of half a million eV, which is no scale to train on."""
    for energy in (-517123.777, -1e6 / 3):
        scaling = fit_scaling(np.full(5, energy), np.full((5, 1), 3))
        assert scaling.degenerate and scaling.scale == 1.0
        assert scaling.shift[0] == pytest.approx(energy / 3)


@pytest.mark.parametrize(("epochs", "checks"), [(1000, 20), (500, 20), (3, 20), (1, 1), (100, 7)])
def test_check_epochs(epochs, checks):
    settings = dataclasses.replace(QUICK, epochs=epochs, validation_checks=checks)
    chosen = settings.check_epochs()
    assert chosen[-1] == epochs and chosen == sorted(set(chosen)) and chosen[0] >= 1
    if epochs >= 100:
        assert len(chosen) == checks
        assert sum(epoch > 0.75 * epochs for epoch in chosen) == max(1, checks // 2)


def test_training_learns_and_keeps_the_best(builder):
    settings = dataclasses.replace(QUICK, epochs=80)
    result = fit_one(builder, SMALL, settings, np.arange(64), np.arange(100, 130), seed=0, members=1)
    assert result.validation.shape == (6, 1)
    assert result.validation.min() < 0.7 * result.validation[0]
    assert result.check_epochs[int(np.argmin(result.validation[:, 0]))] == result.best_epochs[0]
    held = held_out(builder, settings, [np.arange(100, 130)])
    error = float(validation_error(result.potential, held, settings))
    assert error == pytest.approx(result.validation.min(), rel=1e-5)


def test_validation_error_by_definition(builder):
    result = fit_one(builder, SMALL, QUICK, np.arange(10), np.arange(50, 55), seed=0, members=2)
    picked = np.arange(50, 55)
    from bench.training.evaluate import structure_errors

    errors = structure_errors(result.potential, builder, picked, forces=True)
    expected = errors.energy.mean(1) + errors.force.mae.mean(1)
    held = held_out(builder, QUICK, [picked, picked])
    np.testing.assert_allclose(validation_error(result.potential, held, QUICK).numpy(), expected, rtol=1e-4)


def test_repeatable_and_keyed(builder):
    """Same seed, same bits; another seed or member, other weights; member 0 of a committee is the single model."""
    runs = [
        fit_one(builder, SMALL, QUICK, np.arange(40), np.arange(50, 55), seed=seed, members=members)
        for seed, members in ((0, 1), (0, 1), (1, 1), (0, 3))
    ]
    first, again, other, committee = (run.potential.parameters for run in runs)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["weight0"], other["weight0"])
    assert not torch.equal(committee["weight0"][0], committee["weight0"][1])
    for name, values in first.items():
        assert torch.equal(committee[name][0], values[0]), name


def a_pack(count, n_train=40, members=1):
    """Jobs that differ in training set, validation set and seed."""
    draw = np.random.default_rng(7)
    orders = [draw.permutation(1000)[: n_train + 6] for _ in range(count)]
    return [Job(order[6:], order[:6], seed, members) for seed, order in enumerate(orders)]


def same_bits(one, other):
    return (
        np.array_equal(one.validation, other.validation)
        and one.best_epochs == other.best_epochs
        and all(torch.equal(one.potential.parameters[k], v) for k, v in other.potential.parameters.items())
    )


@pytest.mark.parametrize("n_train", [40, 10])
def test_numbers_do_not_depend_on_the_pack(builder, n_train):
    """Packs of 1, 3 and 15 models, in any order: the same bits; committees too."""
    jobs = [*a_pack(11, n_train), *a_pack(2, n_train, members=2)]
    together = fit_many(builder, QUICK, jobs)
    assert [one.lockstep for one in together] == [15] * 13
    for chosen in ([2, 0, 1], [12], [11, 5], [4]):
        again = fit_many(builder, QUICK, [jobs[index] for index in chosen])
        assert all(same_bits(one, together[index]) for one, index in zip(again, chosen, strict=True))
    assert not same_bits(together[0], together[1])


@pytest.mark.parametrize(("n_train", "members"), [(40, 3), (10, 2)])
def test_a_committee_side_by_side(builder, monkeypatch, n_train, members):
    """On two threads its members go on beside each other, one thread each: the bits of one thread."""
    job = dataclasses.replace(a_pack(1, n_train)[0], members=members)
    step, seen = Group.step, []

    def noted(self, minibatch, done):
        seen.append((threading.current_thread() is threading.main_thread(), torch.get_num_threads(), minibatch))
        step(self, minibatch, done)

    monkeypatch.setattr(Group, "step", noted)
    threads, results = torch.get_num_threads(), []
    try:
        for wanted in (1, 2):
            torch.set_num_threads(wanted)
            results.append(fit(builder, QUICK, job))
            assert torch.get_num_threads() == wanted
    finally:
        torch.set_num_threads(threads)
    assert same_bits(*results)
    alone, beside = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert {place[:2] for place in alone} == {(True, 1)}
    assert {place[:2] for place in beside} == {(False, 1)}
    assert sorted(place[2] for place in beside) == sorted(place[2] for place in alone)


@pytest.mark.parametrize(("force_weight", "measure"), [(4.0, "energies_and_forces"), (4.0, "loss"), (0.0, "energies")])
def test_batched_training_equals_single_trainings(builder, force_weight, measure):
    """What a GPU computes, on the plain engine in float64: other sets, seeds and early stopping for every model."""
    settings = dataclasses.replace(QUICK, epochs=6, force_weight=force_weight, early_stopping=measure)
    model = dataclasses.replace(SMALL, normalise_invariants=not force_weight)
    single = dataclasses.replace(builder, architecture=model, dtype=torch.float64)
    plain = dataclasses.replace(single, plain=True)
    jobs = [*a_pack(3), *a_pack(1, members=2)]
    for one, job in zip(fit_many(plain, settings, jobs), jobs, strict=True):
        alone = fit(single, settings, job)
        np.testing.assert_allclose(one.validation, alone.validation, rtol=1e-8)
        assert one.best_epochs == alone.best_epochs
        for name, values in alone.potential.parameters.items():
            scale = float(values.abs().max())
            torch.testing.assert_close(one.potential.parameters[name], values, rtol=0, atol=1e-7 * scale, msg=name)


def test_a_pack_of_other_sizes(mixed_data):
    """Structures of other sizes in every model's sets, in one batched computation: as each model alone."""
    jobs = [Job(np.array(rows), np.array(held), seed) for seed, (rows, held) in enumerate(UNLIKE)]
    settings = dataclasses.replace(QUICK, minibatch=2)
    plain = dataclasses.replace(make_builder(mixed_data), plain=True)
    for one, job in zip(fit_many(plain, settings, jobs), jobs, strict=True):
        alone = fit(make_builder(mixed_data), settings, job)
        np.testing.assert_allclose(one.validation, alone.validation, rtol=1e-7)
        assert one.best_epochs == alone.best_epochs


UNLIKE = [([0, 1, 2], [3, 5]), ([5, 4, 1], [0, 2]), ([3, 2, 5], [1, 4])]


@pytest.mark.parametrize("plain", [True, False])
def test_a_pack_stopped_and_taken_up_again(mixed_data, tmp_path, monkeypatch, plain):
    """Saved together and gone on with: the same bits; also when one had to begin anew and goes on apart."""
    settings = dataclasses.replace(QUICK, minibatch=2, epochs=8)
    builder = dataclasses.replace(make_builder(mixed_data), plain=plain)
    jobs = [Job(np.array(rows), np.array(held), seed, 1 + seed // 2) for seed, (rows, held) in enumerate(UNLIKE)]
    expected = fit_many(builder, settings, jobs)
    kept = [dataclasses.replace(j, checkpoint=Checkpoint(tmp_path / f"{j.seed}.pt", 1e9)) for j in jobs]
    original, steps = module._Trainings._save_or_stop, []

    def save_or_stop(self):
        steps.append(1)
        if len(steps) in (4, 9):
            os.kill(os.getpid(), signal.SIGTERM)
        original(self)

    monkeypatch.setattr(module._Trainings, "_save_or_stop", save_or_stop)
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    try:
        for stop in range(2):
            stopping.listen(own=True)
            with pytest.raises(stopping.Stopped):
                fit_many(builder, settings, kept)
            assert len(list(tmp_path.glob("*.pt"))) == 3
            if stop == 0:
                kept[1].checkpoint.remove()
        stopping.listen(own=True)
        resumed = fit_many(builder, settings, kept)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert sorted(one.lockstep for one in resumed) == [1, 3, 3]
    for one, wanted in zip(resumed, expected, strict=True):
        if plain:  # batches of another width round otherwise
            np.testing.assert_allclose(one.validation, wanted.validation, rtol=1e-9)
        else:
            assert same_bits(one, wanted)


def test_one_diverges_and_the_others_go_on(builder):
    data = dataclasses.replace(builder.data, energies=builder.data.energies.copy())
    jobs = a_pack(2)
    data.energies[jobs[0].validation] = np.nan
    jobs[1] = Job(np.arange(2000, 2040), np.arange(1500, 1506), seed=1)
    broken, fine = fit_many(dataclasses.replace(builder, data=data), QUICK, jobs)
    assert isinstance(broken, FloatingPointError) and "40 structures diverged" in str(broken)
    assert same_bits(fine, fit(builder, QUICK, jobs[1]))


def test_declared_options(builder, monkeypatch):
    """Scale factor, incomplete minibatch, no decay: each changes just what it says."""
    factor = dataclasses.replace(QUICK, energy_scale_factor=3.0, epochs=1)
    plain = fit_one(builder, SMALL, dataclasses.replace(QUICK, epochs=1), np.arange(40), np.arange(50, 55), seed=0)
    scaled = fit_one(builder, SMALL, factor, np.arange(40), np.arange(50, 55), seed=0)
    assert scaled.scaling.scale == pytest.approx(3 * plain.scaling.scale)
    np.testing.assert_allclose(3 * scaled.scaling.shift, plain.scaling.shift)
    rates, sizes, original = [], [], torch._fused_adam_

    def step(*arguments, lr, **keywords):
        original(*arguments, lr=lr, **keywords)
        rates.append(lr)

    monkeypatch.setattr(torch, "_fused_adam_", step)
    spied = TrainingData.gather
    monkeypatch.setattr(TrainingData, "gather", lambda self, rows: (sizes.append(rows.shape[1]), spied(self, rows))[1])
    settings = dataclasses.replace(QUICK, epochs=2, last_minibatch="keep", decay="none")
    fit_one(builder, SMALL, settings, np.arange(75), np.arange(100, 105), seed=0)
    assert rates == rates[:4] * 6 and min(rates) > 0 and sizes[1:] == [32, 32, 11] * 2


def test_what_is_left_of_an_epoch_is_carried_into_the_next(builder, monkeypatch):
    """One order after the other, cut into whole minibatches: every structure as often as there are epochs."""
    seen = []
    spied = TrainingData.gather
    monkeypatch.setattr(TrainingData, "gather", lambda self, rows: (seen.append(rows[0]), spied(self, rows))[1])
    settings = dataclasses.replace(QUICK, epochs=6, last_minibatch="carry")
    result = fit_one(builder, SMALL, settings, np.arange(48), np.arange(100, 105), seed=0)
    assert [len(rows) for rows in seen[1:]] == [32] * 9 and np.isfinite(result.validation).all()
    for epoch in np.concatenate(seen[1:]).reshape(6, 48):
        assert sorted(epoch) == list(range(48))
    # where minibatches divide an epoch there is nothing to carry, and a minibatch of all is none
    for n_train, sizes in ((64, [32] * 12), (20, [])):
        seen.clear()
        fit_one(builder, SMALL, settings, np.arange(n_train), np.arange(100, 105), seed=0)
        assert [len(rows) for rows in seen[2 if not sizes else 1 :]] == sizes


def test_early_stopping_by_other_measures(builder):
    """Each measure against `structure_errors`; a last check only keeps the last weights."""
    from bench.training.evaluate import structure_errors

    picked = np.arange(50, 62)
    result = fit_one(builder, SMALL, QUICK, np.arange(10), picked, seed=0)
    errors = structure_errors(result.potential, builder, picked, forces=True)
    energy, force = errors.energy.mean(), errors.force.mae.mean()
    loss = (errors.energy**2).mean() + 4.0 * (3 * errors.n_atoms * errors.force.mse).mean()
    for measure, expected in [("energies", energy), ("forces", force), ("loss", loss)]:
        settings = dataclasses.replace(QUICK, early_stopping=measure)
        found = validation_error(result.potential, held_out(builder, settings, [picked]), settings)
        assert float(found) == pytest.approx(expected, rel=1e-4)
    last = fit_one(builder, SMALL, dataclasses.replace(QUICK, validation_checks=1), np.arange(10), picked, seed=0)
    assert last.check_epochs == last.best_epochs == [QUICK.epochs]


@pytest.mark.parametrize(("members", "forces", "last"), [(1, True, "drop"), (3, False, "drop"), (1, False, "carry")])
def test_stopped_and_taken_up_again(builder, tmp_path, monkeypatch, members, forces, last):
    """Stopped after every few minibatches, also within an epoch: the same numbers as without."""
    settings = dataclasses.replace(QUICK, epochs=5, force_weight=4.0 if forces else 0.0, last_minibatch=last)
    model = dataclasses.replace(SMALL, normalise_invariants=not forces)
    arguments = (builder, model, settings, np.arange(75), np.arange(100, 105))
    expected = fit_one(*arguments, seed=0, members=members)
    checkpoint = Checkpoint(tmp_path / "training.pt", 1e9)
    original, steps = Optimizer.step, []

    def step(self, *more):
        original(self, *more)
        steps.append(1)
        if len(steps) % (3 * members) == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Optimizer, "step", step)
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    stops = 0
    try:
        while True:
            stopping.listen(own=True)
            try:
                resumed = fit_one(*arguments, seed=0, members=members, checkpoint=checkpoint)
                break
            except stopping.Stopped:
                stops += 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert stops == 3 and len(steps) == (11 if last == "carry" else 10) * members
    assert np.array_equal(resumed.validation, expected.validation)
    assert resumed.best_epochs == expected.best_epochs
    for name, values in expected.potential.parameters.items():
        assert torch.equal(resumed.potential.parameters[name], values)
    assert resumed.seconds > resumed.validation_seconds > 0 and resumed.processor_seconds > 0


def test_checkpoints_are_taken_in_time_and_of_the_right_training(builder, tmp_path, caplog):
    checkpoint = Checkpoint(tmp_path / "training.pt", 0.0)
    first = fit_one(builder, SMALL, QUICK, np.arange(10), np.arange(50, 55), seed=0, members=1, checkpoint=checkpoint)
    assert checkpoint.path.exists() and not list(tmp_path.glob("*.tmp"))
    again = fit_one(builder, SMALL, QUICK, np.arange(10), np.arange(50, 55), seed=0, members=1, checkpoint=checkpoint)
    assert np.array_equal(again.validation, first.validation) and again.seconds >= first.seconds
    assert again.processor_seconds >= first.processor_seconds > 0
    older = checkpoint.load(key_of(np.arange(10), 1), torch.device("cpu"))
    del older["processor_seconds"]
    checkpoint.save(key_of(np.arange(10), 1), older)
    again = fit_one(builder, SMALL, QUICK, np.arange(10), np.arange(50, 55), seed=0, members=1, checkpoint=checkpoint)
    assert again.seconds >= first.seconds and again.processor_seconds is None, "nothing tells what was spent before"
    assert checkpoint.load(key_of(np.arange(11), 1), torch.device("cpu")) is None
    assert checkpoint.load(key_of(np.arange(10), 2), torch.device("cpu")) is None
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:1000])
    anew = fit_one(builder, SMALL, QUICK, np.arange(10), np.arange(50, 55), seed=0, members=1, checkpoint=checkpoint)
    assert np.array_equal(anew.validation, first.validation) and "damaged" in caplog.text
    checkpoint.remove()
    checkpoint.remove()
    assert not list(tmp_path.iterdir())


def test_minibatches(builder, monkeypatch):
    """All of them below 32; above, an incomplete last minibatch is dropped and every epoch has its own order."""

    seen = []
    original = MomentPotential.loss_gradient

    def spy(self, batch, energies, forces, force_weight):
        seen.append(energies.clone())
        return original(self, batch, energies, forces, force_weight)

    monkeypatch.setattr(MomentPotential, "loss_gradient", spy)
    settings = dataclasses.replace(QUICK, epochs=2)
    fit_one(builder, SMALL, settings, np.arange(31), np.arange(50, 55), seed=0, members=1)
    assert [len(energies[0]) for energies in seen] == [31, 31]
    seen.clear()
    fit_one(builder, SMALL, settings, np.arange(75), np.arange(100, 105), seed=0, members=1)
    assert [len(energies[0]) for energies in seen] == [32, 32, 32, 32]
    epochs = [set(torch.cat([a[0], b[0]]).tolist()) for a, b in (seen[:2], seen[2:])]
    assert len(epochs[0]) == 64 and epochs[0] != epochs[1]


def test_rates_decay_linearly_to_zero(builder, monkeypatch):
    rates, counts = [], []
    original = torch._fused_adam_

    def spy(parameters, *arguments, lr, **keywords):
        rates.append(lr)
        counts.append(len(parameters))
        original(parameters, *arguments, lr=lr, **keywords)

    monkeypatch.setattr(torch, "_fused_adam_", spy)
    fit_one(builder, SMALL, QUICK, np.arange(64), np.arange(70, 75), seed=0, members=1)
    expected = [0.02, 0.001, 0.05, 0.03]  # of β, σ, μ, and all W and b
    np.testing.assert_allclose(np.reshape(rates, (24, 4)), np.outer(1 - np.arange(24) / 24, expected))
    assert counts == [1, 1, 1, 2 * len(SMALL.hidden) + 2] * 24


def test_adam_is_torch_s(builder, generator):
    """The same numbers, bit for bit, as torch's class gives with the same groups and rates."""
    ours, theirs = (builder.draw([Draw(0, 0, 10, EnergyScaling(1.0, np.zeros(4), True))]) for _ in range(2))
    adam = Optimizer(ours, QUICK)
    names = [name for name in theirs.parameters if name in theirs.rates]
    groups = [{"params": theirs.parameters[name], "lr": RATES[theirs.rates[name]]} for name in names]
    reference = torch.optim.Adam(groups, betas=QUICK.adam_betas, eps=QUICK.adam_epsilon, fused=True)
    for step in range(5):
        for group, name in zip(reference.param_groups, names, strict=True):
            values = theirs.parameters[name]
            values.grad = torch.from_numpy(generator.normal(size=values.shape)).to(values.dtype)
            group["lr"] = RATES[theirs.rates[name]] * (1 - step / 5)
        adam.step({name: theirs.parameters[name].grad for name in names}, 1 - step / 5)
        reference.step()
    for name in names:
        assert torch.equal(ours.parameters[name], theirs.parameters[name]), name


def test_divergence_is_an_error(builder):
    rates = RATES | {"network": 1e30}
    settings = dataclasses.replace(QUICK, learning_rates=rates)
    with pytest.raises(FloatingPointError, match=r"diverged.* lower the learning rates"):
        fit_one(builder, SMALL, settings, np.arange(10), np.arange(50, 55), seed=0, members=1)


def test_energies_only(mixed_data):
    builder = make_builder(mixed_data)
    settings = dataclasses.replace(QUICK, force_weight=0.0, epochs=30)
    result = fit_one(builder, SMALL, settings, np.arange(5), np.arange(5, 6), seed=0, members=1)
    assert result.validation.shape[1] == 1
    assert np.isfinite(result.validation).all()
