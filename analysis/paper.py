"""The paper's numbers beside ours: difference and distance in standard errors."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.stats import column, summarise

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


def against_paper(steps: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """A row for every number of the paper (two for curve averages: with and without the first step).

    `z` is (ours − paper) / our standard error over seeds; the paper quotes no errors of its own means. Times were taken
    on other machines: their ratio says more than their difference. Only runs of the full scenario count.
    """
    ours = [_curve_points(steps), summarise(values, [*RUN_CASE, "deviations"]).assign(n_train=np.nan)]
    found = pd.concat([part for part in ours if len(part)], ignore_index=True)
    found = found[found["deviations"] == ""].drop(columns="deviations")
    wanted = paper_numbers().rename(columns={"value": "paper"}).reset_index(names="row")
    wanted["quantity"] = wanted["quantity"].fillna("")
    grown = wanted[wanted["statistic"] == "curve"].assign(statistic="curve_grown")
    at = wanted["statistic"] == "at"
    curve = wanted[at].merge(found.dropna(subset="n_train"), on=CASE, how="left")
    of_runs = found[found["n_train"].isna()].drop(columns="n_train")
    others = pd.concat([wanted[~at], grown]).merge(of_runs, on=RUN_CASE, how="left")
    table = pd.concat([others, curve], ignore_index=True).sort_values(["row", "statistic"], ignore_index=True)
    table = table.drop(columns="row")
    table["difference"] = table["mean"] - table["paper"]
    table["ratio"] = table["mean"] / table["paper"]
    z = table["difference"] / table["sem"].where(table["sem"] > 0)
    table["z"] = z.where(table["statistic"] != "seconds")
    table["seeds"] = table["seeds"].fillna(0).astype(int)
    table["runs"] = table["runs"].fillna("")
    return table


def _curve_points(steps: pd.DataFrame) -> pd.DataFrame:
    at = paper_numbers().query("statistic == 'at'")
    parts = []
    for row in at.drop_duplicates(CASE).itertuples():
        name = column(row.quantity, row.measure)
        chosen = steps["n_train"].eq(row.n_train) & steps["state"].eq("done") & steps["scenario"].eq(row.scenario)
        chosen &= steps["algorithm"].eq(row.algorithm) & steps["batch_size"].eq(row.batch_size)
        if chosen.any() and name in steps:
            values = steps[chosen].assign(value=steps[name], quantity=row.quantity, measure=row.measure, statistic="at")
            parts.append(summarise(values.dropna(subset="value"), [*CASE, "deviations"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
