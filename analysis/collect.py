"""From records to three tidy tables: a row per run; a row per run and step; uncertainties beside errors.

Nothing is dropped: the table of runs has every folder with its state, and only `done` and unfinished current runs have
steps. Units stand in the names of columns.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.calibration import calibration_of
from analysis.records import algorithm_of, deviations_text, failure_of, is_current, progress_of
from bench.errors import UserError
from bench.record import state_of, write_atomically
from bench.schema import cell_of, data_of, hash_of

CURRENT = ("done", "running", "interrupted", "failed")
"""States of runs whose steps are measured; `stale`, `superseded` and `damaged` runs are listed only."""
EXPERIMENT = ["study", "scenario", "deviations", "batch_size", "algorithm"]
KEYS = ["run_id", "state", *EXPERIMENT, "seed"]
REQUIRED = {
    "runs": {**dict.fromkeys(["run_id", "state", "study", "scenario", "deviations", "algorithm"], "object")},
    "steps": {
        **dict.fromkeys(["run_id", "state", "study", "scenario", "deviations", "algorithm"], "object"),
        **dict.fromkeys(["batch_size", "seed", "step", "n_train", "final", "labels_bought"], "int64"),
    },
    "calibration": {"run_id": "object", "uncertainty": "object", "target": "object", "predicted": "float64"},
    "plan": {"scenario": "object", "state": "object", "steps": "int64"},
}


@dataclass(frozen=True)
class Tables:
    """Everything that figures, tables and the report are made from."""

    runs: pd.DataFrame
    steps: pd.DataFrame
    calibration: pd.DataFrame
    plan: pd.DataFrame

    def save(self, folder: Path) -> list[Path]:
        """Write each as Parquet, which pandas.read_parquet reads."""
        paths = []
        for field in fields(self):
            paths.append(folder / f"{field.name}.parquet")
            write_atomically(paths[-1], getattr(self, field.name).to_parquet(index=False, compression="zstd"))
        return paths

    @classmethod
    def load(cls, folder: Path) -> "Tables":
        """Read what `save` wrote. Raises UserError if a file or a column is missing or of another type."""
        return cls(**{field.name: _checked(folder / f"{field.name}.parquet") for field in fields(cls)})


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
    for column, kind in REQUIRED[name].items():
        if len(table) and column not in table:
            raise UserError(f"the table of {name} has no column {column!r}: build it again from the records")
        if len(table) and kind != "object" and str(table[column].dtype) != kind:
            raise UserError(f"column {column!r} of the table of {name} is {table[column].dtype}, not {kind}")


class Collector:
    """Takes records one by one and keeps only what the tables hold, so that thousands fit in memory."""

    def __init__(self) -> None:
        self._runs: list[dict[str, Any]] = []
        self._steps: dict[str, list[dict[str, Any]]] = {}
        self.slim: list[dict[str, Any]] = []
        """The records without picks and metrics: what `analysis.plan` needs."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in a record, or the description of a damaged one."""
        if "damaged" in record:
            self._runs.append({"run_id": record["run_id"], "state": "damaged", "failure": record["damaged"]})
            return
        run = run_row(record)
        self._runs.append(run)
        self._steps[record["run_id"]] = [step_row(record, run, step) for step in range(len(record["steps"]))]
        kept = ("n_train", "best_epochs")
        steps = [{k: v for k, v in s.items() if k in kept or k.startswith("seconds_")} for s in record["steps"]]
        self.slim.append({**record, "steps": steps, "sessions": []})

    def tables(self, results: Path, plan: pd.DataFrame, checksums: Mapping[str, str | None]) -> Tables:
        """Label every run with its state and build the tables. Raises UserError if there is no finished step."""
        states = label(self.slim, checksums)
        runs = pd.DataFrame([row | {"state": states.get(row["run_id"], row["state"])} for row in self._runs])
        # a whole curve of random selection counts before its last point alone
        finished = runs[runs["state"] == "done"].sort_values("steps")
        shorter = finished.index[finished.duplicated([*EXPERIMENT, "seed"], keep="last")]
        runs.loc[shorter, "state"] = "superseded"
        states |= dict.fromkeys(runs.loc[shorter, "run_id"], "superseded")
        steps = [row | {"state": states[r]} for r, rows in self._steps.items() if states[r] in CURRENT for row in rows]
        if not steps:
            found = ", ".join(f"{n} {state}" for state, n in runs["state"].value_counts().items()) or "nothing"
            raise UserError(
                f"no finished step of this version of code and data below {results / 'runs'} ({found}): run something"
                " first, e.g. make run"
            )
        table = pd.DataFrame(steps).sort_values([*EXPERIMENT, "seed", "n_train"], ignore_index=True)
        runs = runs.sort_values("run_id", ignore_index=True)
        check_columns(table, "steps")
        plan = plan if len(plan) else pd.DataFrame(columns=list(REQUIRED["plan"]))
        done = runs[runs["state"] == "done"]
        return Tables(runs, table, calibration_of(done, results), plan)


def label(records: Iterable[Mapping[str, Any]], checksums: Mapping[str, str | None]) -> dict[str, str]:
    """The state of every run: that of its record, `stale`, or `superseded` by another run of the same cell."""
    states: dict[str, str] = {}
    cells: dict[str, Mapping[str, Any]] = {}
    for record in records:
        run_id = record["run_id"]
        if not is_current(record, checksums.get(data_of(record["identity"]))):
            states[run_id] = "stale"
            continue
        states[run_id] = state_of(record)
        cell = cell_of(record["identity"])
        other = cells.setdefault(cell, record)
        if other is not record:
            better, worse = (record, other) if progress_of(record) > progress_of(other) else (other, record)
            cells[cell], states[worse["run_id"]] = better, "superseded"
    return states


def run_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is and where it was computed."""
    identity, session = record["identity"], (record.get("sessions") or [{}])[-1]
    scenario, deviations = identity["scenario"], departures(record)
    altered = f"{scenario['name']}_altered_{hash_of({'deviations': deviations_text(deviations)})[:6]}"
    versions = session.get("versions", {})
    return {
        "run_id": record["run_id"],
        "state": "",
        "study": altered if deviations else scenario["name"],
        "scenario": scenario["name"],
        "deviations": deviations_text(deviations),
        "batch_size": identity["batch_size"],
        "algorithm": algorithm_of(identity),
        "seed": identity["seed"],
        "steps": len(record["steps"]),
        "initial": scenario["initial"],
        "final": scenario["final"],
        "validation": scenario["validation"],
        "dataset": identity["dataset"]["name"],
        "checksum": identity["dataset"].get("checksum"),
        "numerics_version": identity.get("numerics_version"),
        "sessions": len(record.get("sessions", [])),
        **{key: session.get(key) for key in ("started", "host", "cpu", "device", "cores", "threads")},
        **{key: session.get(key) for key in ("git_commit", "git_dirty", "python")},
        "versions": ", ".join(f"{name} {versions[name]}" for name in sorted(versions)),
        "failure": failure_of(record) if record["status"] == "failed" else "",
        "not_finite": sum(
            not math.isfinite(v) for s in record["steps"] for v in s["metrics"].values() if v is not None
        ),
    }


def departures(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The deviations that set a run apart from its scenario's others.

    The last point of random selection's curve is one training on structures drawn at random: a run of it with
    scenario.initial = scenario.final counts as the scenario's, whatever pool that leaves.
    """
    identity, deviations = record["identity"], record["deviations"]
    scenario = identity["scenario"]
    at_once = "scenario.initial" in deviations and scenario["initial"] == scenario["final"]
    if identity["kernel"]["name"] != "RND" or not at_once or "scenario.final" in deviations:
        return deviations
    return {key: value for key, value in deviations.items() if key not in ("scenario.initial", "scenario.pool")}


def step_row(record: Mapping[str, Any], run: Mapping[str, Any], step: int) -> dict[str, Any]:
    """One step: errors, correlations of the run's own uncertainty and of others, seconds, memory, labels bought.

    Labels bought are those of the training and validation sets, and of the whole pool where it was read. A value that
    is not finite becomes NaN.
    """
    row = record["steps"][step]
    own = record["identity"]["kernel"]["name"]
    correlations = {
        f"{coefficient}_{target}_{'own' if kernel == own else kernel}": value
        for kernel, targets in row.get("correlations", {}).items()
        for target, coefficients in targets.items()
        for coefficient, value in coefficients.items()
    }
    # a run's own GP(LL) is both: its own uncertainty and the GP(LL) that every run has in its last step
    shared = {key.replace("_own", f"_{own}"): value for key, value in correlations.items() if key.endswith("_own")}
    read = max(s.get("pool_labels_read", 0) for s in record["steps"][: step + 1])
    trained = run["initial"] if read else row["n_train"]
    numbers = row["metrics"] | correlations | (shared if step == len(record["steps"]) - 1 else {})
    numbers |= {key: value for key, value in row.items() if key.startswith(("seconds_", "peak_"))}
    return {
        **{key: run[key] for key in KEYS},
        "final": run["final"],
        "step": step,
        "n_train": row["n_train"],
        "labels_bought": trained + run["validation"] + read,
        **{key: _finite(value) for key, value in numbers.items()},
    }


def _finite(value: float | None) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.nan
