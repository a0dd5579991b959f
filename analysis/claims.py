"""The paper's claims, each tested on our runs: supported, not supported, or not yet tested, with the evidence.

How a relation is tested: paired differences at equal seed, 95 % intervals (`lower`, `higher`, and their negations,
which hold as long as the opposite is not shown); an interval within limits (`similar`; `flat`, the change per doubling
of the batch); an interval above zero (`grows`); the mean alone (`lowest`, `ratio`, `saving`); a majority of cases that
chance would give in less than one of twenty (`mostly_lower`, `mostly_higher`). With fewer than FEWEST_SEEDS nothing is
judged: for two, the 95 % interval of a mean is 25 standard errors wide.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from analysis import style
from analysis.compare import differences
from analysis.paper import FEWEST_SEEDS, REFERENCE, is_reduced
from analysis.stats import BASELINE, LEVEL, NUMBER, detectable_factor, t_interval

SUPPORTED, NOT_SUPPORTED, NOT_TESTED = "supported", "not supported", "not yet tested"
PAIRED = ("lower", "higher", "not_lower", "not_higher", "similar")


@dataclass(frozen=True)
class Evidence:
    """One part of a claim: whether it holds (None: cannot be told yet), in words, and how many runs stand behind it."""

    holds: bool | None = None
    text: str = ""
    runs: int = 0


@dataclass(frozen=True)
class Measured:
    """What claims are tested on: values per run, slopes, labels needed; of full scenarios, or of one reduction."""

    values: pd.DataFrame
    slopes: pd.DataFrame
    efficiency: pd.DataFrame
    deviations: str = ""

    @functools.cached_property
    def _groups(self) -> dict[tuple[str, ...], pd.DataFrame]:
        ours = self.values[self.values["deviations"] == self.deviations]
        return dict(list(ours.groupby(["scenario", *NUMBER])))

    def of(self, claim: pd.Series, measure: str) -> pd.DataFrame:
        """The values that a claim speaks of."""
        key = (claim["scenario"], claim["statistic"], claim["quantity"], measure)
        return self._groups.get(key, self.values.head(0))


def verdicts(measured: Measured) -> pd.DataFrame:
    """A row for every claim: verdict, evidence, runs; and one more, with `deviations`, where a reduced pool tells."""
    claims = pd.read_csv(REFERENCE / "claims.csv", dtype={"place": str})
    claims[["quantity", "other"]] = claims[["quantity", "other"]].fillna("")
    rows = [_verdict(claim, measured) for _, claim in claims.iterrows()]
    for deviations in filter(is_reduced, sorted(measured.values["deviations"].unique())):
        reduced = replace(measured, deviations=deviations)
        found = [_verdict(claim, reduced) for _, claim in claims.iterrows()]
        rows += [row for row in found if row["runs"]]
    return pd.DataFrame(rows)


def _verdict(claim: pd.Series, measured: Measured) -> dict[str, Any]:
    parts = evidence(claim, measured)
    known = [part.holds for part in parts]
    verdict = NOT_SUPPORTED if False in known else NOT_TESTED if None in known else SUPPORTED
    # what speaks against the claim comes first
    told = [part.text for part in sorted(parts, key=lambda part: part.holds is True) if part.holds is not None]
    if missing := len(parts) - len(told):
        told.append(f"{missing} of {len(parts)} parts not recorded, or with too few seeds")
    row: dict[str, Any] = claim[["claim", "place", "scenario", "batch_size"]].to_dict()
    row["deviations"] = measured.deviations
    return row | {"verdict": verdict, "evidence": "; ".join(told), "runs": sum(part.runs for part in parts)}


def evidence(claim: pd.Series, measured: Measured) -> list[Evidence]:
    """Every part of a claim: for each algorithm and measure that it names."""
    algorithms, others = _names(claim, claim["algorithm"]), _names(claim, claim["other"])
    measures = claim["measure"].split(";")
    relation = claim["relation"]
    if relation.startswith("mostly"):
        return [_mostly(claim, measured, list(zip(algorithms, others, strict=True)), measures)]
    if relation in PAIRED:
        return [
            _paired(claim, measured.of(claim, m), a, others[0], m)
            for m in measures
            for a in algorithms
            if a != others[0]
        ]
    if relation in ("grows", "flat"):
        return [_slope(claim, measured, a, m) for m in measures for a in algorithms]
    if relation == "lowest":
        return [_lowest(claim, measured.of(claim, m), algorithms[0], m) for m in measures]
    if relation == "ratio":
        return [_ratio(claim, measured.of(claim, m), algorithms[0], other, m) for m in measures for other in others]
    return [_saving(claim, measured, algorithms[0], others[:1], m) for m in measures]


def _names(claim: pd.Series, cell: str) -> list[str]:
    forces = claim["quantity"] != "energy"
    known = [name for name in style.METHODS if forces or not name.endswith("(F)")]
    sets = {
        "all": known,
        "main": list(style.main_methods(known, forces=forces)),
        "gradient": [name for name in known if name.endswith(("(LL)", "(RP)"))],
    }
    return sets.get(cell, cell.split(";") if cell else [])


def _paired(claim: pd.Series, values: pd.DataFrame, algorithm: str, other: str, measure: str) -> Evidence:
    pairs = differences(values[values["batch_size"] == claim["batch_size"]], algorithm, other)
    if len(pairs) < FEWEST_SEEDS:
        return Evidence()
    difference = pairs["value"] - pairs["value_other"]
    mean, low, high = _interval(difference)
    scale = pairs["value_other"].mean()
    holds = {
        "lower": high < 0,
        "higher": low > 0,
        "not_lower": not high < 0,
        "not_higher": not low > 0,
        "similar": claim["low"] <= low / scale and high / scale <= claim["high"],
    }[claim["relation"]]
    detectable = detectable_factor(len(pairs)) * difference.sem()
    text = f"{algorithm} − {other}, {measure.upper()}: {mean:+.3g} [{low:+.3g}, {high:+.3g}] of {scale:.3g}"
    text += f", detectable {detectable:.2g}"
    return Evidence(bool(holds), text, 2 * len(pairs))


def _slope(claim: pd.Series, measured: Measured, algorithm: str, measure: str) -> Evidence:
    slopes = measured.slopes
    keys = {
        "scenario": claim["scenario"],
        "deviations": measured.deviations,
        "algorithm": algorithm,
        "statistic": claim["statistic"],
    }
    keys |= {"quantity": claim["quantity"], "measure": measure}
    found = slopes[(slopes[list(keys)] == pd.Series(keys)).all(axis=1)]
    if found.empty or (row := found.iloc[0])["seeds"] < FEWEST_SEEDS:
        return Evidence()
    low, high = row["low"] / row["mean"], row["high"] / row["mean"]
    holds = row["low"] > 0 if claim["relation"] == "grows" else claim["low"] <= low and high <= claim["high"]
    text = f"{algorithm}, {measure.upper()}: {row['relative']:+.1%} [{low:+.1%}, {high:+.1%}] per doubling of the batch"
    return Evidence(bool(holds), text, int(row["seeds"]) * len(row["batch_sizes"].split()))


def _lowest(claim: pd.Series, values: pd.DataFrame, algorithm: str, measure: str) -> Evidence:
    rivals = style.main_methods(style.METHODS, forces=claim["quantity"] != "energy")
    means = values[values["batch_size"] == claim["batch_size"]].groupby("algorithm")["value"].agg(["mean", "count"])
    means = means[means.index.isin(list(rivals))].sort_values("mean")
    if set(rivals) - set(means.index[means["count"] >= FEWEST_SEEDS]):
        return Evidence()
    listed = ", ".join(f"{name} {mean:.4g}" for name, mean in means["mean"].head(3).items())
    return Evidence(bool(means.index[0] == algorithm), f"{measure.upper()}: {listed}, …", int(means["count"].sum()))


def _ratio(claim: pd.Series, values: pd.DataFrame, algorithm: str, other: str, measure: str) -> Evidence:
    pairs = differences(values[values["batch_size"] == claim["batch_size"]], algorithm, other)
    if len(pairs) < FEWEST_SEEDS:
        return Evidence()
    ratio = pairs["value"].mean() / pairs["value_other"].mean()
    return Evidence(_within(ratio, claim), f"{algorithm} / {other}, {measure}: {ratio:.3g}", 2 * len(pairs))


def _saving(claim: pd.Series, measured: Measured, algorithm: str, other: list[str], measure: str) -> Evidence:
    table = measured.efficiency
    table = table[(table["scenario"] == claim["scenario"]) & (table["deviations"] == measured.deviations)]
    chosen = (table["quantity"] == claim["quantity"]) & (table["measure"] == measure)
    table = table[chosen & (table["batch_size"] == claim["batch_size"])].set_index("algorithm")
    compared = [algorithm, *(name for name in other if name != BASELINE)]
    if table["seeds"].reindex([*compared, BASELINE]).min() < FEWEST_SEEDS:
        return Evidence()
    text = ", ".join(
        f"{n}: {table['saving'].get(n, np.nan):.3g} times fewer structures than {BASELINE}" for n in compared
    )
    savings = [table["saving"].get(name, np.nan) for name in compared]
    if algorithm in table.index and np.isnan(savings[0]):
        reached, seeds = table.loc[algorithm, ["reached", "seeds"]]
        return Evidence(False, f"{algorithm}, {measure.upper()}: {reached} of {seeds} runs reach it", int(seeds))
    if not np.isfinite(savings).all():
        return Evidence()
    ratio = savings[0] / (savings[1] if len(savings) > 1 else 1.0)
    return Evidence(_within(ratio, claim), f"{measure.upper()}: {text}", int(table.loc[compared, "seeds"].sum()))


def _mostly(claim: pd.Series, measured: Measured, pairs: list[tuple[str, str]], measures: list[str]) -> Evidence:
    lower = cases = runs = 0
    for measure in measures:
        values = measured.of(claim, measure)
        for algorithm, other in pairs:
            found = differences(values, algorithm, other)
            grouped = found.groupby("batch_size")[["value", "value_other"]]
            means = grouped.mean()[grouped.size() >= FEWEST_SEEDS]
            lower += int((means["value"] < means["value_other"]).sum())
            cases, runs = cases + len(means), runs + 2 * len(found)
    if cases < len(pairs) * len(measures):
        return Evidence(runs=runs)
    count = lower if claim["relation"] == "mostly_lower" else cases - lower
    chance = scipy_stats.binomtest(count, cases, alternative="greater").pvalue
    word = claim["relation"].removeprefix("mostly_")
    text = f"{word} in {count} of {cases} cases (pairs, batch sizes, measures); by chance {chance:.2g}"
    return Evidence(bool(chance < LEVEL), text, runs)


def _interval(values: pd.Series) -> tuple[float, float, float]:
    mean = pd.Series([values.mean()])
    low, high, _ = t_interval(mean, pd.Series([values.sem()]), pd.Series([len(values)]))
    return float(mean[0]), float(low[0]), float(high[0])


def _within(ratio: float, claim: pd.Series) -> bool:
    low = -np.inf if pd.isna(claim["low"]) else claim["low"]
    high = np.inf if pd.isna(claim["high"]) else claim["high"]
    return bool(low <= ratio <= high)
