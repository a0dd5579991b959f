"""Faults of data: what is altered, damaged or cut off in a store is noticed where it is opened, or made again."""

import gzip
import io
import json
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from bench_commands import file_system
from published import write_md17

from bench.data import columns, sources
from bench.data.__main__ import main
from bench.data.neighbours import find_neighbours
from bench.data.store import open_store
from bench.data.structures import Structures
from bench.errors import UserError

REFERENCES = {1: -839.896, 6: -839.896, 8: -839.896}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A prepared dataset of twelve structures."""
    monkeypatch.setenv("BMDAL_BENCH_DATA", str(tmp_path / "data"))
    assert main(["prepare", "md17_aspirin", "--from", str(write_md17(tmp_path / "a.npz"))]) == 0
    return tmp_path / "data/md17_aspirin"


@pytest.fixture
def reads(monkeypatch):
    """How often the content of a dataset is read."""
    counted, checksum = [], Structures.checksum.func
    monkeypatch.setattr(Structures, "checksum", property(lambda data: counted.append(1) or checksum(data)))
    return counted


def opened():
    return open_store("md17_aspirin", REFERENCES)[0]


def altered(path, change):
    """An array changed in its place: the size stays."""
    content = np.load(path)
    change(content)
    np.save(path, content)


@pytest.mark.parametrize("column", ["energies", "positions", "atomic_numbers", "offsets"])
def test_an_altered_store_is_refused(store, column):
    altered(store / f"{column}.npy", lambda content: np.add.at(content, 1, 1))
    with pytest.raises(UserError, match=r"md17_aspirin was altered: .* prepare md17_aspirin \[--from PATH\]"):
        opened()


def test_a_store_is_checked_once_for_all_its_files_as_they_are(store, reads, tmp_path, monkeypatch):
    """Neither when it was just prepared, nor again after a copy was found right; each time where nothing is noted."""
    opened()
    assert not reads
    shutil.copytree(store, tmp_path / "copy/md17_aspirin", copy_function=shutil.copy)
    monkeypatch.setenv("BMDAL_BENCH_DATA", str(tmp_path / "copy"))
    for _ in range(3):
        opened()
    assert len(reads) == 1
    (tmp_path / "copy/md17_aspirin/checked.json").write_text("[" * 100_000)
    monkeypatch.setattr(columns, "_note", lambda *_: None)
    for _ in range(2):
        opened()
    assert len(reads) == 3


def test_a_copy_that_cannot_be_written_to(store, tmp_path, monkeypatch):
    """Is checked each time, and its neighbour lists are not kept."""
    place = tmp_path / "read_only"
    place.mkdir()
    with file_system(place) as remount:
        shutil.copytree(store, place / "md17_aspirin", copy_function=shutil.copy)
        remount("ro")
        monkeypatch.setenv("BMDAL_BENCH_DATA", str(place))
        assert len(find_neighbours(opened(), 2.0).centres) > 0


@pytest.mark.parametrize(
    "change",
    [{"checksum": None}, {"structures": "many"}, {"reference_energies": [1]}, {"checksum": "0"}, {"columns": 3}],
)
def test_a_damaged_description_is_told(store, change):
    meta = json.loads((store / "meta.json").read_bytes())
    (store / "meta.json").write_text(json.dumps({key: v for key, v in (meta | change).items() if v is not None}))
    with pytest.raises(UserError, match=r"md17_aspirin (is damaged|was altered)"):
        opened()


@pytest.mark.parametrize("name", ["meta.json", "centres.npy", "offsets.npy", "neighbours.npy"])
@pytest.mark.parametrize("damage", ["cut", "empty", "altered", "gone"])
def test_damaged_neighbour_lists_are_made_again(store, name, damage, caplog):
    data = opened()
    right = find_neighbours(data, 2.0)
    expected = [np.array(array) for array in (right.offsets, right.centres, right.neighbours)]
    path = next(store.glob("neighbours_*")) / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": content[:-60], "empty": b"", "altered": content[:-9] + b"\1" + content[-8:]}[damage])
    found = find_neighbours(data, 2.0)
    for array, wanted in zip((found.offsets, found.centres, found.neighbours), expected, strict=True):
        np.testing.assert_array_equal(array, wanted)
    assert "are made again" in caplog.text or name == "meta.json"
    caplog.clear()
    find_neighbours(data, 2.0)
    assert not caplog.text


def test_everything_is_on_the_disk_before_a_folder_is_renamed(tmp_path, monkeypatch):
    """And its new name, too: else a power cut leaves a folder of empty files."""
    order, names = [], {}
    fsync, rename = os.fsync, columns.Path.rename

    def noted(descriptor):
        order.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def renamed(path, other):
        order.append("renamed")
        names[path] = other
        return rename(path, other)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(columns.Path, "rename", renamed)
    columns.write_columns(tmp_path / "made", {"a": np.arange(3), "b": np.zeros(2)}, {"x": 1})
    before, after = order[: order.index("renamed")], order[order.index("renamed") + 1 :]
    temporary = tmp_path / ".made.new.tmp"
    assert {str(temporary / name) for name in ("a.npy", "b.npy", "meta.json")} <= set(before)
    assert str(temporary) in before and str(tmp_path) in after


def nested(depth, content):
    """A zip in a zip in a zip …"""
    for _ in range(depth):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.zip", content)
        content = buffer.getvalue()
    return content


def claiming(shape):
    """An .npz file whose array of positions says that it has this shape."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("z", "E", "F", "R"):
            array = io.BytesIO()
            header = {"descr": "<f8", "fortran_order": False, "shape": shape if name == "R" else (3,)}
            np.lib.format.write_array_header_1_0(array, header)
            archive.writestr(f"{name}.npy", array.getvalue() + bytes(24))
    return buffer.getvalue()


class Zeros(io.RawIOBase):
    """More of them than fit into memory."""

    def __init__(self, size):
        self.left = size

    def read(self, n=-1):
        n = min(self.left, n)
        self.left -= n
        return bytes(n)


def tar_of_zeros(path, size):
    member = tarfile.TarInfo("tio2/structure0001.xsf")
    member.size = size
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.addfile(member, Zeros(size))


def zip_of_zeros(path, size):
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("structure0001.xsf", "w", force_zip64=True) as file,
    ):
        for _ in range(size >> 16):
            file.write(bytes(1 << 16))


def gzip_of_zeros(path, size):
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(size >> 16):
            file.write(bytes(1 << 16))


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.zip", lambda path: path.write_bytes(nested(1500, b"")), "a.zip lies in 5 archives, one in another: unpack"),
        ("a.npz", lambda path: path.write_bytes(claiming((10**13, 3))), "R.npy is said to hold 240000000000000 bytes"),
        ("a.npz", lambda path: path.write_bytes(claiming((2**62, 2**62))), "R.npy is said to hold"),
        ("a.tar.gz", lambda path: tar_of_zeros(path, 5 << 20), "structure0001.xsf is larger than"),
        ("a.zip", lambda path: zip_of_zeros(path, 5 << 20), "structure0001.xsf is larger than"),
        ("structure0001.xsf.gz", lambda path: gzip_of_zeros(path, 5 << 20), "structure0001.xsf.gz is larger than"),
    ],
)
def test_archives_that_are_too_deep_or_too_large(tmp_path, monkeypatch, capsys, name, write, message):
    """One line each, and no memory for what is said to be there."""
    monkeypatch.setenv("BMDAL_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sources, "LARGEST", 4 << 20)
    write(tmp_path / name)
    assert main(["prepare", "tio2", "--from", str(tmp_path / name)]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) == 1
