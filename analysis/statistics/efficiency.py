"""How many labels, and what cost, an algorithm needs to reach an error: per seed, at several levels.

Levels are the errors that random selection of the same seed has at its end, at a half and at a quarter of it. A curve
goes up and down, so that its first crossing is early; here a curve is the monotone one that lies nearest (logarithms).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.optimize import isotonic_regression

from analysis.records.collect import EXPERIMENT
from analysis.statistics.rules import FEWEST_SEEDS, critical
from analysis.statistics.values import MEASURES, against, column, measured

LABEL_SECONDS = 300.0
"""Price of a label: five minutes of computing ("a few minutes" for density functional theory: the paper, Section 5)."""
SPENT = ("seconds_training", "seconds_features", "seconds_selection")
LEVELS = {"end": 1.0, "half": 0.5, "quarter": 0.25}
"""Fractions of random selection's last training set."""
ROUNDING = 1e-9
"""Of a logarithm: what a curve says of its own points is reached there."""
COLUMNS = [*EXPERIMENT, "seed", "quantity", "measure", "level", "target", "n_train", "labels_bought", "compute_hours"]


@dataclass(frozen=True)
class Curve:
    """The monotone curve of one run: sizes, and logarithms of errors that never rise; `done` if it goes to its end."""

    sizes: Float[np.ndarray, " steps"]
    logs: Float[np.ndarray, " steps"]
    done: bool

    @classmethod
    def of(
        cls, sizes: Float[np.ndarray, " steps"], errors: Float[np.ndarray, " steps"], *, done: bool
    ) -> "Curve | None":
        """The curve of a run; steps whose error is not finite and positive are left out, None if all are.

        Without the last of them it goes to no end.
        """
        used = np.isfinite(errors) & (errors > 0)
        if not used.any():
            return None
        return cls(sizes[used], isotonic_regression(np.log(errors[used]), increasing=False).x, done and bool(used[-1]))

    def at(self, size: float) -> float:
        """The error at a training set size within the curve."""
        return float(np.exp(np.interp(np.log(size), np.log(self.sizes), self.logs)))

    def reaches(self, error: float) -> float:
        """N_train where the curve has fallen to an error; infinite if a finished run never does, NaN if it may yet."""
        below = np.flatnonzero(self.logs <= np.log(error) + ROUNDING)
        if not len(below):
            return np.inf if self.done else np.nan
        step = int(below[0])
        if not step:
            return float(self.sizes[0])
        before, after = self.logs[step - 1], self.logs[step]
        part = min((before - np.log(error)) / (before - after), 1.0)
        return round(float(self.sizes[step - 1] * (self.sizes[step] / self.sizes[step - 1]) ** part), 9)


def targets(random: Curve) -> dict[str, float]:
    """The error levels of a seed that its random selection's finished curve gives; of a single point the end alone."""
    last = random.sizes[-1]
    inside = {name: part * last for name, part in LEVELS.items() if part * last >= random.sizes[0]}
    return {name: random.at(size) for name, size in inside.items()} if random.done else {}


def crossings(steps: pd.DataFrame, label_seconds: float = LABEL_SECONDS) -> pd.DataFrame:
    """A row per run, error measure and level: N_train, labels bought and hours when it is reached.

    `random` is random selection's N_train at that level: NaN where its curve has not been recorded. Labels count those
    of validation, and the pool's where a kernel reads them; `hours` are those of computing and of the labels bought.
    """
    rows: list[dict[str, Any]] = []
    for _, part in steps.groupby(["study", "batch_size"], sort=True):
        columns = {(q, m): column(q, m) for q in measured(part) for m in MEASURES}
        levels: dict[Any, tuple[dict[str, float], Curve]] = {}
        # a seed may have a last point alone, and a curve that is not yet finished beside it
        for (seed, _), run in part[against(part)].groupby(["seed", "run_id"]):
            for key, curve in _curves(run, columns):
                if known := targets(curve):
                    levels[(seed, *key)] = known, curve
        for names, run in part.groupby([*EXPERIMENT, "seed", "run_id"], sort=True):
            described = dict(zip([*EXPERIMENT, "seed", "run_id"], names, strict=True))
            spent = _spent(run, label_seconds)
            for (quantity, measure), curve in _curves(run, columns):
                wanted, random = levels.get((described["seed"], quantity, measure), ({}, None))
                for level, target in wanted.items():
                    row = described | {"quantity": quantity, "measure": measure, "level": level, "target": target}
                    row["random"] = random.reaches(target) if random and len(random.sizes) > 1 else np.nan
                    row["n_train"] = curve.reaches(target)
                    rows.append(row | spent(row["n_train"]))
    return pd.DataFrame(rows, columns=[*COLUMNS, "run_id", "random", "hours"])


def _curves(run: pd.DataFrame, columns: Mapping[tuple[str, str], str]) -> Iterator[tuple[tuple[str, str], Curve]]:
    sizes, done = run["n_train"].to_numpy(dtype=float), bool(run["state"].iloc[0] == "done")
    for key, name in columns.items():
        if curve := Curve.of(sizes, run[name].to_numpy(dtype=float), done=done):
            yield key, curve


def _spent(run: pd.DataFrame, label_seconds: float) -> Callable[[float], dict[str, float]]:
    """Labels bought and hours of a run until a training set size; NaN where it does not get there.

    Hours are NaN, too, where no second of the run is told.
    """
    sizes, bought = (run[name].to_numpy(dtype=float) for name in ("n_train", "labels_bought"))
    seconds = run[[c for c in SPENT if c in run]].to_numpy(dtype=float)
    known = np.isfinite(seconds).any()
    spent = np.nansum(seconds, axis=1).cumsum() / 3600 if known else np.full(len(run), np.nan)

    def until(n_train: float) -> dict[str, float]:
        if not np.isfinite(n_train):
            return dict.fromkeys(("labels_bought", "compute_hours", "hours"), np.nan)
        labels = float(np.interp(n_train, sizes, bought))
        hours = float(spent[min(int(np.searchsorted(sizes, n_train)), len(sizes) - 1)])
        return {"labels_bought": labels, "compute_hours": hours, "hours": hours + labels * label_seconds / 3600}

    return until


def with_cost(steps: pd.DataFrame, label_seconds: float) -> pd.DataFrame:
    """The steps with `hours`: labels bought at their price, and computing of the run until then.

    Runs of which no second is told are left out.
    """
    seconds, runs = steps[[c for c in SPENT if c in steps]], [steps["run_id"], steps["final"]]
    known = seconds.notna().any(axis=1).groupby(runs).transform("any")
    spent = seconds.sum(axis=1).groupby(runs).cumsum()
    return steps.assign(hours=(spent + steps["labels_bought"] * label_seconds) / 3600)[known]


def efficiency(found: pd.DataFrame) -> pd.DataFrame:
    """`crossings` over seeds: means, and savings against random selection with a 90 % interval.

    Unfinished runs that may yet reach a level leave it open: no row. `reached` of `seeds` runs reach it; means are over
    all of them, and NaN where one does not: it needs more than the scenario has. `saving` is the geometric mean of
    random selection's N_train over the algorithm's, NaN until random selection's curve is recorded.
    """
    numbers = ["n_train", "labels_bought", "compute_hours", "hours"]
    keys = [*EXPERIMENT, "quantity", "measure", "level"]
    found = found.astype(dict.fromkeys(("target", "random", *numbers), float))
    finite = found.replace({"n_train": {np.inf: np.nan}})
    logs = np.log(finite["random"].where(np.isfinite(finite["random"])) / finite["n_train"])
    grouped = finite.assign(log=logs, open=found["n_train"].isna()).groupby(keys, sort=False)
    table = grouped.agg(target=("target", "mean"), seeds=("target", "size"), reached=("n_train", "count"))
    whole = table["reached"] == table["seeds"]
    for name in numbers:
        table[name], table[f"{name}_sem"] = grouped[name].mean().where(whole), grouped[name].sem().where(whole)
    saved = grouped["log"].agg(["mean", "sem", "count"]).where(whole)
    mean, known = saved["mean"], saved["count"] == table["seeds"]
    half = table["seeds"].map(lambda n: critical(n) if n >= FEWEST_SEEDS else np.nan) * saved["sem"]
    for name, value in (("saving", mean), ("low", mean - half), ("high", mean + half)):
        table[name] = np.exp(value.where(known).astype(float))
    columns = [*keys, "target", "seeds", "reached", "saving", "low", "high"]
    table = table[~grouped["open"].any()].reset_index()
    return table.reindex(columns=[*columns, *(c for name in numbers for c in (name, f"{name}_sem"))])
