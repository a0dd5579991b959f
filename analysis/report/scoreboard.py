"""Algorithms × scenarios: the paper's number, ours, the ratio, seeds, and a word on how random selection compares."""

import numpy as np
import pandas as pd

from analysis import style
from analysis.statistics.rules import FEWEST_SEEDS, LEVEL
from analysis.statistics.values import against

BETTER, WORSE, ALIKE, UNDECIDED, FEW, BASE = "better", "worse", "alike", "undecided", "too few seeds", "baseline"
UNPAIRED = "no pairs"
WORDS = (BETTER, WORSE, ALIKE, UNDECIDED, FEW, UNPAIRED, BASE)
ALIKE_WITHIN = 0.02
KEYS = ["study", "algorithm", "quantity", "measure"]
NOTE = (
    "Last step, largest batch, means over seeds. The word compares with random selection at equal seed: better or worse"
    " where the ratio of errors differs from one (paired t-test on logarithms, two-sided, 5 %, adjusted among all of a"
    " scenario), alike where its 95 % interval lies within 2 %, else undecided. Below it: the change of the error"
    " with that interval, and the smallest decrease that these seeds detect in 80 % of cases. It is 95 % since either"
    " side may win; a claim of the paper asks one side only, so a 90 % interval tests it at the same 5 %. No pairs:"
    " random selection has no run from the same first training set, as where it is a single training. Ratio: ours over"
    " the paper's number."
)


def scoreboard(means: pd.DataFrame, paired: pd.DataFrame, paper: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """A row per study, algorithm and measure of what the study trains on, at its largest batch.

    An altered study of one algorithm has nothing to compare.
    """
    final = means[means["statistic"] == "final"]
    final = final[final["batch_size"] == final.groupby("study")["batch_size"].transform("max")]
    trained = final.groupby("study")["quantity"].transform(lambda q: "force" if (q == "force").any() else "energy")
    table = final[final["quantity"] == trained][[*KEYS, "scenario", "deviations", "batch_size", "mean", "seeds"]]
    compared = paired[paired["statistic"] == "final"]
    on = [*KEYS, "batch_size"]
    table = table.merge(
        compared[[*on, "relative", "low", "high", "pairs", "p_adjusted", "detectable"]], on=on, how="left"
    )
    quoted = paper[(paper["statistic"] == "final") & (paper["deviations"] == "")]
    on = ["scenario", "algorithm", "quantity", "measure", "batch_size"]
    table = table.merge(quoted[[*on, "paper"]].drop_duplicates(on), on=on, how="left")
    table["ratio"] = table["mean"] / table["paper"].where(table["deviations"] == "")
    several = table.groupby("study")["algorithm"].transform("nunique") > 1
    table = table[several | (table["deviations"] == "")]
    base = steps[against(steps)][["study", "algorithm"]].drop_duplicates().assign(base=True)
    table = table.merge(base, on=["study", "algorithm"], how="left")
    table["word"] = [_word(row) for row in table.to_dict("records")]
    order = {name: place for place, name in enumerate(style.looks(table["algorithm"]))}
    return table.sort_values("algorithm", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def _word(row: dict[str, object]) -> str:
    low, high, p = (float(str(row[name])) for name in ("low", "high", "p_adjusted"))
    if row["base"] is True:
        return BASE
    if np.isnan(float(str(row["pairs"]))):
        return UNPAIRED
    if not float(str(row["pairs"])) >= FEWEST_SEEDS or np.isnan(p):
        return FEW
    if p < LEVEL:
        return BETTER if float(str(row["relative"])) < 0 else WORSE
    return ALIKE if low > 1 / (1 + ALIKE_WITHIN) and high < 1 + ALIKE_WITHIN else UNDECIDED
