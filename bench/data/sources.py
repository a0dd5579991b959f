"""What a source holds: the files of a folder, or of an archive, or of archives in folders, in one pass."""

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase, BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, cast

from bench.errors import UserError

Entry = tuple[str, Callable[[], bytes]]
"""Path within the source, and its content, to be read before the next entry is asked for."""

DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
TAR_MAGIC = (257, b"ustar")
ZIP_MAGIC = b"PK\x03\x04"
MOST_NESTED = 4
"""How deep an archive may lie in others; those published lie in one at most."""
LARGEST = 2 << 30
"""Bytes of one file, unpacked: more than any that was published, and no more than fits into memory."""


def entries(source: Path) -> Iterator[Entry]:
    """Go through all files of a source, archives opened by what they are, not by their names.

    Raises UserError if the source is missing or an archive is damaged; a truncated one fails at its end at the latest.
    """
    if not source.exists():
        raise UserError(f"no file or folder {source}: give the published one as --from PATH")
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    for path in files:
        name = path.relative_to(source).as_posix() if source.is_dir() else path.name
        try:
            with path.open("rb") as file:
                yield from _unpacked(file, name)
        except DAMAGED as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): fetch it again") from None


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar archive, compressed or not (an .npz file is a zip)."""
    with path.open("rb") as file:
        return file.read(len(ZIP_MAGIC)) == ZIP_MAGIC or tarfile.is_tarfile(path)


def _unpacked(file: BufferedIOBase, name: str, depth: int = 0) -> Iterator[Entry]:
    if depth > MOST_NESTED:
        raise UserError(f"{name} lies in {depth} archives, one in another: unpack it and give the folder")
    start = _peek(file)
    if start.startswith(ZIP_MAGIC):
        yield from _zip(file, name, depth)
    elif _is_tar(start):
        yield from _tar(file, depth)
        _check_end(file)
    else:
        opened = next((opener(file) for magic, opener in COMPRESSED.items() if start.startswith(magic)), None)
        if opened is None:
            yield name, _reader(file, name)
        elif _is_tar(_peek(opened)):
            yield from _tar(opened, depth)
            # reading to the end shows whether the compressed stream is whole
            while opened.read(1 << 20):
                pass
        else:
            yield PurePosixPath(name).stem, _reader(opened, name)


def _reader(file: Any, name: str, size: int = 0) -> Callable[[], bytes]:
    """Reads a file that may not be too large: by the size it is said to have, and by what there is."""

    def read() -> bytes:
        content: bytes = b"" if size > LARGEST else file.read(LARGEST + 1)
        if max(size, len(content)) > LARGEST:
            raise UserError(f"{name} is larger than {LARGEST >> 30} GiB, as no published file is: split it")
        return content

    return read


def _peek(file: BufferedIOBase) -> bytes:
    start = file.read(512)
    file.seek(0)
    return start


def _is_tar(start: bytes) -> bool:
    offset, magic = TAR_MAGIC
    return start[offset : offset + len(magic)] == magic


def _zip(file: BufferedIOBase, name: str, depth: int) -> Iterator[Entry]:
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if any(member.filename.endswith(".npy") for member in members):
            file.seek(0)
            yield name.removesuffix(".npz") + ".npz", _reader(file, name)
            return
        for member in members:
            with archive.open(member) as opened:
                if member.file_size > LARGEST:
                    yield member.filename, _reader(opened, member.filename, member.file_size)
                else:
                    yield from _unpacked(cast(BufferedIOBase, opened), member.filename, depth + 1)


def _tar(file: BufferedIOBase, depth: int) -> Iterator[Entry]:
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for member in archive:
            opened = archive.extractfile(member) if member.isfile() else None
            if opened is None:
                continue
            read = _reader(opened, member.name, member.size)
            if member.name.endswith((".npz", ".zip", ".gz", ".bz2", ".xz", ".tar")):
                # a member of a stream cannot be read twice
                yield from _unpacked(BytesIO(read()), member.name, depth + 1)
            else:
                yield member.name, read


def _check_end(file: BufferedIOBase) -> None:
    """A whole tar file ends with blocks of zeros; one cut between two members would pass unseen."""
    file.seek(-512, 2)
    if any(file.read(512)):
        raise EOFError("no end-of-archive mark")
