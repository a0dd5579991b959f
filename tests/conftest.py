"""Shapes and types of every annotated function are checked whenever tests run (jaxtyping with beartype)."""

from jaxtyping import install_import_hook

hook = install_import_hook(["bench", "analysis"], "beartype.beartype")

import dataclasses  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from bench.data.neighbours import find_neighbours  # noqa: E402
from bench.data.structures import Structures, check_structures, ragged_rows  # noqa: E402
from bench.potentials.gmnn.architecture import GaussianMoments  # noqa: E402
from bench.potentials.gmnn.potential import INVARIANT_VARIANCE, MomentPotential, initial_parameters, make_batch  # noqa: E402
from bench.potentials.gmnn.view import MomentView  # noqa: E402

hypothesis.settings.register_profile("no test depends on the machine's speed", deadline=None)
hypothesis.settings.load_profile("no test depends on the machine's speed")
PROJECT = Path(__file__).resolve().parents[1]
SHARED_DATA = PROJECT.parent / "shared" / "data"
SMALL = GaussianMoments(r_max=4.0, n_gaussians=5, n_radial=3, hidden=(16, 12))


def make_structures(molecules, *, name="test", reference=0.0) -> Structures:
    """Structures from (Z, positions, cell or None) with zero labels."""
    counts = [len(z) for z, _, _ in molecules]
    numbers = np.concatenate([np.asarray(z) for z, _, _ in molecules]).astype(np.int64)
    positions = np.concatenate([np.asarray(r, dtype=float) for _, r, _ in molecules])
    data = Structures(
        name=name,
        atomic_numbers=numbers,
        positions=positions,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        cells=np.array([np.zeros((3, 3)) if cell is None else cell for _, _, cell in molecules]),
        periodic=np.array([[cell is not None] * 3 for _, _, cell in molecules]),
        energies=np.zeros(len(molecules)),
        forces=np.zeros_like(positions),
        reference_energies={int(z): reference for z in np.unique(numbers)},
    )
    check_structures(data)
    return data


def make_builder(data, settings=SMALL, dtype=torch.float64) -> MomentView:
    return MomentView(settings, data, find_neighbours(data, settings.r_max), dtype)


def make_potential(data, settings=SMALL, models=1, dtype=torch.float64, seed=0) -> MomentPotential:
    """Random parameters, biases and scales too, so that no term is absent from a test."""
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(models):
        one = initial_parameters(settings, len(data.species), generator.normal(size=len(data.species)), generator)
        drawn.append({k: v + 0.3 * generator.normal(size=v.shape) if k != "beta" else v for k, v in one.items()})
        if settings.normalise_invariants:
            drawn[-1][INVARIANT_VARIANCE] = np.abs(drawn[-1][INVARIANT_VARIANCE])
    parameters = {k: torch.from_numpy(np.stack([one[k] for one in drawn])).to(dtype) for k in drawn[0]}
    return MomentPotential(settings, data.species, parameters, torch.linspace(0.5, 0.9, models, dtype=dtype))


def whole_batch(geometry, n_models, *, with_pairs):
    """All structures of a geometry, in order, for every model."""
    return make_batch(geometry, np.tile(np.arange(len(geometry)), (n_models, 1)), with_pairs=with_pairs)


def atom_rows(geometry, picked):
    """The rows of the atoms of some structures of a geometry, in their order, repeats allowed."""
    first = np.cumsum(geometry.atom_counts) - geometry.atom_counts
    return torch.from_numpy(ragged_rows(first[picked], geometry.atom_counts[picked]))


def random_molecule(generator, n_atoms=6, numbers=(1, 6, 8), box=4.0):
    """Atoms at least 0.9 Å apart."""
    positions = []
    while len(positions) < n_atoms:
        trial = generator.uniform(0, box, 3)
        if all(np.linalg.norm(trial - other) > 0.9 for other in positions):
            positions.append(trial)
    return generator.choice(numbers, n_atoms), np.array(positions), None


def random_crystal(generator, n_atoms=4, numbers=(8, 22)):
    """A triclinic cell smaller than the cutoff, so that atoms see their own images."""
    z, positions, _ = random_molecule(generator, n_atoms, numbers, box=3.0)
    cell = np.diag(generator.uniform(3.0, 3.8, 3)) + 0.3 * generator.normal(size=(3, 3))
    return z, positions, cell


LONGEST = [
    *(
        "test_launch",
        "test_run",
        "test_launch_slurm",
        "test_faults_launch",
        "test_report",
        "test_hydra",
        "test_training",
    ),
    *(
        "test_build",
        "test_own_potential",
        "test_module_potential",
        "test_install",
        "test_completion",
        "test_merge",
        "test_migrate",
    ),
    *("test_own_scenario", "test_continue", "test_ready", "test_identity", "test_campaigns"),
    *("test_faults_data", "test_faults_input"),
]
"""Files that take longest: begun first, so that no process is left alone with one at the end."""


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session", autouse=True)
def _pools(tmp_path_factory):
    """Pools of these tests claim cores among themselves: those of others at work here are in nobody's way."""
    os.environ["BMDAL_BENCH_POOLS"] = str(tmp_path_factory.mktemp("pools"))


@pytest.fixture
def generator():
    return np.random.default_rng(20220711)


@pytest.fixture
def mixed_data(generator):
    """Molecules and crystals of different sizes in one dataset, with random labels."""
    molecules = [random_molecule(generator, n) for n in (3, 6, 5, 1)]
    molecules += [random_crystal(generator, n, (1, 6, 8)) for n in (2, 4)]
    data = make_structures(molecules)
    return dataclasses.replace(
        data, energies=generator.normal(size=len(data)), forces=generator.normal(size=data.positions.shape)
    )


@pytest.fixture
def shared_data():
    """The folder of larger data sets, where this checkout stands beside one."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the larger data sets in {SHARED_DATA.name}/, which are not here")
    return SHARED_DATA


def subprocess_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{PROJECT}:{PROJECT}/tests", "OMP_NUM_THREADS": "1"}
