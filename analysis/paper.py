"""The paper's numbers beside ours: difference and distance in standard errors."""

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.stats import BASELINE, column, summarise

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
FEWEST_SEEDS = 3


def split_deviations(text: str) -> list[str]:
    """The single `key=value` of `analysis.records.deviations_text`."""
    return re.split(r", (?=[\w.]+=)", text) if text else []


def is_reduced(deviations: str) -> bool:
    """Whether runs depart from their scenario in the sizes of pool, validation and test set, and in nothing else."""
    return bool(deviations) and {one.split("=")[0] for one in split_deviations(deviations)} <= SIZES


def against_paper(steps: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """A row for every number of the paper (two for curve averages: with and without the first step).

    `z` is the difference in its standard errors, the paper's taken to be ours: (ours − paper)/(√2 SEM over seeds); `p`
    is that of Student's t with seeds − 1 degrees of freedom; both from three seeds on, and not for a maximum over a
    test set of another size. Times were taken on other machines: their ratio says more than their difference. Runs of
    the full scenario count, unfinished ones at the points that they have reached; of a scenario on a reduced pool
    random selection alone, in rows that name the `deviations`.
    """
    ours = [_curve_points(steps), summarise(values, [*RUN_CASE, "deviations"]).assign(n_train=np.nan)]
    found = pd.concat([part for part in ours if len(part)], ignore_index=True)
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
    table["difference"] = table["mean"] - table["paper"]
    table["ratio"] = table["mean"] / table["paper"]
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    usable = (table["sem"] > 0) & (table["seeds"] >= FEWEST_SEEDS) & (table["statistic"] != "seconds")
    usable &= (table["measure"] != "maxe") | ~table["deviations"].str.contains("scenario.test=", regex=False)
    table["z"] = table["difference"] / (np.sqrt(2) * table["sem"].where(usable))
    table["p"] = 2 * stats.t.sf(table["z"].abs().to_numpy(dtype=float), (table["seeds"] - 1).clip(lower=1))
    table["runs"] = table["runs"].fillna("")
    return table


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
            parts.append(summarise(values.dropna(subset="value"), [*CASE, "deviations"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
