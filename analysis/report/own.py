"""Studies of the user's own, a sentence each: what was run, what is best, and whether the seeds tell."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis import style
from analysis.records.collect import Tables
from analysis.report.scoreboard import BASE, FEW, UNDECIDED
from analysis.statistics.rules import FEWEST_SEEDS
from bench.errors import counted

PAPERS = frozenset(style.SCENARIOS) - {"demo"}
"""The paper's scenarios."""


def only_own(runs: pd.DataFrame) -> bool:
    """Whether nothing of the paper's data is there."""
    return PAPERS.isdisjoint(runs["scenario"])


def sentences(collected: Tables, board: pd.DataFrame) -> list[str]:
    """Of each study of the user's own, from the scoreboard: what leads at the last step, by RMSE.

    What the project brings beside the paper's scenarios is told where nothing of the paper's is there.
    """
    if board.empty:
        return []
    told = []
    others = PAPERS if only_own(collected.runs) else style.BROUGHT
    rmse = board[(board["measure"] == "rmse") & ~board["scenario"].isin(others)]
    rmse = rmse.sort_values("scenario", key=lambda names: names.isin(style.BROUGHT), kind="stable")
    for study, rows in rmse.groupby("study", sort=False):
        done = collected.runs[(collected.runs["study"] == study) & (collected.runs["state"] == "done")]
        first = rows.iloc[0]
        title = style.study_title(first["scenario"], first["deviations"])
        told.append(f"{title}: {_ran(done)} {_best(rows, int(done['final'].max()))}")
    return told


def _ran(done: pd.DataFrame) -> str:
    seeds = done.groupby("algorithm")["seed"].nunique()
    few, many = int(seeds.min()), int(seeds.max())
    each = f"{many} seed{'s' if many > 1 else ''}" if few == many else f"{few} to {many} seeds"
    return f"{counted(len(done), 'finished run')}, {counted(len(seeds), 'algorithm')} on {each}."


def _best(rows: pd.DataFrame, final: int) -> str:
    judged = rows[rows["seeds"] >= FEWEST_SEEDS]
    among = judged if len(judged) else rows
    best = among.loc[among["mean"].idxmin()].to_dict()
    unit = style.PLAIN_UNITS[best["quantity"]]
    of = f"Of those on at least {FEWEST_SEEDS} seeds, " if rows["mean"].min() < best["mean"] else ""
    lowest = f"the lowest {best['quantity']} RMSE at {final} training structures: {best['mean']:.3g} {unit}"
    if len(rows) == 1:
        return f"{best['algorithm']} ends at a {best['quantity']} RMSE of {best['mean']:.3g} {unit}."
    if best["word"] == BASE:
        few = f"On fewer than {FEWEST_SEEDS} seeds nothing is judged."
        told = "No algorithm is better than it here." if len(judged) else few
        return f"{of}{best['algorithm']}, random selection, has {lowest}. {told}"
    return f"{of}{best['algorithm']} has {lowest}. {_told(best)}"


def _told(best: Mapping[Any, Any]) -> str:
    """Whether the seeds tell the best from random selection."""
    if pd.isna(best["pairs"]):
        return "There is no random selection from the same first structures beside it to compare with."
    if best["word"] == FEW:
        seeds = int(best["pairs"])
        return (
            f"Its difference from random selection cannot be told: there {'is' if seeds == 1 else 'are'}"
            f" {counted(seeds, 'seed')} of both, and {FEWEST_SEEDS} are the fewest that are judged."
        )
    change = f"{_percent(best['relative'])}, 95 % interval {_percent(best['low'] - 1)} to {_percent(best['high'] - 1)}"
    if best["word"] == UNDECIDED:
        return (
            f"These seeds do not tell it from random selection ({change}): only a decrease of"
            f" {100 * best['detectable']:.0f} % or more would be seen in four of five cases. More seeds may tell."
        )
    return f"The seeds tell it from random selection: {best['word']} ({change})."


def _percent(change: float) -> str:
    return f"{100 * change:+.0f} %"
