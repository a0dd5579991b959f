"""The engine equals the plain equations, and the physics holds: Eqs. (1)-(6), closed forms against float64 autograd."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from conftest import (
    SMALL,
    atom_rows,
    make_builder,
    make_potential,
    make_structures,
    random_crystal,
    random_molecule,
    subprocess_environment,
    whole_batch,
)
from reference import energy as plain_energy

from bench.potentials.base import chunks
from bench.potentials.gmnn.architecture import GaussianMoments
from bench.potentials.gmnn.invariants import n_invariants
from bench.potentials.gmnn.potential import NORMALISATION, make_batch
from bench.potentials.gmnn.view import MomentView

NORMALISED = dataclasses.replace(SMALL, normalise_invariants=True)


def predict(potential, builder, picked, *, forces=True):
    geometry = builder.build(np.asarray(picked))
    return potential.predict(whole_batch(geometry, potential.n_models, with_pairs=forces), forces=forces)


def one(potential, model):
    return {name: values[model].clone().requires_grad_() for name, values in potential.parameters.items()}


def plain(data, structure, parameters, potential, model=0):
    rows = slice(data.offsets[structure], data.offsets[structure + 1])
    positions = torch.from_numpy(data.positions[rows]).requires_grad_()
    energy = plain_energy(
        positions,
        data.species_index[rows],
        torch.from_numpy(data.cells[structure]),
        data.periodic[structure],
        parameters,
        potential.architecture,
        potential.energy_scale[model],
    )
    return energy, positions


def test_invariants_are_360():
    assert n_invariants(5) == 360


@pytest.mark.parametrize(
    "settings", [SMALL, NORMALISED, GaussianMoments(r_max=4.0, hidden=(8,)), GaussianMoments(r_max=3.0, n_radial=2)]
)
def test_energies_and_forces_equal_the_plain_equations(mixed_data, settings):
    builder, potential = make_builder(mixed_data, settings), make_potential(mixed_data, settings, models=2)
    energies, forces = predict(potential, builder, range(len(mixed_data)))
    forces = forces.reshape(2, -1, 3)
    for model, structure in itertools.product(range(2), range(len(mixed_data))):
        energy, positions = plain(mixed_data, structure, one(potential, model), potential, model)
        force = torch.zeros_like(positions)
        if energy.grad_fn is not None and mixed_data.n_atoms[structure] > 1:
            force = -torch.autograd.grad(energy, positions)[0]
        rows = slice(mixed_data.offsets[structure], mixed_data.offsets[structure + 1])
        torch.testing.assert_close(energies[model, structure], energy.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(forces[model, rows], force.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("settings", [SMALL, NORMALISED])
@pytest.mark.parametrize("force_weight", [0.0, 4.0])
def test_loss_gradient_equals_autograd(mixed_data, force_weight, settings):
    """Two models with different structures of different sizes: closed form against double-backward autograd."""
    potential = make_potential(mixed_data, settings, models=2)
    geometry = make_builder(mixed_data).build(np.arange(len(mixed_data)))
    picked = np.array([[0, 5, 3], [1, 4, 4]])
    batch = make_batch(geometry, picked, with_pairs=True)
    energies = torch.from_numpy(mixed_data.energies)[picked]
    targets = torch.from_numpy(mixed_data.forces)
    forces = targets[atom_rows(geometry, picked.flatten())] if force_weight else None
    loss, gradient = potential.loss_gradient(batch, energies, forces, force_weight)
    for model in range(2):
        parameters = one(potential, model)
        expected = torch.zeros((), dtype=torch.float64)
        for position, structure in enumerate(picked[model].tolist()):
            energy, positions = plain(mixed_data, structure, parameters, potential, model)
            expected = expected + (energy - energies[model, position]) ** 2
            if force_weight and len(positions) > 1:
                force = -torch.autograd.grad(energy, positions, create_graph=True)[0]
                rows = slice(mixed_data.offsets[structure], mixed_data.offsets[structure + 1])
                expected = expected + force_weight * ((force - targets[rows]) ** 2).sum()
            elif force_weight:
                expected = expected + force_weight * (targets[mixed_data.offsets[structure]] ** 2).sum()
        torch.testing.assert_close(loss[model], expected.detach(), rtol=1e-11, atol=0)
        trained = [name for name in parameters if name not in NORMALISATION]
        wanted = torch.autograd.grad(expected, [parameters[name] for name in trained])
        assert set(gradient) == set(trained)
        for name, value in zip(trained, wanted, strict=True):
            scale = float(value.abs().max())
            torch.testing.assert_close(gradient[name][model], value, rtol=1e-10, atol=1e-10 * scale, msg=name)


def test_normalisation_follows_the_invariants_of_a_batch(mixed_data):
    """Rate 1 takes the batch's own mean and variance, per model; a smaller rate moves towards them."""
    potential = make_potential(mixed_data, NORMALISED, models=2)
    geometry = make_builder(mixed_data).build(np.arange(len(mixed_data)))
    picked = np.array([[0, 5, 3], [1, 4, 4]])
    potential.observe(make_batch(geometry, picked, with_pairs=False), 1.0)
    for model in range(2):
        values = potential.member(model).network_inputs(geometry.select(picked[model], with_pairs=False))
        torch.testing.assert_close(
            values.mean(0), torch.zeros(values.shape[1], dtype=torch.float64), atol=1e-12, rtol=0
        )
        assert float((values**2).mean()) == pytest.approx(0.16, rel=1e-12)
    before = {name: potential.parameters[name].clone() for name in NORMALISATION}
    other = make_batch(geometry, np.array([[1, 2], [0, 3]]), with_pairs=False)
    potential.observe(other, 0.25)
    moved = {name: potential.parameters[name].clone() for name in NORMALISATION}
    potential.observe(other, 1.0)
    for name in NORMALISATION:
        expected = 0.75 * before[name] + 0.25 * potential.parameters[name]
        torch.testing.assert_close(moved[name], expected, rtol=1e-12, atol=1e-12)


def test_forces_are_minus_the_energy_gradient(generator):
    """A fourth-order stencil, 1e-8 relative; molecules and a cell smaller than the cutoff."""
    settings = GaussianMoments(r_max=4.0)
    step = 2e-3
    for structure in (random_molecule(generator, 7), random_crystal(generator, 3)):
        z, positions, cell = structure
        moved = []
        for atom, axis in itertools.product(range(len(z)), range(3)):
            for factor in (-2, -1, 1, 2):
                displaced = positions.copy()
                displaced[atom, axis] += factor * step
                moved.append((z, displaced, cell))
        data = make_structures([structure, *moved])
        potential, builder = make_potential(data, settings), make_builder(data, settings)
        energies, _ = predict(potential, builder, range(1, len(data)), forces=False)
        _, forces = predict(potential, builder, [0])
        e = energies[0].reshape(-1, 4)
        numerical = -(e[:, 0] - 8 * e[:, 1] + 8 * e[:, 2] - e[:, 3]).reshape(-1, 3) / (12 * step)
        assert float((numerical - forces).abs().max() / forces.abs().max()) < 1e-8


def test_rotation_translation_permutation(generator):
    z, positions, cell = random_crystal(generator, 5, (8, 22))
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    order = np.concatenate([generator.permutation(np.flatnonzero(z == s)) for s in np.unique(z)])
    free = generator.permutation(len(z))
    variants = [
        (z, positions, cell),
        (z, positions @ rotation.T, cell @ rotation.T),
        (z, positions + np.array([3.3, -1.2, 0.7]), cell),
        (z[order], positions[order], cell),
        (z[free], positions[free], cell),
        (z, positions + cell[0] * np.arange(len(z))[:, None], cell),
    ]
    data = make_structures(variants)
    potential = make_potential(data)
    energies, forces = predict(potential, make_builder(data), range(len(variants)))
    torch.testing.assert_close(energies[0], energies[0, :1].expand(len(variants)), rtol=1e-12, atol=1e-12)
    forces = forces.reshape(len(variants), -1, 3).numpy()
    wanted = [forces[0], forces[0] @ rotation.T, forces[0], forces[0][order], forces[0][free], forces[0]]
    np.testing.assert_allclose(forces, wanted, atol=1e-10)
    assert np.abs(forces.sum(1)).max() < 1e-10


def test_batch_independence(mixed_data, monkeypatch):
    """A structure's numbers do not depend on its company or on its order, and chunks change nothing but rounding."""
    potential, builder = make_potential(mixed_data), make_builder(mixed_data)
    n = len(mixed_data)
    together, forces = predict(potential, builder, range(n))
    backwards, _ = predict(potential, builder, range(n - 1, -1, -1))
    torch.testing.assert_close(together, backwards.flip(1), rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(MomentView, "atoms_per_chunk", 7)
    parts = list(chunks(builder, np.arange(n), forces=True, what="test"))
    assert len(parts) > 2
    for rows, part in parts:
        alone, alone_forces = potential.predict(part, forces=True)
        torch.testing.assert_close(alone[0], together[0, rows], rtol=1e-12, atol=1e-12)
        atoms = slice(mixed_data.offsets[rows.start], mixed_data.offsets[rows.stop])
        torch.testing.assert_close(alone_forces, forces[atoms], rtol=1e-11, atol=1e-11)


def test_continuous_at_the_cutoff():
    """Energy and forces of a pair go to the lone atoms' values as 1 Å⁻² and 1 Å⁻¹ times the distance to the cutoff."""
    settings = dataclasses.replace(SMALL, n_gaussians=9)
    gaps = np.array([1e-2, 1e-3, 1e-4, 0.0, -1e-3])
    data = make_structures([([8, 22], [[0, 0, 0], [0, 0, settings.r_max - gap]], None) for gap in gaps])
    energies, forces = predict(make_potential(data, settings), make_builder(data, settings), range(len(gaps)))
    energy = (energies[0] - energies[0, -1]).abs().numpy()
    force = forces.reshape(len(gaps), 2, 3).abs().amax((1, 2)).numpy()
    assert max(energy[3], energy[4]) < 1e-15
    assert force[3] < 1e-12 and force[4] == 0
    assert force[0] > 0
    np.testing.assert_allclose(energy[1:3] / energy[:2], 1e-2, rtol=0.1)
    np.testing.assert_allclose(force[1:3] / force[:2], 1e-1, rtol=0.1)


def test_supercell(generator):
    z, positions, cell = random_crystal(generator, 3)
    repeats = list(itertools.product(range(2), range(1), range(3)))
    many = np.concatenate([positions + np.array(repeat) @ cell for repeat in repeats])
    data = make_structures([(z, positions, cell), (np.tile(z, 6), many, cell * np.array([[2], [1], [3]]))])
    energies, forces = predict(make_potential(data), make_builder(data), [0, 1])
    torch.testing.assert_close(6 * energies[0, 0], energies[0, 1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(forces[:3].repeat(6, 1), forces[3:], rtol=1e-9, atol=1e-10)


def test_lockstep_equals_single_models(mixed_data):
    """Each of three models in one batched computation equals that model alone: 1e-10 in float64, 1e-5 in float32."""
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        potential = make_potential(mixed_data, models=3, dtype=dtype)
        geometry = make_builder(mixed_data, dtype=dtype).build(np.arange(len(mixed_data)))
        picked = np.array([[0, 1, 2], [4, 5, 0], [3, 2, 1]])
        energies = torch.from_numpy(mixed_data.energies).to(dtype)
        forces = torch.from_numpy(mixed_data.forces).to(dtype)
        targets = energies[picked], forces[atom_rows(geometry, picked.flatten())]
        loss, gradient = potential.loss_gradient(make_batch(geometry, picked, with_pairs=True), *targets, 4.0)
        for model in range(3):
            single = potential.member(model)
            own = picked[model : model + 1]
            own_targets = energies[own], forces[atom_rows(geometry, own.flatten())]
            batch = make_batch(geometry, own, with_pairs=True)
            single_loss, single_gradient = single.loss_gradient(batch, *own_targets, 4.0)
            torch.testing.assert_close(loss[model], single_loss[0], rtol=tolerance, atol=0)
            for name, values in single_gradient.items():
                scale = float(values.abs().max())
                torch.testing.assert_close(gradient[name][model], values[0], rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("settings", [SMALL, GaussianMoments(r_max=4.0, n_radial=9, hidden=(8,))])
def test_compiled_engine_equals_plain_engine(mixed_data, settings):
    """Everything both engines give: 1e-10 relative in float64, 1e-5 in float32; nine radial functions fill two rows."""
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        potential = make_potential(mixed_data, settings, models=2, dtype=dtype)
        builder = make_builder(mixed_data, settings, dtype=dtype)
        picked = np.array([[0, 5, 3], [1, 4, 4]])
        results = []
        for engine in (builder, dataclasses.replace(builder, plain=True)):
            geometry = engine.build(np.arange(len(mixed_data)))
            assert (geometry.basis is None) == (engine is builder)
            energies = torch.from_numpy(mixed_data.energies).to(dtype)[picked]
            forces = torch.from_numpy(mixed_data.forces).to(dtype)[atom_rows(geometry, picked.flatten())]
            batch = make_batch(geometry, picked, with_pairs=True)
            found = dict(zip(("energies", "forces"), potential.predict(batch, forces=True), strict=True))
            for name, targets in (("with forces", forces), ("energies alone", None)):
                loss, gradient = potential.loss_gradient(batch, energies, targets, 4.0)
                found |= {f"{name}, {key}": value for key, value in gradient.items()} | {f"{name}, loss": loss}
            found["virials"] = potential.predict_in_full(batch).virials.to(dtype)
            results.append(found)
        for name, value in results[1].items():
            scale = float(value.abs().max())
            torch.testing.assert_close(results[0][name], value, rtol=0, atol=tolerance * scale, msg=name)


@pytest.mark.parametrize("with_pairs", [True, False])
@pytest.mark.parametrize("plain", [True, False])
def test_no_structures_are_a_geometry_too(mixed_data, plain, with_pairs):
    engine = dataclasses.replace(make_builder(mixed_data), plain=plain)
    nothing = np.arange(0)
    whole = engine.build(np.arange(len(mixed_data)), with_pairs=with_pairs)
    for empty in (engine.build(nothing, with_pairs=with_pairs), whole.select(nothing, with_pairs=with_pairs)):
        assert len(empty) == len(empty.species) == 0


def test_compiled_engine_ignores_threads(mixed_data):
    """Bit for bit: every sum has a fixed order."""
    from bench.potentials.gmnn.descriptor import describe

    potential, builder = make_potential(mixed_data, dtype=torch.float32), make_builder(mixed_data, dtype=torch.float32)
    geometry = builder.build(np.tile(np.arange(len(mixed_data)), 20))
    found = []
    threads = torch.get_num_threads()
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        described = describe(geometry, potential.parameters["beta"][0], geometry.species, differentiate=True)
        g = described.invariants
        pulled = described.pull_back(g)
        found.append([g, pulled, described.push_forward(pulled), described.beta_gradient(g)])
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


OTHER_VECTORS = """
import hashlib, sys
import llvmlite.binding as binding
import numba, numpy as np, torch

numba.njit(lambda: 0)()  # numba has asked for the processor's features by now
known = binding.get_host_cpu_features
wide = known().get("avx512f", False) != (sys.argv[1] == "other")
binding.get_host_cpu_features = lambda: {"avx512f": wide}
from bench.potentials.gmnn.compiled import vectors
binding.get_host_cpu_features = known
assert vectors.WIDE == wide

from conftest import make_builder, make_structures, random_molecule
from bench.potentials.gmnn.architecture import GaussianMoments
from bench.potentials.gmnn.compiled import pair_kernels
from bench.potentials.gmnn.descriptor import pairs_of

generator = np.random.default_rng(0)
data = make_structures([random_molecule(generator, n) for n in (20, 1, 30, 17)])
geometry = make_builder(data, GaussianMoments(r_max=5.0), dtype=torch.float32).build(np.arange(4))
n_atoms = len(geometry.species)
sums = np.empty((n_atoms, len(data.species) * geometry.grid.n_gaussians, 20), np.float32)
pair_kernels.basis(pairs_of(geometry), generator.normal(size=(n_atoms, 3)).astype(np.float32), sums)
print(vectors.OUTER_TILE, vectors.TILE, hashlib.sha256(sums.tobytes()).hexdigest())
"""


def test_other_vectors_give_the_same_numbers(tmp_path):
    """How many sums stay in registers depends on the processor, the numbers do not: bit for bit."""
    import subprocess
    import sys

    found = []
    for which, places in (("own", {}), ("other", {"NUMBA_CACHE_DIR": str(tmp_path)})):
        command = [sys.executable, "-c", OTHER_VECTORS, which]
        environment = subprocess_environment() | places
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert found[0][:2] != found[1][:2] and found[0][2] == found[1][2]


def test_structures_are_dealt_evenly(generator):
    """Whatever their sizes: every structure once, and no thread's share much larger than another's."""
    from bench.potentials.gmnn.compiled.pair_kernels import dealt

    for n, threads in ((0, 2), (1, 2), (3, 4), (32, 1), (32, 2), (33, 2), (64, 8)):
        work = generator.integers(6, 47, n)
        order = dealt(work, threads)
        assert sorted(order) == list(range(n))
        if n >= 4 * threads > 4:
            shares = [work[part].sum() for part in np.array_split(order, threads)]
            assert max(shares) - min(shares) <= 2 * 46


def test_elementary_functions():
    """exp to rounding wherever it is finite; cos and sin up to 45 degrees."""
    from bench.potentials.gmnn.compiled.jit import compiled
    from bench.potentials.gmnn.compiled.vectors import cosine_and_sine, exponential

    def evaluate(x, result):
        for n in range(len(x)):
            result[0, n] = exponential(x[n])
            result[1, n], result[2, n] = cosine_and_sine(x[n])

    kernel = compiled(evaluate)
    for real, limit in ((np.float32, 87.0), (np.float64, 708.0)):
        small, wide = np.linspace(-np.pi / 4, np.pi / 4, 10001), np.linspace(-limit, limit, 10001)
        found = np.empty((3, 10001), real)
        kernel(wide.astype(real), found)
        np.testing.assert_allclose(found[0], np.exp(wide.astype(real).astype(np.float64)), rtol=8 * np.finfo(real).eps)
        kernel(small.astype(real), found)
        expected = np.stack([np.cos(small.astype(real)), np.sin(small.astype(real))])
        np.testing.assert_allclose(found[1:], expected, rtol=8 * np.finfo(real).eps, atol=np.finfo(real).eps)
        kernel(np.array([-1e30, -200.0 if real is np.float32 else -800.0], real), found[:, :2])
        assert (found[0, :2] >= 0).all() and (found[0, :2] < 1e-37).all()


def test_kernels_compile_where_nothing_can_be_written():
    """Neither __pycache__ nor a home folder is writable: the code is kept in memory."""
    import subprocess
    import sys

    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from bench.potentials.gmnn.compiled.jit import compiled\n"
        "print(compiled(lambda x: x + 1)(1))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2", done.stderr
