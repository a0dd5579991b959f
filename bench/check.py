"""Contracts: what the project asks of a potential, kernel, selection or dataset, tried on small cases.

For a class of one's own: `check_potential({"_target_": "my_potential.Mine", …})` raises ContractError, which names what
does not hold and by how much. The tests of this project call these functions on everything in conf/.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from bench.config.plugins import load_dataset, offers, plugin
from bench.data.structures import Structures, check_structures
from bench.errors import UserError
from bench.kernels.base import Embedding, Kernel, KernelInputs, prepare, squared_norms
from bench.potentials.architecture import Architecture
from bench.potentials.base import AtomicFeatures, Draw, GradientFeatures, Potential, View
from bench.potentials.scaling import EnergyScaling
from bench.selection.base import Selection, check_embedding, check_picks, check_uncertainty
from bench.training.evaluate import structure_errors

STEP = 1e-4
"""Å, or relative strain, or a fraction of the parameters: of central differences."""


class ContractError(UserError):
    """What does not hold, and by how much."""


def _same(what: str, found: Any, expected: Any, tolerance: float) -> None:
    """Raise ContractError where two arrays differ by more than a fraction of the largest value expected (or of 1)."""
    found, expected = (np.asarray(torch.as_tensor(values).detach().cpu(), dtype=float) for values in (found, expected))
    if found.shape != expected.shape:
        raise ContractError(f"{what}: shape {found.shape}, expected {expected.shape}")
    largest = max(1.0, float(np.abs(expected).max(initial=0.0)))
    away = float(np.abs(found - expected).max(initial=0.0))
    if not away <= tolerance * largest:
        raise ContractError(f"{what}: differs by {away:.3g} of {largest:.3g}")


def small_structures(seed: int = 0, elements: tuple[int, ...] = (1, 6, 8)) -> Structures:
    """Two molecules of equal composition, a crystal smaller than usual cutoffs, a pair, an atom; random labels."""
    generator = np.random.default_rng(seed)

    def scattered(n_atoms: int, box: float) -> Float[np.ndarray, "atoms 3"]:
        placed: list[np.ndarray] = []
        while len(placed) < n_atoms:
            trial = generator.uniform(0, box, 3)
            if all(np.linalg.norm(trial - other) > 1.0 for other in placed):
                placed.append(trial)
        return np.array(placed)

    numbers = [elements[place % len(elements)] for place in range(6)]
    cell = np.diag([3.4, 3.6, 3.9]) + 0.2 * generator.normal(size=(3, 3))
    parts = [
        (numbers, scattered(6, 3.5), None),
        (numbers, scattered(6, 3.5), None),
        (numbers[:4], scattered(4, 3.2), cell),
        (numbers[:2], np.array([[0.0, 0, 0], [1.3, 0, 0]]), None),
        (numbers[:1], np.zeros((1, 3)), None),
    ]
    return _structures(parts, generator)


Part = tuple[list[int], np.ndarray, np.ndarray | None]
"""Atomic numbers, positions and cell of a structure."""


def _structures(parts: Sequence[Part], generator: np.random.Generator) -> Structures:
    positions = np.concatenate([where for _, where, _ in parts])
    numbers = np.concatenate([np.array(z, dtype=np.int64) for z, _, _ in parts])
    data = Structures(
        name="contract",
        atomic_numbers=numbers,
        positions=positions,
        offsets=np.concatenate([[0], np.cumsum([len(z) for z, _, _ in parts])]),
        cells=np.array([np.zeros((3, 3)) if cell is None else cell for _, _, cell in parts]),
        periodic=np.array([[cell is not None] * 3 for _, _, cell in parts]),
        energies=generator.normal(size=len(parts)),
        forces=generator.normal(size=positions.shape),
        reference_energies=dict.fromkeys(sorted({int(z) for z in numbers}), 0.0),
    )
    check_structures(data)
    return data


class _Tried:
    """One architecture on changing structures: three models with random parameters, in double precision."""

    def __init__(self, architecture: Architecture, data: Structures, models: int = 3) -> None:
        self.architecture, self.data = architecture, data
        generator = np.random.default_rng(1)
        view = self.view(data)
        draws = [
            Draw(0, member, 10, EnergyScaling(0.5 + 0.1 * member, generator.normal(size=len(data.species)), False))
            for member in range(models)
        ]
        self.potential: Potential = view.draw(draws)
        for name, values in self.potential.parameters.items():
            if name in self.potential.rates:
                values.add_(torch.from_numpy(generator.normal(size=tuple(values.shape))), alpha=0.2)

    def view(self, data: Structures) -> View:
        return self.architecture.on(data, "float64", "cpu")

    def inputs(self, data: Structures, structures: Int[np.ndarray, " n"], models: int = 3) -> Any:
        return self.view(data).prepare(structures, forces=True).gather(_of_models(len(structures), models))

    def predict(self, data: Structures, structures: Int[np.ndarray, " n"] | None = None) -> tuple[Any, Any]:
        """Energies (models, structures) and forces (models, atoms, 3)."""
        chosen = np.arange(len(data)) if structures is None else structures
        energies, forces = self.potential.predict(self.inputs(data, chosen), forces=True)
        if forces is None:
            raise ContractError("predict: no forces, though they were asked for")
        return energies, forces.reshape(len(energies), -1, 3)


def _of_models(n: int, models: int) -> Int[np.ndarray, "models structures"]:
    return np.tile(np.arange(n), (models, 1))


def check_potential(config: Mapping[str, Any], elements: tuple[int, ...] = (1, 6, 8)) -> None:
    """Try an architecture (a yaml's `_target_` and fields): symmetries, derivatives, batches, committees, features.

    Raises ContractError.
    """
    architecture: Architecture = offers(plugin(dict(config), "model"), Architecture, "model")
    data = small_structures(elements=elements)
    tried = _Tried(architecture, data)
    for check in (_symmetries, _batches, _forces, _stress, _cutoff, _images, _loss, _members, _kept, _features):
        check(tried, data)


def _moved(data: Structures, positions: Any, cells: Any = None) -> Structures:
    return replace(data, positions=positions, cells=data.cells if cells is None else cells)


def _symmetries(tried: _Tried, data: Structures) -> None:
    energies, forces = tried.predict(data)
    rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    turned = tried.predict(_moved(data, data.positions @ rotation, data.cells @ rotation))
    _same("energy after rotation and reflection", turned[0], energies, 1e-9)
    _same("forces after rotation and reflection", turned[1], forces @ torch.from_numpy(rotation), 1e-9)
    _same(
        "energy after translation",
        tried.predict(_moved(data, data.positions + np.array([1.1, -0.7, 0.4])))[0],
        energies,
        1e-9,
    )
    order = np.arange(data.offsets[-1])
    order[[0, 3]] = order[[3, 0]]  # two atoms of one element
    exchanged = replace(data, positions=data.positions[order])
    if data.atomic_numbers[0] == data.atomic_numbers[3]:
        again = tried.predict(exchanged)
        _same("energy after exchange of like atoms", again[0], energies, 1e-9)
        _same("forces after exchange of like atoms", again[1], forces[:, order], 1e-9)


def _batches(tried: _Tried, data: Structures) -> None:
    energies, forces = tried.predict(data)
    for structure in range(len(data)):
        alone = tried.predict(data, np.array([structure]))
        _same("energy of a structure alone and in a batch", alone[0], energies[:, structure, None], 1e-9)
        rows = slice(data.offsets[structure], data.offsets[structure + 1])
        _same("forces of a structure alone and in a batch", alone[1], forces[:, rows], 1e-9)


def _difference(energy: Callable[[float], Any], step: float = STEP) -> Any:
    """The derivative at zero, by central differences of fourth order."""
    near, far = energy(step) - energy(-step), energy(2 * step) - energy(-2 * step)
    return (8 * near - far) / (12 * step)


def _forces(tried: _Tried, data: Structures) -> None:
    _, forces = tried.predict(data)
    direction = np.random.default_rng(3).normal(size=data.positions.shape)
    found = _difference(lambda h: tried.predict(_moved(data, data.positions + h * direction))[0].sum(1))
    expected = -(forces * torch.from_numpy(direction)).sum((1, 2))
    _same("forces and −dE/dr", found, expected, 1e-6)


def _stress(tried: _Tried, data: Structures) -> None:
    virials = tried.potential.predict_in_full(tried.inputs(data, np.arange(len(data)))).virials
    strain = np.random.default_rng(4).normal(size=(3, 3))
    strain = strain + strain.T

    def strained(h: float) -> Any:
        change = np.eye(3) + h * strain
        return tried.predict(_moved(data, data.positions @ change, data.cells @ change))[0]

    expected = (virials * torch.from_numpy(strain)).sum((2, 3))
    _same("virial and dE/dε", _difference(strained), expected, 1e-5)


def _cutoff(tried: _Tried, data: Structures) -> None:
    """A pair that crosses the cutoff: energy and forces are those of lone atoms from there on."""
    numbers = data.atomic_numbers[:2].tolist()
    r_max, generator = tried.architecture.r_max, np.random.default_rng(5)
    gaps = (1e-3, 1e-5, -1e-5)
    pairs = [(numbers, np.array([[0.0, 0, 0], [0, 0, r_max - gap]]), None) for gap in gaps]
    energies, forces = tried.predict(_structures(pairs, generator))
    _same("energy 10⁻⁵ Å within the cutoff and beyond it", energies[:, 1], energies[:, 2], 1e-7)
    _same("forces 10⁻⁵ Å within the cutoff and beyond it", forces[:, 2:4], torch.zeros_like(forces[:, 2:4]), 1e-3)
    _same("forces beyond the cutoff", forces[:, 4:], torch.zeros_like(forces[:, 4:]), 1e-12)


def _images(tried: _Tried, data: Structures) -> None:
    """A crystal and two of its cells side by side."""
    rows = slice(data.offsets[2], data.offsets[3])
    cell, where = data.cells[2], data.positions[rows]
    numbers = data.atomic_numbers[rows].tolist()
    double = (numbers * 2, np.concatenate([where, where + cell[0]]), cell * np.array([[2.0], [1], [1]]))
    energies, forces = tried.predict(_structures([(numbers, where, cell), double], np.random.default_rng(6)))
    _same("energy of two cells and twice that of one", energies[:, 1], 2 * energies[:, 0], 1e-9)
    _same("forces of two cells and of one", forces[:, 4:8], forces[:, :4], 1e-9)


def _loss(tried: _Tried, data: Structures) -> None:
    """The gradient of the loss along a random direction of all trained parameters, and that of energies alone."""
    potential, inputs = tried.potential, tried.inputs(data, np.arange(len(data)))
    generator = np.random.default_rng(7)
    energies = torch.from_numpy(np.tile(data.residual_energies, (3, 1)))
    forces = torch.from_numpy(np.tile(data.forces, (3, 1))) if data.forces is not None else None
    trained = {name: values for name, values in potential.parameters.items() if name in potential.rates}
    direction = {name: torch.from_numpy(generator.normal(size=tuple(v.shape))) for name, v in trained.items()}
    for targets, weight in ((forces, 4.0), (None, 0.0)):
        _, gradient = potential.loss_gradient(inputs, energies, targets, weight)
        expected = sum((gradient[name].reshape(d.shape) * d).reshape(3, -1).sum(1) for name, d in direction.items())

        def loss(h: float, targets: Any = targets, weight: float = weight) -> Any:
            for name, values in trained.items():
                values.add_(direction[name], alpha=h)
            try:
                return potential.loss_gradient(inputs, energies, targets, weight)[0].clone()
            finally:
                for name, values in trained.items():
                    values.sub_(direction[name], alpha=h)

        _same("gradient of the loss, every model", _difference(loss, 1e-4), expected, 1e-5)
        predicted, found = potential.predict(inputs, forces=targets is not None)
        by_hand = ((predicted - energies) ** 2).sum(1)
        if targets is not None and found is not None:
            by_hand = by_hand + weight * ((found - targets) ** 2).reshape(3, -1).sum(1)
        _same("the loss of Eq. (5)", loss(0.0), by_hand, 1e-9)


def _members(tried: _Tried, data: Structures) -> None:
    energies, forces = tried.predict(data)
    for member in range(3):
        one = tried.potential.member(member)
        alone = one.predict(tried.inputs(data, np.arange(len(data)), models=1), forces=True)
        _same("a member by itself", alone[0][0], energies[member], 1e-9)
        _same("forces of a member by itself", alone[1], forces[member], 1e-9)


def _kept(tried: _Tried, data: Structures) -> None:
    again = tried.architecture.load(tried.potential.state(), "cpu")
    found, _ = again.predict(tried.inputs(data, np.arange(len(data))), forces=False)
    _same("energies of a potential loaded from its state", found, tried.predict(data)[0], 0.0)


def _features(tried: _Tried, data: Structures) -> None:
    """Features are sums over structures of the right widths, and linear in the projections of each layer's outputs."""
    potential = tried.potential.member(0)
    if isinstance(potential, GradientFeatures) != tried.architecture.gradient_features:
        raise ContractError(f"gradient_features of {tried.architecture.name}: its potentials say otherwise")
    if not isinstance(potential, GradientFeatures):
        return
    sizes, generator = potential.layer_sizes, np.random.default_rng(8)
    inputs = tried.inputs(data, np.arange(len(data)), models=1)
    last = potential.last_layer_features()(inputs)
    if last.dtype != torch.float64:
        raise ContractError(f"last_layer_features: {last.dtype}, expected float64")
    if sizes[-1][1] != 1 or tuple(last.shape) != (len(data), sizes[-1][0]):
        raise ContractError(f"last_layer_features: shape {tuple(last.shape)} with layer_sizes ending in {sizes[-1]}")

    def drawn() -> list[Any]:
        return [tuple(torch.from_numpy(generator.normal(size=(n, 6))) for n in size) for size in sizes]

    one, other = drawn(), drawn()
    mixed = [(u_in, u_out + v_out) for (u_in, u_out), (_, v_out) in zip(one, other, strict=True)]
    second = [(u_in, v_out) for (u_in, _), (_, v_out) in zip(one, other, strict=True)]
    values = [potential.projected_features(p)(inputs) for p in (one, second, mixed)]
    _same("projected_features, linear in U_out", values[0] + values[1], values[2], 1e-9)
    only_last = [(u_in, torch.zeros_like(u_out)) for u_in, u_out in one[:-1]] + [one[-1]]
    expected = (last @ one[-1][0]) * one[-1][1][0] * 6**-0.5
    _same("projected_features of the last layer alone", potential.projected_features(only_last)(inputs), expected, 1e-9)
    if isinstance(potential, AtomicFeatures):
        by_atom, first = potential.of_atoms(), torch.from_numpy(np.repeat(np.arange(len(data)), data.n_atoms))
        for name, rows, whole in (
            ("last_layer_features", by_atom.last_layer_features()(inputs), last),
            ("projected_features", by_atom.projected_features(one)(inputs), values[0]),
        ):
            _same(f"{name} of atoms, added up", torch.zeros_like(whole).index_add_(0, first, rows), whole, 1e-9)
    for structure in range(len(data)):
        alone = potential.projected_features(one)(tried.inputs(data, np.array([structure]), models=1))
        _same("features of a structure alone and in a batch", alone, values[0][structure, None], 1e-9)


def check_kernel(config: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Try a kernel on a potential: shapes, k(S, S) = |φ(S)|², no dependence on order or company, keyed by the seed."""
    kernel: Kernel = offers(plugin(dict(config), "kernel"), Kernel, "kernel")
    data = small_structures()
    tried = _Tried(offers(plugin(dict(model), "model"), Architecture, "model"), data, models=max(2, kernel.members))
    view, everything = tried.view(data), np.arange(len(data))
    potential = tried.potential if kernel.members > 1 else tried.potential.member(0)
    prepared = prepare(kernel, KernelInputs(potential, view, everything[:2], 0))
    whole = prepared.embed(everything)
    check_embedding(whole, everything, kernel.name)
    if len(whole.diagonal) != len(data):
        raise ContractError(f"embed: {len(whole.diagonal)} values for {len(data)} structures")
    if (whole.pool is not None) != kernel.has_features:
        raise ContractError(f"has_features = {kernel.has_features}, but embed says otherwise")
    if whole.pool is not None:
        _same("k(S, S) and the squared norm of the features", whole.diagonal, squared_norms(whole.pool), 1e-12)
        if whole.training is None or len(whole.training) != 2:
            raise ContractError("embed: a kernel with features gives those of the training set, too")
    errors = structure_errors(potential, view, everything, forces=True)
    check_uncertainty(prepared.uncertainty(errors), everything, kernel.name)
    turned = prepared.embed(everything[::-1].copy())
    _same("values in another order", turned.diagonal.flip(0), whole.diagonal, 1e-9)
    _same("values of a structure alone", prepared.embed(everything[3:4]).diagonal, whole.diagonal[3:4], 1e-9)
    again = kernel.prepare(KernelInputs(potential, view, everything[:2], 0)).embed(everything)
    _same("values prepared once more", again.diagonal, whole.diagonal, 0.0)
    if not getattr(kernel, "needs_model", True):
        _check_without_labels(kernel, KernelInputs(potential, view, everything[:0], 0), everything)


def _check_without_labels(kernel: Kernel, inputs: KernelInputs, everything: Int[np.ndarray, " structures"]) -> None:
    """A kernel that needs no model chooses where nothing is labelled, too."""
    try:
        embedding = kernel.prepare(inputs).embed(everything)
    except UserError:
        raise
    except Exception as error:
        raise ContractError(
            f"needs_model = False, but with nothing labelled: {type(error).__name__}: {error}"
        ) from error
    if embedding.training is not None and len(embedding.training):
        raise ContractError(f"nothing labelled, but features of {len(embedding.training)} training structures")


def check_selection(config: Mapping[str, Any]) -> None:
    """Try a selection: batches of every size, different rows, the same again, and copies in the pool."""
    selection: Selection = offers(plugin(dict(config), "selection"), Selection, "selection")
    generator = np.random.default_rng(9)
    pool, training = generator.normal(size=(12, 20)), generator.normal(size=(3, 20))
    pool[7] = pool[2]
    features = torch.from_numpy(pool)
    embedding = Embedding(squared_norms(features), features, torch.from_numpy(training))
    if not selection.needs_features:
        embedding = Embedding(embedding.diagonal)
    before = {name: None if part is None else part.clone() for name, part in vars(embedding).items()}
    for size in (1, 5, 11):
        first, again = (selection.select(embedding, size, np.random.default_rng(0)) for _ in range(2))
        for name, part in before.items():
            if part is not None:
                _same(f"{name} after selecting, which must not alter it", getattr(embedding, name), part, 0.0)
        check_picks(first, 12, size, selection.name)
        _same("the picks of the same pool", again.rows, first.rows, 0.0)


def check_dataset(config: Mapping[str, Any]) -> None:
    """Try a dataset: sound structures, the same content again, and the checksum that names it."""
    first, again = (load_dataset(dict(config)) for _ in range(2))
    check_structures(first)
    if first.checksum != again.checksum:
        raise ContractError(f"dataset {first.name}: loaded twice, two contents")
    _same("energies relative to the references", first.residual_energies, again.residual_energies, 0.0)
