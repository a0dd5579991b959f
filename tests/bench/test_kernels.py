"""Kernels equal their definitions: float64 autograd for features, kernel-space formulas for posteriors."""

import numpy as np
import pytest
import torch
from conftest import SMALL, make_builder, make_potential
from reference import energy as plain_energy
from scipy import stats

from bench.kernels.base import KernelInputs
from bench.kernels.last_layer import LastLayer, last_layer_features
from bench.kernels.posterior import fit_posterior
from bench.kernels.random import Random


def inputs(data, labelled, seed=0, models=1):
    return KernelInputs(make_potential(data, models=models), make_builder(data), np.array(labelled), seed)


def test_last_layer_features_equal_autograd(mixed_data):
    """Eq. (14): the gradient of the energy (11), c and σ_Z included, with respect to the last weights and bias."""
    potential, builder = make_potential(mixed_data), make_builder(mixed_data)
    features = last_layer_features(potential, builder, np.arange(len(mixed_data)))
    assert features.shape == (len(mixed_data), SMALL.hidden[-1] + 1)
    for structure in range(len(mixed_data)):
        parameters = {name: values[0].clone().requires_grad_() for name, values in potential.parameters.items()}
        rows = slice(mixed_data.offsets[structure], mixed_data.offsets[structure + 1])
        energy = plain_energy(
            torch.from_numpy(mixed_data.positions[rows]),
            mixed_data.species_index[rows],
            torch.from_numpy(mixed_data.cells[structure]),
            mixed_data.periodic[structure],
            parameters,
            potential.settings,
            potential.energy_scale[0],
        )
        weight, bias = torch.autograd.grad(energy, [parameters["weight2"], parameters["bias2"]])
        torch.testing.assert_close(features[structure], torch.cat([weight[:, 0], bias]), rtol=1e-10, atol=1e-12)


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
    np.testing.assert_allclose(prepared.uncertainty(pool), variance.sqrt().numpy(), rtol=1e-9)
    assert LastLayer("FEAT(LL)", posterior=False).prepare(state).uncertainty(pool) is None


def test_features_ignore_the_chunks(mixed_data, monkeypatch):
    """Bounded memory changes nothing: the pool in one pass or structure by structure."""
    from bench.model import geometry

    state = inputs(mixed_data, [0])
    everything = np.arange(len(mixed_data))
    whole = last_layer_features(state.potential, state.builder, everything)
    monkeypatch.setattr(geometry.GeometryBuilder.chunks, "__defaults__", (1,))
    torch.testing.assert_close(last_layer_features(state.potential, state.builder, everything), whole)


def test_random_kernel_is_uniform_and_keyed(mixed_data):
    everything = np.arange(len(mixed_data))
    draws = []
    for seed in range(400):
        prepared = Random("RND").prepare(inputs(mixed_data, [0, 1], seed))
        draws.append(prepared.embed(everything).diagonal.numpy())
        assert prepared.uncertainty(everything) is None
    assert stats.kstest(np.concatenate(draws), "uniform").pvalue > 1e-3
    first_picks = np.bincount(np.argmax(draws, axis=1), minlength=len(everything))
    assert stats.chisquare(first_picks).pvalue > 1e-3
    again = Random("RND").prepare(inputs(mixed_data, [2, 5], 0)).embed(everything[1:]).diagonal.numpy()
    np.testing.assert_array_equal(again, draws[0][1:])
    later = Random("RND").prepare(inputs(mixed_data, [2, 5, 3], 0)).embed(everything).diagonal.numpy()
    assert not np.array_equal(later, draws[0])
