"""Whether results can enter the benchmark: python -m analysis.pages.submission FOLDER [--beside FOLDER]

FOLDER is what `bmdal-bench merge --without-models` wrote. Prints a line for all that is missing, and ends with 1 then.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from analysis.records.collect import departures
from analysis.records.found import algorithm_of, deviations_text, read_records
from analysis.statistics.values import BASELINE
from bench.commands.frame import framed, named
from bench.config.places import CONF
from bench.config.versions import is_current
from bench.errors import UserError
from bench.runs.record import MODEL, record_paths
from bench.runs.record_schema import Record

SEEDS = 3
"""Fewer say nothing of the spread."""
Cell = tuple[str, str, int]
"""Scenario, where it departs from it, batch size."""


@framed
def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.pages.submission", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=named, help="the results to be submitted, with runs/ in it")
    parser.add_argument("--beside", type=named, help="committed results, whose random selection counts")
    arguments = parser.parse_args()
    missing = list(problems(arguments.folder, arguments.beside))
    for line in missing:
        print(line)
    if missing:
        sys.exit(1)
    print(f"{sum(1 for _ in record_paths(arguments.folder))} runs can be submitted")


def problems(folder: Path, beside: Path | None = None) -> Iterator[str]:
    """What keeps results from the benchmark, a line each; of runs that are committed no further ones are asked.

    Raises UserError where there are no results.
    """
    found, damaged = read_records(folder)
    yield from damaged
    if not found and not damaged:
        raise UserError(f"no results in {folder}: give a folder with runs/ in it")
    yield from (f"{path}: leave models out (merge --without-models)" for path in sorted(folder.glob(f"runs/*/{MODEL}")))
    known = {one.run_id: one.record for one in read_records(beside)[0] if one.record} if beside else {}
    records = {one.run_id: one.record for one in found if one.record}
    new = {run_id: record for run_id, record in records.items() if not _is_committed(record, known.get(run_id))}
    for run_id, record in new.items():
        yield from (f"{run_id}: {problem}" for problem in _of_record(record))
    yield from _of_seeds(_done(new.values()), _done([*records.values(), *known.values()]))


def _is_committed(record: Record, committed: Record | None) -> bool:
    return committed is not None and len(record.steps) <= len(committed.steps)


def _done(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.status == "done"]


def _of_record(record: Record) -> Iterator[str]:
    if record.status != "done":
        yield f"is {record.status}: go on with the same command until it is done"
    if not is_current(record.identity):
        yield "was made by an earlier version of its kernel, selection, potential or data: run it again"
    for session in record.sessions:
        if session.git_commit is None:
            yield "no commit is recorded: run it in a checkout of the project"
        elif session.git_dirty:
            yield f"the checkout of commit {session.git_commit[:10]} had local changes: commit them and run it again"
    dataset = record.identity["dataset"]
    expected = _checksum(dataset["name"])
    if not record.deviations and expected and dataset["checksum"] != expected:
        yield f"its data {dataset['name']} are not the published ones: bmdal-bench data verify {dataset['name']}"


def _checksum(dataset: str) -> str | None:
    path = CONF / "dataset" / f"{dataset}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")).get("checksum") if path.is_file() else None


def _of_seeds(submitted: Iterable[Record], known: Iterable[Record]) -> Iterator[str]:
    """Too few seeds of an algorithm, or seeds without random selection, among all that are `known`."""
    random: dict[Cell, set[int]] = defaultdict(set)
    seeds_of: dict[tuple[Cell, str], set[int]] = defaultdict(set)
    for record in known:
        seeds_of[_cell(record), algorithm_of(record.identity)].add(record.identity["seed"])
        if algorithm_of(record.identity) == BASELINE:
            random[_cell(record)].add(record.identity["seed"])
    asked = {(_cell(record), algorithm_of(record.identity)) for record in submitted}
    for cell, algorithm in sorted(asked):
        seeds = seeds_of[cell, algorithm]
        where = ", ".join(str(part) for part in (cell[0], cell[1], f"N_batch {cell[2]}") if part)
        if len(seeds) < SEEDS and algorithm != BASELINE:
            yield f"{algorithm}, {where}: {len(seeds)} seeds, {SEEDS} are needed"
        if alone := sorted(seeds - random[cell]):
            yield f"{algorithm}, {where}: no random selection at seed {', '.join(map(str, alone))}"


def _cell(record: Record) -> Cell:
    apart = departures(record, record.filed_final)
    return record.identity["scenario"]["name"], deviations_text(apart), record.batch_size


if __name__ == "__main__":
    main()
