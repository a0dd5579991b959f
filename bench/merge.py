"""Results of several machines in one folder: python -m bench.merge [--without-models] FROM [FROM …] INTO

A run that is in both is taken where it has come further; where both have the same steps with other numbers, nothing is
touched, and the conflict is told.
"""

import argparse
import shutil
import sys
import uuid
from collections import Counter
from pathlib import Path

from bench.errors import BusyError, UserError, WriteError
from bench.locks import locked
from bench.record import LOCK, RECORD, agree, make_folder, read_record
from bench.record_schema import Record


def main() -> None:
    """Entry point; exits with 1 if there are conflicts or damaged records, with 2 after a mistake in the input."""
    parser = argparse.ArgumentParser(prog="python -m bench.merge", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="folders given to runs as results=")
    parser.add_argument("--without-models", action="store_true", help="leave out the last models: 2 MB a run")
    arguments = parser.parse_args()
    folders, models = arguments.folders, not arguments.without_models
    try:
        if len(folders) < 2:
            raise UserError("say from where and into what: python -m bench.merge FROM INTO")
        outcomes = Counter(outcome for source in folders[:-1] for outcome in merge(source, folders[-1], models=models))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "nothing to merge")
    sys.exit(1 if outcomes["conflicts"] or outcomes["damaged"] else 0)


def merge(source: Path, target: Path, *, models: bool = True) -> list[str]:
    """Copy the runs of `source` that `target` lacks or has less of; returns what became of each run.

    Raises UserError if there are no results in `source` or a run is being computed in `target`.
    """
    if not (source / "runs").is_dir():
        raise UserError(f"no results in {source}: give a folder with runs/ in it")
    make_folder(target / "runs")
    outcomes = []
    for folder in sorted(path.parent for path in source.glob(f"runs/*/{RECORD}")):
        try:
            outcomes.append(_merge_run(folder, target / "runs" / folder.name, models))
        except (WriteError, BusyError):
            raise
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            outcomes.append("damaged")
    return outcomes


def _merge_run(source: Path, target: Path, models: bool) -> str:
    theirs = read_record(source / RECORD)
    if not (target / RECORD).exists():
        _copy(source, target, models)
        return "new"
    ours = read_record(target / RECORD)
    pairs = [(step, found) for step in ours.steps if (found := theirs.step(step.n_train))]
    if ours.identity != theirs.identity or not all(agree(one, other) for one, other in pairs):
        print(f"conflict: {source} and {target} have other numbers: look at both and move one away", file=sys.stderr)
        return "conflicts"
    if _done(theirs) <= _done(ours):
        return "already there"
    if not _done(ours) <= _done(theirs):
        print(f"conflict: {source} and {target} each have steps that the other lacks: move one away", file=sys.stderr)
        return "conflicts"
    _copy(source, target, models)
    return "further"


def _copy(source: Path, target: Path, models: bool) -> None:
    """Replace a run's folder by a copy, as a whole. Raises WriteError."""
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with locked(source / LOCK, wait=False):
            left_out = ["*.tmp", "*.lock", "*.lease", *([] if models else ["*.pt"])]
            shutil.copytree(source, draft, ignore=shutil.ignore_patterns(*left_out))
        if target.exists():
            with locked(target / LOCK, wait=False):
                target.rename(old)
        draft.rename(target)
    except OSError as error:
        raise WriteError(f"cannot copy {source} to {target} ({error}): make room and merge again") from None
    finally:
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _done(record: Record) -> set[tuple[int, bool]]:
    """The sizes trained, and those at which a batch was picked."""
    return {(step.n_train, picked) for step in record.steps for picked in (False, True) if step.picked or not picked}


if __name__ == "__main__":
    main()
