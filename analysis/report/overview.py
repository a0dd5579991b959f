"""What is there and what is missing: tiles, sentences, the runs of each study, completeness of the sweep."""

from collections.abc import Sequence

import pandas as pd
from markupsafe import Markup

from analysis import style
from analysis.paper.claims import VERDICTS
from analysis.records.collect import CURRENT, Tables
from analysis.records.found import STATES
from analysis.report.parts import PARTS, table
from analysis.tables.sheets import completeness

COLOURS = {"done": "#009E73", "running": "#56B4E9", "interrupted": "#E69F00", "failed": "#D55E00", "stale": "#CC79A7"}


ALTERED = (
    "Altered: runs that depart from the scenario as its file has it, in what stands in brackets. They are averaged and"
    " compared with runs that are altered alike, and with no others."
)


def altered(runs: pd.DataFrame) -> pd.Series:
    """Whether a run is of a known scenario that was altered."""
    return runs["scenario"].isin(style.BROUGHT) & (runs["deviations"].fillna("") != "")


def tiles(collected: Tables, claims: pd.DataFrame, *, alone: bool) -> list[tuple[str, str]]:
    """Numbers for the head of the page; `alone`: nothing of the paper's data is there, and nothing is said of it."""
    plan, runs = collected.plan, collected.runs
    done = runs[runs["state"] == "done"]
    own = int((~done["scenario"].isin(style.BROUGHT)).sum())
    made = [(str(own), "runs of your own studies done")] if own else []
    for name, part in _sweeps(plan):
        finished = int((part["state"] == "done").sum())
        if finished or not alone:
            made.append((f"{finished} / {len(part)}", f"runs of {name} done"))
    apart = altered(done)
    if apart.any():
        made.append((str(apart.sum()), "altered runs done, kept apart"))
    single = int((done["scenario"] == "single_training").sum())
    if single:
        made.append((str(single), "single trainings done"))
    if alone:
        claims = claims.head(0)
    for rows, told in ((claims["deviations"] == "", ""), (claims["deviations"] != "", " on a reduced pool")):
        counts = claims.loc[rows, "verdict"].value_counts()
        made += [(str(counts[v]), f"claims {v}{told}") for v in VERDICTS if v in counts]
    spent = collected.steps.filter(regex="^seconds_(training|features|selection|evaluation)$").sum().sum() / 3600
    return [*made, (f"{spent:.1f} h" if spent >= 1 else f"{60 * spent:.0f} min", "computed")]


def _sweeps(plan: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if plan.empty:
        return []
    of = plan["scenario"].map(lambda name: name if name == "demo" else "paper's" if name in style.BROUGHT else "own")
    named = {"own": "your own sweeps", "demo": "the demo", "paper's": "the paper's sweep"}
    return [(told, plan[of == name]) for name, told in named.items() if (of == name).any()]


def there(collected: Tables) -> list[str]:
    """What is there: for each study its algorithms with their seeds."""
    told = []
    for _, part in _in_order(collected.runs[collected.runs["state"].isin(CURRENT)]):
        first = part.iloc[0]
        done = part[part["state"] == "done"]
        each = [f"{n} ({k} seed{'s' if k > 1 else ''})" for n, k in _seeds(done).items()]
        begun = len(part) - len(done)
        each += [f"{begun} unfinished"] if begun else []
        told.append(f"{style.study_title(first['scenario'], first['deviations'])}: {', '.join(each)}")
    return told


def _seeds(done: pd.DataFrame) -> dict[str, int]:
    counts = done.groupby("algorithm")["seed"].nunique()
    return {name: int(counts[name]) for name in style.looks(counts.index)}


def missing(plan: pd.DataFrame) -> list[str]:
    """What is missing of the sweep: for each scenario how many of its runs."""
    counts = completeness(plan)
    lines = []
    for row in counts.to_dict("records"):
        lacking = int(row["runs"] - row["done"])
        if lacking:
            how = "all" if lacking == row["runs"] else f"{lacking} of"
            lines.append(f"{style.SCENARIOS.get(row['scenario'], row['scenario'])}: {how} {row['runs']} runs")
    return lines


def _in_order(runs: pd.DataFrame) -> Sequence[tuple[str, pd.DataFrame]]:
    groups = [(str(study), part) for study, part in runs.groupby("study")]
    return sorted(groups, key=lambda s: (*style.scenario_order(s[1]["scenario"].iloc[0]), s[0]))


def studies(collected: Tables) -> Markup:
    """What was run: a row for each study, with hardware and commits."""
    runs = collected.runs[collected.runs["state"].isin(CURRENT)]
    rows = []
    for study, part in sorted(
        runs.groupby("study"), key=lambda s: (*style.scenario_order(s[1]["scenario"].iloc[0]), s[0])
    ):
        first = part.iloc[0]
        hardware = sorted({one for told in _hardware(part) for one in told.split("; ")})
        commits = sorted({str(commit)[:10] for commit in part["git_commit"].dropna()})
        states = part["state"].value_counts()
        cells = [
            style.scenario_title(first["scenario"], first["deviations"]),
            study,
            first["deviations"] or "as in its file",
            first["dataset"],
            f"{part['initial'].min():.0f} → {part['final'].max():.0f}",
            ", ".join(f"{size:.0f}" for size in sorted(part["batch_size"].unique())),
            str(part["algorithm"].nunique()),
            ", ".join(f"{states[state]} {state}" for state in CURRENT if state in states),
            "; ".join(hardware),
            ", ".join(commits) or "unknown",
        ]
        rows.append(cells)
    heads = [
        "Scenario",
        "Name",
        "Departs from it",
        "Dataset",
        "N_train",
        "N_batch",
        "Algorithms",
        "Runs",
        "Hardware",
        "Commits",
    ]
    return table(heads, rows, "What was run")


def _hardware(runs: pd.DataFrame) -> "pd.Series[str]":
    """What runs were computed on; tables of before tell each run's last session alone."""
    if "hardware" in runs:
        return runs["hardware"].fillna("?")
    told = runs[["cpu", "device", "threads"]].astype(object).where(runs[["cpu", "device", "threads"]].notna(), "?")
    return told["cpu"].astype(str) + ", " + told["device"].astype(str) + ", threads: " + told["threads"].astype(str)


def problems(runs: pd.DataFrame) -> list[str]:
    """What is in no mean over runs, counted."""
    wrong = runs[runs["state"].isin(["failed", "stale", "superseded", "damaged", "interrupted"])]
    strange = runs[runs.get("not_finite", pd.Series(0, runs.index)).fillna(0) > 0]
    told = [f"{count} {state}" for state, count in wrong["state"].value_counts().items()]
    return told + ([f"{len(strange)} with values that are not finite"] if len(strange) else [])


def completeness_of(plan: pd.DataFrame) -> Markup:
    """Runs of the sweep by state, with a bar each."""
    rows = []
    for row in completeness(plan).to_dict("records"):
        states = [s for s in STATES if s in COLOURS and row[s]]
        parts = [(f"{100 * row[s] / row['runs']:.2f}", COLOURS[s], f"{row[s]} {s}") for s in states]
        to_come = "unknown" if pd.isna(row["hours_to_come"]) else f"{row['hours_to_come']:.1f}"
        cells = [row["scenario"], row["experiments"], row["runs"], *(row[state] for state in STATES)]
        rows.append([*cells, f"{row['hours_spent']:.1f}", to_come, PARTS.bar(parts)])
    heads = ["Scenario", "Experiments", "Runs", *(s.capitalize() for s in STATES), "Hours spent", "Hours to come", ""]
    return table(heads, rows, "Runs of each scenario by state") if rows else Markup("")
