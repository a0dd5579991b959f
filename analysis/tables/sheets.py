"""All tables of a build, in the order of the report."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import style
from analysis.paper.claims import NOT_TESTED, verdicts
from analysis.paper.measured import Measured
from analysis.paper.numbers import against_paper, remark
from analysis.records.collect import EXPERIMENT, Tables
from analysis.records.found import STATES
from analysis.statistics.compare import batch_slopes, paired, ranks, seed_slopes, variants
from analysis.statistics.efficiency import LABEL_SECONDS, crossings, efficiency
from analysis.statistics.rules import FEWEST_SEEDS
from analysis.statistics.values import STATISTICS, last_correlations, per_run, run_values, summarise
from analysis.tables import sheet as tables
from analysis.tables.sheet import Column, Sheet


@dataclass(frozen=True)
class Statistics:
    """Everything that is computed from the tables, once."""

    values: pd.DataFrame
    means: pd.DataFrame
    correlations: pd.DataFrame
    paired: pd.DataFrame
    slopes: pd.DataFrame
    efficiency: pd.DataFrame
    ranks: pd.DataFrame
    paper: pd.DataFrame
    claims: pd.DataFrame
    variants: pd.DataFrame
    label_seconds: float

    @classmethod
    def of(cls, collected: Tables, label_seconds: float = LABEL_SECONDS) -> "Statistics":
        """Compute them."""
        values = run_values(collected.steps)
        errors = values[values["statistic"].isin(list(STATISTICS))]
        means = summarise(errors, [*EXPERIMENT, "statistic", "quantity", "measure"])
        return cls(
            values,
            means,
            last_correlations(collected.steps),
            paired(errors),
            batch_slopes(seed_slopes(errors)),
            efficiency(crossings(collected.steps, label_seconds)),
            ranks(means),
            against_paper(collected.steps, values),
            verdicts(Measured(values, collected.steps)),
            variants(_finals(errors, collected.single)),
            label_seconds,
        )


def _finals(errors: pd.DataFrame, single: pd.DataFrame) -> pd.DataFrame:
    """The last errors of runs, and of single trainings beside them, where there are any."""
    both = pd.concat([errors, per_run(single)], ignore_index=True) if len(single) else errors
    return both[both["statistic"] == "final"]


def sheets(found: Statistics, collected: Tables) -> list[Sheet]:
    """Every table that has rows."""
    errors = [tables.errors(found.values, statistic) for statistic in STATISTICS]
    made = [_claims(found.claims), _paper(found.paper), *errors, tables.comparisons(found.paired), _ranks(found.ranks)]
    made += [
        _variants(tables.with_interval(found.variants)),
        _efficiency(found.efficiency),
        tables.slopes(found.slopes),
        tables.correlations(found.correlations),
    ]
    made += [tables.seconds(found.values), _completeness(collected.plan), _runs(collected.runs)]
    return [sheet for sheet in made if len(sheet.data)]


def _claims(table: pd.DataFrame) -> Sheet:
    table = table.assign(remark=[remark(*pair) for pair in zip(table["scenario"], table["deviations"], strict=True)])
    table["recorded"] = table["known"].astype(str) + " / " + table["parts"].astype(str)
    columns = [Column("Scenario", "scenario"), Column("Claim", "claim"), Column("In the paper", "place")]
    columns += [Column("Verdict", "verdict"), Column("In every part", "every"), Column("On average", "mean")]
    columns += [Column("At 1 %", "at_1%"), Column("At 5 %", "at_5%"), Column("Parts", "recorded")]
    columns += [Column("Evidence", "evidence"), Column("Remark", "remark"), Column("Runs", "runs")]
    note = (
        f"Judged with at least {FEWEST_SEEDS} seeds, by logarithms of ratios at equal seed. Shown: the 90 % interval"
        " (each of its limits is a one-sided test at 5 %) lies within what the claim says; contradicted: it lies"
        " outside; undecided: neither, and detectable is the effect that these seeds find in 80 % of cases. A wrong"
        " verdict has a chance of at most 5 %. Negations and likeness have a margin of 2 %; the outcome at 1 and 5 %"
        " stands beside. The verdict is that in every part, or on average for statements about a class of methods"
        " (rule). Rows that name a reduced pool say what its runs show; the claim is one about the full scenario."
    )
    missing = (table["verdict"] == NOT_TESTED).astype(int) + (table["runs"] == 0)
    return Sheet("claims", "The paper's claims", note, _told_first(_named(table), missing), columns)


def _told_first(table: pd.DataFrame, missing: pd.Series) -> pd.DataFrame:
    """Rows that runs speak of before those where more is `missing`; the paper's order within."""
    return table.iloc[np.argsort(missing, kind="stable")]


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """Scenarios with their deviations."""
    deviations = table["deviations"]
    return table.assign(scenario=table["scenario"] + deviations.where(deviations == "", ", " + deviations))


def _paper(table: pd.DataFrame) -> Sheet:
    data = _told_first(_named(table), table["mean"].isna())
    data = data.assign(statistic=data["statistic"].replace(STATISTICS))
    columns = [Column("Scenario", "scenario"), Column("N_batch", "batch_size"), Column("Algorithm", "algorithm")]
    columns += [Column("Statistic", "statistic"), Column("N_train", "n_train", digits=".0f"), Column("Of", "quantity")]
    columns += [Column("Measure", "measure"), Column("Paper", "paper"), Column("Ours", "mean")]
    columns += [Column("Ratio", "ratio", digits=".3f"), Column("Seeds", "seeds")]
    data["range"] = _between(data, "lowest", "highest")
    data["interval"] = _between(data, "low", "high")
    columns += [Column("Range of seeds", "range"), Column("Paper's in it", "covered")]
    columns += [Column("Five more runs", "interval"), Column("Paper's in that", "within")]
    columns += [Column("Remark", "remark"), Column("In the paper", "place")]
    note = (
        "The paper gives no standard errors, so nothing is tested against it. Five more runs: the mean of five"
        " would lie there in 95 % of cases, if logarithms of errors were normal and the paper's runs drawn as"
        " ours; told from five seeds on. Times were taken on other machines. Errors in kcal/mol(/Å). On a reduced"
        " pool random selection alone is compared."
    )
    return Sheet("paper", "The paper's numbers beside ours", note, data, columns)


def _between(table: pd.DataFrame, low: str, high: str) -> list[str]:
    pairs = zip(table[low], table[high], table["seeds"], strict=True)
    return [f"{a:.4g} to {b:.4g}" if n > 1 and np.isfinite(a) else "" for a, b, n in pairs]


def _variants(table: pd.DataFrame) -> Sheet:
    columns = [Column("Scenario", "scenario"), Column("Runs with", "base"), Column("Changed", "changed")]
    columns += [Column("N_batch", "batch_size"), Column("Algorithm", "algorithm"), Column("Begins with", "initial")]
    columns += [Column("Of", "quantity"), Column("Measure", "measure")]
    columns += [Column("Without", "mean_base"), Column("With", "mean")]
    columns += [Column("Change", "relative", digits="+.1%"), Column("95 % interval", "interval")]
    columns += [Column("p", "p", digits=".2g"), Column("Pairs", "pairs")]
    note = (
        "Last step; geometric mean of the ratio at equal seed and first training set, also of single trainings whose"
        " seed has a curve, too; interval and p of a paired t-test on logarithms, p not adjusted."
    )
    return Sheet("variants", "What one changed setting does", note, table, columns)


def _ranks(table: pd.DataFrame) -> Sheet:
    columns = [Column("Statistic", "statistic"), Column("Measure", "measure"), Column("Algorithm", "algorithm")]
    columns += [Column("Mean rank", "rank", digits=".2f"), Column("Error over RND", "ratio", digits=".3f")]
    columns += [Column("95 % interval", "interval"), Column("Data sets", "data"), Column("Scenarios", "scenarios")]
    columns += [Column("p any differ", "p_friedman", digits=".2g")]
    columns += [Column("p against RND", "p", digits=".2g"), Column("p adjusted", "p_adjusted", digits=".2g")]
    note = (
        "Over data sets: scenarios on one data set share structures and are averaged (logarithms) first. Full"
        " scenarios at their largest batch, forces (energies on QM9). Tests: Friedman; Student's t of log ratios"
        " to random selection over data sets, adjusted (Benjamini, Hochberg). Algorithms that a scenario lacks"
        " are left out."
    )
    return Sheet("ranks", "Ranks over data sets", note, tables.with_interval(table), columns)


def _efficiency(table: pd.DataFrame) -> Sheet:
    columns = [*tables.EXPERIMENT_COLUMNS, Column("Of", "quantity"), Column("Measure", "measure")]
    columns += [Column("Level", "level"), Column("Error", "target"), Column("Reached", "reached")]
    columns += [Column("Seeds", "seeds"), Column("N_train", "n_train", "n_train_sem")]
    columns += [Column("Saving", "saving", digits=".2f"), Column("90 % interval", "interval")]
    columns += [Column("Labels bought", "labels_bought", "labels_bought_sem")]
    columns += [Column("Compute (h)", "compute_hours", "compute_hours_sem"), Column("All (h)", "hours", "hours_sem")]
    data = table.assign(
        interval=[
            "" if np.isnan(low) else f"[{low:.2f}, {high:.2f}]"
            for low, high in zip(table["low"], table["high"], strict=True)
        ]
    )
    note = (
        "Training structures until an error level is reached: that of random selection of the same seed at its"
        " end, at a half, at a quarter of it, on monotone curves. Empty where a seed does not reach it;"
        " unfinished runs count once all of an algorithm have. Saving: N_train of random selection over the"
        " algorithm's at that level, geometric mean over seeds, each limit of its interval a one-sided test at 5 %;"
        " empty while random selection's curve is not recorded. Labels bought: with validation, and the pool where it"
        f" is read. All: with {LABEL_SECONDS:g} s a label unless set otherwise."
    )
    return Sheet("efficiency", "Labels and cost to reach an error", note, data, columns)


def completeness(plan: pd.DataFrame) -> pd.DataFrame:
    """Runs of each scenario of the sweep by state."""
    if plan.empty:
        return pd.DataFrame(columns=["scenario", "experiments", "runs", *STATES])
    counts = plan.pivot_table(index="scenario", columns="state", values="seed", aggfunc="count", fill_value=0)
    counts = counts.reindex(columns=list(STATES), fill_value=0).astype(int)
    experiments = plan.drop_duplicates(["scenario", "deviations", "algorithm", "batch_size"])["scenario"].value_counts()
    counts.insert(0, "experiments", experiments)
    counts.insert(1, "runs", plan["scenario"].value_counts())
    counts["hours_spent"] = plan.groupby("scenario")["seconds_spent"].sum() / 3600
    counts["hours_to_come"] = plan.groupby("scenario")["seconds_to_come"].agg(lambda s: s.sum(skipna=False)) / 3600
    return counts.loc[sorted(counts.index, key=style.scenario_order)].reset_index()


def _completeness(plan: pd.DataFrame) -> Sheet:
    data = completeness(plan)
    columns = [Column("Scenario", "scenario"), Column("Experiments", "experiments"), Column("Runs", "runs")]
    columns += [Column(state.capitalize(), state) for state in STATES]
    columns += [Column("Hours spent", "hours_spent", digits=".1f"), Column("To come", "hours_to_come", digits=".1f")]
    note = "Runs of the sweep by state; stale: answered only by another version of the code's numbers or of the data."
    return Sheet("completeness", "Completeness", note, data, columns if len(data) else [])


def _runs(runs: pd.DataFrame) -> Sheet:
    data = runs.assign(commit=runs["git_commit"].astype(object).where(runs["git_commit"].notna(), "").str[:10])
    data["commit"] += np.where(data["git_dirty"].eq(True), " (changed)", "")
    whole = ("seed", "batch_size", "steps", "threads", "not_finite")
    data = data.astype({name: "Int64" for name in whole if name in data})
    columns = [Column("Run", "run_id"), Column("State", "state"), Column("Scenario", "study")]
    columns += [Column("N_batch", "batch_size"), Column("Algorithm", "algorithm"), Column("Seed", "seed")]
    columns += [
        Column("Steps", "steps"),
        Column("Commit", "commit"),
        Column("Host", "host"),
        Column("Device", "device"),
    ]
    columns += [Column("Threads", "threads"), Column("Versions", "versions"), Column("Not finite", "not_finite")]
    note = (
        "Every folder below results/runs. Of unfinished runs steps alone count; stale, superseded, damaged ones do not."
    )
    return Sheet("runs", "Runs", note, data, [*columns, Column("Failure", "failure")])
