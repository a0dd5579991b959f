"""Own files as people have them: names of entries, slabs, isolated atoms, indices, copies, contradictions."""

import logging

import ase
import ase.build
import ase.db
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import make_builder, make_structures

from bench.config.plugins import plugin
from bench.config.units import length_unit
from bench.data.convert import Plausible
from bench.data.datasets import file as file_dataset
from bench.data.datasets.file import FileDataset
from bench.data.formats.ase_files import frames_of, of_frames
from bench.data.neighbours import find_neighbours
from bench.data.raw import Part
from bench.errors import UserError
from bench.pools.frames import read_frames

WIDE = Plausible(energies=(-60.0, 60.0), forces=(0.0, 30.0), distances=(0.4, 4.0))


def dataset(path, **changes):
    given = {"name": "mine", "path": path if isinstance(path, list) else str(path), "energy_unit": "eV"}
    given |= {"length_unit": "Å", "plausible": WIDE, "reference_energies": None}
    return FileDataset(**{**given, **changes})


def load(path, **changes):
    return dataset(path, **changes).load()


@pytest.fixture
def told(caplog, monkeypatch):
    """The lines said while data are read."""
    monkeypatch.setattr(file_dataset, "_TOLD", set())
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def waters(generator, n=4, **results):
    frames = []
    for _ in range(n):
        positions = np.array([[0, 0, 0], [0, 0, 0.96], [0.93, 0, -0.24]]) + 0.02 * generator.normal(size=(3, 3))
        frames.append(ase.Atoms("OHH", positions))
        labels = {"energy": -14.0 + 0.1 * generator.normal(), "forces": generator.normal(size=(3, 3)), **results}
        frames[-1].calc = SinglePointCalculator(frames[-1], **labels)
    return frames


def renamed(frames, energy="REF_energy", forces="REF_forces"):
    for atoms in frames:
        atoms.info[energy], atoms.arrays[forces] = atoms.calc.results["energy"], atoms.calc.results["forces"]
        atoms.calc = None
    return frames


def write(path, frames):
    ase.io.write(path, frames, format="extxyz" if path.suffix == ".xyz" else None)
    return path


def test_forces_under_another_name_are_named(tmp_path, generator):
    """The energy's key alone: the data have no forces, and what looks like them is remembered for the message."""
    path = write(tmp_path / "a.xyz", renamed(waters(generator)))
    data = load(path, energy_key="REF_energy")
    assert data.forces is None and data.like_forces == ("REF_forces",)
    assert load(path, energy_key="REF_energy", forces_key="REF_forces").forces is not None
    with pytest.raises(UserError, match=r"a.xyz:0 has no energy: give dataset.energy_key; these look like it: REF_ene"):
        load(path)
    with pytest.raises(UserError, match=r"no entry 'F' of 3 numbers.*forces_key; these look like it: REF_forces"):
        load(path, energy_key="REF_energy", forces_key="F")


def test_one_frame_that_lacks_an_entry_is_named_for_removal(tmp_path, generator):
    """What the others hold under that name is no hint at another key."""
    frames = renamed(waters(generator))
    lacks_forces, lacks_energy = [atoms.copy() for atoms in frames], [atoms.copy() for atoms in frames]
    del lacks_forces[2].arrays["REF_forces"], lacks_energy[2].info["REF_energy"]
    keys = {"energy_key": "REF_energy", "forces_key": "REF_forces"}
    with pytest.raises(UserError, match=r"f.xyz:2 has no entry 'REF_forces'.*, other frames have \(3\): remove it$"):
        load(write(tmp_path / "f.xyz", lacks_forces), **keys)
    with pytest.raises(UserError, match=r"e.xyz:2 has no entry 'REF_energy', other frames have \(3\): remove it$"):
        load(write(tmp_path / "e.xyz", lacks_energy), **keys)
    plain = waters(generator)
    plain[2].calc = None
    with pytest.raises(UserError, match=r"p.xyz:2 has no forces, other frames have \(3\): remove it$"):
        load(write(tmp_path / "p.xyz", plain))
    plain[2].arrays["gradient"] = np.ones((3, 3))
    with pytest.raises(UserError, match=r"remove it, or give dataset.forces_key; these look like it: gradient$"):
        load(write(tmp_path / "q.xyz", plain))


def test_forces_beside_hartrees_are_asked_about(tmp_path, generator, told):
    path, plausible = write(tmp_path / "a.xyz", waters(generator)), Plausible((-1e3, 1e3), (0.4, 4.0))
    load(path, energy_unit="Hartree", forces_unit="eV/Å", plausible=plausible)
    load(path, name="bohr", energy_unit="Hartree", length_unit="Bohr", plausible=Plausible((-1e3, 1e3), (0.0, 4.0)))
    assert not any("are they?" in line for line in told())
    load(path, energy_unit="Hartree", plausible=plausible)
    (line,) = (line for line in told() if "are they?" in line)
    assert line.endswith("forces are taken to be in Hartree/Å: are they? Else dataset.forces_unit=Hartree/Bohr")


@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.db", "a.json"])
def test_everything_ase_holds_can_be_named(tmp_path, generator, name):
    """ASE's own names, the free energy, info, arrays, and a database's pairs and data."""
    frames = waters(generator, free_energy=-15.0)
    path = tmp_path / name
    if name.endswith((".db", ".json")):
        with ase.db.connect(path) as database:
            for atoms in frames:
                pairs, blob = {"pbe": -3.0}, {"gradient": np.ones((3, 3))}
                database.write(atoms, key_value_pairs=pairs, data=blob)
        data = load(path, energy_key="pbe", forces_key="gradient")
        assert data.energies.tolist() == [-3.0] * 4 and (data.forces == 1).all()
    else:
        write(path, frames)
    named = load(path, energy_key="energy", forces_key="forces")
    assert named.checksum == load(path).checksum
    np.testing.assert_allclose(named.forces[:3], frames[0].calc.results["forces"], atol=1e-7)
    assert load(path, energy_key="free_energy").energies.tolist() == [-15.0] * 4


def test_one_name_for_two_entries_is_refused(tmp_path, generator):
    frames = waters(generator)
    for atoms in frames:
        atoms.info["energy"] = -1.0
    path = write(tmp_path / "a.traj", frames)
    with pytest.raises(UserError, match=r"a.traj:0 holds 2 different entries 'energy': rename one"):
        load(path, energy_key="energy")


def test_unused_labels_are_named_once(tmp_path, generator, told):
    frames = waters(generator, free_energy=-15.0, stress=np.zeros(6))
    for atoms in frames:
        atoms.info |= {"charge": 1, "spin": 2, "virials": np.eye(3)}
    path = write(tmp_path / "a.xyz", frames)
    load(path)
    load(path)
    (unused,) = [line for line in told() if "not used" in line]
    assert unused.endswith("learned: energy, forces; present and not used: charge, free_energy, spin, stress, virials")
    (free,) = [line for line in told() if "dataset.energy_key=free_energy" in line]
    assert "differ from free_energy" in free


PARTLY = {
    "slab": ([True, True, False], [[3, 0, 0], [1.5, 2.6, 0], [0, 0, 0]]),
    "slab along other axes": ([True, False, True], [[3, 0, 0], [0, 0, 0], [0.4, 0.3, 3.1]]),
    "rod": ([False, True, False], [[0, 0, 0], [0, 2.8, 0.5], [0, 0, 0]]),
    "rod in a cell of its own": ([False, True, False], [[9, 0, 0], [0, 2.8, 0.5], [0, 0, 12]]),
    "slab with a vector in its plane": ([True, True, False], [[3, 0, 0], [0, 3, 0], [1, 1, 0]]),
    "molecule with one vector": ([False, False, False], [[3, 0, 0], [0, 0, 0], [0, 0, 0]]),
}


@pytest.mark.parametrize("case", PARTLY)
def test_every_mix_of_periodic_and_missing_vectors(tmp_path, generator, case):
    """As ASE writes it; neighbours are those of brute force."""
    pbc, cell = PARTLY[case]
    atoms = ase.Atoms("AlAlO", [[0, 0, 0], [1.4, 1.0, 2.0], [0.2, 1.7, 3.9]], pbc=pbc, cell=cell)
    frames = []
    for seed in range(3):
        frames.append(atoms.copy())
        frames[-1].rattle(0.05, seed=seed)
        forces = generator.normal(size=(3, 3))
        frames[-1].calc = SinglePointCalculator(frames[-1], energy=-10.0, forces=forces)
    data = load(write(tmp_path / "a.xyz", frames))
    assert data.periodic[0].tolist() == pbc
    centres, neighbours, vectors = find_neighbours(data, 5.0).pairs_of(data, np.array([0]))
    positions, cell = data.positions[:3], np.array(cell, dtype=float)
    ranges = [range(-6, 7) if periodic else [0] for periodic in pbc]
    wanted = []
    for shift in np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3):
        apart = positions[None] + shift @ cell - positions[:, None]
        length = np.linalg.norm(apart, axis=2)
        for i, j in np.argwhere((length < 5.0) & (length > 0)):
            wanted.append((i, j, *np.round(apart[i, j], 6)))
    found = [(i, j, *np.round(v, 6)) for i, j, v in zip(centres, neighbours, vectors, strict=True)]
    np.testing.assert_allclose(np.array(sorted(found)), np.array(sorted(wanted)), atol=1e-5)


def test_a_missing_periodic_vector_is_refused(tmp_path, generator):
    frames = waters(generator)
    for atoms in frames:
        atoms.set_cell([5, 5, 0])
        atoms.pbc = True
    with pytest.raises(UserError, match=r"periodic along a, b, c but its cell has no volume: .* set pbc to F along a"):
        load(write(tmp_path / "a.xyz", frames))


def equation_of_state(cell, n=7, factor=50.0):
    frames = []
    for strain in np.linspace(0.95, 1.05, n):
        atoms = cell.copy()
        atoms.set_cell(cell.cell * strain, scale_atoms=True)
        energy = len(atoms) * (-3.7 + factor * (strain - 1) ** 2)
        frames.append(atoms)
        frames[-1].calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((len(atoms), 3)))
    return frames


@pytest.mark.parametrize("cubic", [False, True])
def test_an_equation_of_state(tmp_path, cubic):
    """One-atom cells, and perfect crystals, have no forces."""
    data = load(write(tmp_path / "a.xyz", equation_of_state(ase.build.bulk("Cu", cubic=cubic))))
    assert len(data) == 7 and not data.forces.any()


def atom(symbol, energy, *, mark="IsolatedAtom", forces=False, cell=None):
    atoms = ase.Atoms(symbol, cell=cell, pbc=cell is not None)
    if mark:
        atoms.info["config_type"] = mark
    labels = {"energy": energy} | ({"forces": np.zeros((1, 3))} if forces else {})
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


ATOMS = {
    "marked": {},
    "with forces": {"forces": True},
    "another mark": {"mark": "isolated_atom"},
    "not marked": {"mark": None},
    "in a large cell": {"mark": None, "cell": [12, 12, 12]},
    "marked in a cell": {"cell": [7, 7, 7], "forces": True},
}


@pytest.mark.parametrize("case", ATOMS)
def test_isolated_atoms_are_references(tmp_path, generator, told, case):
    """One setting: their energies are subtracted, they themselves are no structures; frames may lack their forces."""
    hydroxide = ase.Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    hydroxide.calc = SinglePointCalculator(hydroxide, energy=-200.0, forces=np.ones((2, 3)))
    frames = [atom("O", -47.0, **ATOMS[case]), *waters(generator), atom("H", -23.0, **ATOMS[case]), hydroxide]
    path = write(tmp_path / "a.xyz", frames)
    unit = 0.0433641153087705
    data = load(path, reference_energies="isolated_atoms", energy_unit="kcal/mol")
    assert len(data) == 5 and data.n_atoms.min() == 2
    assert data.reference_energies == pytest.approx({1: -23.0 * unit, 8: -47.0 * unit})
    assert data.residual_energies[-1] == pytest.approx(-130.0 * unit)
    assert load(path, reference_energies={1: -1.0, 8: -2.0}, energy_unit="kcal/mol").forces is not None
    assert any("isolated atoms (a.xyz:0" in line for line in told())
    with pytest.raises(UserError, match=r"or, where the data hold isolated atoms, .*=isolated_atoms"):
        load(path)


def test_isolated_atoms_that_do_not_do(tmp_path, generator):
    with pytest.raises(UserError, match=r"no isolated atom of H \(found: O\)"):
        load(write(tmp_path / "a.xyz", [atom("O", -2.0), *waters(generator)]), reference_energies="isolated_atoms")
    frames = [atom("O", -2.0), atom("H", -1.0), atom("O", -2.5), *waters(generator)]
    with pytest.raises(UserError, match=r"isolated O has -2 eV in b.xyz:0 and -2.5 eV in b.xyz:2: remove one"):
        load(write(tmp_path / "b.xyz", frames), reference_energies="isolated_atoms")


@pytest.mark.parametrize(
    ("cell", "unit", "isolated"),
    [
        ([2, 2, 2], "nm", True),
        ([9, 9, 9], "Bohr", False),
        ([17, 17, 17], "Bohr", True),
        ([9, 9, 9, 60, 60, 60], "Å", 1),
    ],
)
def test_how_far_images_are_is_in_the_unit_of_the_file(tmp_path, generator, cell, unit, isolated):
    """A box of 2 nm holds an isolated atom, one of 9 Bohr a crystal; in an oblique cell the nearest image counts."""
    frames = [atom("O", -2.0, mark=None, cell=cell), atom("H", -1.0), *waters(generator)]
    for frame in frames[2:]:
        frame.positions /= length_unit(unit)
    path, words = write(tmp_path / "a.xyz", frames), {"length_unit": unit, "forces_unit": "eV/Å"}
    if isolated:
        assert load(path, reference_energies="isolated_atoms", **words).reference_energies == {1: -1.0, 8: -2.0}
    else:
        with pytest.raises(UserError, match=r"no isolated atom of O \(found: H\)"):
            load(path, reference_energies="isolated_atoms", **words)


BROKEN = {
    "no atoms": (lambda frames: frames.insert(2, ase.Atoms()), r"structure 2 \(a.xyz:2\) holds 0 atoms: remove"),
    "a dummy atom": (lambda frames: frames[1].symbols.__setitem__(0, "X"), "Z = 0 is no element: remove the dummy"),
    "a cell of NaN": (
        lambda frames: frames[3].set_cell([5, np.nan, 5]) or frames[3].set_pbc(True),
        r"the cell of structure 3 \(a.xyz:3\) holds .*nan.*: remove or fix",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("references", [None, {1: 0.0, 8: 0.0}])
def test_frames_that_hold_no_structure(tmp_path, generator, case, references):
    change, message = BROKEN[case]
    frames = waters(generator)
    change(frames)
    for frame in frames:
        if len(frame) == 0:
            frame.calc = SinglePointCalculator(frame, energy=0.0, forces=np.zeros((0, 3)))
    raw = of_frames([(f"a.xyz:{number}", frame) for number, frame in enumerate(frames)])
    with pytest.raises(UserError, match=message) as caught:
        dataset("a.xyz", reference_energies=references).of(raw)
    assert "\n" not in str(caught.value)


def test_element_symbols_are_keys(tmp_path, generator):
    path = write(tmp_path / "a.xyz", waters(generator))
    config = {
        "_target_": "bench.data.datasets.file.FileDataset",
        "name": "mine",
        "path": str(path),
        "energy_unit": "eV",
    }
    config |= {"length_unit": "Å", "plausible": {"energies": [-60, 60], "distances": [0.4, 4.0]}}

    def references(given):
        return plugin(config | {"reference_energies": given}, "dataset").load().reference_energies

    assert references({"H": -1.0, "O": -2.0}) == references({1: -1.0, "8": -2.0}) == {1: -1.0, 8: -2.0}
    with pytest.raises(UserError, match=r"dataset.reference_energies.*'Ox' is no element"):
        references({"Ox": -1.0})
    with pytest.raises(UserError, match="'O' is given twice"):
        references({8: -1.0, "O": -2.0})


def test_parts_of_files(tmp_path, generator):
    """As ASE takes them; a file of the whole name wins, and a folder may have an @ in its name."""
    (tmp_path / "a@b").mkdir()
    frames = waters(generator, 6)
    path = write(tmp_path / "a@b/w.xyz", frames)
    whole = load(path)
    for index, wanted in {
        "0:2": [0, 1],
        "-1": [5],
        "3": [3],
        "::2": [0, 2, 4],
        "-3:-1": [3, 4],
        "4:0:-2": [4, 2],
    }.items():
        np.testing.assert_array_equal(load(f"{path}@{index}").energies, whole.energies[wanted], err_msg=index)
    for name in ("w.xyz@0:2", "w@1.xyz"):
        (tmp_path / name).write_bytes(path.read_bytes())
        assert len(load(tmp_path / name)) == 6
    assert len(load(f"{tmp_path}/w@1.xyz@0:3")) == 3
    with pytest.raises(UserError, match=r"'x' after '@' is no index: give e.g. .*w.xyz@0:20"):
        load(f"{path}@x")
    with pytest.raises(UserError, match=r"no file .*none.xyz@0:2"):
        load(tmp_path / "none.xyz@0:2")
    for index in ("9", "-9", "9:"):
        for read in (load, lambda part: read_frames(part, "pool")):
            with pytest.raises(
                UserError, match=rf"w\.xyz@{index} holds 0 structures: the file has none there, give an"
            ):
                read(f"{path}@{index}")
    with pytest.raises(UserError, match=r"a@b is a folder, which ASE cannot read: name the files in it"):
        load([str(path), str(tmp_path / "a@b")])
    for name in ("w.db", "w.json"):
        with ase.db.connect(tmp_path / name) as database:
            for atoms in frames:
                database.write(atoms)
        assert len(load(tmp_path / f"{name}@1:3")) == 2 and len(load(tmp_path / f"{name}@id=3")) == 1
    with pytest.raises(UserError, match=r"@::0: a step of 0 names no structures: give another part"):
        load(f"{path}@::0")


@pytest.mark.parametrize("read", [load, lambda path: read_frames(str(path), "pool")], ids=["labelled", "pool"])
def test_names_of_which_ase_knows_no_format(tmp_path, generator, read):
    """The file is good: it is its name that says no format, or another."""
    path = write(tmp_path / "w.xyz", waters(generator, 4))
    for ending in ("txt", "csv", "h5"):
        other = path.with_suffix(f".{ending}")
        other.write_bytes(path.read_bytes())
        with pytest.raises(UserError, match=rf"w\.{ending} .* no format of this name: rename it \(\.xyz or \.extxyz"):
            read(other)
    other = path.rename(tmp_path / "w.dat")
    with pytest.raises(UserError, match=r"fix the file, or rename it if it is not of ASE's format gamess-us-punch"):
        read(other)


def test_an_empty_line_between_frames_is_told(tmp_path, generator):
    """ASE's reader takes it for the end, and would leave the frames behind it out."""
    path = write(tmp_path / "w.xyz", waters(generator, 4))
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    for ending in ("\n", "\n \n\n"):
        path.write_text(text + ending)
        assert len(load(path)) == 4
    path.write_text("".join([*lines[:10], "\n", *lines[10:]]))
    for part in ("", "@1:", "@-1", "@::-1"):
        with pytest.raises(UserError, match=r"w.xyz: line 11 is empty, but frames follow: remove the empty lines"):
            load(f"{path}{part}")
    assert len(load(f"{path}@0:2")) == 2
    # a part that goes further, and one that lies behind the empty line
    for part in ("@0:3", "@0:100", "@3", "@0:4:3"):
        with pytest.raises(UserError, match=r"w.xyz: line 11 is empty, but frames follow"):
            load(f"{path}{part}")
    path.write_text(text)
    assert len(load(f"{path}@0:100")) == 4 and len(load(f"{path}@3")) == 1


def test_lists_and_patterns(tmp_path, generator):
    """Folders in a pattern, an index of every file; labels tell files of one name apart and count as the file does."""
    for folder in ("run1", "run2"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "md.xyz", waters(generator, 5))
    assert len(load(tmp_path / "run*/md.xyz")) == 10
    assert len(load(tmp_path / "run*/md.xyz@1:3")) == 4
    assert len(load([f"{tmp_path}/run1/md.xyz@:2", f"{tmp_path}/run2/*.xyz"])) == 7
    frames = waters(generator, 5)
    del frames[3].calc.results["energy"]
    write(tmp_path / "run2/md.xyz", frames)
    with pytest.raises(UserError, match=r"^run2/md.xyz:3 has no energy"):
        load(tmp_path / "run*/md.xyz@2:")


def vasprun(n=3):
    """As VASP writes it, cut down: the energy extrapolated to zero smearing is not the free energy."""

    def rows(*lines):
        return "".join(f"<v>{line}</v>" for line in lines)

    def structure(x):
        cell = rows("4.2 0 0", "0 4.2 0", "0 0 4.2")
        positions = rows(f"{x} 0 0", "0.5 0.5 0.5")
        return f'<crystal><varray name="basis">{cell}</varray></crystal><varray name="positions">{positions}</varray>'

    steps = ""
    for i in range(n):
        energies = [("e_fr_energy", -6.6 + 0.01 * i), ("e_wo_entrp", -6.4), ("e_0_energy", -6.5 + 0.01 * i)]
        energy = "<energy>" + "".join(f'<i name="{name}">{value}</i>' for name, value in energies) + "</energy>"
        forces, stress = rows(f"{-0.1 * i} 0 0", f"{0.1 * i} 0 0"), rows("1 0 0", "0 1 0", "0 0 1")
        steps += f"<calculation><scstep>{energy}</scstep><structure>{structure(0.01 * i)}</structure>"
        steps += f'<varray name="forces">{forces}</varray><varray name="stress">{stress}</varray>{energy}</calculation>'
    atoms = "<set><rc><c>Cs</c><c>1</c></rc><rc><c>Cl</c><c>2</c></rc></set>"
    points = f'<varray name="kpointlist">{rows("0 0 0")}</varray><varray name="weights">{rows("1")}</varray>'
    return (
        f'<?xml version="1.0"?><modeling><atominfo><array name="atoms">{atoms}</array></atominfo>'
        f'<kpoints>{points}</kpoints><structure name="initialpos">{structure(0)}</structure>{steps}</modeling>'
    )


def test_output_of_vasp(tmp_path, told):
    """Folders of calculations; forces are the gradient of the free energy, and stress is there."""
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "vasprun.xml").write_text(vasprun())
    data = load(tmp_path / "*/vasprun.xml")
    np.testing.assert_allclose(data.energies, [-6.5, -6.49, -6.48] * 2)
    np.testing.assert_allclose(data.forces[4:6], [[-0.2, 0, 0], [0.2, 0, 0]])
    assert data.periodic.all() and data.cells[0].tolist() == np.diag([4.2] * 3).tolist()
    lines = " ".join(told())
    assert "present and not used: free_energy, stress" in lines and "by up to 0.1: dataset.energy_key=free" in lines
    assert "3 of 6 structures repeat an earlier one (b/vasprun.xml:0 of a/vasprun.xml:0" in lines
    np.testing.assert_allclose(load(tmp_path / "a/vasprun.xml@1:", energy_key="free_energy").energies, [-6.59, -6.58])


def test_copies_are_told_or_dropped(tmp_path, generator, told):
    path = write(tmp_path / "a.xyz", waters(generator, 3) * 3)
    assert len(load(path)) == 9
    assert (
        "6 of 9 structures repeat an earlier one (a.xyz:3 of a.xyz:0, a.xyz:4 of a.xyz:1, a.xyz:5 of a.xyz:2, …):"
        " dataset.duplicates=drop leaves them out" in " ".join(told())
    )
    assert len(load(path, duplicates="drop")) == 3
    assert not any("contradict" in line for line in told())


def test_contradicting_labels_are_told(tmp_path, generator, told):
    """One geometry, two charges and spins."""
    frames = []
    for charge, energy in ((0, -14.0), (1, -2.0)):
        atoms = waters(np.random.default_rng(1), 1, energy=energy)[0]
        atoms.info |= {"charge": charge, "spin": 1 + charge}
        frames.append(atoms)
    load(write(tmp_path / "a.xyz", [*frames, *waters(generator)]))
    (line,) = [line for line in told() if "contradict" in line]
    assert "a.xyz:1 -2 eV and a.xyz:0 -14 eV (charge=1, spin=2; charge=0, spin=1)" in line


@pytest.mark.parametrize("row", [0, 7])
def test_a_label_that_is_far_off_is_named(tmp_path, generator, told, row):
    frames = waters(generator, 30)
    frames[row].calc.results["energy"] = 1e8
    with pytest.raises(UserError, match=rf"energy of structure {row} \(a.xyz:{row}\) is 3.333e\+07 eV per atom"):
        load(write(tmp_path / "a.xyz", frames))
    frames[row].calc.results["energy"] = 100.0
    load(write(tmp_path / "b.xyz", frames))
    assert any(f"energy of structure {row} (b.xyz:{row}) lies 38" in line for line in told())


def test_a_label_that_decides_the_scale_is_told(caplog):
    """Whatever class read the data: c of Eq. (4) is the spread of the training energies."""
    import dataclasses

    from bench.training.scaling import scaling_of

    data = make_structures([([8, 1], [[0, 0, 0], [0, 0, 1.0 + 0.01 * i]], None) for i in range(20)])
    energies = np.sin(np.arange(20.0))
    scaling_of(dataclasses.replace(data, energies=energies), np.arange(20), 1.0)
    assert not caplog.records
    energies[7] = 1e8
    scaling_of(dataclasses.replace(data, energies=energies), np.arange(20), 1.0)
    assert "energy of training structure 7" in caplog.text
    assert make_builder(data).neighbours.r_max == 4.0


def test_rows_that_a_database_selects_keep_their_numbers(tmp_path):
    """A row is called by its place among all rows, whatever selects it; rows that were deleted do not count."""
    with ase.db.connect(tmp_path / "a.db") as database:
        for place in range(9):
            database.write(ase.Atoms("H", [[place, 0, 0]]), kind=place % 3)
        del database[2]
    everyone = [frame.positions[0, 0] for _, frame in frames_of(Part(tmp_path / "a.db"))]
    for index, expected in (("id=7", [6.0]), ("kind=1", [4.0, 7.0]), ("kind=5", []), ("2:4", [3.0, 4.0])):
        found = [(number, frame.positions[0, 0]) for number, frame in frames_of(Part(tmp_path / "a.db", index))]
        assert [where for _, where in found] == expected
        assert all(everyone[number] == where for number, where in found)
