"""Datasets: what is here, fetch or convert, check: python -m bench.data list|prepare|verify [NAME] [--from PATH]."""

import argparse
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.commands import called
from bench.commands.frame import framed, named
from bench.config.places import CONF
from bench.config.plugins import plugin
from bench.data.datasets.file import FileDataset
from bench.data.datasets.stored import StoredDataset
from bench.data.prepare import prepare
from bench.data.store import data_folder, is_prepared, read_store, store_folder
from bench.data.verify import describe
from bench.errors import UserError, nearest, tell

DATASETS = CONF / "dataset"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        """One line, as everywhere."""
        self.exit(2, f"error: {message} ({called('data')} --help)\n")


@framed
def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when all is well, 2 after a mistake in the input."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    options = _parser().parse_args(arguments)
    try:
        files = _files(options.config_dir)
        if options.command == "list":
            _list(files)
        elif options.command == "prepare":
            _prepare(_declared(options.name, files), options.name, options.source, options.rows)
        else:
            _verify(_declared(options.name, files), options.name)
    except UserError as error:
        tell(error)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted: nothing was changed", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=called("data"), description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    own = _Parser(add_help=False)
    own.add_argument(
        "--config-dir", "-cd", type=named, metavar="FOLDER", help="a folder of files beside the project's own"
    )
    commands.add_parser("list", parents=[own], help="every dataset: whether it is here, its size, licence and source")
    prepare_parser = commands.add_parser(
        "prepare", parents=[own], help="fetch a dataset, or convert a local copy, into the store"
    )
    prepare_parser.add_argument("name")
    prepare_parser.add_argument(
        "--from", dest="source", type=named, metavar="PATH", help="the published file, archive or folder; no network"
    )
    prepare_parser.add_argument(
        "--rows", type=_rows, metavar="START:STOP", help="these structures of the source only, the first being 0"
    )
    verify_parser = commands.add_parser(
        "verify", parents=[own], help="check all that can be checked of a dataset that is here"
    )
    verify_parser.add_argument("name")
    return parser


def _rows(text: str) -> tuple[int, int]:
    """Two numbers. Raises ArgumentTypeError."""
    start, colon, stop = text.partition(":")
    if not (colon and start.isdigit() and stop.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not START:STOP, e.g. 0:1000")
    return int(start), int(stop)


def _files(own: Path | None) -> dict[str, Path]:
    """The yaml of each dataset, by its name; the project's own come first, as in Hydra. Raises UserError."""
    if own is not None and not own.is_dir():
        raise UserError(f"--config-dir {own}: no such folder")
    folders = [own / "dataset", DATASETS] if own is not None else [DATASETS]
    for path in folders[0].glob("*.yaml"):
        if not path.parent.samefile(DATASETS) and (DATASETS / path.name).exists():
            raise UserError(f"{path} has the name of one of the project's files, which hides it: rename it")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _declared(name: str, files: Mapping[str, Path]) -> Any:
    """The dataset of a yaml. Raises UserError with the nearest name."""
    if name not in files:
        raise UserError(f"no dataset is called {name!r}: {nearest(name, files)}")
    return plugin(yaml.safe_load(files[name].read_text(encoding="utf-8")) or {}, f"dataset {name}")


def _list(files: Mapping[str, Path]) -> None:
    print(f"data folder: {data_folder()}")
    for name in sorted(files):
        declared = _declared(name, files)
        if isinstance(declared, StoredDataset):
            print(f"{name:20} {_state(declared)}; licence: {declared.licence}; {declared.page}")
        elif isinstance(declared, FileDataset) and declared.path:
            print(f"{name:20} part of this project; licence: {declared.licence}; {declared.source}")


def _state(declared: StoredDataset) -> str:
    if not is_prepared(declared.name):
        return f"not here, {declared.structures} structures"
    _, meta = read_store(declared.name)
    size = sum(file.stat().st_size for file in store_folder(declared.name).rglob("*") if file.is_file())
    return f"here, {meta['structures']} of {declared.structures} structures, {size / 1e6:.1f} MB"


def _prepare(declared: Any, name: str, source: Path | None, rows: tuple[int, int] | None) -> None:
    if not isinstance(declared, StoredDataset):
        raise UserError(f"dataset {name} needs no preparation: it is read from its file")
    started = time.perf_counter()
    meta = prepare(declared, source, rows)
    print(f"{name}: {meta['structures']} structures, {meta['atoms']} atoms in {store_folder(name)}")
    print(f"checksum {meta['checksum'][:16]}…, {time.perf_counter() - started:.1f} s")
    if meta["structures"] < declared.structures:
        print(f"note: {meta['structures']} of the published {declared.structures} structures")


def _verify(declared: Any, name: str) -> None:
    data = declared.load()
    if isinstance(declared, StoredDataset):
        columns, meta = read_store(name)
        labels = [label.decode() for label in columns["labels"].tolist()]
        checksum, published, remarks = meta["checksum"], declared.structures, declared.remarks
        if declared.checksum is not None and len(data) == published:
            found = data.published_checksum
            same = "is what was published" if found == declared.checksum else "differs from what was published"
            remarks = [*remarks, f"the content {same} (checksum {declared.checksum[:16]}…)"]
        rows = meta.get("rows_of_source")
        origin = meta["source"] + (f", rows {rows[0]}:{rows[1]}" if rows else "")
        print(f"{name} from {origin}; {meta['energy_unit_of_source']} there, eV and Å here")
    else:
        labels = [f"frame {i}" for i in range(len(data))]
        checksum, published, remarks = data.checksum, len(data), []
    for line in describe(data, labels, declared.plausible, checksum, published):
        print(line)
    for remark in remarks:
        print(f"note: {remark}")


if __name__ == "__main__":
    sys.exit(main())
