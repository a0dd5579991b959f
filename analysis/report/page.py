"""One self-contained page: what was run, how far it is, verdicts, figures, tables, and the run behind each number."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import style
from analysis.claims import VERDICTS
from analysis.collect import CURRENT, Tables
from analysis.report.drawn import Drawn
from analysis.sheets import STATES, completeness
from analysis.tables import Sheet

HERE = Path(__file__).parent
TITLE = "Batch-mode active learning of interatomic potentials: what has been reproduced"
PAPER = "V. Zaverkin, D. Holzmüller, I. Steinwart, J. Kästner, Digital Discovery 2022, 1, 605"
KEYS = {"study": "study", "scenario": "study", "batch_size": "batch_size", "algorithm": "algorithm"}
PAGE = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
PARTS: Any = PAGE.get_template("parts.html").module
"""Whatever comes from records is escaped by these templates; only they, and the files beside them, make markup."""
COLOURS = {"done": "#009E73", "running": "#56B4E9", "interrupted": "#E69F00", "failed": "#D55E00", "stale": "#CC79A7"}


def page(collected: Tables, made: Sequence[Sheet], drawn: Sequence[Drawn]) -> str:
    """The whole page as text, the same for the same tables."""
    known = {sheet.name: sheet for sheet in made}
    apart = ("claims", "paper", "completeness", "runs")
    folded = [PARTS.folded(one.title, PARTS.sheet(one.name, one.note)) for one in made if one.name not in apart]
    sections = [
        ("run", "What was run", _studies(collected) + PARTS.problems(_problems(collected.runs))),
        ("completeness", "Completeness", _completeness(collected.plan)),
        ("verdicts", "The paper's claims", _sheet(known, "claims")),
        ("numbers", "The paper's numbers", _sheet(known, "paper")),
        ("figures", "Figures", _figures(collected, drawn)),
        ("tables", "Tables", Markup("").join(folded)),
        ("runs", "Runs", _sheet(known, "runs")),
    ]
    content = {
        "sheets": {sheet.name: _json(sheet) for sheet in made},
        "values": {figure.name: figure.values for figure in drawn},
    }
    script = HERE.joinpath("page.js").read_text(encoding="utf-8")
    return PAGE.get_template("page.html").render(
        title=TITLE,
        paper=PAPER,
        css=Markup(HERE.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        tiles=_tiles(collected, known),
        sections=[section for section in sections if section[2]],
        # no tag of HTML begins within the text of a script
        data=Markup(json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")),
    )


def _tiles(collected: Tables, known: dict[str, Sheet]) -> list[tuple[str, str]]:
    plan, runs = collected.plan, collected.runs
    tiles = []
    for name, part in _sweeps(plan):
        tiles.append((f"{int((part['state'] == 'done').sum())} / {len(part)}", f"runs of the {name} done"))
    apart = runs[(runs["state"] == "done") & (runs["deviations"].fillna("") != "")]
    tiles.append((str(len(apart)), "altered runs, kept apart"))
    if "claims" in known:
        claims = known["claims"].data
        counts = claims.loc[claims["deviations"] == "", "verdict"].value_counts()
        tiles += [(str(counts.get(v, 0)), f"claims {v}") for v in VERDICTS]
    spent = collected.steps.filter(regex="^seconds_(training|features|selection|evaluation)$").sum().sum() / 3600
    tiles.append((f"{spent:.1f} h", "computed"))
    return tiles


def _sweeps(plan: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if plan.empty:
        return []
    demo = plan["scenario"] == "demo"
    return [(name, part) for name, part in (("demo", plan[demo]), ("paper's sweep", plan[~demo])) if len(part)]


def _studies(collected: Tables) -> Markup:
    runs = collected.runs[collected.runs["state"].isin(CURRENT)]
    rows = []
    for study, part in sorted(
        runs.groupby("study"), key=lambda s: (*style.scenario_order(s[1]["scenario"].iloc[0]), s[0])
    ):
        first = part.iloc[0]
        described = (
            part[["cpu", "device", "threads"]].astype(object).where(part[["cpu", "device", "threads"]].notna(), "?")
        )
        hardware = sorted({f"{cpu}, {device}, threads: {n}" for cpu, device, n in described.itertuples(index=False)})
        commits = sorted({str(commit)[:10] for commit in part["git_commit"].dropna()})
        states = part["state"].value_counts()
        cells = [
            style.scenario_title(first["scenario"], first["deviations"]),
            study,
            first["deviations"] or "as in its file",
            first["dataset"],
            f"{first['initial']:.0f} → {first['final']:.0f}",
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
    return _table(heads, rows)


def _problems(runs: pd.DataFrame) -> list[str]:
    wrong = runs[runs["state"].isin(["failed", "stale", "superseded", "damaged", "interrupted"])]
    strange = runs[runs.get("not_finite", pd.Series(0, runs.index)).fillna(0) > 0]
    told = [f"{count} {state}" for state, count in wrong["state"].value_counts().items()]
    return told + ([f"{len(strange)} with values that are not finite"] if len(strange) else [])


def _completeness(plan: pd.DataFrame) -> Markup:
    rows = []
    for row in completeness(plan).to_dict("records"):
        states = [s for s in STATES if s in COLOURS and row[s]]
        parts = [(f"{100 * row[s] / row['runs']:.2f}", COLOURS[s], f"{row[s]} {s}") for s in states]
        to_come = "unknown" if pd.isna(row["hours_to_come"]) else f"{row['hours_to_come']:.1f}"
        cells = [row["scenario"], row["experiments"], row["runs"], *(row[state] for state in STATES)]
        rows.append([*cells, f"{row['hours_spent']:.1f}", to_come, PARTS.bar(parts)])
    heads = ["Scenario", "Experiments", "Runs", *(s.capitalize() for s in STATES), "Hours spent", "Hours to come", ""]
    return _table(heads, rows) if rows else Markup("")


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    return Markup(PARTS.table(heads, rows))


def _figures(collected: Tables, drawn: Sequence[Drawn]) -> Markup:
    scenarios = collected.steps.drop_duplicates("study").set_index("study")
    parts = []
    for number, study in enumerate(dict.fromkeys(figure.study for figure in drawn)):
        own = Markup("").join(PARTS.figure(figure) for figure in drawn if figure.study == study)
        title = "The three criteria"
        if study:
            first = scenarios.loc[study]
            title = style.scenario_title(first["scenario"], first["deviations"])
            title += f": {first['deviations']}" if first["deviations"] else ""
        parts.append(PARTS.folded(title, own, number < 2))
    return Markup("").join(parts)


def _sheet(known: dict[str, Sheet], name: str) -> Markup:
    return Markup(PARTS.sheet(name, known[name].note)) if name in known else Markup("")


def _json(sheet: Sheet) -> dict[str, object]:
    keys = {KEYS[column.value]: i for i, column in enumerate(sheet.columns) if column.value in KEYS}
    names = [column.heading for column in sheet.columns]
    linked = "study" in keys and sheet.name != "runs"
    link = next((name for name in ("Runs", "Seeds", "Pairs") if name in names), "") if linked else ""
    return {"title": sheet.title, "columns": names, "rows": sheet.cells(), "keys": keys, "link": link}
