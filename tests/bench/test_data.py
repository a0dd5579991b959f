"""Data: units, splits, neighbour lists against brute force, and one clear line for everything broken."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import PROJECT, make_structures, random_crystal, random_molecule
from reference import brute_force_pairs

from bench.config.compose import compose_run
from bench.config.schema import Scenario
from bench.config.seeds import stream
from bench.config.units import KCAL_PER_MOL, energy_unit, length_unit
from bench.data import loaded
from bench.data.convert import Plausible
from bench.data.datasets.file import FileDataset
from bench.data.neighbours import find_neighbours
from bench.data.split import draw_split
from bench.errors import UserError, nearest
from bench.learning import opened

EMBEDDED = PROJECT / "bench/data/embedded/rmd17_aspirin_4019.npz"


ANYTHING = Plausible(energies=(-1e6, 1e6), distances=(0.0, 10.0))


def reader(path, **changes) -> FileDataset:
    """Reads the format of MD17, which says no units."""
    given = {"name": "test", "path": str(path), "energy_unit": "eV", "length_unit": "Å", "plausible": ANYTHING}
    return FileDataset(**{**given, "reference_energies": {1: 0.0, 8: -1.0}, **changes})


def arrays(n=5):
    generator = np.random.default_rng(0)
    positions = np.array([[0, 0, 0], [0, 0, 1.0], [0, 0.9, 0]]) + 0.01 * generator.normal(size=(n, 3, 3))
    return {
        "z": np.array([8, 1, 1], dtype=np.uint8),
        "R": positions,
        "E": generator.normal(size=n),
        "F": generator.normal(size=(n, 3, 3)),
    }


def test_units():
    assert energy_unit("kcal/mol") == KCAL_PER_MOL == pytest.approx(1 / 23.060547830619, rel=1e-7)
    assert energy_unit("Hartree") == pytest.approx(27.211386, rel=1e-7)
    assert length_unit("Bohr") == pytest.approx(0.529177, rel=1e-6)
    with pytest.raises(UserError, match="did you mean 'kcal/mol'"):
        energy_unit("kcal")


def test_units_are_converted(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    plain = reader(tmp_path / "a.npz").load()
    other = reader(tmp_path / "a.npz", energy_unit="Hartree", length_unit="Bohr").load()
    np.testing.assert_allclose(other.positions, plain.positions * length_unit("Bohr"))
    np.testing.assert_allclose(other.energies, plain.energies * energy_unit("Hartree"))
    np.testing.assert_allclose(other.forces, plain.forces * energy_unit("Hartree") / length_unit("Bohr"))
    np.testing.assert_allclose(plain.residual_energies, plain.energies + 1.0)


def test_an_archive_that_says_its_units(tmp_path, caplog):
    """As sGDML writes them: what the user says must agree, and what nobody knows is told."""
    np.savez(tmp_path / "a.npz", **arrays(), e_unit="kcal/mol", r_unit=np.array(b"Ang"))
    with pytest.raises(UserError, match=r"a.npz is in kcal/mol, but dataset.energy_unit = eV: set it to kcal/mol"):
        reader(tmp_path / "a.npz").load()
    with pytest.raises(UserError, match=r"a.npz are in Å, but dataset.length_unit = Bohr: set it to Å"):
        reader(tmp_path / "a.npz", energy_unit="kcal/mol", length_unit="Bohr").load()
    data = reader(tmp_path / "a.npz", energy_unit="kcal/mol", length_unit="Angstrom").load()
    np.testing.assert_allclose(data.energies, arrays()["E"] * KCAL_PER_MOL)
    np.savez(tmp_path / "b.npz", **arrays(), r_unit="bohr")
    with pytest.raises(UserError, match=r"b.npz are in Bohr, but dataset.length_unit = Å: set it to Bohr"):
        reader(tmp_path / "b.npz").load()
    bohr = reader(tmp_path / "b.npz", length_unit="Bohr").load()
    np.testing.assert_allclose(bohr.positions, arrays()["R"].reshape(-1, 3) * length_unit("Bohr"))
    for name, said in (("?", "?"), ("an object", np.array("eV", dtype=object))):
        np.savez(tmp_path / "c.npz", **arrays(), e_unit=said)
        with caplog.at_level("INFO"):
            reader(tmp_path / "c.npz").load()
        assert f"e_unit = {name} is no unit that is known here" in caplog.text


def test_checksum_sees_every_array(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays())
    data = reader(tmp_path / "a.npz").load()
    assert data.checksum == reader(tmp_path / "a.npz", name="other").load().checksum
    changed = [
        dataclasses.replace(data, positions=data.positions + 1e-12),
        dataclasses.replace(data, energies=data.energies * 2),
        dataclasses.replace(data, forces=None),
        dataclasses.replace(data, atomic_numbers=data.atomic_numbers[::-1]),
        dataclasses.replace(data, reference_energies={1: 0.0, 8: -2.0}),
    ]
    assert len({data.checksum, *(other.checksum for other in changed)}) == len(changed) + 1


def broken(change):
    content = arrays()
    change(content)
    return content


BROKEN = {
    "missing array": (lambda a: a.pop("F"), "holds the arrays z, R, E, expected one of these: MD17: z, R, E, F"),
    "text": (lambda a: a.update(E=np.array(["1.0", "a", "2", "3", "4"])), "array E holds <U3, expected numbers"),
    "NaN position": (lambda a: a["R"].__setitem__((3, 1, 2), np.nan), "positions of structure 3"),
    "NaN force": (lambda a: a["F"].__setitem__((2, 1, 2), np.inf), "forces of structure 2"),
    "NaN energy": (lambda a: a["E"].__setitem__(4, np.nan), "energy of structure 4 .* is nan"),
    "atoms": (lambda a: a.update(z=np.array([8, 1])), "has shape"),
    "structures": (lambda a: a.update(E=a["E"][:-1]), "has shape"),
    "nothing": (lambda a: a.update(E=a["E"][:0], R=a["R"][:0], F=a["F"][:0]), "0 structures"),
    "element": (lambda a: a.update(z=np.array([8, 1, 6])), r"no reference energy for Z = \[6\]"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(tmp_path, case):
    change, message = BROKEN[case]
    np.savez(tmp_path / "a.npz", **broken(change))
    with pytest.raises(UserError, match=message) as caught:
        reader(tmp_path / "a.npz").load()
    assert "\n" not in str(caught.value)


def test_damaged_files(tmp_path):
    with pytest.raises(UserError, match=r"no file .*nowhere.npz: set dataset.path"):
        reader(tmp_path / "nowhere.npz").load()
    np.savez(tmp_path / "a.npz", **arrays())
    content = (tmp_path / "a.npz").read_bytes()
    for name, damaged, message in (
        ("cut", content[: len(content) // 2], "is damaged"),
        ("text", b"not an archive", "cannot be read by ASE"),
        ("empty", b"", "empty is empty: it holds 0 structures"),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=message):
            reader(tmp_path / name).load()
    with pytest.raises(UserError, match=r"has SHA-256 .* expected 0000"):
        reader(tmp_path / "a.npz", sha256="0" * 64).load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"energies": [0.0, 0.0]}, "energies is list, expected an array of numbers of shape (2,)"),
        ({"energies": np.array([0.0, np.nan])}, "energy of structure 1 is nan"),
        ({"energies": np.array(["a", "b"])}, "energies is <U1 (2,), expected an array of numbers"),
        ({"energies": np.float64(1.0)}, "energies is float64, expected an array of numbers of shape ()"),
        ({"offsets": np.array([0, 6])}, "offsets is int64 (2,), expected an array of numbers of shape (3,)"),
        ({"forces": np.zeros((5, 3))}, "forces is float64 (5, 3), expected an array of numbers of shape (6, 3)"),
        ({"positions": np.zeros((6, 2))}, "positions is float64 (6, 2), expected an array of numbers of shape (6, 3)"),
        ({"cells": np.zeros((2, 3))}, "cells is float64 (2, 3), expected an array of numbers of shape (2, 3, 3)"),
        ({"reference_energies": {1: 0.0}}, "no reference energy for Z = [8]"),
    ],
)
def test_structures_of_a_class_of_ones_own_are_checked(generator, changes, message, monkeypatch):
    data = make_structures([(n, r, None) for n, r in (([8, 1, 1], generator.normal(size=(3, 3))),) * 2])
    for name, value in ({"reference_energies": {1: 0.0, 8: 0.0}} | changes).items():
        object.__setattr__(data, name, value)  # past the checks of types that tests have
    monkeypatch.setattr(loaded, "load_dataset", lambda _: data)
    run = dataclasses.replace(compose_run([]), dataset={"_target_": "own.Data", "name": "own"})
    with pytest.raises(UserError) as told:
        opened.Shared().data(run)
    assert message in str(told.value)


def test_periodic_cell_needs_volume():
    flat = np.diag([3.0, 3.0, 0.0])
    with pytest.raises(UserError, match="structure 0 is periodic along a, b, c but its cell has no volume"):
        make_structures([([8], [[0, 0, 0]], flat)])


def test_atoms_on_top_of_each_other():
    data = make_structures([([8, 1], [[0, 0, 0], [0, 0, 1]], None), ([8, 1], [[0, 0, 0], [0, 0, 0]], None)])
    with pytest.raises(UserError, match="atoms 0 and 1 of structure 1 are 0 Å apart"):
        find_neighbours(data, 4.0)


def test_more_atoms_and_images_than_small_numbers_count():
    """Atoms beyond the 65536th and images beyond the 32767th cell are where they are."""
    grid = 6.0 * np.stack(np.unravel_index(np.arange(65_540), (41, 41, 41)), axis=1)
    grid[65_000] = grid[65_539] + [1.0, 0, 0]
    data = make_structures([([1] * len(grid), grid, None)])
    centre, neighbour, vectors = find_neighbours(data, 1.5).pairs_of(data, np.array([0]))
    assert centre.tolist() == [65_000, 65_539] and neighbour.tolist() == [65_539, 65_000]
    np.testing.assert_allclose(vectors, [[-1.0, 0, 0], [1.0, 0, 0]])
    far = make_structures([([1, 1], [[0, 0, 0], [5 * 40_000 + 1.0, 0, 0]], 5 * np.eye(3))])
    vectors = find_neighbours(far, 1.5).pairs_of(far, np.array([0]))[2]
    np.testing.assert_allclose(vectors, [[1.0, 0, 0], [-1.0, 0, 0]])


def test_neighbours_equal_brute_force(generator):
    structures = [random_molecule(generator, n) for n in (1, 2, 7)] + [random_crystal(generator, n) for n in (1, 3, 4)]
    data = make_structures(structures)
    neighbours = find_neighbours(data, 4.0)
    for structure in range(len(data)):
        centre, neighbour, vectors = neighbours.pairs_of(data, np.array([structure]))
        found = sorted((int(i), int(j), *np.round(v, 9)) for i, j, v in zip(centre, neighbour, vectors, strict=True))
        rows = slice(data.offsets[structure], data.offsets[structure + 1])
        positions, cell = torch.from_numpy(data.positions[rows]), torch.from_numpy(data.cells[structure])
        wanted = sorted(
            (i, j, *np.round((positions[j] + offset - positions[i]).numpy(), 9))
            for i, j, offset in brute_force_pairs(positions, cell, data.periodic[structure], 4.0)
        )
        np.testing.assert_allclose(np.array(found), np.array(wanted), atol=1e-8)


def test_embedded_data():
    raw = np.load(EMBEDDED)
    assert EMBEDDED.stat().st_size < 2.2e6
    assert raw["R"].shape == raw["F_eV_A"].shape == (4019, 21, 3)
    assert raw["E_eV"].shape == (4019,)
    assert np.bincount(raw["Z"]).tolist() == [0, 8, 0, 0, 0, 0, 9, 0, 4]


def scenario(**sizes) -> Scenario:
    return Scenario(**{"name": "t", "initial": 10, "final": 30, "validation": 7, "pool": 50, "test": 20, **sizes})


def test_split_is_exact_disjoint_and_depends_on_the_seed():
    data = make_structures([([8, 1], [[0, 0, 0], [0, 0, 1]], None)] * 87)
    split = draw_split(data, scenario(), 3)
    parts = [split.initial, split.validation, split.pool, split.test]
    assert [len(part) for part in parts] == [10, 7, 50, 20]
    assert sorted(np.concatenate(parts)) == list(range(87))
    again, other = draw_split(data, scenario(), 3), draw_split(data, scenario(), 4)
    assert all(np.array_equal(a, b) for a, b in zip(vars(split).values(), vars(again).values(), strict=True))
    assert not np.array_equal(split.test, other.test)
    assert len(draw_split(data, scenario(test=None, pool=10), 3).test) == 60
    with pytest.raises(UserError, match="holds 87 structures, but the scenario asks for 88"):
        draw_split(data, scenario(pool=51), 3)
    with pytest.raises(UserError, match="asks for 88"):
        draw_split(data, scenario(test=None, pool=70), 3)


def test_streams_are_independent_and_repeatable():
    keys = [
        {"seed": 0, "use": "split"},
        {"seed": 1, "use": "split"},
        {"seed": 0, "use": "weights"},
        {"seed": 0, "use": "weights", "n_train": 10},
        {"seed": 0, "use": "weights", "n_train": 10, "member": 1},
        {"seed": 0, "use": "weights", "n_train": 10, "epoch": 1},
    ]
    draws = [stream(**key).integers(2**62) for key in keys]
    assert len(set(draws)) == len(keys)
    assert draws == [stream(**key).integers(2**62) for key in keys]


def test_nearest():
    assert nearest("epoch", ["epochs", "minibatch"]) == "did you mean 'epochs'?"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"
