"""The published formats, read as files, folders and archives, give the same structures to the last bit."""

import ase
import ase.db
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import PROJECT
from published import (
    FAILED_LIST,
    HARTREE,
    KCAL,
    MOLECULES,
    REFERENCES,
    aspirin,
    pack,
    qm9_files,
    qm9_tables,
    write_md17,
    write_rmd17,
    write_xsf_folder,
    xsf_text,
)

from bench.data.convert import Plausible
from bench.data.datasets.file import FileDataset
from bench.data.read import read_source
from bench.errors import UserError

SUFFIXES = [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"]


def same(a, b):
    assert a.labels == b.labels
    for name in ("n_atoms", "atomic_numbers", "positions", "energies", "forces", "cells", "periodic"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None)
        assert left is None or (left.dtype == right.dtype and np.array_equal(left, right)), name


def test_md17_as_published(tmp_path):
    z, r, e, f = aspirin()
    raw = read_source(write_md17(tmp_path / "md17_aspirin.npz"), None)
    np.testing.assert_array_equal(raw.positions, r.reshape(-1, 3))
    np.testing.assert_allclose(raw.energies, (e - 21 * 0.956) * KCAL)
    assert raw.energy_unit is None and raw.energies.shape == (12,)
    raw = read_source(write_rmd17(tmp_path / "rmd17_aspirin.npz"), "*aspirin*")
    np.testing.assert_allclose(raw.forces, f.reshape(-1, 3) * KCAL)
    np.testing.assert_array_equal(raw.atomic_numbers, np.tile(z, 12))
    assert raw.labels[2] == "frame 14 of MD17"


def test_arrays_that_would_be_misread_are_refused(tmp_path):
    """A cell that no layout reads, and numbers of atoms that are not whole."""
    with np.load(write_md17(tmp_path / "a.npz")) as archive:
        arrays = dict(archive)
    for key, value, told in (
        ("lattice", np.eye(3), "array lattice is not read, so periodic structures would be molecules"),
        ("z", arrays["z"] + 0.4, "array z holds 6.4, expected whole numbers"),
    ):
        np.savez(tmp_path / "b.npz", **arrays | {key: value})
        with pytest.raises(UserError, match=told):
            read_source(tmp_path / "b.npz", None)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_molecule_of_an_archive(tmp_path, suffix):
    """As revised MD17 is published: an archive of ten .npz files, of which one is wanted."""
    content = write_rmd17(tmp_path / "x.npz").read_bytes()
    other = write_rmd17(tmp_path / "y.npz", n=3).read_bytes()
    files = {
        "rmd17/readme.txt": b"text",
        "rmd17/npz_data/rmd17_benzene.npz": other,
        "rmd17/npz_data/rmd17_aspirin.npz": content,
    }
    path = pack(files, tmp_path / f"rmd17{suffix}")
    same(read_source(path, "*aspirin*"), read_source(tmp_path / "x.npz", None))
    nested = pack({"rmd17.tar.bz2": pack(files, tmp_path / "rmd17.tar.bz2").read_bytes()}, tmp_path / "12672038.zip")
    same(read_source(nested, "*aspirin*"), read_source(tmp_path / "x.npz", None))
    with pytest.raises(UserError, match=r"readme.txt, rmd17_benzene.npz, rmd17_aspirin.npz\) holds no structures"):
        read_source(path, "*uracil*")


def test_xsf_holds_what_was_written(tmp_path):
    structures = write_xsf_folder(tmp_path / "tio2")
    raw = read_source(tmp_path / "tio2", None)
    for i, (z, r, cell, energy, forces) in enumerate(structures):
        rows = slice(6 * i, 6 * i + 6)
        assert np.array_equal(raw.atomic_numbers[rows], z) and raw.energies[i] == energy
        assert np.array_equal(raw.positions[rows], r) and np.array_equal(raw.forces[rows], forces)
        assert np.array_equal(raw.cells[i], cell) and raw.periodic[i].all()
    assert raw.labels == [f"structure{i:04d}.xsf" for i in range(1, 6)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_xsf_archives(tmp_path, suffix):
    """The order of an archive's members does not matter, macOS's hidden twins are no structures."""
    write_xsf_folder(tmp_path / "tio2")
    files = {f"data/{path.name}": path.read_bytes() for path in (tmp_path / "tio2").iterdir()}
    shuffled = dict(sorted(files.items(), reverse=True)) | {"data/._structure0001.xsf": b"\x00", "data/README": b"?"}
    same(read_source(pack(shuffled, tmp_path / f"a{suffix}"), None), read_source(tmp_path / "tio2", None))


def test_xsf_variants():
    from bench.data.formats.xsf import parse_xsf

    text = "# total energy =  -0.097 eV\n\nATOMS\nH -0.9 0. 0. 0.3 0. 0.\n1 0.9 0. 0. -0.3 0. 0.\n"
    molecule = parse_xsf(text.encode(), "H2.xsf")
    assert molecule.energy == -0.097 and molecule.cell is None and molecule.periodic == (False, False, False)
    assert molecule.atomic_numbers == [1, 1] and molecule.rows[1] == [0.9, 0, 0, -0.3, 0, 0]
    slab = parse_xsf(
        b"# total energy = 1\nSLAB\nPRIMVEC\n3 0 0\n0 3 0\n0 0 9\nPRIMCOORD\n1 1\nO 0 0 0 1e-1 0 0\n", "slab.xsf"
    )
    assert slab.periodic == (True, True, False)


def test_one_dataset_of_an_archive_of_several(tmp_path):
    """As LMNTO is published: beside clusters of water, in two folders with the same file names."""
    write_xsf_folder(tmp_path / "archive/LMNTO-SCAN-train-data", n=2)
    write_xsf_folder(tmp_path / "archive/LMNTO-SCAN-validation-data", n=2, seed=1)
    write_xsf_folder(tmp_path / "archive/water-clusters", n=3, seed=2)
    raw = read_source(tmp_path / "archive", "*LMNTO*")
    assert raw.labels == [
        f"LMNTO-SCAN-{part}-data/structure{i:04d}.xsf" for part in ("train", "validation") for i in (1, 2)
    ]
    assert len(read_source(tmp_path / "archive/water-clusters", "*LMNTO*").labels) == 3


def test_qm9_sources_agree_molecule_by_molecule(tmp_path):
    """The published archive with its *^ numbers and its failed molecules, and the package's tables, never imported."""
    (tmp_path / "uncharacterized.txt").write_text(FAILED_LIST)
    archive = pack(dict(reversed(qm9_files().items())), tmp_path / "dsgdb9nsd.xyz.tar.bz2")
    raw = read_source(archive, None)
    assert raw.labels == [f"dsgdb9nsd_{i:06d}" for i in (1, 2, 3)]
    assert raw.energies.tolist() == [float(MOLECULES[i][2]) for i in (1, 2, 3)] and raw.energy_unit == "Hartree"
    assert raw.positions[-1].tolist() == [0.8717903737, 1.3007924048, 6.931336e-06]
    assert raw.forces is None and raw.cells is None
    wheel = pack(qm9_tables(), tmp_path / "qm9pack-1.0.3-py3-none-any.zip")
    sdist = pack({f"qm9pack-1.0.3/{name}": text for name, text in qm9_tables().items()}, tmp_path / "q.tar.gz")
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    (downloads / archive.name).write_bytes(archive.read_bytes())
    (downloads / "uncharacterized.txt").write_text(FAILED_LIST)
    for other in (wheel, sdist, downloads):
        same(read_source(other, None), raw)


def water(generator, energy=-14.0, n=4):
    frames = []
    for _ in range(n):
        positions = np.array([[0, 0, 0], [0, 0, 0.96], [0.93, 0, -0.24]]) + 0.02 * generator.normal(size=(3, 3))
        frames.append(ase.Atoms("OHH", positions))
        forces = generator.normal(size=(3, 3))
        frames[-1].calc = SinglePointCalculator(frames[-1], energy=energy + generator.normal(), forces=forces)
    return frames


LOOSE = Plausible(energies=(-60.0, 60.0), distances=(0.4, 4.0))


def from_file(path, **changes):
    plausible = Plausible(energies=(-60.0, 60.0), forces=(1e-4, 30.0), distances=(0.4, 4.0))
    given = {"name": "file", "path": path, "energy_unit": "eV", "length_unit": "Å", "plausible": plausible}
    return FileDataset(**{**given, "reference_energies": {}, **changes}).load()


@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.db"])
def test_files_of_ase(tmp_path, generator, name):
    frames = water(generator)
    path = tmp_path / name
    if name.endswith(".db"):
        with ase.db.connect(path) as database:
            for atoms in frames:
                database.write(atoms, method="test", hartree=atoms.get_potential_energy() / HARTREE)
    else:
        ase.io.write(path, frames)
    data = from_file(str(path))
    np.testing.assert_allclose(data.energies, [atoms.get_potential_energy() for atoms in frames], rtol=1e-12)
    np.testing.assert_allclose(data.forces, np.concatenate([atoms.get_forces() for atoms in frames]), atol=1e-7)
    np.testing.assert_allclose(data.positions, np.concatenate([atoms.positions for atoms in frames]), atol=1e-7)
    assert not data.periodic.any() and data.offsets.tolist() == [0, 3, 6, 9, 12]
    constant = data.reference_energies[1]
    assert constant == data.reference_energies[8] == round(data.energies[0] / 3, 2)
    if name.endswith(".db"):
        keyed = from_file(str(path), energy_key="hartree", energy_unit="Hartree", plausible=LOOSE)
        np.testing.assert_allclose(keyed.energies, data.energies)


def test_keys_several_files_cells_and_constraints(tmp_path, generator):
    """Own names of energy and forces, a pattern and a list of files, periodic frames; fixed atoms keep their forces."""
    for i in range(3):
        frames = water(generator, n=2)
        for atoms in frames:
            atoms.info["dft_energy"], atoms.arrays["dft_forces"] = -3.0, atoms.get_forces() + 1
            atoms.calc = None
            atoms.set_cell([5, 6, 7]), atoms.set_pbc([True, True, False])
        ase.io.write(tmp_path / f"frames{i}.extxyz", frames)
    keys = {"energy_key": "dft_energy", "forces_key": "dft_forces", "energy_unit": "kcal/mol"}
    data = from_file(str(tmp_path / "frames*.extxyz"), **keys)
    assert len(data) == 6 and data.periodic.tolist() == [[True, True, False]] * 6
    np.testing.assert_allclose(data.energies, -3.0 / KCAL)
    np.testing.assert_allclose(data.cells, np.array([np.diag([5, 6, 7])] * 6))
    listed = from_file([str(tmp_path / "frames1.extxyz"), str(tmp_path / "frames0.extxyz")], **keys)
    np.testing.assert_array_equal(listed.positions[:6], data.positions[6:12])
    with pytest.raises(UserError, match=r"frames0.extxyz:0 has no entry 'dft_energi'.*these look like it: dft_energy"):
        from_file(str(tmp_path / "frames0.extxyz"), energy_key="dft_energi")
    with pytest.raises(UserError, match=r"has no energy: give dataset.energy_key; these look like it: dft_energy"):
        from_file(str(tmp_path / "frames0.extxyz"))
    fixed = water(generator)
    for atoms in fixed:
        atoms.set_constraint(ase.constraints.FixAtoms([0]))
    ase.io.write(tmp_path / "fixed.traj", fixed)
    assert np.abs(from_file(str(tmp_path / "fixed.traj")).forces[0]).min() > 0


def test_energies_alone_and_mixed_frames(tmp_path, generator):
    frames = water(generator)
    for atoms in frames:
        del atoms.calc.results["forces"]
    ase.io.write(tmp_path / "a.xyz", frames)
    assert from_file(str(tmp_path / "a.xyz")).forces is None
    ase.io.write(tmp_path / "b.xyz", water(generator) + frames)
    with pytest.raises(UserError, match=r"b.xyz:4 has no forces, other frames have"):
        from_file(str(tmp_path / "b.xyz"))


def test_reference_energies(tmp_path, generator):
    """One composition needs none; several do; a unit that cannot be right is refused."""
    frames = [*water(generator), ase.Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])]
    frames[-1].calc = SinglePointCalculator(frames[-1], energy=-8.0, forces=np.ones((2, 3)))
    ase.io.write(tmp_path / "a.xyz", frames)
    with pytest.raises(UserError, match=r"different compositions: give \"dataset.reference_energies=\{H:0,O:0\}\""):
        from_file(str(tmp_path / "a.xyz"))
    data = from_file(str(tmp_path / "a.xyz"), reference_energies={1: -1.0, 8: -2.0})
    np.testing.assert_allclose(data.residual_energies, data.energies + np.array([4, 4, 4, 4, 3]))
    with pytest.raises(UserError, match="no reference energy for Z = \\[8\\]"):
        from_file(str(tmp_path / "a.xyz"), reference_energies={1: -1.0})
    with pytest.raises(
        UserError, match=r"is -\d+.* eV per atom relative to the reference energies, expected -60 to 60"
    ):
        from_file(str(tmp_path / "a.xyz"), reference_energies={1: -1.0, 8: -2.0}, energy_unit="Hartree")
    with pytest.raises(UserError, match=r"in half of the structures no two atoms are closer than 4 Å"):
        from_file(str(tmp_path / "a.xyz"), reference_energies={1: 0.0, 8: 0.0}, length_unit="nm")


def test_a_published_format_as_a_file(tmp_path):
    """dataset=file takes the published formats, too."""
    write_xsf_folder(tmp_path / "tio2")
    data = from_file(str(tmp_path / "tio2"), reference_energies=REFERENCES)
    assert len(data) == 5 and data.periodic.all()
    with pytest.raises(UserError, match=r"tio2 is in eV, but dataset.energy_unit = Hartree: set it to eV"):
        from_file(str(tmp_path / "tio2"), reference_energies=REFERENCES, energy_unit="Hartree")
    with pytest.raises(UserError, match="energy unit 'ev' is not known: did you mean 'eV'"):
        from_file(str(tmp_path / "tio2"), reference_energies=REFERENCES, energy_unit="ev")


def test_tio2_back_to_xsf(tmp_path, shared_data):
    """Real structures written in the published format and read again are the same numbers."""
    raw = np.load(shared_data / "tio2_7815.npz")
    offsets = np.concatenate([[0], np.cumsum(raw["n_atoms"].astype(int))])
    picked = range(0, 7815, 300)
    files = {}
    for i in picked:
        rows = slice(offsets[i], offsets[i + 1])
        text = xsf_text(raw["Z"][rows], raw["R"][rows], raw["cell"][i], raw["energy_eV"][i], raw["F_eV_A"][rows])
        files[str(raw["names"][i])] = text.encode()
    read = read_source(pack(files, tmp_path / "tio2.tar.gz"), None)
    rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in picked])
    assert read.labels == [str(raw["names"][i]) for i in picked]
    np.testing.assert_array_equal(read.positions, raw["R"][rows].astype(float))
    np.testing.assert_array_equal(read.forces, raw["F_eV_A"][rows].astype(float))
    np.testing.assert_array_equal(read.energies, raw["energy_eV"][list(picked)])


def test_embedded_file_is_a_published_layout():
    raw = read_source(PROJECT / "bench/data/embedded/rmd17_aspirin_4019.npz", None)
    assert raw.energy_unit == "eV" and len(raw.energies) == 4019 and raw.positions.dtype == np.float32


EXTXYZ = """3
Properties=species:S:1:pos:R:3:forces:R:3 energy=-14.2 pbc="F F F"
O 0.00 0.0 0.0 0.1 0.0 0.0
H 0.00 0.0 0.96 0.0 0.1 0.0
H 0.93 0.0 -0.24 0.0 0.0 0.1
"""
DAMAGED_FILES = {
    "text in a number": (EXTXYZ.replace("0.96", "O.96"), r"a.xyz cannot be read by ASE \("),
    "fewer atoms": (EXTXYZ.rsplit("H", 1)[0], r"a.xyz cannot be read by ASE \("),
    "more atoms": (EXTXYZ + "H 0 0 3 0 0 0\n", r"a.xyz cannot be read by ASE \("),
    "NaN force": (EXTXYZ.replace("0.0 0.1\n", "0.0 nan\n"), r"forces of structure 0 \(a.xyz:0\) hold \[0.0, 0.0, n"),
    "NaN energy": (EXTXYZ.replace("-14.2", "nan"), r"energy of structure 0 \(a.xyz:0\) is nan"),
    "a truth value as energy": (EXTXYZ.replace("-14.2", "T"), r"a.xyz:0: energy is True, expected a number"),
    "text as energy": (EXTXYZ.replace("-14.2", "low"), r"a.xyz:0: energy is 'low', expected a number|cannot be read"),
    "flat cell": (
        EXTXYZ.replace('pbc="F F F"', 'pbc="T T T" Lattice="3 0 0 0 3 0 0 0 0"'),
        r"structure 0 \(a.xyz:0\) is periodic along a, b, c but its cell has no volume",
    ),
    "0 structures": ("", r"a.xyz is empty: it holds 0 structures"),
    "a dummy atom": (EXTXYZ.replace("O ", "X "), r"Z = 0 is no element"),
    "Bohr": (EXTXYZ.replace("0.96", "0.096").replace("0.93", "0.093").replace("-0.24", "-0.024"), r"0.096 Å apart"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED_FILES)
def test_damaged_files_of_ase(tmp_path, case):
    text, message = DAMAGED_FILES[case]
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        from_file(str(tmp_path / "a.xyz"))
    assert "\n" not in str(caught.value)
    (tmp_path / "a.xyz").write_text(EXTXYZ)
    assert from_file(str(tmp_path / "a.xyz")).energies == [-14.2]
