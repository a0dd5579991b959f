"""Kernels equal their definitions: float64 autograd for features, kernel-space formulas for posteriors."""

import numpy as np
import pytest
import torch
from conftest import SMALL, make_builder, make_potential
from reference import energy as plain_energy
from scipy import stats

from bench.kernels.base import KernelInputs
from bench.kernels.last_layer import LastLayer
from bench.kernels.posterior import fit_posterior
from bench.kernels.predictions import AbsoluteError, Committee
from bench.kernels.random import Random
from bench.kernels.random_projection import RandomProjection, draw_projections
from bench.potentials.gmnn.potential import make_batch
from bench.runs.record_schema import Correlation
from bench.training.evaluate import correlations, structure_errors


def inputs(data, labelled, seed=0, models=1):
    return KernelInputs(make_potential(data, models=models), make_builder(data), np.array(labelled), seed)


def energy_gradients(data, potential, structure):
    """Float64 autograd of the energy with respect to W and b, layer by layer: ∂E/∂W̃ of shape (inputs + 1, outputs)."""
    parameters = {name: values[0].clone().requires_grad_() for name, values in potential.parameters.items()}
    rows = slice(data.offsets[structure], data.offsets[structure + 1])
    energy = plain_energy(
        torch.from_numpy(data.positions[rows]),
        data.species_index[rows],
        torch.from_numpy(data.cells[structure]),
        data.periodic[structure],
        parameters,
        potential.architecture,
        potential.energy_scale[0],
    )
    names = [(f"weight{layer}", f"bias{layer}") for layer in range(len(potential.weights))]
    gradients = [torch.autograd.grad(energy, [parameters[w], parameters[b]], retain_graph=True) for w, b in names]
    return [torch.cat([weight, bias[None]]) for weight, bias in gradients]


def feat(cls, **settings):
    return cls("FEAT", posterior=False, **settings)


def test_last_layer_features_equal_autograd(mixed_data):
    """Eq. (14): the gradient of the energy (11), c and σ_Z included, with respect to the last weights and bias."""
    state = inputs(mixed_data, [0])
    features = feat(LastLayer).prepare(state).embed(np.arange(len(mixed_data))).pool
    assert features.shape == (len(mixed_data), SMALL.hidden[-1] + 1)
    for structure in range(len(mixed_data)):
        expected = energy_gradients(mixed_data, state.potential, structure)[-1][:, 0]
        torch.testing.assert_close(features[structure], expected, rtol=1e-10, atol=1e-12)


def test_random_projections_equal_projected_autograd(mixed_data):
    """Eqs. (15)-(19): the full gradient contracted with u_in ⊗ u_out, one projection at a time."""
    state = inputs(mixed_data, [0, 3])
    features = feat(RandomProjection, n_projections=7).prepare(state).embed(np.arange(len(mixed_data))).pool
    projections = draw_projections(state.potential, 7, state.seed, len(state.labelled))
    for structure in range(len(mixed_data)):
        gradients = energy_gradients(mixed_data, state.potential, structure)
        expected = sum(
            torch.einsum("io,ip,op->p", gradient, u_in, u_out)
            for gradient, (u_in, u_out) in zip(gradients, projections, strict=True)
        )
        torch.testing.assert_close(features[structure], expected * 7**-0.5, rtol=1e-10, atol=1e-12)


def test_random_projections_estimate_the_full_kernel_without_bias(mixed_data):
    """Mean over many draws within four standard errors of ∇E·∇E', the factor d_rp^(−1/2) included."""
    gradients = [
        torch.cat([g.flatten() for g in energy_gradients(mixed_data, inputs(mixed_data, [0]).potential, s)])
        for s in (1, 2)
    ]
    exact = np.array([float(a @ b) for a in gradients for b in gradients])
    estimates = []
    for seed in range(60):
        pool = (
            feat(RandomProjection, n_projections=64).prepare(inputs(mixed_data, [0], seed)).embed(np.array([1, 2])).pool
        )
        estimates.append((pool @ pool.T).flatten().numpy())
    mean, error = np.mean(estimates, 0), np.std(estimates, 0, ddof=1) / np.sqrt(len(estimates))
    assert (np.abs(mean - exact) < 4 * error).all()
    assert (error < 0.2 * np.abs(exact).max()).all()


def test_projections_are_fixed_within_a_step(mixed_data):
    """The same for any batch, order or number of threads; other in another step or at another seed."""
    kernel = feat(RandomProjection, n_projections=9)
    prepared = kernel.prepare(inputs(mixed_data, [0, 1]))
    whole = prepared.embed(np.arange(len(mixed_data))).pool
    backwards = kernel.prepare(inputs(mixed_data, [4, 2])).embed(np.array([5, 1])).pool
    torch.testing.assert_close(backwards, whole[[5, 1]], rtol=1e-12, atol=1e-12)
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    again = kernel.prepare(inputs(mixed_data, [0, 1])).embed(np.arange(len(mixed_data))).pool
    torch.set_num_threads(threads)
    torch.testing.assert_close(again, whole, rtol=1e-12, atol=1e-12)
    for other in (inputs(mixed_data, [0, 1, 2]), inputs(mixed_data, [0, 1], seed=1)):
        assert not torch.allclose(kernel.prepare(other).embed(np.arange(2)).pool, whole[:2])


def test_absolute_errors_and_disagreement_by_definition(mixed_data):
    """Eqs. (24) and (25), atom by atom."""
    state = inputs(mixed_data, [0], models=3)
    everything = np.arange(len(mixed_data))
    energy, force = np.zeros((3, len(everything))), []
    for structure in everything:
        geometry = state.view.build(np.array([structure]))
        batch = make_batch(geometry, np.zeros((3, 1), np.int64), with_pairs=True)
        e, f = state.potential.predict(batch, forces=True)
        energy[:, structure] = e[:, 0].numpy()
        force.append(f.numpy().reshape(3, -1, 3))
    rows = [slice(mixed_data.offsets[s], mixed_data.offsets[s + 1]) for s in everything]
    labels = [mixed_data.forces[r] for r in rows]
    wanted = {
        ("AE", "energy"): np.abs(energy[0] - mixed_data.energies),
        ("AE", "force"): [np.abs(f[0] - y).mean() for f, y in zip(force, labels, strict=True)],
        ("QBC", "energy"): np.sqrt(((energy - energy.mean(0)) ** 2).mean(0)),
        ("QBC", "force"): [np.sqrt(((f - f.mean(0)) ** 2).sum() / (3 * f[0].size)) for f in force],
    }
    errors = structure_errors(state.potential, state.view, everything, forces=True)
    for (name, quantity), expected in wanted.items():
        kernel = (AbsoluteError if name == "AE" else Committee)(name, quantity=quantity)
        assert kernel.needs_forces == (quantity == "force") and kernel.reads_pool_labels == (name == "AE")
        prepared = kernel.prepare(state)
        np.testing.assert_allclose(prepared.embed(everything[::-1]).diagonal.numpy(), expected[::-1], rtol=1e-9)
        uncertainty = prepared.uncertainty(errors)
        if name == "AE":
            assert uncertainty is None
        else:
            np.testing.assert_allclose(uncertainty, expected, rtol=1e-9)
    np.testing.assert_allclose(errors.energy_of_mean, np.abs(energy.mean(0) - mixed_data.energies), rtol=1e-9)
    of_mean = [np.abs(f.mean(0) - y).mean() for f, y in zip(force, labels, strict=True)]
    np.testing.assert_allclose(errors.force.of_mean, of_mean, rtol=1e-9)


def test_correlations(mixed_data):
    state = inputs(mixed_data, [0], models=2)
    errors = structure_errors(state.potential, state.view, np.arange(6), forces=True)
    found = correlations(errors.force.mae.mean(0) * 2 + 1, errors)
    assert found["force"].pearson == pytest.approx(1) and found["force"].spearman == pytest.approx(1)
    expected = np.corrcoef(errors.force.mae.mean(0), errors.energy.mean(0))[0, 1]
    assert found["energy"].pearson == pytest.approx(expected)
    assert set(found) == {"energy", "force", "energy_of_mean", "force_of_mean"}
    assert correlations(np.ones(6), errors)["energy"] == Correlation()


@pytest.mark.parametrize(("n_train", "n_features"), [(3, 8), (20, 8), (8, 8), (2, 30)])
def test_posterior_equals_kernel_space(generator, n_train, n_features):
    """Features of Eq. (23) give the kernel of Eq. (21), with σ² of Section 3.1.4."""
    training = torch.from_numpy(generator.normal(size=(n_train, n_features)))
    pool = torch.from_numpy(generator.normal(size=(15, n_features)))
    posterior = fit_posterior(training)
    noise = float((training**2).sum()) / (n_train * n_features)
    assert posterior.noise == pytest.approx(noise)
    gram = training @ training.T + noise * torch.eye(n_train, dtype=torch.float64)
    cross = pool @ training.T
    expected = pool @ pool.T - cross @ torch.linalg.solve(gram, cross.T)
    features = posterior.transform(pool)
    torch.testing.assert_close(features @ features.T, expected, rtol=1e-9, atol=1e-10)


def test_gp_uncertainty_is_the_posterior_standard_deviation(mixed_data):
    state = inputs(mixed_data, [0, 4])
    prepared = LastLayer("GP(LL)", posterior=True).prepare(state)
    pool = np.array([1, 2, 5])
    embedding = prepared.embed(pool)
    plain = LastLayer("FEAT(LL)", posterior=False).prepare(state).embed(pool)
    noise = float((plain.training**2).sum()) / plain.training.numel()
    gram = plain.training @ plain.training.T + noise * torch.eye(2, dtype=torch.float64)
    cross = plain.pool @ plain.training.T
    variance = (plain.pool**2).sum(1) - (cross * torch.linalg.solve(gram, cross.T).T).sum(1)
    torch.testing.assert_close(embedding.diagonal, variance, rtol=1e-9, atol=1e-12)
    errors = structure_errors(state.potential, state.view, pool, forces=False)
    np.testing.assert_allclose(prepared.uncertainty(errors), variance.sqrt().numpy(), rtol=1e-9)
    assert feat(LastLayer).prepare(state).uncertainty(errors) is None


def test_features_ignore_the_chunks(mixed_data, monkeypatch):
    """Bounded memory changes nothing: the pool in one pass or structure by structure."""
    from bench.potentials.gmnn.view import MomentView

    everything = np.arange(len(mixed_data))
    whole = feat(LastLayer).prepare(inputs(mixed_data, [0])).embed(everything).pool
    monkeypatch.setattr(MomentView, "atoms_per_chunk", 1)
    torch.testing.assert_close(feat(LastLayer).prepare(inputs(mixed_data, [0])).embed(everything).pool, whole)


def test_random_kernel_is_uniform_and_keyed(mixed_data):
    everything = np.arange(len(mixed_data))
    draws = []
    for seed in range(400):
        prepared = Random("RND").prepare(inputs(mixed_data, [0, 1], seed))
        draws.append(prepared.embed(everything).diagonal.numpy())
    assert stats.kstest(np.concatenate(draws), "uniform").pvalue > 1e-3
    first_picks = np.bincount(np.argmax(draws, axis=1), minlength=len(everything))
    assert stats.chisquare(first_picks).pvalue > 1e-3
    again = Random("RND").prepare(inputs(mixed_data, [2, 5], 0)).embed(everything[1:]).diagonal.numpy()
    np.testing.assert_array_equal(again, draws[0][1:])
    later = Random("RND").prepare(inputs(mixed_data, [2, 5, 3], 0)).embed(everything).diagonal.numpy()
    assert not np.array_equal(later, draws[0])


def test_what_inherits_from_random_selection_is_no_baseline():
    class Mine(Random):
        """As the README begins one."""

    class Coin(Random):
        baseline = True

    assert Random("RND").baseline and Coin("COIN").baseline and not Mine("MINE").baseline


@pytest.mark.parametrize("cls", [LastLayer, RandomProjection])
def test_features_in_single_precision(mixed_data, cls):
    """float32 (other products, fused logistic functions) against float64, and the plain engine against the compiled."""
    import dataclasses

    found = []
    for dtype, plain in ((torch.float64, False), (torch.float64, True), (torch.float32, False)):
        builder = dataclasses.replace(make_builder(mixed_data, dtype=dtype), plain=plain)
        state = KernelInputs(make_potential(mixed_data, dtype=dtype), builder, np.array([0]), 0)
        found.append(feat(cls).prepare(state).embed(np.arange(len(mixed_data))).pool)
    scale = float(found[0].abs().max())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-11 * scale)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=2e-5 * scale)
