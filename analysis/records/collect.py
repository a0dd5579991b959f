"""From records to three tidy tables: a row per run; a row per run and step; uncertainties beside errors.

Nothing is dropped: the table of runs has every folder with its state, and only `done` and unfinished current runs have
steps. Units stand in the names of columns.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.records.calibration import calibration_of
from analysis.records.found import (
    Found,
    algorithm_of,
    altered_name,
    deviations_text,
    progress_of,
    split_deviations,
    study_of,
)
from bench.config.files import PROJECT_FILES
from bench.config.identity import cell_of, data_of, is_current
from bench.errors import UserError
from bench.runs.record import state_of, write_atomically
from bench.runs.record_schema import Metrics, Record, Session

CURRENT = ("done", "running", "interrupted", "failed")
"""States of runs whose steps are measured; `stale`, `superseded` and `damaged` runs are listed only."""
EXPERIMENT = ["study", "scenario", "deviations", "batch_size", "algorithm"]
FILE = "file"
"""What own data are called that have no name."""
MOST_SEED = 2**63 - 1
"""Of runs whose seed a column can hold; a run takes no larger one any more."""
End = tuple[str, int]
"""A run and its final size: a run that was continued counts at each end it has reached."""
KEYS = ["run_id", "state", *EXPERIMENT, "baseline", "seed"]
RUN = ["run_id", *EXPERIMENT, "baseline", "seed"]
"""What tells the runs of a table of steps apart; `baseline`: whether the kernel picks at random."""
REQUIRED = {
    "runs": {**dict.fromkeys(["run_id", "state", "study", "scenario", "deviations", "algorithm"], "object")},
    "steps": {
        **dict.fromkeys(["run_id", "state", "study", "scenario", "deviations", "algorithm"], "object"),
        **dict.fromkeys(["batch_size", "seed", "step", "n_train", "final", "labels_bought"], "int64"),
        "baseline": "bool",
    },
    "calibration": {**dict.fromkeys(["run_id", "uncertainty", "of", "target"], "object"), "predicted": "float64"},
    "plan": {"scenario": "object", "state": "object", "steps": "int64"},
}


@dataclass(frozen=True)
class Tables:
    """Everything that figures, tables and the report are made from."""

    runs: pd.DataFrame
    steps: pd.DataFrame
    calibration: pd.DataFrame
    plan: pd.DataFrame
    single: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*KEYS, "n_train"]))
    """Steps of last points alone whose seed has a curve, too: they are compared with others of their kind only."""

    def save(self, folder: Path) -> list[Path]:
        """Write each as Parquet, which pandas.read_parquet reads."""
        paths = []
        for one in fields(self):
            paths.append(folder / f"{one.name}.parquet")
            write_atomically(paths[-1], getattr(self, one.name).to_parquet(index=False, compression="zstd"))
        return paths

    @classmethod
    def load(cls, folder: Path) -> "Tables":
        """Read what `save` wrote. Raises UserError if a file or a column is missing or of another type.

        Folders of before lack `single`.
        """
        paths = {one.name: folder / f"{one.name}.parquet" for one in fields(cls)}
        return cls(**{name: _checked(path) for name, path in paths.items() if name != "single" or path.exists()})


def _checked(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"cannot read the table {path} ({reason}): give the data folder of a build") from None
    check_columns(table, path.stem)
    return table


def check_columns(table: pd.DataFrame, name: str) -> None:
    """Raise UserError if a column that the analysis needs is missing or of another type; empty tables may lack all."""
    for column, kind in REQUIRED.get(name, REQUIRED["steps"]).items():
        if len(table) and column not in table:
            raise UserError(f"the table of {name} has no column {column!r}: build it again from the records")
        if len(table) and kind != "object" and str(table[column].dtype) != kind:
            raise UserError(f"column {column!r} of the table of {name} is {table[column].dtype}, not {kind}")


NOTHING = Metrics(energy_mae_kcal_mol=math.nan, energy_rmse_kcal_mol=math.nan, energy_maxe_kcal_mol=math.nan)
SLIM: dict[str, Any] = {"picked": None, "correlations": {}, "metrics": NOTHING, "validation_eV": []}
"""In place of what only tables of steps hold, one for all steps."""


class Collector:
    """Takes records one by one and keeps only what the tables hold, so that thousands fit in memory."""

    def __init__(self) -> None:
        self._runs: list[dict[str, Any]] = []
        self._steps: dict[End, dict[str, np.ndarray]] = {}
        self.slim: list[Found] = []
        """The records without picks and metrics: what `analysis.plan` needs."""

    def add(self, found: Found) -> None:
        """Take in a record, or the description of a damaged one."""
        record = found.record
        if record is None:
            self._leave_out(found.run_id, found.damage)
            return
        if (seed := record.identity["seed"]) > MOST_SEED:
            self._leave_out(found.run_id, f"{found.run_id}: the seed {seed} is beyond {MOST_SEED}: choose another")
            return
        for final in record.ends():
            run = run_row(record, final)
            self._runs.append(run)
            self._steps[record.run_id, final] = _columns(step_rows(record, run))
        slim = [step.model_copy(update=SLIM) for step in record.steps]
        self.slim.append(replace(found, record=record.model_copy(update={"steps": slim, "sessions": []})))

    def damage(self) -> list[str]:
        """What is wrong with the records that cannot be read, a line each."""
        return [row["failure"] for row in self._runs if row["state"] == "damaged"]

    def _leave_out(self, run_id: str, why: str) -> None:
        self._runs.append({"run_id": run_id, "final": 0, "state": "damaged", "failure": why})

    def tables(self, results: Path | Sequence[Path], plan: pd.DataFrame, checksums: Mapping[str, str | None]) -> Tables:
        """Label every run with its state and build the tables. Raises UserError if there is no finished step."""
        folders = [results] if isinstance(results, Path) else list(results)
        states = label(self.slim, checksums)
        key = ["run_id", "final"]
        runs = pd.DataFrame([row | {"state": states.get(_end(row), row["state"])} for row in self._runs])
        runs = _with_data(runs)
        # a whole curve of random selection counts before its last point alone
        finished = runs[runs["state"] == "done"].sort_values("steps")
        shorter = finished.index[finished.duplicated([*EXPERIMENT, "seed"], keep="last")]
        runs.loc[shorter, "state"] = "superseded"
        states |= dict.fromkeys(map(tuple, runs.loc[shorter, key].to_numpy()), "superseded")
        kept = {end: columns for end, columns in self._steps.items() if states[end] in CURRENT and columns}
        if not kept:
            found = ", ".join(f"{n} {state}" for state, n in runs["state"].value_counts().items()) or "nothing"
            below = ", ".join(str(folder / "runs") for folder in folders)
            raise UserError(
                f"no finished step of this version of code and data below {below} ({found}): run something"
                " first, e.g. make run"
            )
        runs["study"] = _told_apart(runs)
        ends = list(map(tuple, runs[key].to_numpy()))
        told = {name: dict(zip(ends, runs[name], strict=True)) for name in ("study", "deviations")}
        table = _joined(kept, {"state": states} | told).sort_values([*EXPERIMENT, "seed", "n_train"], ignore_index=True)
        alone = {end: self._steps[end] for end in map(tuple, runs.loc[shorter, key].to_numpy())}
        alone = {end: columns for end, columns in alone.items() if len(columns["step"]) == 1}
        single = _joined(alone, {"state": dict.fromkeys(alone, "done")} | told) if alone else table.head(0)
        runs = runs.sort_values(key, ignore_index=True)
        check_columns(table, "steps")
        plan = plan if len(plan) else pd.DataFrame(columns=list(REQUIRED["plan"]))
        done = runs[runs["state"] == "done"]
        kernels = {found.run_id: found.record.kernels for found in self.slim if found.record}
        calibration, damaged = calibration_of(done, folders, kernels)
        runs["failure"] = [damaged.get(run, told) for run, told in zip(runs["run_id"], runs["failure"], strict=True)]
        return Tables(runs, table, calibration, plan, single)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Rows as arrays by column, which take a tenth of the memory; NaN where a row lacks a value."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row.get(name, math.nan) for row in rows] for name in names}
    return {n: np.array(each, dtype=object if isinstance(each[0], str) else None) for n, each in values.items()}


def _joined(kept: Mapping[End, Mapping[str, np.ndarray]], told: Mapping[str, Mapping[End, str]]) -> pd.DataFrame:
    """One table of all runs, with what is told of each: its state, its study, its deviations."""
    lengths = [len(columns["step"]) for columns in kept.values()]
    names = dict.fromkeys(name for columns in kept.values() for name in columns)
    data = {
        name: np.concatenate(
            [
                columns[name] if name in columns else np.full(length, math.nan)
                for columns, length in zip(kept.values(), lengths, strict=True)
            ]
        )
        for name in names
    }
    for name, of_end in told.items():
        data[name] = np.repeat(np.array([of_end[end] for end in kept], dtype=object), lengths)
    return pd.DataFrame(data)


def _is_own(dataset: str) -> bool:
    """Whether a dataset is none of the project's: of those the versions tell one from another."""
    return dataset == FILE or dataset not in PROJECT_FILES.options("dataset")


def _with_data(runs: pd.DataFrame) -> pd.DataFrame:
    """Where own data of one name differ, the runs' deviations say on which data they are: they are never mixed."""
    current = runs[runs["state"].isin(CURRENT)]
    own = current[[_is_own(str(name)) for name in current["dataset"]]] if len(current) else current
    several = own.groupby(["scenario", "dataset"])["checksum"].transform("nunique") > 1
    for row in several.index[several]:
        scenario, told, checksum = runs.loc[row, ["scenario", "deviations", "checksum"]]
        told = ", ".join(sorted([*split_deviations(told), f"dataset.checksum={checksum[:8]}"]))
        runs.loc[row, ["deviations", "study"]] = [told, altered_name(scenario, told)]
    return runs


def _told_apart(runs: pd.DataFrame) -> "pd.Series[str]":
    """The study of every run: where one name serves several forms of a scenario, the altered ones say so."""
    several = runs.groupby("study")["deviations"].transform("nunique") > 1
    unnamed = runs["study"].ne(runs["scenario"]) | runs["deviations"].eq("")
    forms = zip(runs["scenario"], runs["deviations"], strict=True)
    return runs["study"].where(~several | unnamed, [altered_name(str(name), str(form)) for name, form in forms])


def _end(row: Mapping[str, Any]) -> End:
    return row["run_id"], row["final"]


def label(records: Iterable[Found], checksums: Mapping[str, str | None]) -> dict[End, str]:
    """The state of every run and end: that of its record, `stale`, or `superseded` by another run of the same cell.

    Runs on different data of one's own answer different cells, whatever the data are called.
    """
    states: dict[End, str] = {}
    cells: dict[tuple[str, str, int], Record] = {}
    for found in records:
        record = found.record
        if record is None:
            continue
        current = is_current(record.identity, checksums.get(data_of(record.identity)))
        dataset = record.identity["dataset"]
        cell = cell_of(record.identity), dataset.get("checksum", "") if _is_own(dataset["name"]) else ""
        for final in record.ends():
            if not current:
                states[record.run_id, final] = "stale"
                continue
            states[record.run_id, final] = state_of(record, final, in_progress=found.in_progress)
            other = cells.setdefault((*cell, final), record)
            if other is not record:
                better = progress_of(record, final) > progress_of(other, final)
                kept, left = (record, other) if better else (other, record)
                cells[*cell, final], states[left.run_id, final] = kept, "superseded"
    return states


def run_row(record: Record, final: int) -> dict[str, Any]:
    """What a run to an end is and where it was computed."""
    identity, session = record.identity, record.sessions[-1] if record.sessions else None
    scenario, deviations = identity["scenario"], departures(record, final)
    steps = [*record.path(final)]
    used = _sessions(record, final)
    failed = state_of(record, final, in_progress=False) == "failed"
    where = ("started", "host", "cpu", "cores", "threads", "git_commit", "git_dirty", "python", "engine")
    return {
        "run_id": record.run_id,
        "state": "",
        "study": study_of(scenario["name"], deviations),
        "scenario": scenario["name"],
        "deviations": deviations_text(deviations),
        "batch_size": record.batch_size,
        "algorithm": algorithm_of(identity),
        "kernel": identity["kernel"]["name"],
        **record.kernel.model_dump(include={"baseline", "uncertainty"}),
        "seed": identity["seed"],
        "steps": len(steps),
        "initial": scenario["initial"],
        "final": final,
        "validation": scenario["validation"],
        "dataset": identity["dataset"]["name"],
        "checksum": identity["dataset"].get("checksum"),
        "sessions": len(record.sessions),
        **{key: getattr(session, key, None) for key in where},
        "device": ", ".join(dict.fromkeys(one.device for one in used)),
        "hardware": "; ".join(dict.fromkeys(f"{one.cpu}, {one.device}, threads: {one.threads}" for one in used)),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(session.versions.items()))
        if session
        else "",
        "failure": record.failure.line if failed and record.failure else "",
        "not_finite": sum(not math.isfinite(v) for s in steps for v in s.metrics.given().values()),
    }


def _sessions(record: Record, final: int) -> list[Session]:
    """The sessions that computed the steps to an end; the last where there are none."""
    told = dict.fromkeys(step.session for step in record.path(final))
    return [session for n, session in enumerate(record.sessions) if n in told] or record.sessions[-1:]


def departures(record: Record, final: int) -> dict[str, Any]:
    """The deviations that set a run to an end apart from its scenario's others.

    The last point of random selection's curve is one training on structures drawn at random: a run of it with
    scenario.initial = scenario.final counts as the scenario's, whatever pool that leaves.
    """
    deviations = record.departures(final)
    at_once = "scenario.initial" in deviations and record.identity["scenario"]["initial"] == final
    if not record.kernel.baseline or not at_once or "scenario.final" in deviations:
        return deviations
    return {key: value for key, value in deviations.items() if key not in ("scenario.initial", "scenario.pool")}


def step_rows(record: Record, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps to an end: errors, correlations, seconds, memory, labels bought.

    `own` correlations are those of the run's kernel; the others those of every kernel told at the end. Labels bought
    are those of the training and validation sets, and of the whole pool where it was read. Tainted seconds, those of
    processors beside a GPU, a value that is not finite and all seconds of a run on several devices become NaN; what was
    picked at the end, for a longer run, is no part of this one.
    """
    rows, read = [], 0
    on_several = len({session.device for session in _sessions(record, run["final"])}) > 1
    own = record.identity["kernel"]["name"]
    for index, step in enumerate(record.path(run["final"])):
        ends = step.n_train == run["final"]
        read = read if ends else max(read, step.pool_labels_read)
        correlations = {
            f"{coefficient}_{target}_{name}": value
            for kernel, targets in step.correlations.items()
            for target, found in targets.items()
            for coefficient, value in found.model_dump().items()
            for name in _names(kernel, own, ends=ends)
        }
        numbers = step.given() | step.metrics.given() | correlations
        for key in [key for key in numbers if "seconds_" in key]:
            picked_here = ends and step.picked is not None and key.endswith(("_features", "_selection"))
            elsewhere = key.startswith("processor_") and run["device"] != "cpu"
            if step.timing or picked_here or elsewhere or on_several:
                numbers[key] = None
        rows.append(
            {
                **{key: run[key] for key in KEYS},
                "final": run["final"],
                "step": index,
                "n_train": step.n_train,
                "labels_bought": (run["initial"] if read else step.n_train) + run["validation"] + read,
                **{key: _finite(value) for key, value in numbers.items() if key != "n_train"},
            }
        )
    return rows


def _names(kernel: str, own: str, *, ends: bool) -> tuple[str, ...]:
    """Under which names a kernel's correlations stand; at the end a run's own is one of those that all tell, too."""
    if kernel != own:
        return (kernel,)
    return ("own", kernel) if ends else ("own",)


def _finite(value: float | None) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.nan
