"""The commands on datasets, and the store: what is written once, opened without reading, shared, never half-written."""

import dataclasses
import hashlib
import http.server
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import PROJECT, make_structures, random_crystal, random_molecule, subprocess_environment
from published import HARTREE, KCAL, REFERENCES, aspirin, write_md17, write_rmd17, write_xsf_folder

from bench.config.plugins import plugin
from bench.data import columns, neighbours
from bench.data import prepare as prepare_module
from bench.data.__main__ import main
from bench.data.download import Download, fetch
from bench.data.neighbours import find_neighbours
from bench.data.store import open_store, read_store, write_store
from bench.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BMDAL_BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def declared(name):
    return plugin(yaml.safe_load((PROJECT / f"conf/dataset/{name}.yaml").read_text()), "dataset")


def test_prepare_then_load(folder, tmp_path, capsys):
    """Prepared values are the published ones in eV and Å; a part of a dataset says so."""
    assert main(["prepare", "rmd17_aspirin_full", "--from", str(write_rmd17(tmp_path / "rmd17_aspirin.npz"))]) == 0
    out = capsys.readouterr().out
    assert "12 structures, 252 atoms" in out and "note: 12 of the published 100000 structures" in out
    _, r, e, f = aspirin()
    data = declared("rmd17_aspirin_full").load()
    assert data.name == "rmd17_aspirin_full" and len(data) == 12 and declared("tio2").reference_energies == REFERENCES
    np.testing.assert_array_equal(data.positions, r.reshape(-1, 3))
    np.testing.assert_allclose(data.energies, e, rtol=1e-8)
    np.testing.assert_allclose(data.forces, f.reshape(-1, 3), rtol=1e-7)
    np.testing.assert_allclose(data.residual_energies, e + 21 * 838.94)
    assert not data.periodic.any() and data.cells.shape == (12, 3, 3)
    meta = json.loads((folder / "rmd17_aspirin_full/meta.json").read_text())
    assert list(meta["source_sha256"]) == ["rmd17_aspirin.npz"] and meta["published_structures"] == 100000


def test_rows_of_a_source(folder, tmp_path, capsys):
    """A part of a file: those structures alone, and the store says which; for other rows nothing is done."""
    path = write_md17(tmp_path / "md17_aspirin.npz")
    assert main(["prepare", "md17_aspirin", "--from", str(path), "--rows", "3:7"]) == 0
    _, r, e, _ = aspirin()
    data = declared("md17_aspirin").load()
    np.testing.assert_array_equal(data.positions, r[3:7].reshape(-1, 3))
    np.testing.assert_allclose(data.energies, e[3:7] - 21 * 0.956, rtol=1e-8)
    capsys.readouterr()
    assert main(["verify", "md17_aspirin"]) == 0
    assert f"{path}, rows 3:7" in capsys.readouterr().out
    assert main(["prepare", "md17_aspirin", "--from", str(path), "--rows", "3:13"]) == 2
    assert "there are no rows 3:13: give two of 0 to 12" in capsys.readouterr().err
    assert len(declared("md17_aspirin").load()) == 4
    # ragged structures with cells
    write_xsf_folder(tmp_path / "tio2", n=6)
    assert main(["prepare", "tio2", "--from", str(tmp_path / "tio2")]) == 0
    whole = declared("tio2").load()
    atoms = slice(int(whole.offsets[2]), int(whole.offsets[5]))
    expected = whole.positions[atoms].copy(), whole.cells[2:5].copy(), whole.forces[atoms].copy()
    assert main(["prepare", "tio2", "--from", str(tmp_path / "tio2"), "--rows", "2:5"]) == 0
    part = declared("tio2").load()
    for values, found in zip(expected, (part.positions, part.cells, part.forces), strict=True):
        np.testing.assert_array_equal(found, values)


def test_verify_tells_of_trajectories(folder, tmp_path, capsys):
    """Forty structures drawn at random, with a slow motion from row 20 on."""
    rng = np.random.default_rng(0)
    z, r, e, f = aspirin()
    r = np.repeat(r[:1], 40, axis=0) + rng.normal(0, 0.04, (40, *r.shape[1:]))
    e, f = np.full(40, e[0]), np.repeat(f[:1], 40, axis=0)
    path = tmp_path / "md17_aspirin.npz"
    for still in (40, 20):
        r[still:] = r[still - 1] + np.linspace(0.0002, 0.004, 40 - still)[:, None, None]
        np.savez(path, z=z, R=r, E=(e - 21 * 0.956) * KCAL, F=f * KCAL)
        assert main(["prepare", "md17_aspirin", "--from", str(path)]) == 0
        capsys.readouterr()
        assert main(["verify", "md17_aspirin"]) == 0
        out = capsys.readouterr().out
        told = (
            "note: 21 structures are parts of trajectories or scans, the longest from frame 19 to frame 39 (rows 19:40)"
        )
        assert (told in out) == (still == 20) and ("no 10 structures in a row" in out) == (still == 40)


def test_the_declared_unit_holds_where_the_source_says_none(folder, tmp_path):
    assert main(["prepare", "md17_aspirin", "--from", str(write_md17(tmp_path / "md17_aspirin.npz"))]) == 0
    data = declared("md17_aspirin").load()
    _, _, e, f = aspirin()
    np.testing.assert_allclose(data.energies, e - 21 * 0.956, rtol=1e-8)
    np.testing.assert_allclose(data.forces, f.reshape(-1, 3), rtol=1e-7)
    other = dataclasses.replace(declared("md17_aspirin"), energy_unit="eV")
    with pytest.raises(UserError, match=r"prepared with energy_unit = kcal/mol, not eV: python -m bench.data prepare"):
        other.load()


def test_precision_is_kept(folder):
    """float32 positions stay float32 where nothing is converted; a neighbour vector is computed in float64."""
    source = PROJECT / "bench/data/embedded/rmd17_aspirin_4019.npz"
    assert main(["prepare", "rmd17_aspirin_full", "--from", str(source)]) == 0
    stored, embedded = declared("rmd17_aspirin_full").load(), declared("rmd17_aspirin").load()
    assert stored.positions.dtype == stored.forces.dtype == np.float32
    assert stored.checksum == embedded.checksum == dataclasses.replace(stored).checksum
    some = np.arange(5)
    _, _, vectors = find_neighbours(stored, 4.0).pairs_of(stored, some)
    double = dataclasses.replace(stored, positions=stored.positions.astype(np.float64))
    assert vectors.dtype == np.float64
    np.testing.assert_array_equal(vectors, find_neighbours(double, 4.0).pairs_of(double, some)[2])


def test_opening_reads_nothing(folder, tmp_path):
    """Arrays are mapped read-only, the checksum is the stored one; with other references it is computed anew."""
    main(["prepare", "rmd17_aspirin_full", "--from", str(write_rmd17(tmp_path / "rmd17_aspirin.npz"))])
    data = declared("rmd17_aspirin_full").load()
    for array in (data.positions, data.energies, data.forces, data.offsets, data.atomic_numbers):
        assert not array.flags.writeable and isinstance(array.base, np.memmap)
    path = folder / "rmd17_aspirin_full/meta.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({**meta, "checksum": "stored"}))
    columns._note(path.parent, columns._stamps(path.parent))
    again, _ = open_store("rmd17_aspirin_full", data.reference_energies)
    assert again.checksum == "stored"
    other, _ = open_store("rmd17_aspirin_full", {1: 0.0, 6: 0.0, 8: 0.0})
    assert other.checksum not in ("stored", meta["checksum"])
    assert dataclasses.replace(again).checksum == meta["checksum"] and dataclasses.replace(again).origin is None


def test_verify(folder, tmp_path, capsys):
    """Duplicates and large forces are notes; an altered store is an error."""
    write_xsf_folder(tmp_path / "tio2", n=6)
    text = (tmp_path / "tio2/structure0002.xsf").read_text()
    (tmp_path / "tio2/structure0005.xsf").write_text(text)
    (tmp_path / "tio2/structure0006.xsf").write_text(text.replace("O ", "O ", 1).replace("eV", "eV", 1))
    lines = (tmp_path / "tio2/structure0001.xsf").read_text().splitlines()
    words = lines[9].split()
    lines[9] = " ".join([*words[:4], "25.0", *words[5:]])
    (tmp_path / "tio2/structure0001.xsf").write_text("\n".join(lines))
    assert main(["prepare", "tio2", "--from", str(tmp_path / "tio2")]) == 0
    capsys.readouterr()
    assert main(["verify", "tio2"]) == 0
    out = capsys.readouterr().out
    assert "6 of 7815 structures, 36 atoms; O 24, Ti 12; 6 to 6 atoms each" in out
    assert "note: 2 structures repeat an earlier one, the first structure0002.xsf" in out
    assert "note: 1 structures have a force component above 20 eV/Å" in out
    assert "note: 6 structures have a net force above 0.1 eV/Å" in out
    assert "6 periodic structures; volume per atom 10.41 to 10.41 Å³" in out
    assert "note: 270 structures" in out and "is right" in out
    forces = np.load(folder / "tio2/forces.npy")
    before = (folder / "tio2/forces.npy").stat()
    np.save(folder / "tio2/forces.npy", forces + 1e-6)
    assert main(["verify", "tio2"]) == 2
    assert "tio2 was altered: its content has not the checksum" in capsys.readouterr().err
    os.utime(folder / "tio2/forces.npy", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert main(["verify", "tio2"]) == 2
    assert "error: dataset tio2: the store's checksum is" in capsys.readouterr().err


def test_verify_the_embedded_file_and_list(folder, tmp_path, capsys):
    assert main(["verify", "rmd17_aspirin"]) == 0
    assert "4019 of 4019 structures, 84399 atoms; H 32152, C 36171, O 16076" in capsys.readouterr().out
    main(["prepare", "rmd17_aspirin_full", "--from", str(write_rmd17(tmp_path / "rmd17_aspirin.npz"))])
    capsys.readouterr()
    assert main(["list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "part of this project; licence: CC0-1.0" in lines["rmd17_aspirin"]
    assert "here, 12 of 100000 structures" in lines["rmd17_aspirin_full"]
    assert "not here, 7815 structures; licence: none stated; http://ann.atomistic.net" in lines["tio2"]
    assert set(lines) == {"data", "rmd17_aspirin", "rmd17_aspirin_full", "md17_aspirin", "qm9", "tio2", "lmnto"}


def test_datasets_of_a_folder_of_one_s_own(folder, tmp_path, capsys):
    text = (PROJECT / "conf/dataset/tio2.yaml").read_text(encoding="utf-8")
    (tmp_path / "own/dataset").mkdir(parents=True)
    (tmp_path / "own/dataset/mine.yaml").write_text(text.replace("name: tio2", "name: mine"), encoding="utf-8")
    own = ["--config-dir", str(tmp_path / "own")]
    assert main(["list", *own]) == 0
    listed = capsys.readouterr().out
    assert "mine                 not here, 7815 structures" in listed and "lmnto" in listed
    assert main(["verify", "mine", *own]) == 2
    assert "bench.data prepare mine" in capsys.readouterr().err
    assert main(["verify", "mine"]) == 2 and "no dataset is called 'mine'" in capsys.readouterr().err
    (tmp_path / "own" / "dataset" / "empty.yaml").touch()
    assert main(["verify", "empty", *own]) == 2
    assert capsys.readouterr().err.startswith("error: dataset empty has no _target_: give its yaml one")
    (tmp_path / "own" / "dataset" / "qm9.yaml").touch()
    assert main(["list", *own]) == 2
    assert "own/dataset/qm9.yaml has the name of one of the project's files" in capsys.readouterr().err
    assert main(["list", "--config-dir", "nowhere"]) == 2
    assert capsys.readouterr().err == "error: --config-dir nowhere: no such folder\n"


MISTAKES = {
    "no command": ([], "the following arguments are required: command"),
    "unknown name": (["prepare", "tio"], "no dataset is called 'tio': did you mean 'tio2'?"),
    "nothing to prepare": (["prepare", "rmd17_aspirin"], "needs no preparation"),
    "no source": (["prepare", "tio2", "--from", "nowhere"], "no file or folder nowhere: give the published one"),
    "not here": (["verify", "tio2"], "python -m bench.data prepare tio2 [--from PATH]"),
    "no address": (["prepare", "lmnto"], "get it from https://doi.org/10.24435/materialscloud:2020.0037/v1"),
    "file": (["verify", "file"], "give dataset.path=FILE and dataset.energy_unit=eV"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_line(folder, capsys, case):
    arguments, message = MISTAKES[case]
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    err = capsys.readouterr().err
    assert code == 2 and message in err and err.startswith("error: ") and err.count("\n") == 1, err


def test_as_a_command(folder, tmp_path):
    """Exit codes and output through a real process, and a run on what was prepared."""
    write_xsf_folder(tmp_path / "tio2", n=12)
    environment = {**subprocess_environment(), "BMDAL_BENCH_DATA": str(folder)}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("bench.data", "prepare", "tio2", "--from", str(tmp_path / "tio2"))
    assert done.returncode == 0, done.stderr
    tiny = ["scenario.initial=4", "scenario.final=4", "scenario.validation=2", "scenario.test=4", "training.epochs=2"]
    done = run(
        *("bench.run", "scenario=single_training", "dataset=tio2", "model.r_max=3.0", *tiny),
        *("model.hidden=[8,8]", "model.n_radial=2", f"results={tmp_path}/results", "threads=1"),
    )
    assert done.returncode == 0 and "note: dataset tio2 holds 12 of the published 7815 structures" in done.stderr
    assert (folder / "tio2/neighbours_3.0/meta.json").is_file()


def test_neighbour_lists_are_made_once_and_equal(folder, generator, monkeypatch):
    structures = [random_molecule(generator, n) for n in (1, 2, 7)] + [random_crystal(generator, n) for n in (1, 3, 4)]
    data = make_structures(structures)
    plain = find_neighbours(data, 4.0)
    write_store(data, ["x"] * len(data), {"source": "test"})
    stored, _ = open_store(data.name, data.reference_energies)
    for _ in range(2):
        found = find_neighbours(stored, 4.0)
        for key, array in vars(plain).items():
            np.testing.assert_array_equal(getattr(found, key), array)
        assert isinstance(found.centres.base, np.memmap)
        monkeypatch.setattr("bench.data.neighbours._compute", None)  # the second time nothing is computed


def test_neighbour_lists_belong_to_their_store(folder, tmp_path):
    """Structures still mapped from a store that was replaced meanwhile do not take the lists of the new one."""
    sources = [write_rmd17(tmp_path / "rmd17_aspirin.npz"), write_rmd17(tmp_path / "more.npz", n=13)]
    main(["prepare", "rmd17_aspirin_full", "--from", str(sources[0])])
    old = declared("rmd17_aspirin_full").load()
    main(["prepare", "rmd17_aspirin_full", "--from", str(sources[1])])
    new = declared("rmd17_aspirin_full").load()
    for data in (new, old, new):
        wanted = find_neighbours(dataclasses.replace(data), 4.0)
        np.testing.assert_array_equal(find_neighbours(data, 4.0).offsets, wanted.offsets)


def test_neighbour_lists_without_room(folder, tmp_path, monkeypatch, caplog):
    """A store that cannot be written to serves all the same."""
    main(["prepare", "rmd17_aspirin_full", "--from", str(write_rmd17(tmp_path / "rmd17_aspirin.npz"))])
    data = declared("rmd17_aspirin_full").load()

    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with caplog.at_level(logging.INFO):
        assert len(find_neighbours(data, 4.0).offsets) == 13
    assert "the neighbour lists are not kept ([Errno 28] No space left on device)" in caplog.text
    assert not list((folder / "rmd17_aspirin_full").glob("*neighbours_*"))


def test_neighbour_lists_of_many_processes(folder, tmp_path, monkeypatch):
    """Processes that start together wait for the one that makes the list."""
    main(["prepare", "rmd17_aspirin_full", "--from", str(write_rmd17(tmp_path / "rmd17_aspirin.npz"))])
    data = declared("rmd17_aspirin_full").load()
    compute = neighbours._compute

    def slow(*arguments):
        (tmp_path / f"made by {os.getpid()}").touch()
        time.sleep(0.5)
        return compute(*arguments)

    def child():
        np.save(tmp_path / f"found by {os.getpid()}.npy", find_neighbours(data, 4.0).centres)

    monkeypatch.setattr(neighbours, "_compute", slow)
    started = [multiprocessing.get_context("fork").Process(target=child) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    found = [np.load(path) for path in tmp_path.glob("found by *")]
    assert len(found) == 3 and all(np.array_equal(array, compute(data, 4.0).centres) for array in found)
    assert len(list(tmp_path.glob("made by *"))) == 1


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_failed_attempt_leaves_the_old_store(folder, tmp_path, capsys, monkeypatch):
    """Whatever fails: the store is as it was, nothing else is left, and the next attempt works."""
    good, other = write_rmd17(tmp_path / "rmd17_aspirin.npz"), write_rmd17(tmp_path / "more.npz", n=13)
    main(["prepare", "rmd17_aspirin_full", "--from", str(good)])
    before = contents(folder)
    save, calls = np.save, []

    def full(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        save(*arguments, **keywords)

    monkeypatch.setattr(np, "save", full)
    capsys.readouterr()
    assert main(["prepare", "rmd17_aspirin_full", "--from", str(other)]) == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err and err.count("\n") == 1 and contents(folder) == before
    monkeypatch.setattr(np, "save", save)
    assert main(["prepare", "rmd17_aspirin_full", "--from", str(other)]) == 0
    assert len(declared("rmd17_aspirin_full").load()) == 13


@pytest.mark.parametrize("count", [1, 2])
def test_killed_while_replacing(folder, tmp_path, count):
    """Killed before and between the two renames: the old store, or the next attempt brings it back and replaces it."""
    sources = [write_rmd17(tmp_path / "rmd17_aspirin.npz"), write_rmd17(tmp_path / "more.npz", n=13)]
    main(["prepare", "rmd17_aspirin_full", "--from", str(sources[0])])
    module = ["bench.data", "prepare", "rmd17_aspirin_full", "--from", str(sources[1])]
    killed = subprocess.run(
        [sys.executable, "-c", KILL_AT_RENAME.format(count=count, arguments=module[1:])],
        cwd=PROJECT,
        env={**subprocess_environment(), "BMDAL_BENCH_DATA": str(folder)},
        check=False,
    )
    assert killed.returncode == -9
    assert main(["prepare", "rmd17_aspirin_full", "--from", "nowhere"]) == 2
    if count == 1:
        assert len(declared("rmd17_aspirin_full").load()) == 12
    assert main(module[1:]) == 0
    assert len(declared("rmd17_aspirin_full").load()) == 13
    assert sorted(path.name for path in folder.iterdir()) == [".rmd17_aspirin_full.lock", "rmd17_aspirin_full"]


KILL_AT_RENAME = """
import os, pathlib, signal
rename, calls = pathlib.Path.rename, []
def killing(self, target):
    calls.append(self)
    if len(calls) == {count}:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
pathlib.Path.rename = killing
from bench.data.__main__ import main
main({arguments})
"""


def test_damaged_store(folder, tmp_path):
    main(["prepare", "rmd17_aspirin_full", "--from", str(write_rmd17(tmp_path / "rmd17_aspirin.npz"))])
    store = folder / "rmd17_aspirin_full"
    content = (store / "positions.npy").read_bytes()
    (store / "positions.npy").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="rmd17_aspirin_full is damaged"):
        declared("rmd17_aspirin_full").load()
    (store / "positions.npy").write_bytes(content)
    meta = json.loads((store / "meta.json").read_text())
    (store / "meta.json").write_text(json.dumps({**meta, "store_version": 0}))
    with pytest.raises(UserError, match=r"has store version 0, this code reads 1: python -m bench.data prepare"):
        read_store("rmd17_aspirin_full")


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path/served; the first answer to each path is an error."""
    served = tmp_path / "served"
    served.mkdir()
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, directory=str(served), **keywords)

        def do_GET(self):
            asked.append(self.path)
            if asked.count(self.path) == 1:
                self.send_error(503)
            else:
                super().do_GET()

        def log_message(self, *arguments):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield served, f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()
    thread.join()


def test_downloads(folder, tmp_path, server, monkeypatch, caplog):
    """A failing server is asked again, a wrong checksum leaves nothing, the next source is tried, then it works."""
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    served, address = server
    write_rmd17(served / "rmd17_aspirin.npz")
    wrong = Download(url=f"{address}/rmd17_aspirin.npz", checksum="md5:" + "0" * 32)
    with pytest.raises(UserError, match=r"cannot fetch http://127.*rmd17_aspirin.npz \(ValueError: MD5 hash"):
        fetch([wrong], tmp_path / "fetched")
    assert not list((tmp_path / "fetched").iterdir())
    good = Download(url=f"{address}/rmd17_aspirin.npz")
    with pytest.raises(UserError, match=r"plain http and has no checksum: it is not fetched"):
        fetch([good], tmp_path / "fetched")
    good = dataclasses.replace(good, checksum=sha256_of(served / "rmd17_aspirin.npz"))
    known = dataclasses.replace(declared("rmd17_aspirin_full"), sources=[[wrong], [good]])
    with caplog.at_level(logging.INFO):
        meta = prepare_module.prepare(known, None)
    assert meta["structures"] == 12 and "trying the next address" in caplog.text
    assert [path.name for path in (folder / "downloads").iterdir()] == ["rmd17_aspirin_full-2"]
    alone = dataclasses.replace(known, sources=[[wrong]])
    with pytest.raises(UserError, match=r"fetch it elsewhere \(https://doi.org/.*\) and give --from PATH"):
        prepare_module.prepare(alone, None)


def sha256_of(path):
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_what_is_fetched_has_the_published_content(folder, tmp_path, server, monkeypatch, caplog):
    """Where its checksum is known, also by plain http; a file of one's own is taken with a note."""
    served, address = server
    source = write_rmd17(served / "rmd17_aspirin.npz")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    plain = [Download(url=f"{address}/{source.name}")]
    known = dataclasses.replace(declared("rmd17_aspirin_full"), structures=12, sources=[plain])
    prepare_module.prepare(known, source)
    data = known.load()
    single = dataclasses.replace(data, positions=data.positions.astype(np.float32))
    assert single.published_checksum == data.published_checksum != data.checksum
    right = dataclasses.replace(known, checksum=data.published_checksum)
    assert prepare_module.prepare(right, None)["checksum"] == data.checksum
    other = dataclasses.replace(known, checksum="0" * 64)
    with pytest.raises(UserError, match=r"content has checksum .* that of rmd17_aspirin_full is 000000000000…: it was"):
        prepare_module.prepare(other, None)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    vouched = dataclasses.replace(other, sources=[[dataclasses.replace(plain[0], checksum=sha256_of(source))]])
    for one, where in [(vouched, None), (other, source)]:
        caplog.clear()
        prepare_module.prepare(one, where)
        assert "not what was published, or in another order" in caplog.text


def test_packages_come_through_pip(tmp_path, monkeypatch):
    """The running interpreter's pip, which takes a wheel of that hash alone, and its last line where it fails."""
    seen = []

    def run(command, **keywords):
        seen.append(command)
        assert Path(command[-1]).read_text() == "qm9pack==1.0.3 --hash=sha256:0123\n"
        return subprocess.CompletedProcess(command, 1, "", "warning\nERROR: No matching distribution found")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError, match=r"cannot fetch the package qm9pack==1.0.3 \(ERROR: No matching distribution"):
        fetch([Download(package="qm9pack==1.0.3", checksum="sha256:0123")], tmp_path / "fetched")
    assert seen[0][:4] == [sys.executable, "-m", "pip", "download"] and "--require-hashes" in seen[0]
    assert seen[0][seen[0].index("--only-binary") + 1] == ":all:"
    with pytest.raises(UserError, match=r"package qm9pack==1.0.3 has no checksum: it is not fetched"):
        fetch([Download(package="qm9pack==1.0.3")], tmp_path / "fetched")


@pytest.mark.long
def test_qm9_references_are_the_published_ones(shared_data, folder):
    """U0 of the atoms in Hartree times one constant; residuals are the published atomisation energies."""
    published = {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730}
    references = declared("qm9").reference_energies
    assert {z: pytest.approx(u0 * HARTREE, abs=1e-9) for z, u0 in published.items()} == references
    assert main(["prepare", "qm9", "--from", str(shared_data / "qm9_130831.npz")]) == 0
    data = declared("qm9").load()
    wanted = np.load(shared_data / "qm9_130831.npz")["atomization_U0_eV"]
    np.testing.assert_allclose(data.residual_energies, wanted, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "file", "energy", "factor"),
    [
        ("tio2", "tio2_7815.npz", "energy_eV", 1.0),
        ("lmnto", "lmnto_824.npz", "energy_eV", 1.0),
        ("md17_aspirin", "md17_aspirin_1992.npz", "E_kcal_mol", 1 / KCAL),
    ],
)
def test_prepared_files(shared_data, folder, name, file, energy, factor):
    assert main(["prepare", name, "--from", str(shared_data / file)]) == 0
    raw, data = np.load(shared_data / file), declared(name).load()
    np.testing.assert_allclose(data.energies, raw[energy] * factor, rtol=1e-7)
    np.testing.assert_array_equal(data.positions, raw["R"].reshape(-1, 3))
    assert data.periodic.all() == ("cell" in raw.files)
    assert declared(name).checksum in (None, data.published_checksum)
