"""Results of several machines in one folder: python -m bench.merge [--without-models] FROM [FROM …] INTO

A run that is in both is taken where it has come further, with what only the other tells of its ends; where both have a
step with other numbers, nothing is touched, and the conflict is told. What was picked must be equal; errors may differ
by a relative 1e-6, as processors and numbers of threads do. FROM may be read-only or at work: what it has recorded so
far is taken.
"""

import contextlib
import hashlib
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from bench.commands import called
from bench.commands.frame import framed, named
from bench.config.command_line import PlainParser
from bench.errors import BusyError, ClosedError, UserError, WriteError, tell
from bench.runs.locks import locked
from bench.runs.record import (
    LOCK,
    RECORD,
    agree,
    arrays_of,
    as_json,
    as_npz,
    end_file,
    listed,
    make_folder,
    read_file,
    read_record,
    record_paths,
    remove_leftovers,
    write_atomically,
)
from bench.runs.record_schema import Record
from bench.runs.system import require_unix

LEFT_OUT: dict[type, str] = {BusyError: "in use", ClosedError: "closed to you"}
"""What the runs are called that are left as they are; those for another reason are damaged."""


@framed
def main() -> None:
    """Entry point; exits with 1 if a run was left out (conflict, damage, in use, closed), with 2 after a mistake."""
    parser = PlainParser(prog=called("merge"), description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=named, metavar="FOLDER", help="folders given to runs as results=")
    parser.add_argument("--without-models", action="store_true", help="leave out the last models: 2 MB a run")
    arguments = parser.parse_args()
    folders, models = arguments.folders, not arguments.without_models
    if len(folders) < 2:
        raise UserError("say from where and into what: " + called("merge") + " FROM INTO")
    outcomes = Counter(outcome for source in folders[:-1] for outcome in merge(source, folders[-1], models=models))
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "nothing to merge")
    sys.exit(1 if outcomes.keys() & {"conflicts", "damaged", *LEFT_OUT.values()} else 0)


def merge(source: Path, target: Path, *, models: bool = True) -> list[str]:
    """Copy the runs of `source` that `target` lacks or has less of; returns what became of each run.

    Raises UserError if there are no results in `source`.
    """
    require_unix()
    paths = record_paths(source)
    if not (source / "runs").is_dir():
        raise UserError(f"no results in {source}: give a folder with runs/ in it")
    if target.name == "runs" and any(record_paths(target.parent)):
        raise UserError(f"{target} is itself the runs of {target.parent}: give the folder above")
    make_folder(target / "runs")
    outcomes = []
    for path in paths:
        folder = target / "runs" / path.parent.name
        try:
            outcomes.append(_merge_run(path.parent, folder, models))
        except UserError as error:
            _remove_unfilled(folder)
            if isinstance(error, WriteError):
                raise
            tell(error)
            outcomes.append(LEFT_OUT.get(type(error), "damaged"))
    return outcomes


def _remove_unfilled(folder: Path) -> None:
    """Remove the folder of a run if nothing came of it: there is its lock alone, which nobody holds."""
    with contextlib.suppress(OSError, UserError):
        if [path.name for path in folder.iterdir()] == [LOCK]:
            with locked(folder / LOCK, wait=False):
                (folder / LOCK).unlink()
        folder.rmdir()


def _merge_run(source: Path, target: Path, models: bool) -> str:
    """Take what `source` has and `target` lacks, under the lock of `target`."""
    theirs = read_record(source / RECORD)
    make_folder(target)
    with locked(target / LOCK, wait=False):
        remove_leftovers(target, "*")
        ours, ahead = read_record(target / RECORD) if (target / RECORD).exists() else None, True
        if ours is not None:
            pairs = [(step, found) for step in ours.steps if (found := theirs.step(step.n_train))]
            if ours.identity != theirs.identity or not all(agree(one, other) for one, other in pairs):
                return _conflict(f"{source} and {target} have other numbers: look at both and move one away")
            ahead = not _done(theirs) <= _done(ours)
            if not ahead and _told(theirs) <= _told(ours):
                return "already there"
            if ahead and not _done(ours) <= _done(theirs):
                return _conflict(f"{source} and {target} each have steps that the other lacks: move one away")
        theirs, files = _read(source, models)
        if ours is not None:
            theirs, files = _together(ours, target, theirs, files, ahead=ahead)
            same = {name: digest for name, digest in ours.files.items() if _digest(files.get(name)) in (None, digest)}
            if same != ours.files:
                # killed below, no file of the target looks damaged
                write_atomically(target / RECORD, as_json(ours.model_copy(update={"files": same})))
        try:
            for name, content in files.items():
                write_atomically(target / name, content)
            write_atomically(target / RECORD, as_json(theirs))
        except WriteError:
            if ours is None:  # files without a record are nothing
                for name in files:
                    (target / name).unlink(missing_ok=True)
            raise
    return "new" if ours is None else "further"


def _together(
    ours: Record, target: Path, theirs: Record, files: dict[str, bytes], *, ahead: bool
) -> tuple[Record, dict[str, bytes]]:
    """The record that has come further (`theirs` if it is `ahead`) with what only the other tells of its ends.

    With the files to write into `target`.
    """
    whole, other = (theirs, ours) if ahead else (ours, theirs)
    written = dict(files) if ahead else {}
    digests = {name: digest for name, digest in ours.files.items() if name not in written}
    digests |= {name: digest for name, digest in theirs.files.items() if name in written}
    for name in map(end_file, other.finals):
        here, there = _arrays(_kept(target / name, ours)), _arrays(files.get(name))
        first, more = (there, here) if ahead else (here, there)
        if more.keys() - first.keys():
            written[name] = as_npz(more | first)
            digests[name] = hashlib.sha256(written[name]).hexdigest()
    steps = [
        step.model_copy(update={"correlations": found.correlations | step.correlations})
        if (found := other.step(step.n_train))
        else step
        for step in whole.steps
    ]
    finals = [*(final for final in other.finals if final not in whole.finals), *whole.finals]
    changes = {"steps": steps, "finals": finals, "kernels": other.kernels | whole.kernels, "files": digests}
    return whole.model_copy(update=changes), written


def _kept(path: Path, record: Record) -> bytes | None:
    """A file of a run; None where it is not kept or damaged, which is told elsewhere."""
    with contextlib.suppress(UserError):
        return read_file(path, record.files)
    return None


def _arrays(content: bytes | None) -> dict[str, Any]:
    """The arrays of a file; none where it is not kept or damaged."""
    with contextlib.suppress(Exception):
        return {} if content is None else arrays_of(content)
    return {}


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _conflict(message: str) -> str:
    print(f"conflict: {message}", file=sys.stderr)
    return "conflicts"


def _read(source: Path, models: bool) -> tuple[Record, dict[str, bytes]]:
    """The record of a run and the files that it speaks of, as they were at one moment. Raises UserError.

    A source at work may replace a file in between: then it is read again.
    """
    kept = (".npz", ".pt") if models else (".npz",)
    while True:
        record = read_record(source / RECORD)
        try:
            found = {path.name: read_file(path, record.files) for path in listed(source) if path.suffix in kept}
        except UserError:
            if read_record(source / RECORD) == record:
                raise
            continue
        files = {name: content for name, content in sorted(found.items()) if content is not None}
        record.files = {name: digest for name, digest in record.files.items() if name in files}
        return record, files


def _done(record: Record) -> set[tuple[int, bool]]:
    """The sizes trained, and those at which a batch was picked."""
    return {(step.n_train, picked) for step in record.steps for picked in (False, True) if step.picked or not picked}


def _told(record: Record) -> set[tuple[int, str]]:
    """The ends that are reached, and what each step correlates with its errors."""
    ends = {(final, "") for final in record.finals if record.reached(final)}
    return ends | {(step.n_train, kernel) for step in record.steps for kernel in step.correlations}


if __name__ == "__main__":
    main()
