"""Small faithful examples of the formats in which the datasets were published."""

import io
import tarfile
import zipfile

import ase.units
import numpy as np
from conftest import PROJECT

SYMBOLS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F", 22: "Ti"}
KCAL = 1 / (ase.units.kcal / ase.units.mol)
REFERENCES = {8: -432.503149303, 22: -1604.604515075}
HARTREE = 27.211386024367243


def aspirin(n=12):
    """Frames of the embedded file: Z, R in Å, E in eV, F in eV/Å."""
    raw = np.load(PROJECT / "bench/data/embedded/rmd17_aspirin_4019.npz")
    return raw["Z"], raw["R"][:n].astype(float), raw["E_eV"][:n], raw["F_eV_A"][:n].astype(float)


def write_rmd17(path, n=12):
    z, r, e, f = aspirin(n)
    arrays = {"nuclear_charges": z, "coords": r, "energies": e * KCAL, "forces": f * KCAL}
    np.savez(path, **arrays, old_indices=np.arange(n) * 7, old_energies=e, old_forces=f)
    return path


def write_md17(path, n=12):
    """Labels of another level of theory: about 0.96 eV per atom lower."""
    z, r, e, f = aspirin(n)
    shifted = (e - 21 * 0.956) * KCAL
    np.savez(path, z=z, R=r, E=shifted[:, None], F=f * KCAL, name="aspirin", theory="unknown", md5="0", type="d")
    return path


def rutile(generator):
    """TiO2, 6 atoms, distorted: Z, R, cell, E in eV, F in eV/Å."""
    a, c, u = 4.594, 2.959, 0.305
    cell = np.diag([a, a, c])
    fractions = [(0, 0, 0), (0.5, 0.5, 0.5), (u, u, 0), (-u, -u, 0), (0.5 + u, 0.5 - u, 0.5), (0.5 - u, 0.5 + u, 0.5)]
    z = np.array([22, 22, 8, 8, 8, 8])
    r = np.array(fractions) @ cell + 0.05 * generator.normal(size=(6, 3))
    energy = sum(REFERENCES[i] for i in z) - 6 * 8.3 + 0.1 * generator.normal()
    return z, r, cell, energy, 3 * generator.normal(size=(6, 3))


def xsf_text(z, r, cell, energy, forces):
    """As aenet writes it."""
    lines = [f"# total energy = {float(energy)!r} eV", "", "CRYSTAL", "PRIMVEC"]
    lines += ["  ".join(f"{float(x)!r}" for x in vector) for vector in cell]
    lines += ["PRIMCOORD", f" {len(z)} 1"]
    for number, position, force in zip(z, r, forces, strict=True):
        lines.append(f"{SYMBOLS[int(number)]:3}" + " ".join(f"{float(x)!r:>22}" for x in (*position, *force)))
    return "\n".join(lines) + "\n"


def write_xsf_folder(folder, n=5, seed=0):
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    structures = [rutile(generator) for _ in range(n)]
    for i, structure in enumerate(structures, start=1):
        (folder / f"structure{i:04d}.xsf").write_text(xsf_text(*structure))
    return structures


def pack(files, path):
    """Pack {name: bytes} into an archive whose kind the suffix says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    mode = {".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz", ".tar": "w"}[path.suffix]
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


MOLECULES = {
    1: ("CHHHH", [[-0.0126981359, 1.0858041578, 0.0080009958], [0.002150416, -0.0060313176, 0.0019761204],
                  [1.0117308433, 1.4637511618, 0.0002765748], [-0.540815069, 1.4475266138, -0.8766437152],
                  [-0.5238136345, 1.4379326443, 0.9063972942]], "-40.47893"),
    2: ("NHHH", [[-0.0404260543, 1.0241077531, 0.0625637998], [0.0172574639, 0.0125452063, -0.0273771593],
                 [0.9157893661, 1.3587451948, -0.0287577581], [-0.5202777357, 1.3435321258, -0.7755426124]],
        "-56.525887"),
    3: ("OHH", [[-0.0343604951, 0.9775395708, 0.0076015923], [0.0647664923, 0.0205721989, 0.0015346341],
                [0.8717903737, 1.3007924048, 6.931336e-06]], "-76.404702"),
    58: ("CHHHH", [[-0.0126981359, 1.0858041578, 0.0080009958], [0.002150416, -0.0060313176, 0.0019761204],
                   [1.0117308433, 1.4637511618, 0.0002765748], [-0.540815069, 1.4475266138, -0.8766437152],
                   [-0.5238136345, 1.4379326443, 0.9063972942]], "-40.0"),
}  # fmt: skip


def molecule_text(index):
    """As published: tabs, and small numbers as 6.9*^-6."""
    elements, positions, u0 = MOLECULES[index]
    properties = ["157.7118", *["0."] * 9, u0, *["-1."] * 3, "6.469"]
    lines = [str(len(elements)), f"gdb {index}\t" + "\t".join(properties) + "\t"]
    for element, row in zip(elements, positions, strict=True):
        words = [repr(x).replace("e-0", "*^-") for x in row]
        lines.append("\t".join([element, *words, "-0.535689"]))
    return "\n".join([*lines, "1341.307\t1341.3284", "C\tC\t", "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4"]) + "\n"


FAILED_LIST = f"""



List of molecules among the 133885 GDB9 molecules for which the geometries lead to
different SMILES and InChI strings.

{"=" * 40}
#   Index                           GDB17 SMILES     D_IJ
{"=" * 40}
      58                               NC(=N)C#N     6.036217
{"=" * 40}
"""


def qm9_files():
    return {f"dsgdb9nsd_{index:06d}.xyz": molecule_text(index).encode() for index in MOLECULES}


def qm9_tables():
    """The tables of the package hold the molecules that did not fail."""
    head = "XYZ_file,Index,SMILES,N_atoms,Stoichiometry,Elements,XYZ_Ang,InternalEnergy_0K_au\n"
    tables = {}
    for part, indices in ((1, (1, 2)), (2, (3,))):
        text = head
        for index in indices:
            elements, positions, u0 = MOLECULES[index]
            symbols = ",".join(f"'{element}'" for element in elements)
            rows = ",".join(str(row).replace(" ", "") for row in positions)
            text += f'"dsgdb9nsd_{index:06d}.xyz",{index},"C",{len(elements)},"[4,1]","[{symbols}]","[{rows}]",{u0}\n'
        tables[f"qm9pack/data/qm9_part{part}.csv"] = text.encode()
    return {"qm9pack/__init__.py": b"raise ImportError('never imported')", **tables}
