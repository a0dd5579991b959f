"""Evidence from whole learning curves: labels saved, gaps that close, and data sets in the order of two quantities."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.paper.measured import Measured, Part
from analysis.paper.statements import Statement
from analysis.statistics.efficiency import Curve, crossings
from analysis.statistics.rules import FEWEST_SEEDS, in_one_order
from analysis.statistics.values import BASELINE, column

LEVEL_NAMES = {"end": "that random selection of the seed ends with"}


def closes(statement: Statement, measured: Measured) -> Iterable[Part]:
    """The log ratio of two whole curves: mean of the later steps minus mean of the earlier ones (halves in log N)."""
    for measure in statement.measures:
        name = column(statement.quantity, measure)
        curves = [measured.curve(statement, a) for a in (statement.algorithms[0], statement.others[0])]
        label = f"{statement.algorithms[0]} / {statement.others[0]}, {measure.upper()}, later against earlier steps"
        if any(curve.empty or name not in curve for curve in curves):
            yield Part(label)
            continue
        ours, theirs = (curve[(curve["state"] == "done") & (curve["step"] > 0)] for curve in curves)
        both = ours.merge(theirs, on=["seed", "n_train"], suffixes=("", "_other"))
        logs = np.log(both[name] / both[f"{name}_other"])
        middle = np.exp(np.log(both["n_train"]).groupby(both["seed"]).agg(["min", "max"]).mean(axis=1))
        late = both["n_train"] > both["seed"].map(middle)
        means = [logs[chosen].groupby(both["seed"][chosen]).mean() for chosen in (late, ~late)]
        runs = frozenset([*both["run_id"], *both["run_id_other"]])
        yield Part(label, (means[0] - means[1]).dropna(), runs)


def savings(statement: Statement, measured: Measured) -> Iterable[Part]:
    """N_train of the other algorithm over the algorithm's where each reaches an error level."""
    algorithm, other = statement.algorithms[0], statement.others[0]
    ours, theirs = (measured.curve(statement, name) for name in (algorithm, other))
    for measure in statement.measures:
        for level in statement.at:
            label = f"N of {other} / N of {algorithm}, {measure.upper()} {LEVEL_NAMES.get(level, level)}"
            if ours["seed"].nunique() < FEWEST_SEEDS or theirs["seed"].nunique() < FEWEST_SEEDS:
                yield Part(label)
                continue
            known = theirs.groupby("run_id")["step"].transform("max") > 0
            if theirs[known]["seed"].nunique() < FEWEST_SEEDS:
                runs = frozenset([*ours["run_id"], *theirs["run_id"]])
                yield Part(label, runs=runs, told=f"the curve of {other} is not recorded, its end alone")
                continue
            yield _saved(label, _reached(ours, theirs, statement, measure, level))


def _reached(ours: pd.DataFrame, theirs: pd.DataFrame, statement: Statement, measure: str, level: str) -> pd.DataFrame:
    """`ours` and `theirs`, N_train at the level by seed, with the ends of both curves."""
    name = column(statement.quantity, measure)
    if level == "end":
        found = crossings(pd.concat([ours, theirs], ignore_index=True))
        chosen = (found["quantity"] == statement.quantity) & (found["measure"] == measure) & (found["level"] == level)
        found = found[chosen & (found["algorithm"] == statement.algorithms[0])]
        table = found.rename(columns={"n_train": "ours", "random": "theirs"}).set_index("seed")[["ours", "theirs"]]
    else:
        columns = {}
        for side, steps in (("ours", ours), ("theirs", theirs)):
            reached = {}
            for seed, run in steps.groupby("seed"):
                sizes, errors = run["n_train"].to_numpy(dtype=float), run[name].to_numpy(dtype=float)
                curve = Curve.of(sizes, errors, done=bool(run["state"].iloc[0] == "done"))
                reached[seed] = curve.reaches(float(level)) if curve else np.nan
            columns[side] = pd.Series(reached)
        table = pd.DataFrame(columns)
    for side, steps in (("ours", ours), ("theirs", theirs)):
        table[f"{side}_end"] = steps.groupby("seed")["n_train"].max()
        table[f"{side}_run"] = steps.groupby("seed")["run_id"].first()
    return table.dropna(subset=["ours", "theirs"])


def _saved(label: str, table: pd.DataFrame) -> Part:
    """Where a finished run never reaches the level its end is a bound."""
    ours, theirs = (table[side].where(np.isfinite(table[side]), table[f"{side}_end"]) for side in ("ours", "theirs"))
    at_most, at_least = (bool(np.isinf(table[side]).any()) for side in ("ours", "theirs"))
    runs = frozenset([*table["ours_run"], *table["theirs_run"]])
    counts = [f"{np.isinf(table[side]).sum()} of {len(table)}" for side in ("ours", "theirs")]
    label += f", never reached by {counts[0]}" if at_most else ""
    label += f", never reached by {counts[1]} of the other" if at_least else ""
    return Part(label, np.log(theirs / ours), runs, at_most, at_least)


def order(statement: Statement, measured: Measured) -> Iterable[Part]:
    """Data sets in the order of RMSE/MAE at the start and of what the methods gain at the end: is it the same?"""
    starts: list[np.ndarray] = []
    gains: list[np.ndarray] = []
    runs: set[str] = set()
    for scenario in statement.at:
        quantity = "energy" if scenario.startswith("qm9") else "force"
        rmse, mae = column(quantity, "rmse"), column(quantity, "mae")
        random = measured.curve(statement, BASELINE, scenario)
        methods = [measured.curve(statement, name, scenario) for name in statement.algorithms if name != BASELINE]
        ends = [
            steps[(steps["n_train"] == steps["final"]) & (steps["state"] == "done")] for steps in (random, *methods)
        ]
        ends = [end.set_index("seed") for end in ends if len(end) or end is ends[0]]
        if random.empty or len(ends) < 2 or rmse not in random:
            break
        first = random[(random["step"] == 0) & (random["n_train"] < random["final"])]
        if first["seed"].nunique() < FEWEST_SEEDS or min(len(end) for end in ends) < FEWEST_SEEDS:
            break
        logs = pd.concat([np.log(end[rmse] / ends[0][rmse]).rename(i) for i, end in enumerate(ends[1:])], axis=1)
        of_seeds = logs.dropna().mean(axis=1).to_numpy(dtype=float)
        if len(of_seeds) < FEWEST_SEEDS:
            break
        starts.append(np.log(first[rmse] / first[mae]).to_numpy(dtype=float))
        gains.append(of_seeds)
        runs |= {str(run) for end in ends for run in end["run_id"]}
    label = "data sets by RMSE/MAE at the start, and by the gain in RMSE"
    if len(starts) < len(statement.at):
        yield Part(label)
        return
    told = ", ".join(
        f"{n}: {np.exp(s.mean()):.2f}, {np.expm1(g.mean()):+.0%}"
        for n, s, g in zip(statement.at, starts, gains, strict=True)
    )
    outcome = in_one_order(starts, [-of_seeds for of_seeds in gains])
    yield Part(f"{label}: {told}", runs=frozenset(runs), judged=outcome)
