"""The paper's numbers beside ours: the ratio, the range of our seeds, and whether five more runs might give them."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.records.found import split_deviations
from analysis.statistics.rules import LEVEL
from analysis.statistics.values import BASELINE, column, summarise

REFERENCE = Path(__file__).with_name("reference")
CASE = ["scenario", "batch_size", "quantity", "algorithm", "statistic", "n_train", "measure"]
RUN_CASE = [key for key in CASE if key != "n_train"]


def paper_numbers() -> pd.DataFrame:
    """The numbers that the paper quotes, with their places."""
    return pd.read_csv(REFERENCE / "numbers.csv", dtype={"batch_size": int, "place": str}, keep_default_na=True)


def overlay(numbers: pd.DataFrame, scenario: str, batch_size: int, quantity: str) -> pd.DataFrame:
    """Those that are points of a learning curve."""
    curve = numbers["statistic"].isin(["final", "at"]) & (numbers["scenario"] == scenario)
    return numbers[curve & (numbers["batch_size"] == batch_size) & (numbers["quantity"] == quantity)]


SIZES = {"scenario.pool", "scenario.validation", "scenario.test"}
PAPER_SEEDS = 5
"""Runs behind each of the paper's numbers; with fewer of ours nothing is said of their spread."""
INFERRED = dict.fromkeys(("md17_10_100", "tio2_10_250"), "minibatch 10, inferred")
"""What scenarios take from the paper's numbers on aspirin and not from its words, which say 32."""


def remark(scenario: str, deviations: str) -> str:
    """What must stand beside every number of a scenario; nothing where the setting is another."""
    return "" if "training.minibatch=" in deviations else INFERRED.get(scenario, "")


def is_reduced(deviations: str) -> bool:
    """Whether runs depart from their scenario in the sizes of pool, validation and test set, and in nothing else."""
    return bool(deviations) and {one.split("=")[0] for one in split_deviations(deviations)} <= SIZES


def against_paper(steps: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """A row for every number of the paper (two for curve averages: with and without the first step).

    The paper gives no standard errors, so nothing is tested against it. `lowest` and `highest` are the range of our
    seeds, `covered` whether the paper's number lies in it. `low` and `high` are the limits between which the mean of
    five more runs lies in 95 % of cases if logarithms of errors (coefficients themselves) are normal and the paper's
    runs drawn as ours; `within`: whether the paper's does. That needs five seeds. Neither is told of times, which were
    taken on other machines, nor of a maximum over a test set of another size, which has no `ratio` either. Runs of the
    full scenario count, unfinished ones at the points that they have reached; of a scenario on a reduced pool random
    selection alone, in rows that name the `deviations`.
    """
    ours = [_curve_points(steps), _summary(values, [*RUN_CASE, "deviations"]).assign(n_train=np.nan)]
    found = pd.concat([part for part in ours if len(part)] or ours, ignore_index=True)
    wanted = paper_numbers().rename(columns={"value": "paper"}).reset_index(names="row")
    wanted["quantity"] = wanted["quantity"].fillna("")
    grown = wanted[wanted["statistic"] == "curve"].assign(statistic="curve_grown")
    wanted = pd.concat([wanted, grown], ignore_index=True)
    tables = [_beside(wanted, found[found["deviations"] == ""], "left")]
    random = found[(found["algorithm"] == BASELINE) & (found["statistic"] != "seconds")]
    for _, part in random[random["deviations"].map(is_reduced).astype(bool)].groupby("deviations"):
        tables.append(_beside(wanted, part, "inner"))
    table = pd.concat(tables, ignore_index=True).drop(columns="row")
    table["deviations"] = table["deviations"].fillna("")
    comparable = (table["measure"] != "maxe") | ~table["deviations"].str.contains("scenario.test=", regex=False)
    table["ratio"] = (table["mean"] / table["paper"]).where(comparable)
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    usable = comparable & (table["statistic"] != "seconds")
    inside = table["paper"].between(table["lowest"], table["highest"])
    table["covered"] = np.where(usable & (table["seeds"] > 1), np.where(inside, "yes", "no"), "")
    enough = usable & (table["seeds"] >= PAPER_SEEDS)
    half = stats.t.ppf(1 - LEVEL / 2, (table["seeds"] - 1).clip(lower=1))
    half = half * table["spread"] * np.sqrt(1 / table["seeds"].clip(lower=1) + 1 / PAPER_SEEDS)
    plain = table["statistic"] == "pcc"
    for name, sign in (("low", -1), ("high", 1)):
        limit = np.where(plain, table["mean"] + sign * half, table["mean"] * np.exp(sign * half))
        table[name] = np.where(enough, limit, np.nan)
    inside = table["paper"].between(table["low"], table["high"])
    few = np.where(usable & (table["seeds"] > 0), "too few seeds", "")
    table["within"] = np.where(enough, np.where(inside, "yes", "no"), few)
    table["remark"] = [remark(*pair) for pair in zip(table["scenario"], table["deviations"], strict=True)]
    table["runs"] = table["runs"].fillna("")
    return table.drop(columns="spread")


def _summary(values: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """`summarise`, with the range over seeds and the spread: of logarithms, or of coefficients themselves."""
    table = summarise(values, keys)
    plain = values["statistic"] == "pcc"
    scaled = values["value"].where(plain, np.log(values["value"].where(~plain & (values["value"] > 0))))
    grouped = values.assign(scaled=scaled).groupby(keys, sort=True)
    more = grouped.agg(lowest=("value", "min"), highest=("value", "max"), spread=("scaled", "std"))
    return table.merge(more.reset_index(), on=keys)


def _beside(wanted: pd.DataFrame, found: pd.DataFrame, how: Literal["left", "inner"]) -> pd.DataFrame:
    """The paper's numbers with ours in the same rows."""
    at = wanted["statistic"] == "at"
    curve = wanted[at].merge(found.dropna(subset="n_train"), on=CASE, how=how)
    of_runs = found[found["n_train"].isna()].drop(columns="n_train")
    others = wanted[~at].merge(of_runs, on=RUN_CASE, how=how)
    return pd.concat([others, curve], ignore_index=True).sort_values(["row", "statistic"], ignore_index=True)


def _curve_points(steps: pd.DataFrame) -> pd.DataFrame:
    at = paper_numbers().query("statistic == 'at'")
    parts = []
    for row in at.drop_duplicates(CASE).itertuples():
        name = column(row.quantity, row.measure)
        chosen = steps["n_train"].eq(row.n_train) & steps["scenario"].eq(row.scenario)
        chosen &= steps["algorithm"].eq(row.algorithm) & steps["batch_size"].eq(row.batch_size)
        if chosen.any() and name in steps:
            values = steps[chosen].assign(value=steps[name], quantity=row.quantity, measure=row.measure, statistic="at")
            parts.append(_summary(values.dropna(subset="value"), [*CASE, "deviations"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
