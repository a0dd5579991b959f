"""All tables of a build, in the order of the report."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import style, tables
from analysis.claims import NOT_TESTED, Measured, verdicts
from analysis.collect import EXPERIMENT, Tables
from analysis.compare import batch_slopes, paired, ranks, variants
from analysis.efficiency import LABEL_SECONDS, efficiency
from analysis.paper import FEWEST_SEEDS, against_paper
from analysis.stats import STATISTICS, last_correlations, run_values, summarise
from analysis.tables import Column, Sheet


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

    @classmethod
    def of(cls, collected: Tables, label_seconds: float = LABEL_SECONDS) -> "Statistics":
        """Compute them."""
        values = run_values(collected.steps)
        errors = values[values["statistic"].isin(list(STATISTICS))]
        means = summarise(errors, [*EXPERIMENT, "statistic", "quantity", "measure"])
        slopes, costs = batch_slopes(errors), efficiency(collected.steps, label_seconds)
        return cls(
            values,
            means,
            last_correlations(collected.steps),
            paired(errors),
            slopes,
            costs,
            ranks(means),
            against_paper(collected.steps, values),
            verdicts(Measured(values, slopes, costs)),
            variants(values[values["statistic"] == "final"]),
        )


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
    columns = [Column("Scenario", "scenario"), Column("Claim", "claim"), Column("In the paper", "place")]
    columns += [Column("Verdict", "verdict"), Column("Evidence", "evidence"), Column("Runs", "runs")]
    note = (
        f"Judged with at least {FEWEST_SEEDS} seeds. Differences at equal seed with 95 % intervals; detectable: the"
        " smallest difference found with 80 % power. Rows that name a reduced pool say what its runs show; the claim"
        " itself is one about the full scenario."
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
    columns += [Column("Measure", "measure"), Column("Paper", "paper"), Column("Ours", "mean", "sem")]
    columns += [Column("Difference", "difference", digits="+.3g"), Column("Ratio", "ratio", digits=".3f")]
    columns += [Column("z", "z", digits="+.1f"), Column("p", "p", digits=".2g"), Column("Seeds", "seeds")]
    columns += [Column("In the paper", "place")]
    note = (
        "z: difference in standard errors, the paper's taken to be ours; p: Student's t; from three seeds on. Errors in"
    )
    note += " kcal/mol(/Å). On a reduced pool random selection alone is compared."
    return Sheet("paper", "The paper's numbers beside ours", note, data, columns)


def _variants(table: pd.DataFrame) -> Sheet:
    columns = [Column("Scenario", "scenario"), Column("Runs with", "base"), Column("Changed", "changed")]
    columns += [Column("N_batch", "batch_size"), Column("Algorithm", "algorithm")]
    columns += [Column("Of", "quantity"), Column("Measure", "measure")]
    columns += [Column("Without", "mean_base"), Column("With", "mean"), Column("Difference", "difference", "sem")]
    columns += [Column("Relative", "relative", digits="+.1%"), Column("95 % interval", "interval")]
    columns += [Column("p", "p", digits=".2g"), Column("Pairs", "pairs")]
    note = "Last step; differences at equal seed, mean ± standard error; p of a paired t-test, not adjusted."
    return Sheet("variants", "What one changed setting does", note, table, columns)


def _ranks(table: pd.DataFrame) -> Sheet:
    columns = [Column("Statistic", "statistic"), Column("Measure", "measure"), Column("Algorithm", "algorithm")]
    columns += [Column("Mean rank", "rank", digits=".2f"), Column("Error over RND", "ratio", digits=".3f")]
    columns += [Column("Scenarios", "scenarios"), Column("p any differ", "p_friedman", digits=".2g")]
    columns += [Column("p against RND", "p", digits=".2g"), Column("p adjusted", "p_adjusted", digits=".2g")]
    note = (
        "Over the full scenarios at their largest batch, forces (energies on QM9). Tests: Friedman; Wilcoxon's signed"
    )
    note += " ranks against random selection, adjusted (Benjamini, Hochberg). Algorithms that a scenario lacks are"
    note += " left out."
    return Sheet("ranks", "Ranks over scenarios", note, table, columns)


def _efficiency(table: pd.DataFrame) -> Sheet:
    columns = [*tables.EXPERIMENT_COLUMNS, Column("Of", "quantity"), Column("Measure", "measure")]
    columns += [Column("Target", "target"), Column("Reached", "reached"), Column("Seeds", "seeds")]
    columns += [Column("N_train", "n_train", "n_train_sem"), Column("Saving", "saving", digits=".2f")]
    columns += [Column("Labels bought", "labels_bought", "labels_bought_sem")]
    columns += [Column("Compute (h)", "compute_hours", "compute_hours_sem"), Column("All (h)", "hours", "hours_sem")]
    note = (
        "Training structures until random selection's final error (target) is reached; empty where a seed did not reach"
    )
    note += " it. Unfinished runs count once all of an algorithm have reached it. Labels bought: with validation, and"
    note += f" the pool where it is read. All: with {LABEL_SECONDS:g} s a label unless set otherwise."
    return Sheet("efficiency", "Labels and cost to reach random selection's final error", note, table, columns)


STATES = ("done", "running", "interrupted", "failed", "stale", "missing")


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
