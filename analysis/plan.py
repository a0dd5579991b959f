"""Every run of a sweep: done, running, failed, interrupted, stale or missing; cost so far and to come.

python -m analysis.plan [sweep=NAME] [overrides …] [--results FOLDER] [--costs FOLDER --workers N] [--csv FILE]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.costs import Costs, benchmarked, recorded
from analysis.records import Found, algorithm_of, deviations_text, progress_of, read_records
from bench.command_line import OneLineParser, add_config_flags, files_of
from bench.commands import called
from bench.compose import composed_cluster, split_cluster
from bench.config_files import parse
from bench.errors import UserError
from bench.frame import framed
from bench.identity import cell_of, data_of, identity_of, is_current
from bench.plugins import load_dataset
from bench.record import state_of, write_atomically
from bench.record_schema import Record
from bench.schema import RunConfig
from bench.sweep import Cell, expand

STATES = ("done", "running", "interrupted", "failed", "stale", "missing")
FAILURES_SHOWN = 10


@framed
def main() -> None:
    """Entry point; exits with 2 after a mistake in the input."""
    parser = OneLineParser(prog=called("plan"), description=(__doc__ or "").splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="sweep=NAME", help="a sweep (paper) and overrides, as for a launch")
    add_config_flags(parser)
    parser.add_argument("--results", type=Path, help="folder given to the runs as results=")
    parser.add_argument(
        "--costs", type=Path, help="predict from the benchmarks of a machine: what make perf wrote there"
    )
    parser.add_argument("--workers", type=int, help="say how long as many workers of one thread will take")
    parser.add_argument("--csv", type=Path, help="write a row for every run to this file")
    parser.add_argument("--json", action="store_true", help="for scripts (keys: analysis/plan.py)")
    try:
        _plan(parser.parse_intermixed_args())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _plan(arguments: argparse.Namespace) -> None:
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: must be at least 1")
    files, words = files_of(arguments, arguments.words)
    of_cluster, own = split_cluster(words, files)
    composed_cluster(of_cluster, files)  # where it runs changes nothing here, but a wrong word is wrong
    if not any(override.key_or_group == "sweep" for override in parse(own, files)):
        own = ["sweep=paper", *own]
    cells = expand(own, files)
    records, damaged = read_records(arguments.results or Path(cells[0].run.results))
    costs = benchmarked(arguments.costs) if arguments.costs else None
    table = states(cells, records, costs)
    if arguments.csv:
        write_atomically(arguments.csv, table.to_csv(index=False).encode())
    if arguments.json:
        print(json.dumps(as_json(table, arguments.workers, damaged), indent=1, allow_nan=False))
    else:
        print("\n".join([describe(table, arguments.workers), *damaged]))


def states(cells: Sequence[Cell], records: Sequence[Found], costs: Costs | None = None) -> pd.DataFrame:
    """A row for every cell: its state, its record's folder, steps done of all, seconds spent and seconds to come.

    `stale` are cells that only another version of the code's numbers or of the data has answered; `seconds_to_come` is
    NaN where nothing of the scenario has been measured. Without `costs` they are those of the recorded steps.
    """
    checksums = current_checksums(cells)
    by_cell: dict[str, list[Found]] = {}
    for one in records:
        if one.record:
            by_cell.setdefault(cell_of(one.record.identity), []).append(one)
    costs = costs or recorded([one.record for one in records if one.record])
    rows = []
    for cell in cells:
        run = cell.run
        asked = identity_of(run, "")
        state, record = _answer(by_cell.get(cell_of(asked), []), run.scenario.final, checksums[data_of(asked)])
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
    return pd.DataFrame(rows)


def _answer(found: Sequence[Found], final: int, checksum: str | None) -> tuple[str, Record | None]:
    """The state of a cell and the record that answers it best."""
    current = [one for one in found if one.record and is_current(one.record.identity, checksum)]
    best = max(current or found, key=lambda one: progress_of(one.record, final) if one.record else (), default=None)
    if best is None or best.record is None:
        return "missing", None
    return state_of(best.record, final, in_progress=best.in_progress) if current else "stale", best.record


def as_json(table: pd.DataFrame, workers: int | None, damaged: Sequence[str]) -> dict[str, Any]:
    """The plan for scripts (`--json`); these keys stay as they are.

    `counts` of the runs by state; `seconds_spent`, `seconds_to_come` on one worker, and `seconds_to_come_with_workers`
    as `--workers` asks, null where that is unknown; `runs`, a row of `states` each; `damaged`, a line for every record
    that cannot be read.
    """
    counts = table["state"].value_counts()
    left = table.loc[table["state"] != "done", "seconds_to_come"]
    known = bool(left.notna().all())
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return {
        "counts": {state: int(counts.get(state, 0)) for state in STATES},
        "seconds_spent": float(table["seconds_spent"].sum()),
        "seconds_to_come": float(left.sum()) if known else None,
        "seconds_to_come_with_workers": _with_workers(left, workers) if workers and known else None,
        "runs": rows,
        "damaged": list(damaged),
    }


def _with_workers(left: pd.Series, workers: int) -> float:
    """How long so many workers take for runs of these seconds, at least."""
    return float(max(left.sum() / workers, left.max())) if len(left) else 0.0


def describe(table: pd.DataFrame, workers: int | None = None) -> str:
    """The table in lines: a row per scenario, the total, failures, and what is unknown."""
    experiments = ["scenario", "deviations", "algorithm", "batch_size"]
    head = f"{'scenario':18} {'experiments':>11} {'runs':>5} " + " ".join(f"{s:>11}" for s in STATES)
    lines = [f"{head} {'hours spent':>11} {'to come':>9}"]
    for name, part in [*table.groupby("scenario", sort=False), ("all", table)]:
        counts = part["state"].value_counts()
        to_come = part.loc[part["state"] != "done", "seconds_to_come"]
        hours = f"{to_come.sum() / 3600:9.1f}" if to_come.notna().all() else f"{'unknown':>9}"
        lines.append(
            f"{name:18} {len(part[experiments].drop_duplicates()):11d} {len(part):5d} "
            + " ".join(f"{counts.get(state, 0):11d}" for state in STATES)
            + f" {part['seconds_spent'].sum() / 3600:11.1f} {hours}"
        )
    left = table.loc[table["state"] != "done", "seconds_to_come"]
    if workers and len(left) and left.notna().all():
        lines.append(f"{workers} workers: {_with_workers(left, workers) / 3600:.1f} hours to come")
    failed = table[table["state"] == "failed"]
    for row in failed.head(FAILURES_SHOWN).to_dict("records"):
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
