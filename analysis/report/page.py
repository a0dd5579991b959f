"""One self-contained page: what was run, how far it is, verdicts, figures, tables, and the run behind each number."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

import pandas as pd

from analysis import style
from analysis.claims import NOT_SUPPORTED, NOT_TESTED, SUPPORTED
from analysis.collect import CURRENT, Tables
from analysis.report.drawn import Drawn
from analysis.sheets import STATES, completeness
from analysis.tables import Sheet

HERE = Path(__file__).parent
TITLE = "Batch-mode active learning of interatomic potentials: what has been reproduced"
PAPER = "V. Zaverkin, D. Holzmüller, I. Steinwart, J. Kästner, Digital Discovery 2022, 1, 605"
KEYS = {"study": "study", "scenario": "study", "batch_size": "batch_size", "algorithm": "algorithm"}
COLOURS = {"done": "#009E73", "running": "#56B4E9", "interrupted": "#E69F00", "failed": "#D55E00", "stale": "#CC79A7"}


def page(collected: Tables, made: Sequence[Sheet], drawn: Sequence[Drawn]) -> str:
    """The whole page as text, the same for the same tables."""
    known = {sheet.name: sheet for sheet in made}
    apart = ("claims", "paper", "completeness", "runs")
    sections = [
        ("run", "What was run", _studies(collected) + _problems(collected.runs)),
        ("completeness", "Completeness", _completeness(collected.plan)),
        ("verdicts", "The paper's claims", _sheet(known, "claims")),
        ("numbers", "The paper's numbers", _sheet(known, "paper")),
        ("figures", "Figures", _figures(collected, drawn)),
        ("tables", "Tables", "".join(_folded(sheet) for sheet in made if sheet.name not in apart)),
        ("runs", "Runs", _sheet(known, "runs")),
    ]
    body = "".join(
        f'<section id="{i}"><h2>{escape(t)}</h2>{content}</section>' for i, t, content in sections if content
    )
    links = "".join(f'<a href="#{i}">{escape(t)}</a>' for i, t, content in sections if content)
    content = {
        "sheets": {sheet.name: _json(sheet) for sheet in made},
        "values": {figure.name: figure.values for figure in drawn},
    }
    embedded = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return Template(HERE.joinpath("page.html").read_text()).substitute(
        title=escape(TITLE),
        paper=escape(PAPER),
        css=HERE.joinpath("page.css").read_text(),
        script=HERE.joinpath("page.js").read_text(),
        tiles=_tiles(collected, known),
        links=links,
        body=body,
        data=embedded,
    )


def _tiles(collected: Tables, known: dict[str, Sheet]) -> str:
    plan, runs = collected.plan, collected.runs
    tiles = []
    for name, part in _sweeps(plan):
        tiles.append((f"{int((part['state'] == 'done').sum())} / {len(part)}", f"runs of the {name} done"))
    apart = runs[(runs["state"] == "done") & (runs["deviations"].fillna("") != "")]
    tiles.append((str(len(apart)), "altered runs, kept apart"))
    if "claims" in known:
        claims = known["claims"].data
        counts = claims.loc[claims["deviations"] == "", "verdict"].value_counts()
        tiles += [(str(counts.get(v, 0)), f"claims {v}") for v in (SUPPORTED, NOT_SUPPORTED, NOT_TESTED)]
        counts = claims.loc[claims["deviations"] != "", "verdict"].value_counts()
        if len(counts):
            supported, not_supported = (counts.get(v, 0) for v in (SUPPORTED, NOT_SUPPORTED))
            tiles.append((f"{supported} / {not_supported}", "claims supported / not supported on reduced pools"))
    spent = collected.steps.filter(regex="^seconds_(training|features|selection|evaluation)$").sum().sum() / 3600
    tiles.append((f"{spent:.1f} h", "computed"))
    return (
        '<div class="tiles">' + "".join(f'<div class="tile"><b>{n}</b>{escape(t)}</div>' for n, t in tiles) + "</div>"
    )


def _sweeps(plan: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if plan.empty:
        return []
    demo = plan["scenario"] == "demo"
    return [(name, part) for name, part in (("demo", plan[demo]), ("paper's sweep", plan[~demo])) if len(part)]


def _studies(collected: Tables) -> str:
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
        rows.append([escape(cell) for cell in cells])
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
    return _plain_table(heads, rows)


def _problems(runs: pd.DataFrame) -> str:
    wrong = runs[runs["state"].isin(["failed", "stale", "superseded", "damaged", "interrupted"])]
    strange = runs[runs.get("not_finite", pd.Series(0, runs.index)).fillna(0) > 0]
    if wrong.empty and strange.empty:
        return '<p class="note">No failed, interrupted, stale, superseded or damaged run; every value is finite.</p>'
    counts = wrong["state"].value_counts()
    told = [f"{count} {state}" for state, count in counts.items()]
    told += [f"{len(strange)} with values that are not finite"] if len(strange) else []
    return (
        f'<p><b class="failed">Not in the means over runs:</b> {escape(", ".join(told))}. They are listed under Runs;'
        " steps that unfinished ones have reached are in learning curves and beside the paper's points of a curve.</p>"
    )


def _completeness(plan: pd.DataFrame) -> str:
    rows = []
    for row in completeness(plan).to_dict("records"):
        parts = [
            f'<i style="width:{100 * row[s] / row["runs"]:.2f}%;background:{COLOURS[s]}" title="{row[s]} {s}"></i>'
            for s in STATES
            if s in COLOURS and row[s]
        ]
        to_come = "unknown" if pd.isna(row["hours_to_come"]) else f"{row['hours_to_come']:.1f}"
        cells = [row["scenario"], row["experiments"], row["runs"], *(row[state] for state in STATES)]
        cells += [f"{row['hours_spent']:.1f}", to_come]
        rows.append([*(escape(str(cell)) for cell in cells), f'<div class="bar">{"".join(parts)}</div>'])
    heads = ["Scenario", "Experiments", "Runs", *(s.capitalize() for s in STATES), "Hours spent", "Hours to come", ""]
    return _plain_table(heads, rows) if rows else ""


def _plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col" class="plain">{escape(h)}</th>' for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _figures(collected: Tables, drawn: Sequence[Drawn]) -> str:
    scenarios = collected.steps.drop_duplicates("study").set_index("study")
    parts = []
    for number, study in enumerate(dict.fromkeys(figure.study for figure in drawn)):
        own = "".join(_figure(figure) for figure in drawn if figure.study == study)
        title = "The three criteria"
        if study:
            first = scenarios.loc[study]
            title = style.scenario_title(first["scenario"], first["deviations"])
            title += f": {first['deviations']}" if first["deviations"] else ""
        parts.append(f"<details{' open' if number < 2 else ''}><summary>{escape(title)}</summary>{own}</details>")
    return "".join(parts)


def _figure(figure: Drawn) -> str:
    links = "".join(f' <a href="figures/{figure.name}.{suffix}">{suffix.upper()}</a>' for suffix in ("svg", "png"))
    return (
        f'<figure data-figure="{figure.name}"><h3>{escape(figure.heading)}</h3>'
        f'<div class="plots"><div class="frame">{figure.inline()}</div></div>'
        f'<figcaption>{escape(figure.caption)} <button type="button">Enlarge</button>{links}</figcaption></figure>'
    )


def _sheet(known: dict[str, Sheet], name: str) -> str:
    if name not in known:
        return ""
    return f'<p class="note">{escape(known[name].note)}</p><div data-sheet="{name}"></div>'


def _folded(sheet: Sheet) -> str:
    note = f'<p class="note">{escape(sheet.note)}</p><div data-sheet="{sheet.name}"></div>'
    return f"<details><summary>{escape(sheet.title)}</summary>{note}</details>"


def _json(sheet: Sheet) -> dict[str, object]:
    keys = {KEYS[column.value]: i for i, column in enumerate(sheet.columns) if column.value in KEYS}
    names = [column.heading for column in sheet.columns]
    linked = "study" in keys and sheet.name != "runs"
    link = next((name for name in ("Runs", "Seeds", "Pairs") if name in names), "") if linked else ""
    return {"title": sheet.title, "columns": names, "rows": sheet.cells(), "keys": keys, "link": link}
