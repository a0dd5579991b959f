"""How many labels, and what cost, an algorithm needs to reach random selection's final error."""

import numpy as np
import pandas as pd

from analysis.collect import EXPERIMENT
from analysis.stats import BASELINE, MEASURES, column, measured

LABEL_SECONDS = 300.0
"""Price of a label: five minutes of computing ("a few minutes" for density functional theory: the paper, Section 5)."""
SPENT = ("seconds_training", "seconds_features", "seconds_selection")


def efficiency(steps: pd.DataFrame, label_seconds: float = LABEL_SECONDS) -> pd.DataFrame:
    """Labels and hours until the error of random selection's last step (its mean over seeds) is reached.

    Per finished run the first crossing of its curve, interpolated between steps on log scales. `reached` of `seeds` runs
    reached it; the means are over these, and NaN where one did not: it needs more than the scenario has. `saving` is
    N_train of random selection's last step over N_train at the crossing. `labels_bought` counts validation labels, and
    the pool's where a kernel reads them; `hours` are those of the computation and of the labels bought.
    """
    done = steps[steps["state"] == "done"]
    rows = []
    for _, part in done.groupby(["study", "batch_size"], sort=True):
        base = part[(part["algorithm"] == BASELINE) & (part["n_train"] == part["final"])]
        for quantity in measured(part):
            for measure in MEASURES:
                target = base[column(quantity, measure)].mean()
                if np.isnan(target):
                    continue
                for names, curve in part.groupby([*EXPERIMENT, "seed", "run_id"], sort=True):
                    found = _crossing(curve, column(quantity, measure), target, label_seconds)
                    experiment = dict(zip(EXPERIMENT, names, strict=False))
                    rows.append(experiment | {"quantity": quantity, "measure": measure} | found)
    numbers = ["n_train", "labels_bought", "compute_hours", "hours"]
    if not rows:
        return pd.DataFrame(
            columns=[*EXPERIMENT, "quantity", "measure", "target", "seeds", "reached", "saving", *numbers]
        )
    grouped = pd.DataFrame(rows).groupby([*EXPERIMENT, "quantity", "measure"], sort=True)
    table = grouped.agg(target=("target", "first"), seeds=("n_train", "size"), reached=("n_train", "count"))
    all_reached = table["seeds"] == table["reached"]
    table["saving"] = (grouped["final"].first() / grouped["n_train"].mean()).where(all_reached)
    for name in numbers:
        table[name] = grouped[name].mean().where(all_reached)
        table[f"{name}_sem"] = grouped[name].sem().where(all_reached)
    return table.reset_index()


def _crossing(curve: pd.DataFrame, name: str, target: float, label_seconds: float) -> dict[str, float]:
    """The place where one run's curve first falls to the target; NaN if it never does."""
    sizes, errors = curve["n_train"].to_numpy(dtype=float), curve[name].to_numpy(dtype=float)
    below = np.flatnonzero(errors <= target)
    missing = {"n_train": np.nan, "labels_bought": np.nan, "compute_hours": np.nan, "hours": np.nan}
    found = {"target": target, "final": float(curve["final"].iloc[0])}
    if not len(below):
        return found | missing
    step = int(below[0])
    part = 1.0
    if step and np.isfinite(errors[step - 1]) and errors[step] > 0:
        part = float(np.log(errors[step - 1] / target) / np.log(errors[step - 1] / errors[step]))
    before = sizes[step - 1] if step else sizes[0]
    n_train = float(np.exp(np.log(before) + part * np.log(sizes[step] / before)))
    labels = curve["labels_bought"].to_numpy(dtype=float)
    labels = curve["labels_bought"].to_numpy(dtype=float)
    bought = float(np.interp(n_train, [before, sizes[step]], [labels[max(step - 1, 0)], labels[step]]))
    spent = np.nancumsum(curve[[c for c in SPENT if c in curve]].to_numpy(dtype=float).sum(1))[step] / 3600
    hours = spent + bought * label_seconds / 3600
    return found | {"n_train": n_train, "labels_bought": bought, "compute_hours": spent, "hours": hours}
