"""Every run of a sweep: done, running, failed, interrupted, stale or missing; cost so far and to come.

python -m analysis.plan [sweep=NAME] [overrides …] [--results FOLDER] [--costs FOLDER --workers N] [--csv FILE]
"""

import argparse
import csv
import functools
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.costs import Costs, benchmarked, recorded
from analysis.records.found import STATES, Found, algorithm_of, deviations_text, progress_of, read_records
from bench.commands import called
from bench.commands.frame import framed, named
from bench.config.command_line import OneLineParser, add_config_flags, files_of
from bench.config.compose import composed_cluster, split_cluster
from bench.config.files import parse
from bench.config.identity import cell_of, data_of, identity_of, is_current
from bench.config.plugins import load_dataset
from bench.config.schema import RunConfig
from bench.config.sweep import Cell, expand
from bench.errors import UserError
from bench.runs.record import state_of, write_named
from bench.runs.record_schema import Record

EXPERIMENT = ("scenario", "deviations", "algorithm", "batch_size")
"""What an experiment is, on any number of seeds."""
FAILURES_SHOWN = 10


@framed
def main() -> None:
    """Entry point; exits with 2 after a mistake in the input."""
    parser = OneLineParser(prog=called("plan"), description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="sweep=NAME", help="a sweep (paper) and overrides, as for a launch")
    add_config_flags(parser)
    parser.add_argument("--results", type=named, help="folder given to the runs as results=")
    parser.add_argument(
        "--costs", type=named, help="predict from the benchmarks of a machine: what make perf wrote there"
    )
    parser.add_argument("--workers", type=int, help="say how long as many workers of one thread will take")
    parser.add_argument("--csv", type=named, help="write a row for every run to this file")
    parser.add_argument("--json", action="store_true", help="for scripts (keys: analysis/plan.py)")
    _plan(parser.parse_intermixed_args())


def _plan(arguments: argparse.Namespace) -> None:
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: must be at least 1")
    files, words = files_of(arguments, arguments.words)
    of_cluster, own = split_cluster(words, files)
    if of_cluster:
        composed_cluster(of_cluster, files)  # where it runs changes nothing here, but a wrong word is wrong
    if not any(override.key_or_group == "sweep" for override in parse(own, files)):
        own = ["sweep=paper", *own]
    cells = expand(own, files)
    records, damaged = read_records(arguments.results or Path(cells[0].run.results))
    costs = benchmarked(arguments.costs) if arguments.costs else None
    table = states(cells, records, costs)
    if arguments.csv:
        write_named(arguments.csv, _csv(table).encode())
    if arguments.json:
        print(json.dumps(as_json(table, arguments.workers, damaged), indent=1, allow_nan=False))
    else:
        print("\n".join([describe(table, arguments.workers), *damaged]))


Row = dict[str, Any]
"""A run of a plan; its keys are the columns of `--csv`."""


def states(cells: Sequence[Cell], records: Sequence[Found], costs: Costs | None = None) -> list[Row]:
    """A row for every cell: its state, its record's folder, steps done of all, seconds spent and seconds to come.

    `stale` are cells that only another version of the code's numbers or of the data has answered; `seconds_to_come` is
    NaN where nothing of the scenario has been measured. Without `costs` they are those of the recorded steps.
    """
    checksum_of = functools.cache(lambda data: _checksum(run_of[data]))
    run_of: dict[str, RunConfig] = {}
    by_cell: dict[str, list[Found]] = {}
    for one in records:
        if one.record:
            by_cell.setdefault(cell_of(one.record.identity), []).append(one)
    costs = costs or recorded([one.record for one in records if one.record])
    rows = []
    for cell in cells:
        run = cell.run
        asked = identity_of(run, "")
        found = by_cell.get(cell_of(asked), [])
        run_of.setdefault(data_of(asked), run)
        checksum = checksum_of(data_of(asked)) if found else None
        state, record = _answer(found, run.scenario.final, checksum)
        steps = [*record.path(run.scenario.final)] if record is not None and state != "stale" else []
        rows.append(
            {
                "scenario": run.scenario.name,
                "deviations": deviations_text(run.deviations),
                "algorithm": algorithm_of({"selection": run.selection, "kernel": run.kernel}),
                "batch_size": run.batch_size,
                "seed": run.seed,
                "state": state,
                "run_id": record.run_id if record else "",
                "steps": len(steps),
                "steps_in_all": len(run.training_set_sizes()),
                "seconds_spent": sum(step.seconds for step in steps),
                "seconds_to_come": costs.to_come(run, len(steps)),
                "failure": record.failure.line if state == "failed" and record and record.failure else "",
                "words": " ".join(cell.words),
            }
        )
    return rows


def _csv(table: Sequence[Row]) -> str:
    """A line for every run, empty where a number is unknown."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_known, table))
    return text.getvalue()


def _answer(found: Sequence[Found], final: int, checksum: str | None) -> tuple[str, Record | None]:
    """The state of a cell and the record that answers it best."""
    current = [one for one in found if one.record and is_current(one.record.identity, checksum)]
    best = max(current or found, key=lambda one: progress_of(one.record, final) if one.record else (), default=None)
    if best is None or best.record is None:
        return "missing", None
    return state_of(best.record, final, in_progress=best.in_progress) if current else "stale", best.record


def as_json(table: Sequence[Row], workers: int | None, damaged: Sequence[str]) -> dict[str, Any]:
    """The plan for scripts (`--json`); these keys stay as they are.

    `counts` of the runs by state; `seconds_spent`, `seconds_to_come` on one worker, and `seconds_to_come_with_workers`
    as `--workers` asks, null where that is unknown; `runs`, a row of `states` each; `damaged`, a line for every record
    that cannot be read.
    """
    left = _left(table)
    known = not math.isnan(sum(left))
    return {
        "counts": _counts(table),
        "seconds_spent": sum((row["seconds_spent"] for row in table), 0.0),
        "seconds_to_come": sum(left, 0.0) if known else None,
        "seconds_to_come_with_workers": _with_workers(left, workers) if workers and known else None,
        "runs": [_known(row) for row in table],
        "damaged": list(damaged),
    }


def _known(row: Row) -> Row:
    """The same with None for numbers that are unknown."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def _counts(table: Sequence[Row]) -> dict[str, int]:
    counts = Counter(row["state"] for row in table)
    return {state: counts[state] for state in STATES}


def _left(table: Sequence[Row]) -> list[float]:
    """Seconds to come of the runs that are not done."""
    return [row["seconds_to_come"] for row in table if row["state"] != "done"]


def _with_workers(left: Sequence[float], workers: int) -> float:
    """How long so many workers take for runs of these seconds, at least."""
    return max(sum(left) / workers, *left) if left else 0.0


def describe(table: Sequence[Row], workers: int | None = None) -> str:
    """The table in lines: a row per scenario, the total, failures, and what is unknown."""
    head = f"{'scenario':18} {'experiments':>11} {'runs':>5} " + " ".join(f"{s:>11}" for s in STATES)
    lines = [f"{head} {'hours spent':>11} {'to come':>9}"]
    by_scenario: dict[str, list[Row]] = {}
    for row in table:
        by_scenario.setdefault(row["scenario"], []).append(row)
    for name, part in [*by_scenario.items(), ("all", table)]:
        to_come = sum(_left(part))
        experiments = {tuple(row[key] for key in EXPERIMENT) for row in part}
        lines.append(
            f"{name:18} {len(experiments):11d} {len(part):5d} "
            + " ".join(f"{count:11d}" for count in _counts(part).values())
            + f" {sum(row['seconds_spent'] for row in part) / 3600:11.1f} "
            + (f"{'unknown':>9}" if math.isnan(to_come) else f"{to_come / 3600:9.1f}")
        )
    left = _left(table)
    if workers and left:
        known = not math.isnan(sum(left))
        hours = f"{_with_workers(left, workers) / 3600:.1f} hours" if known else "unknown (--costs FOLDER predicts it)"
        lines.append(f"{workers} workers: {hours} to come")
    failed = [row for row in table if row["state"] == "failed"]
    for row in failed[:FAILURES_SHOWN]:
        lines.append(f"failed: {row['run_id']} ({row['words']}): {row['failure']}")
    if len(failed) > FAILURES_SHOWN:
        lines.append(f"and {len(failed) - FAILURES_SHOWN} more failed: --csv FILE lists every run")
    return "\n".join(lines)


def current_checksums(cells: Sequence[Cell]) -> dict[str, str | None]:
    """The checksum of the data of a sweep (`data_of`), None where a dataset is not at hand."""
    runs = {data_of(identity_of(cell.run, "")): cell.run for cell in cells}
    return {data: _checksum(run) for data, run in runs.items()}


def _checksum(run: RunConfig) -> str | None:
    """The content checksum of a dataset, or None where it is not at hand."""
    try:
        return str(load_dataset(run.dataset).checksum)
    except UserError:
        return None


if __name__ == "__main__":
    main()
