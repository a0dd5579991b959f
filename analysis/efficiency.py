"""How many labels, and what cost, an algorithm needs to reach random selection's final error."""

import numpy as np
import pandas as pd

from analysis.collect import EXPERIMENT
from analysis.stats import MEASURES, against, column, measured

LABEL_SECONDS = 300.0
"""Price of a label: five minutes of computing ("a few minutes" for density functional theory: the paper, Section 5)."""
SPENT = ("seconds_training", "seconds_features", "seconds_selection")


def efficiency(steps: pd.DataFrame, label_seconds: float = LABEL_SECONDS) -> pd.DataFrame:
    """Labels and hours until the error of random selection's last step (its mean over seeds) is reached.

    Per run the first crossing of its curve, interpolated between steps on log scales. An unfinished run that has
    crossed the target counts, too: later steps do not change that; while one has not, its algorithm has no row.
    `reached` of `seeds` runs reached it; the means are over these, and NaN where one did not: it needs more than the
    scenario has. `saving` is N_train of random selection's last step over N_train at the crossing. `labels_bought`
    counts validation labels, and the pool's where a kernel reads them; `hours` are those of the computation and of the
    labels bought.
    """
    rows = []
    for _, part in steps.groupby(["study", "batch_size"], sort=True):
        base = part[against(part) & (part["n_train"] == part["final"]) & (part["state"] == "done")]
        columns = {(q, m): column(q, m) for q in measured(part) for m in MEASURES}
        targets = {key: base[name].mean() for key, name in columns.items() if base[name].notna().any()}
        for names, curve in part.groupby([*EXPERIMENT, "seed", "run_id"], sort=True):
            sizes, labels = (curve[name].to_numpy(dtype=float) for name in ("n_train", "labels_bought"))
            seconds = curve[[c for c in SPENT if c in curve]].to_numpy(dtype=float)
            spent = np.nansum(seconds, axis=1).cumsum() / 3600
            for (quantity, measure), target in targets.items():
                errors = curve[columns[quantity, measure]].to_numpy(dtype=float)
                n_train, bought, hours = _crossing(sizes, errors, labels, spent, target)
                row = {"quantity": quantity, "measure": measure, "target": target, "final": curve["final"].iloc[0]}
                row["open"] = np.isnan(n_train) and curve["state"].iloc[0] != "done"
                row |= {"n_train": n_train, "labels_bought": bought, "compute_hours": hours}
                row["hours"] = hours + bought * label_seconds / 3600
                rows.append(dict(zip(EXPERIMENT, names, strict=False)) | row)
    numbers = ["n_train", "labels_bought", "compute_hours", "hours"]
    if not rows:
        return pd.DataFrame(
            columns=[*EXPERIMENT, "quantity", "measure", "target", "seeds", "reached", "saving", *numbers]
        )
    grouped = pd.DataFrame(rows).groupby([*EXPERIMENT, "quantity", "measure"], sort=True)
    table = grouped.agg(target=("target", "first"), seeds=("n_train", "size"), reached=("n_train", "count"))
    table = table[~grouped["open"].any()]
    all_reached = table["seeds"] == table["reached"]
    table["saving"] = (grouped["final"].first() / grouped["n_train"].mean()).where(all_reached)
    for name in numbers:
        table[name] = grouped[name].mean().where(all_reached)
        table[f"{name}_sem"] = grouped[name].sem().where(all_reached)
    return table.reset_index()


def _crossing(
    sizes: np.ndarray, errors: np.ndarray, labels: np.ndarray, spent: np.ndarray, target: float
) -> tuple[float, float, float]:
    """N_train, labels and hours where one run's curve first falls to the target; NaN if it never does."""
    below = np.flatnonzero(errors <= target)
    if not len(below):
        return (np.nan, np.nan, np.nan)
    step = int(below[0])
    previous = max(step - 1, 0)
    part = 1.0
    if step and np.isfinite(errors[previous]) and errors[step] > 0:
        part = float(np.log(errors[previous] / target) / np.log(errors[previous] / errors[step]))
    n_train = float(sizes[previous] * (sizes[step] / sizes[previous]) ** part)
    bought = float(np.interp(n_train, sizes[[previous, step]], labels[[previous, step]]))
    return n_train, bought, float(spent[step])
