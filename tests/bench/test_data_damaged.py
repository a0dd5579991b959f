"""Damaged inputs: each ends with one line naming the file and the remedy, nothing is left, a correct attempt works."""

import re

import numpy as np
import pytest
from published import (
    FAILED_LIST,
    HARTREE,
    KCAL,
    aspirin,
    pack,
    qm9_files,
    qm9_tables,
    rutile,
    write_md17,
    write_rmd17,
    write_xsf_folder,
    xsf_text,
)

from bench.data.__main__ import main


def folder_of_xsf(tmp_path):
    write_xsf_folder(tmp_path / "good")
    return tmp_path / "good"


def xsf_archive(tmp_path, suffix=".tar.bz2"):
    files = {f"tio2/{path.name}": path.read_bytes() for path in folder_of_xsf(tmp_path).iterdir()}
    return pack(files, tmp_path / f"tio2{suffix}")


def altered_xsf(change):
    """The third file of a folder altered."""

    def write(tmp_path):
        write_xsf_folder(tmp_path / "bad")
        path = tmp_path / "bad/structure0003.xsf"
        path.write_text(change(path.read_text()))
        return tmp_path / "bad"

    return write


def cut_archive(suffix, fraction=0.7):
    def write(tmp_path):
        path = xsf_archive(tmp_path, suffix)
        content = path.read_bytes()
        path.write_bytes(content[: int(fraction * len(content))])
        return path

    return write


def tar_cut_between_members(tmp_path):
    path = xsf_archive(tmp_path, ".tar")
    member = 512 + 512 * -(-len((tmp_path / "good/structure0001.xsf").read_bytes()) // 512)
    path.write_bytes(path.read_bytes()[: 2 * member])
    return path


def energies_in_hartree(tmp_path):
    """As a careless conversion would leave them: Hartree, and the file says eV."""
    generator = np.random.default_rng(0)
    (tmp_path / "hartree").mkdir()
    for i in range(3):
        z, r, cell, energy, forces = rutile(generator)
        text = xsf_text(z, r, cell, energy / HARTREE, forces)
        (tmp_path / f"hartree/structure{i}.xsf").write_text(text)
    return tmp_path / "hartree"


def atoms_dropped(text):
    return "\n".join(text.splitlines()[:-1]) + "\n"


def without_forces(text):
    return "\n".join(line if len(line.split()) != 7 else " ".join(line.split()[:4]) for line in text.splitlines())


def flat_cell(text):
    lines = text.splitlines()
    lines[4] = lines[5]
    return "\n".join(lines)


def empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def text_file(tmp_path):
    (tmp_path / "readme.txt").write_text("get the data elsewhere")
    return tmp_path / "readme.txt"


def web_page(tmp_path):
    """What a server sends with status 200 instead of the file."""
    (tmp_path / "data-set-2016-TiO2.tar.bz2").write_text("<html>moved</html>")
    return tmp_path / "data-set-2016-TiO2.tar.bz2"


XSF = {
    "truncated bz2": (cut_archive(".tar.bz2"), r"tio2.tar.bz2 is damaged \(EOFError"),
    "truncated gz": (cut_archive(".tar.gz"), r"tio2.tar.gz is damaged \(EOFError"),
    "truncated xz": (cut_archive(".tar.xz"), r"tio2.tar.xz is damaged \(EOFError"),
    "truncated tar": (cut_archive(".tar", 0.31), r"tio2.tar is damaged \(EOFError"),
    "tar cut between members": (tar_cut_between_members, r"tio2.tar is damaged \(EOFError: no end-of-archive mark"),
    "truncated zip": (cut_archive(".zip"), r"tio2.zip is damaged \(BadZipFile"),
    "without forces": (altered_xsf(without_forces), r"structure0003.xsf, line 10: no forces"),
    "fewer atoms": (altered_xsf(atoms_dropped), r"structure0003.xsf has 5 atoms, its header says 6"),
    "more atoms": (altered_xsf(lambda t: t + t.splitlines()[-1]), r"structure0003.xsf has 7 atoms, its header says 6"),
    "no atoms": (altered_xsf(lambda t: t.split("Ti")[0]), r"structure0003.xsf has 0 atoms, its header says 6"),
    "NaN force": (
        altered_xsf(lambda t: t.rsplit(" ", 1)[0] + " nan\n"),
        r"forces of structure 2 \(structure0003.xsf\) hold \[.*nan\]: remove or fix",
    ),
    "NaN energy": (
        altered_xsf(lambda t: re.sub("= \\S+ eV", "= nan eV", t)),
        r"energy of structure 2 \(structure0003.xsf\) is nan",
    ),
    "infinite position": (
        altered_xsf(lambda t: re.sub(r"(Ti\s+)\S+", r"\1 inf", t, count=1)),
        r"positions of structure 2 \(structure0003.xsf\) hold \[inf",
    ),
    "text in a number": (
        altered_xsf(lambda t: re.sub(r"(Ti\s+)\S+", r"\1 1.2.3", t, count=1)),
        r"structure0003.xsf, line 10: could not convert string to float: '1.2.3'",
    ),
    "text in the energy": (
        altered_xsf(lambda t: re.sub("= \\S+ eV", "= many eV", t)),
        r"structure0003.xsf, line 1: could not convert string to float: 'many'",
    ),
    "text in the count": (altered_xsf(lambda t: t.replace(" 6 1", " x 1")), r"structure0003.xsf, line 9: could not"),
    "no energy": (altered_xsf(lambda t: t.split("\n", 1)[1]), r"structure0003.xsf has no line '# total energy"),
    "energy in Rydberg": (altered_xsf(lambda t: t.replace(" eV", " Ry")), r"total energy in 'Ry', expected eV"),
    "unknown element": (altered_xsf(lambda t: t.replace("Ti", "Tx")), r"line 10: 'Tx' is no element"),
    "other element": (altered_xsf(lambda t: t.replace("Ti", "Zr")), r"no reference energy for Z = \[40\]"),
    "missing cell vector": (altered_xsf(lambda t: re.sub("VEC\n.*\n", "VEC\n", t)), r"structure0003.xsf, line 7"),
    "no cell": (
        altered_xsf(lambda t: re.sub("PRIMVEC\n.*\n.*\n.*\n", "", t)),
        r"structure0003.xsf is periodic but has no PRIMVEC",
    ),
    "flat cell": (
        altered_xsf(flat_cell),
        r"structure 2 \(structure0003.xsf\) is periodic along a, b, c but its cell has no volume",
    ),
    "Hartree declared as eV": (
        energies_in_hartree,
        r"energy of structure \d \(structure\d.xsf\) is \d+.* eV per atom relative to the reference energies, "
        r"expected -10 to 25: check the units",
    ),
    "0 structures": (empty_folder, r"empty holds no structures that can be read: expected .npz of MD17, aenet's .xsf"),
    "a text": (text_file, r"readme.txt \(readme.txt\) holds no structures that can be read"),
    "a web page": (web_page, r"data-set-2016-TiO2.tar.bz2 .* holds no structures that can be read"),
}  # fmt: skip


def altered_npz(write, change):
    def altered(tmp_path):
        arrays = dict(np.load(write(tmp_path / "whole.npz")))
        change(arrays)
        np.savez(tmp_path / "bad.npz", **arrays)
        return tmp_path / "bad.npz"

    return altered


def cut_npz(tmp_path):
    content = write_rmd17(tmp_path / "whole.npz").read_bytes()
    (tmp_path / "bad.npz").write_bytes(content[: len(content) // 2])
    return tmp_path / "bad.npz"


def nothing(arrays):
    arrays |= {key: arrays[key][:0] for key in ("coords", "energies", "forces")}


RMD17 = {
    "truncated": (cut_npz, r"bad.npz is damaged \(BadZipFile"),
    "0 structures": (altered_npz(write_rmd17, nothing), r"0 structures: nothing to learn from"),
    "fewer energies": (
        altered_npz(write_rmd17, lambda a: a.update(energies=a["energies"][1:])),
        r"array coords has shape \(12, 21, 3\), expected \(11, 21, 3\)",
    ),
    "fewer atoms": (
        altered_npz(write_rmd17, lambda a: a.update(nuclear_charges=a["nuclear_charges"][1:])),
        r"array coords has shape",
    ),
    "text": (
        altered_npz(write_rmd17, lambda a: a.update(energies=a["energies"].astype(str))),
        r"array energies holds <U\d+, expected numbers",
    ),
    "objects": (
        altered_npz(write_rmd17, lambda a: a.update(energies=a["energies"].astype(object))),
        r"is no readable .npz file \(Object arrays",
    ),
    "eV declared as kcal/mol": (
        altered_npz(write_rmd17, lambda a: a.update(energies=a["energies"] / KCAL, forces=a["forces"] / KCAL)),
        r"eV per atom relative to the reference energies, expected -1 to 1: check the units",
    ),
    "forces in eV": (
        altered_npz(write_rmd17, lambda a: a.update(forces=a["forces"] / KCAL)),
        r"root mean square force is 0.09\d* eV/Å, expected 0.2 to 10: check the units",
    ),
    "positions in Bohr": (
        altered_npz(write_rmd17, lambda a: a.update(coords=a["coords"] / 0.529177)),
        r"in half of the structures no two atoms are closer than 1.3 Å: check the units",
    ),
    "atoms on top of each other": (
        altered_npz(write_rmd17, lambda a: a["coords"].__setitem__((4, 1), a["coords"][4, 0])),
        r"two atoms of structure 4 \(frame 28 of MD17\) are 0 Å apart, expected at least 0.7",
    ),
    "the other aspirin": (
        altered_npz(write_md17, lambda a: a.update(E=a["E"] - 5e3)),
        r"expected -1 to 1: check the units, or whether this is that dataset",
    ),
}


def qm9_folder(change):
    def write(tmp_path):
        files = {**qm9_files(), "uncharacterized.txt": FAILED_LIST.encode()}
        change(files)
        return pack(files, tmp_path / "qm9.tar.bz2")

    return write


def altered_molecule(change):
    def alter(files):
        name = "dsgdb9nsd_000002.xyz"
        files[name] = change(files[name].decode()).encode()

    return qm9_folder(alter)


def altered_table(change):
    def write(tmp_path):
        files = {name: change(content.decode()).encode() for name, content in qm9_tables().items()}
        return pack(files, tmp_path / "qm9pack.zip")

    return write


QM9 = {
    "no list of failed molecules": (
        qm9_folder(lambda files: files.pop("uncharacterized.txt")),
        r"holds molecules that failed, listed in uncharacterized.txt: put that file beside it",
    ),
    "failed molecule kept": (
        qm9_folder(lambda files: files.update({"uncharacterized.txt": b"empty"})),
        r"dsgdb9nsd_000058\) is -0.8\d* eV per atom .* expected -6.5 to -2",
    ),
    "fewer lines": (altered_molecule(atoms_dropped), r"dsgdb9nsd_000002.xyz is no molecule of QM9 \(8 lines"),
    "wrong count": (altered_molecule(lambda t: "5" + t[1:]), r"dsgdb9nsd_000002.xyz is no molecule of QM9"),
    "text in a number": (altered_molecule(lambda t: t.replace("1.02", "l.02")), r"dsgdb9nsd_000002.xyz is no molecule"),
    "NaN": (altered_molecule(lambda t: t.replace("-56.5", "nan -56.5")), r"dsgdb9nsd_000002\) is nan"),
    "text in a table": (altered_table(lambda t: t.replace("1.02", "l.02")), r"qm9_part1.csv, line 3: could not"),
    "a missing column": (altered_table(lambda t: t.replace("XYZ_Ang", "xyz")), r"qm9_part1.csv has no column XYZ_Ang"),
    "a cut row": (altered_table(lambda t: t[:-60]), r"qm9_part1.csv, line 3: "),
}  # fmt: skip


def good_xsf(tmp_path):
    write_xsf_folder(tmp_path / "correct", n=4)
    return tmp_path / "correct"


def good_npz(tmp_path):
    return write_rmd17(tmp_path / "rmd17_aspirin.npz")


def good_qm9(tmp_path):
    return pack(qm9_tables(), tmp_path / "correct.zip")


CASES = [("tio2", case, *XSF[case], good_xsf) for case in XSF]
CASES += [("rmd17_aspirin_full", case, *RMD17[case], good_npz) for case in RMD17]
CASES += [("qm9", case, *QM9[case], good_qm9) for case in QM9]


@pytest.mark.parametrize(
    ("name", "write", "message", "correct"),
    [
        pytest.param(name, write, message, correct, id=f"{name}: {case}")
        for name, case, write, message, correct in CASES
    ],
)
def test_damaged_input(tmp_path, monkeypatch, capsys, name, write, message, correct):
    monkeypatch.setenv("BMDAL_BENCH_DATA", str(tmp_path / "data"))
    assert main(["prepare", name, "--from", str(write(tmp_path))]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and not captured.out, captured.err
    assert re.search(message, captured.err), captured.err
    assert [path.name for path in (tmp_path / "data").iterdir()] == [f".{name}.lock"]
    assert main(["prepare", name, "--from", str(correct(tmp_path))]) == 0
    assert main(["verify", name]) == 0


def test_too_many_structures(tmp_path, monkeypatch, capsys):
    """More than were published cannot be that dataset."""
    monkeypatch.setenv("BMDAL_BENCH_DATA", str(tmp_path / "data"))
    z, r, e, f = aspirin(2)
    arrays = {"R": np.tile(r[:1], (100001, 1, 1)), "F_eV_A": np.tile(f[:1], (100001, 1, 1))}
    np.savez(tmp_path / "a.npz", Z=z, E_eV=np.tile(e[:1], 100001), **arrays)
    assert main(["prepare", "rmd17_aspirin_full", "--from", str(tmp_path / "a.npz")]) == 2
    assert (
        "holds 100001 structures, but rmd17_aspirin_full has 100000: is this that dataset?" in capsys.readouterr().err
    )
