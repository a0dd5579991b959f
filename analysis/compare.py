"""Algorithms against each other: paired differences at equal seed, the batch size, ranks over scenarios."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis.collect import EXPERIMENT
from analysis.paper import split_deviations
from analysis.stats import BASELINE, NUMBER, against, detectable_factor, t_interval

STUDY = ["study", "scenario", "deviations", "batch_size"]


def paired(per_run: pd.DataFrame) -> pd.DataFrame:
    """Differences to random selection at equal study, batch size and seed: mean, standard error, 95 % interval, p.

    `p_adjusted` controls the false discovery rate (Benjamini and Hochberg) among all algorithms, batch sizes,
    quantities and measures of a study and statistic. `detectable` is the smallest difference that a paired t-test at 5
    % finds with 80 % power at the spread and number of seeds at hand. `relative` is the mean difference over the
    baseline's mean.
    """
    keys = [*STUDY, "seed", *NUMBER]
    random = against(per_run)
    base = per_run[random][[*keys, "value", "run_id"]]
    pairs = per_run[~random].merge(base, on=keys, suffixes=("", "_base"))
    pairs["difference"] = pairs["value"] - pairs["value_base"]
    grouped = pairs.groupby([*EXPERIMENT, *NUMBER], sort=True)
    table = grouped["difference"].agg(difference="mean", sem="sem", pairs="count")
    table["baseline"] = grouped["value_base"].mean()
    table["relative"] = table["difference"] / table["baseline"]
    table["low"], table["high"], table["p"] = t_interval(table["difference"], table["sem"], table["pairs"])
    table["detectable"] = [detectable_factor(n) for n in table["pairs"]] * table["sem"]
    table = table.reset_index()
    families = table.groupby(["study", "statistic"])["p"]
    table["p_adjusted"] = families.transform(adjusted) if len(table) else table["p"]
    return table


def variants(per_run: pd.DataFrame) -> pd.DataFrame:
    """What one changed setting does: differences to the runs without it at equal algorithm, batch size and seed.

    `base` and `changed` together are the deviations of the varied runs; columns as in `paired`.
    """
    keys = ["scenario", "batch_size", "algorithm", "seed", *NUMBER]
    known = set(per_run["deviations"])
    parts = []
    for deviations in sorted(known):
        each = split_deviations(deviations)
        for one in each:
            base = ", ".join(other for other in each if other != one)
            if base in known:
                varied = per_run[per_run["deviations"] == deviations]
                without = per_run[per_run["deviations"] == base][[*keys, "value"]]
                pairs = varied.merge(without, on=keys, suffixes=("", "_base"))
                parts.append(pairs.assign(base=base, changed=one, difference=pairs["value"] - pairs["value_base"]))
    columns = ["scenario", "base", "changed", "batch_size", "algorithm", *NUMBER]
    if not parts:
        return pd.DataFrame(columns=[*columns, "difference", "sem", "pairs"])
    grouped = pd.concat(parts, ignore_index=True).groupby(columns, sort=True)
    table = grouped["difference"].agg(difference="mean", sem="sem", pairs="count")
    table["mean"], table["mean_base"] = grouped["value"].mean(), grouped["value_base"].mean()
    table["runs"] = grouped["run_id"].agg(" ".join)
    table["relative"] = table["difference"] / table["mean_base"]
    table["low"], table["high"], table["p"] = t_interval(table["difference"], table["sem"], table["pairs"])
    return table.reset_index()


def adjusted(p: pd.Series) -> pd.Series:
    """Benjamini and Hochberg's adjusted p among those that exist."""
    known = p.dropna()
    return pd.Series(stats.false_discovery_control(known), known.index).reindex(p.index) if len(known) else p


def batch_slopes(per_run: pd.DataFrame) -> pd.DataFrame:
    """How an error changes when the batch doubles: a line through log2(N_batch) per seed, then mean and standard error.

    Fitting every seed on its own takes the spread between splits out. Seeds with fewer batch sizes than the others of
    the experiment are left out. `relative` is the slope over the mean error.
    """
    keys = ["study", "scenario", "deviations", "algorithm", *NUMBER]
    by_seed = per_run.pivot(index=[*keys, "seed"], columns="batch_size", values="value")
    sizes, errors = by_seed.columns.to_numpy(dtype=float), by_seed.to_numpy()
    rows = []
    for values, places in by_seed.groupby(level=keys, sort=True).indices.items():
        used = ~np.isnan(errors[places]).all(axis=0)
        complete = errors[places][:, used]
        complete = complete[~np.isnan(complete).any(axis=1)]
        if used.sum() < 2 or not len(complete):
            continue
        x = np.log2(sizes[used]) - np.log2(sizes[used]).mean()
        slopes = complete @ x / (x @ x)
        sem = slopes.std(ddof=1) / np.sqrt(len(slopes)) if len(slopes) > 1 else np.nan
        batches = " ".join(f"{size:g}" for size in sizes[used])
        row = dict(zip(keys, values, strict=True)) | {"batch_sizes": batches, "seeds": len(slopes)}
        rows.append(row | {"slope": slopes.mean(), "sem": sem, "mean": complete.mean()})
    columns = [*keys, "batch_sizes", "seeds", "slope", "sem", "mean"]
    table = pd.DataFrame(rows, columns=columns)
    table["relative"] = table["slope"] / table["mean"]
    table["low"], table["high"], table["p"] = t_interval(table["slope"], table["sem"], table["seeds"])
    return table


def ranks(means: pd.DataFrame) -> pd.DataFrame:
    """Ranks of the algorithms over the full scenarios (1 is best), one row per statistic, measure and algorithm.

    A scenario counts once: at its largest batch, with its forces, or its energies where it has no forces. Algorithms
    that a scenario lacks are left out of all. `p_friedman` tests whether any algorithms differ; `p` compares each with
    random selection over the scenarios (Wilcoxon's signed ranks of log ratios), `p_adjusted` as in `paired`.
    """
    full = means[means["deviations"] == ""]
    full = full[full["batch_size"] == full.groupby("study")["batch_size"].transform("max")]
    main = full.groupby("study")["quantity"].transform(lambda q: "force" if (q == "force").any() else "energy")
    rows = []
    for (statistic, measure), part in full[full["quantity"] == main].groupby(["statistic", "measure"], sort=True):
        common = part.groupby("study")["algorithm"].agg(set)
        names = sorted(set.intersection(*common)) if len(common) else []
        wide = part[part["algorithm"].isin(names)].pivot(index="study", columns="algorithm", values="mean")
        if wide.shape[0] < 2 or wide.shape[1] < 2:
            continue
        rows.append(_ranked(wide).assign(statistic=statistic, measure=measure, scenarios=len(wide)))
    columns = ["statistic", "measure", "algorithm", "rank", "ratio", "scenarios", "p_friedman", "p", "p_adjusted"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def _ranked(wide: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({"rank": wide.rank(axis=1).mean()})
    enough = wide.shape[0] >= 2 and wide.shape[1] >= 3
    table["p_friedman"] = stats.friedmanchisquare(*wide.to_numpy().T).pvalue if enough else np.nan
    table["ratio"] = table["p"] = np.nan
    if BASELINE in wide:
        logs = np.log(wide).sub(np.log(wide[BASELINE]), axis=0)
        table["ratio"] = np.exp(logs.mean())
        others = [name for name in wide if name != BASELINE and logs[name].ne(0).any()]
        table.loc[others, "p"] = [stats.wilcoxon(logs[name]).pvalue for name in others]
    table["p_adjusted"] = adjusted(table["p"])
    return table.rename_axis("algorithm").reset_index().sort_values(["rank", "algorithm"])


def differences(per_run: pd.DataFrame, algorithm: str, other: str, keys: Sequence[str] = NUMBER) -> pd.DataFrame:
    """Values of two algorithms side by side at equal batch size and seed: `value`, `value_other`."""
    on = [*STUDY, "seed", *keys]
    left = per_run[per_run["algorithm"] == algorithm]
    right = per_run[per_run["algorithm"] == other][[*on, "value"]]
    return left.merge(right, on=on, suffixes=("", "_other"))
