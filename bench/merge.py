"""Results of several machines in one folder: python -m bench.merge [--without-models] FROM [FROM …] INTO

A run that is in both is taken where it has come further; where both have a step with other numbers, nothing is touched,
and the conflict is told. What was picked must be equal; errors may differ by a relative 1e-6, as processors and numbers
of threads do. FROM may be read-only or at work: what it has recorded so far is taken.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from bench.commands import called
from bench.commands.frame import framed
from bench.errors import BusyError, UserError, WriteError, tell
from bench.runs.locks import locked
from bench.runs.record import (
    LOCK,
    RECORD,
    agree,
    as_json,
    make_folder,
    read_file,
    read_record,
    record_paths,
    remove_leftovers,
    write_atomically,
)
from bench.runs.record_schema import Record
from bench.runs.system import require_unix


@framed
def main() -> None:
    """Entry point; exits with 1 if a run was left out (conflict, damage, in use), with 2 after a mistake."""
    parser = argparse.ArgumentParser(prog=called("merge"), description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="folders given to runs as results=")
    parser.add_argument("--without-models", action="store_true", help="leave out the last models: 2 MB a run")
    arguments = parser.parse_args()
    folders, models = arguments.folders, not arguments.without_models
    if len(folders) < 2:
        raise UserError("say from where and into what: " + called("merge") + " FROM INTO")
    outcomes = Counter(outcome for source in folders[:-1] for outcome in merge(source, folders[-1], models=models))
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "nothing to merge")
    sys.exit(1 if outcomes["conflicts"] or outcomes["damaged"] or outcomes["in use"] else 0)


def merge(source: Path, target: Path, *, models: bool = True) -> list[str]:
    """Copy the runs of `source` that `target` lacks or has less of; returns what became of each run.

    Raises UserError if there are no results in `source`.
    """
    require_unix()
    if not (source / "runs").is_dir():
        raise UserError(f"no results in {source}: give a folder with runs/ in it")
    make_folder(target / "runs")
    outcomes = []
    for path in record_paths(source):
        try:
            outcomes.append(_merge_run(path.parent, target / "runs" / path.parent.name, models))
        except WriteError:
            raise
        except UserError as error:
            tell(error)
            outcomes.append("in use" if isinstance(error, BusyError) else "damaged")
    return outcomes


def _merge_run(source: Path, target: Path, models: bool) -> str:
    """Take what `source` has and `target` lacks, under the lock of `target`."""
    theirs = read_record(source / RECORD)
    make_folder(target)
    with locked(target / LOCK, wait=False):
        remove_leftovers(target, "*")
        ours = read_record(target / RECORD) if (target / RECORD).exists() else None
        if ours is not None:
            pairs = [(step, found) for step in ours.steps if (found := theirs.step(step.n_train))]
            if ours.identity != theirs.identity or not all(agree(one, other) for one, other in pairs):
                return _conflict(f"{source} and {target} have other numbers: look at both and move one away")
            if _done(theirs) <= _done(ours):
                return "already there"
            if not _done(ours) <= _done(theirs):
                return _conflict(f"{source} and {target} each have steps that the other lacks: move one away")
        theirs, files = _read(source, models)
        if ours is not None:
            theirs.finals = [*(final for final in ours.finals if final not in theirs.finals), *theirs.finals]
            changed = {name: digest for name, digest in ours.files.items() if theirs.files.get(name, digest) == digest}
            if changed != ours.files:
                # killed below, no file of the target looks damaged
                write_atomically(target / RECORD, as_json(ours.model_copy(update={"files": changed})))
        for name, content in files.items():
            write_atomically(target / name, content)
        theirs.files = {name: digest for name, digest in theirs.files.items() if name in files}
        write_atomically(target / RECORD, as_json(theirs))
    return "new" if ours is None else "further"


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
            found = {path.name: read_file(path, record.files) for path in source.iterdir() if path.suffix in kept}
        except UserError:
            if read_record(source / RECORD) == record:
                raise
            continue
        return record, {name: content for name, content in sorted(found.items()) if content is not None}


def _done(record: Record) -> set[tuple[int, bool]]:
    """The sizes trained, and those at which a batch was picked."""
    return {(step.n_train, picked) for step in record.steps for picked in (False, True) if step.picked or not picked}


if __name__ == "__main__":
    main()
