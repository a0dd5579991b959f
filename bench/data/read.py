"""Read a source of structures in whatever published format it is: recognised by what it holds."""

import fnmatch
from collections.abc import Iterable
from itertools import chain
from pathlib import Path, PurePosixPath

from bench.data.formats.npz import read_npz
from bench.data.formats.qm9 import is_table, is_xyz, read_archive, read_tables
from bench.data.formats.xsf import is_xsf, read_xsf_files
from bench.data.raw import RawStructures
from bench.data.sources import Entry, entries
from bench.errors import UserError

FORMATS = ".npz of MD17, aenet's .xsf, QM9's .xyz or qm9_part*.csv"


def read_source(source: Path, pattern: str | None) -> RawStructures:
    """Read a file, folder or archive in one pass. `pattern` says which of an archive's paths are this dataset.

    Raises UserError naming the source, and the file in it.
    """
    stream = entries(source)
    skipped: list[str] = []
    for name, read in stream:
        rest: Iterable[Entry] = chain([(name, read)], stream)
        if is_xsf(name):
            return read_xsf_files(rest, pattern)
        if is_xyz(name):
            return read_archive(rest, source)
        if is_table(name):
            return read_tables(rest)
        alone = PurePosixPath(name).stem == source.stem
        if name.endswith(".npz") and (alone or pattern is None or fnmatch.fnmatch(name, pattern)):
            return read_npz(read(), name)
        skipped.append(PurePosixPath(name).name)
    inside = f" ({', '.join(skipped[:5])}{', …' if len(skipped) > 5 else ''})" if skipped else ""
    raise UserError(f"{source}{inside} holds no structures that can be read: expected {FORMATS}")
