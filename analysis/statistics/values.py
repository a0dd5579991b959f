"""Errors per run and their mean and standard error over seeds.

A run counts once, in the long table of `per_run`: a row per run, statistic (final, curve average with and without the
first step), quantity and measure. Only finished runs have these; unfinished ones appear in learning curves, and where
the paper quotes a point of a curve.
"""

import numpy as np
import pandas as pd
from scipy import stats

from analysis.records.collect import EXPERIMENT, RUN
from analysis.statistics.rules import LEVEL
from bench.runs.record_schema import MEASURES, QUANTITIES

STATISTICS = {"final": "last step", "curve": "curve average", "curve_grown": "curve average without the first step"}
NUMBER = ["statistic", "quantity", "measure"]
BASELINE = "MaxDiag + RND"
"""What the paper compares with."""


def against(table: pd.DataFrame) -> pd.Series:
    """Whether a row is of what its study is compared with: the paper's random selection, or another baseline."""
    marked = table[table["baseline"]].groupby("study")["algorithm"].unique()
    chosen = {study: BASELINE if BASELINE in names else min(names) for study, names in marked.items()}
    return table["algorithm"] == table["study"].map(chosen)


def column(quantity: str, measure: str) -> str:
    """The table's column of an error measure."""
    return f"{quantity}_{measure}_{QUANTITIES[quantity]}"


def measured(table: pd.DataFrame) -> list[str]:
    """The quantities that a table holds, forces first."""
    return [q for q in QUANTITIES if column(q, "mae") in table and table[column(q, "mae")].notna().any()]


def over_seeds(table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Mean, standard error of the mean (NaN for one seed) and seeds, per experiment and training set size.

    `fewer` marks sizes that not all seeds of the experiment have reached, so that no jump is read as learning.
    """
    keys = [*EXPERIMENT, "n_train"]
    columns = {column(quantity, m): m for m in MEASURES}
    grouped = table.groupby(keys, sort=True)[list(columns)]
    mean, sem = grouped.mean().rename(columns=columns), grouped.sem().rename(columns=columns)
    joined = mean.join(sem.add_suffix("_sem"))
    joined["seeds"] = grouped.count().min(axis=1)
    joined = joined.reset_index()
    joined["fewer"] = joined["seeds"] < joined.groupby(EXPERIMENT)["seeds"].transform("max")
    return joined


def per_run(steps: pd.DataFrame) -> pd.DataFrame:
    """The final error and the arithmetic means over the learning curve of every finished run, as a long table.

    A run with a value that is not finite has no curve average, and no final error if it is the last; a single training
    has no curve. `initial` is the training set size that a run begins with.
    """
    done = steps[steps["state"] == "done"]
    columns = [column(q, m) for q in measured(done) for m in MEASURES]
    longer = done[done.groupby(RUN)["step"].transform("max") > 0]
    parts = []
    for statistic in STATISTICS:
        if statistic == "final":
            values = done[done["n_train"] == done["final"]].set_index(RUN)[columns]
        else:
            part = longer if statistic == "curve" else longer[longer["step"] > 0]
            grouped = part.groupby(RUN)[columns]
            values = grouped.mean().where(grouped.count().eq(grouped.size(), axis=0))
        parts.append(values.reset_index().melt(id_vars=RUN, var_name="name").assign(statistic=statistic))
    table = pd.concat(parts, ignore_index=True).dropna(subset="value")
    names = {column(q, m): (q, m) for q in QUANTITIES for m in MEASURES}
    table["quantity"] = table["name"].map(lambda name: names[name][0])
    table["measure"] = table["name"].map(lambda name: names[name][1])
    return _with_initial(table.drop(columns="name"), steps)


def _with_initial(table: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    return table.assign(initial=table["run_id"].map(steps.groupby("run_id")["n_train"].min()))


def summarise(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mean, standard error over seeds, their number and the runs behind each number of a long table."""
    grouped = table.groupby(keys, sort=True)
    summary = grouped["value"].agg(mean="mean", sem="sem", seeds="count")
    summary["runs"] = grouped["run_id"].agg(" ".join)
    return summary.reset_index()


def run_values(steps: pd.DataFrame) -> pd.DataFrame:
    """The long table of `per_run` with three statistics more: `pcc`, `seconds` and `processor`.

    `pcc`: correlation of a run's own uncertainty with its error in the last step; `measure` is the coefficient.
    `seconds`: mean over the steps that select, no quantity; `measure` is training (all members), features (with the
    posterior), selection, and features and selection. `processor`: the same of features and selection on processors.
    """
    errors, last = per_run(steps), last_correlations(steps)
    own = last[last["uncertainty"] == "own"]
    pcc = own.drop(columns=["uncertainty"]).rename(columns={"coefficient": "measure"}).assign(statistic="pcc")
    known = set(errors["run_id"])
    times = []
    for statistic, found in (("seconds", seconds_per_step(steps)), ("processor", processor_seconds(steps))):
        both = found[found["name"].isin(["features", "selection"])].groupby(RUN, as_index=False)["value"].sum()
        spent = pd.concat([found, both.assign(name="features and selection")], ignore_index=True)
        spent = spent.rename(columns={"name": "measure"}).assign(statistic=statistic, quantity="")
        times.append(spent[spent["run_id"].isin(known)])
    return _with_initial(pd.concat([errors, pcc, *times], ignore_index=True), steps)


def last_correlations(steps: pd.DataFrame) -> pd.DataFrame:
    """Correlations in the last step of finished runs, long: coefficient, quantity of the error, uncertainty."""
    done = steps[(steps["state"] == "done") & (steps["n_train"] == steps["final"])]
    pattern = r"(?P<coefficient>pearson|spearman)_(?P<quantity>energy|force)_(?!of_mean_)(?P<uncertainty>.+)"
    names = done.columns.to_series().str.extract(f"^{pattern}$").dropna()
    table = done.melt(id_vars=RUN, value_vars=list(names.index), var_name="name").dropna(subset="value")
    return table.join(names, on="name").drop(columns="name")


def seconds_per_step(steps: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds of the selecting steps of every run by `name`: training, features, selection; long table."""
    parts = {"seconds_training": "training", "seconds_features": "features", "seconds_selection": "selection"}
    # the last step selects nothing, and its features serve the correlations only
    choosing = steps[steps["n_train"] < steps["final"]].rename(columns=parts)
    present = [name for name in parts.values() if name in choosing]
    means = choosing.groupby(RUN)[present].mean()
    return means.reset_index().melt(id_vars=RUN, var_name="name").dropna(subset="value")


WAITING = 1.25
"""A step that took so much longer on the wall than on processors waited for others."""


def processor_seconds(steps: pd.DataFrame) -> pd.DataFrame:
    """As `seconds_per_step`, of processors, for features and selection; steps that waited for others are left out."""
    parts = {f"processor_seconds_{part}": part for part in ("features", "selection")}
    if not set(parts) <= set(steps):
        return seconds_per_step(steps.head(0))
    choosing = steps[steps["n_train"] < steps["final"]].dropna(subset=list(parts))
    wall = choosing[[f"seconds_{part}" for part in parts.values()]].sum(axis=1)
    alone = choosing[wall <= WAITING * choosing[list(parts)].sum(axis=1) + 0.05]
    means = alone.rename(columns=parts).groupby(RUN)[list(parts.values())].mean()
    return means.reset_index().melt(id_vars=RUN, var_name="name").dropna(subset="value")


def t_interval(mean: pd.Series, sem: pd.Series, count: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 95 % confidence interval of a mean and the two-sided p of its being zero; NaN for a single value.

    Where there is no spread they are the limit of ever smaller spread: no width, and p is 0, or 1 for a mean of zero.
    """
    freedom = np.maximum(count.to_numpy() - 1, 1)
    middle, spread = mean.to_numpy(dtype=float), sem.to_numpy(dtype=float)
    half = stats.t.ppf(1 - LEVEL / 2, freedom) * spread
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where((middle == 0) & (spread == 0), 0.0, np.abs(middle / spread))
    return middle - half, middle + half, 2 * stats.t.sf(distance, freedom)
