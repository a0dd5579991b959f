"""Algorithms against each other: ratios of errors at equal seed, the batch size, ranks over data sets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis import style
from analysis.records.collect import EXPERIMENT
from analysis.records.found import split_deviations
from analysis.statistics.rules import LEVEL, detectable_factor
from analysis.statistics.values import BASELINE, NUMBER, against, t_interval

STUDY = ["study", "scenario", "deviations", "batch_size"]
SAME_START = ["seed", "initial"]
"""What runs at equal seed share: split, first training set and first model; a single training shares its only set."""


def paired(per_run: pd.DataFrame) -> pd.DataFrame:
    """Ratios to random selection at equal study, batch size, seed and first size: geometric mean, 95 % interval, p.

    All is computed on logarithms, whose mean and standard error are `log` and `sem`. `p_adjusted` controls the false
    discovery rate (Benjamini and Hochberg) among all algorithms, batch sizes, quantities and measures of a study and
    statistic. `detectable` is the smallest decrease that a paired t-test at 5 % finds with 80 % power at the spread and
    number of seeds at hand.
    """
    keys = [*STUDY, *SAME_START, *NUMBER]
    random = against(per_run)
    base = per_run[random][[*keys, "value", "run_id"]]
    pairs = per_run[~random].merge(base, on=keys, suffixes=("", "_base"))
    grouped = _log_ratios(pairs).groupby([*EXPERIMENT, *NUMBER], sort=True)
    table = _ratios(grouped, "baseline")
    table["detectable"] = -np.expm1([-detectable_factor(n, LEVEL / 2) for n in table["pairs"]] * table["sem"])
    table = table.reset_index()
    families = table.groupby(["study", "statistic"])["p"]
    table["p_adjusted"] = families.transform(adjusted) if len(table) else table["p"]
    return table


def _log_ratios(pairs: pd.DataFrame) -> pd.DataFrame:
    """The logarithm of `value` over `value_base`, where both are positive."""
    both = pairs[(pairs["value"] > 0) & (pairs["value_base"] > 0)]
    return both.assign(log=np.log(both["value"] / both["value_base"]))


def _ratios(grouped: Any, base: str) -> pd.DataFrame:
    """Mean and standard error of log ratios over seeds, the ratio with its 95 % interval and p."""
    table = grouped["log"].agg(log="mean", sem="sem", pairs="count")
    table[base] = grouped["value_base"].mean()
    low, high, table["p"] = t_interval(table["log"], table["sem"], table["pairs"])
    table["ratio"], table["low"], table["high"] = np.exp(table["log"]), np.exp(low), np.exp(high)
    table["relative"] = table["ratio"] - 1
    return table


def variants(per_run: pd.DataFrame) -> pd.DataFrame:
    """What one changed setting does: ratios to the runs without it at equal algorithm, batch size, seed and first size.

    `base` and `changed` together are the deviations of the varied runs; columns as in `paired`.
    """
    keys = ["scenario", "batch_size", "algorithm", *SAME_START, *NUMBER]
    known = set(per_run["deviations"])
    parts = []
    for deviations in sorted(known):
        each = split_deviations(deviations)
        for one in each:
            base = ", ".join(other for other in each if other != one)
            if base in known:
                varied = per_run[per_run["deviations"] == deviations]
                same = [key for key in keys if key != "initial" or not one.startswith("scenario.initial=")]
                without = per_run[per_run["deviations"] == base][[*same, "value"]]
                pairs = varied.merge(without, on=same, suffixes=("", "_base"))
                parts.append(_log_ratios(pairs).assign(base=base, changed=one))
    columns = ["scenario", "base", "changed", "batch_size", "algorithm", "initial", *NUMBER]
    if not parts:
        return pd.DataFrame(columns=[*columns, "log", "sem", "pairs"])
    grouped = pd.concat(parts, ignore_index=True).groupby(columns, sort=True)
    table = _ratios(grouped, "mean_base")
    table["mean"] = grouped["value"].mean()
    table["runs"] = grouped["run_id"].agg(" ".join)
    return table.reset_index()


def adjusted(p: pd.Series) -> pd.Series:
    """Benjamini and Hochberg's adjusted p among those that exist."""
    known = p.dropna()
    return pd.Series(stats.false_discovery_control(known), known.index).reindex(p.index) if len(known) else p


def seed_slopes(per_run: pd.DataFrame) -> pd.DataFrame:
    """How the logarithm of an error changes when the batch doubles: a line through log2(N_batch) for every seed.

    Fitting every seed on its own takes the spread between splits out. Seeds with fewer batch sizes than the others of
    the experiment are left out; `mean` is the mean error of a seed.
    """
    keys = ["study", "scenario", "deviations", "algorithm", *NUMBER]
    positive = per_run[per_run["value"] > 0]
    by_seed = positive.pivot(index=[*keys, "seed"], columns="batch_size", values="value")
    sizes, errors = by_seed.columns.to_numpy(dtype=float), by_seed.to_numpy()
    seeds = by_seed.index.get_level_values("seed").to_numpy()
    rows = []
    for values, places in by_seed.groupby(level=keys, sort=True).indices.items():
        used = ~np.isnan(errors[places]).all(axis=0)
        complete = ~np.isnan(errors[places][:, used]).any(axis=1)
        if used.sum() < 2:
            continue
        x = np.log2(sizes[used]) - np.log2(sizes[used]).mean()
        found = errors[places][:, used][complete]
        batches = " ".join(f"{size:g}" for size in sizes[used])
        for seed, slope, mean in zip(
            seeds[places][complete], np.log(found) @ x / (x @ x), found.mean(axis=1), strict=True
        ):
            row = dict(zip(keys, values, strict=True)) | {"batch_sizes": batches, "seed": seed}
            rows.append(row | {"value": slope, "mean": mean})
    return pd.DataFrame(rows, columns=[*keys, "batch_sizes", "seed", "value", "mean"])


def batch_slopes(slopes: pd.DataFrame) -> pd.DataFrame:
    """`seed_slopes` over seeds: mean and standard error of the logarithm, `relative` change with a 95 % interval, p."""
    keys = ["study", "scenario", "deviations", "algorithm", *NUMBER, "batch_sizes"]
    grouped = slopes.groupby(keys, sort=True)
    table = grouped["value"].agg(seeds="count", slope="mean", sem="sem")
    table["mean"] = grouped["mean"].mean()
    low, high, table["p"] = t_interval(table["slope"], table["sem"], table["seeds"])
    table["relative"], table["low"], table["high"] = np.expm1(table["slope"]), np.expm1(low), np.expm1(high)
    return table.reset_index()


def ranks(means: pd.DataFrame) -> pd.DataFrame:
    """Ranks of the algorithms over data sets (1 is best), one row per statistic, measure and algorithm.

    Scenarios on one data set share structures, so they are no independent cases: their logarithms are averaged, and a
    data set counts once. A scenario enters at its largest batch, with its forces, or its energies where it has no
    forces. Algorithms that a scenario lacks are left out of all. `ratio` is the geometric mean of errors over random
    selection's with a 95 % interval (Student's t over data sets) and `p`; `p_friedman` tests whether any algorithms
    differ.
    """
    full = means[(means["deviations"] == "") & (means["mean"] > 0)]
    full = full[full["batch_size"] == full.groupby("study")["batch_size"].transform("max")]
    main = full.groupby("study")["quantity"].transform(lambda q: "force" if (q == "force").any() else "energy")
    rows = []
    for (statistic, measure), part in full[full["quantity"] == main].groupby(["statistic", "measure"], sort=True):
        common = part.groupby("study")["algorithm"].agg(set)
        names = sorted(set.intersection(*common)) if len(common) else []
        wide = part[part["algorithm"].isin(names)].pivot(index="study", columns="algorithm", values="mean")
        logs = np.log(wide).groupby(wide.index.map(data_of)).mean()
        if logs.shape[0] < 2 or logs.shape[1] < 2:
            continue
        rows.append(_ranked(logs).assign(statistic=statistic, measure=measure, scenarios=len(wide), data=len(logs)))
    columns = ["statistic", "measure", "algorithm", "rank", "ratio", "low", "high", "scenarios", "data"]
    columns += ["p_friedman", "p", "p_adjusted"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def data_of(study: str) -> str:
    """The data set of a scenario of the paper; any other study stands for itself."""
    return study.partition("_")[0] if study in style.SCENARIOS else study


def _ranked(logs: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({"rank": logs.rank(axis=1).mean()})
    enough = logs.shape[1] >= 3
    table["p_friedman"] = stats.friedmanchisquare(*logs.to_numpy().T).pvalue if enough else np.nan
    table[["ratio", "low", "high", "p"]] = np.nan
    if BASELINE in logs:
        against_random = logs.drop(columns=BASELINE).sub(logs[BASELINE], axis=0)
        mean = against_random.mean()
        low, high, p = t_interval(mean, against_random.sem(), against_random.count())
        found = pd.DataFrame({"ratio": np.exp(mean), "low": np.exp(low), "high": np.exp(high), "p": p}, mean.index)
        table.update(found)
        table.loc[BASELINE, "ratio"] = 1.0
    table["p_adjusted"] = adjusted(table["p"])
    return table.rename_axis("algorithm").reset_index().sort_values(["rank", "algorithm"])


def differences(per_run: pd.DataFrame, algorithm: str, other: str, keys: Sequence[str] = NUMBER) -> pd.DataFrame:
    """Values of two algorithms side by side at equal batch size, seed and first size: `value`, `value_other`."""
    on = [*STUDY, *SAME_START, *keys]
    left = per_run[per_run["algorithm"] == algorithm]
    right = per_run[per_run["algorithm"] == other][[*on, "value"]]
    return left.merge(right, on=on, suffixes=("", "_other"))
