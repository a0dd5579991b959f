"""Mean and standard error over seeds."""

import pandas as pd

QUANTITIES = {"force": "kcal_mol_A", "energy": "kcal_mol"}
MEASURES = ("mae", "rmse", "maxe")


def column(quantity: str, measure: str) -> str:
    """The table's column of an error measure."""
    return f"{quantity}_{measure}_{QUANTITIES[quantity]}"


def measured(table: pd.DataFrame) -> list[str]:
    """The quantities that a table holds, forces first."""
    return [q for q in QUANTITIES if column(q, "mae") in table and table[column(q, "mae")].notna().any()]


def over_seeds(table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Mean and standard error of the mean (NaN for a single seed) per algorithm, batch size and training set size."""
    keys = ["scenario", "deviations", "batch_size", "algorithm", "n_train"]
    columns = {column(quantity, m): m for m in MEASURES}
    grouped = table.groupby(keys)[list(columns)]
    mean, sem = grouped.mean().rename(columns=columns), grouped.sem().rename(columns=columns)
    joined = mean.join(sem.add_suffix("_sem"))
    joined["seeds"] = table.groupby(keys)["seed"].nunique()
    return joined.reset_index()
