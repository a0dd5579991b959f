"""One self-contained page: figures and a scoreboard first, then verdicts, then tables, and the run behind a number."""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from analysis import style
from analysis.paper.claims import VERDICTS
from analysis.paper.numbers import remark
from analysis.records.collect import Tables
from analysis.report import overview, own
from analysis.report.drawn import Drawn
from analysis.report.parts import HERE, PAGE, PARTS
from analysis.report.scoreboard import BASE, FEW, NOTE, UNPAIRED, scoreboard
from analysis.statistics.values import MEASURES
from analysis.tables.sheet import Sheet
from analysis.tables.sheets import Statistics

TITLE = "Batch-mode active learning of interatomic potentials"
PAPER = (
    "V. Zaverkin, D. Holzmüller, I. Steinwart, J. Kästner, Digital Discovery 2022, 1, 605, doi:10.1039/D2DD00034B; its"
    " numbers under CC BY 3.0"
)
KEYS = {"study": "study", "scenario": "study", "batch_size": "batch_size", "algorithm": "algorithm"}
FIRST = "learning_curves_"


def page(
    collected: Tables,
    found: Statistics,
    made: Sequence[Sheet],
    drawn: Sequence[Drawn],
    files: Sequence[str] = ("svg", "png"),
) -> str:
    """The whole page as text, the same for the same tables; `files` lie beside it in figures/."""
    known = {sheet.name: sheet for sheet in made}
    folded = [PARTS.folded(one.title, PARTS.sheet(one.name, one.note)) for one in made if one.name != "runs"]
    curves = [figure for figure in drawn if figure.name.startswith(FIRST)]
    others = [figure for figure in drawn if figure not in curves]
    board = scoreboard(found.means, found.paired, found.paper, collected.steps)
    alone = own.only_own(collected.runs)
    claims, completeness = _claims(found.claims, known), overview.completeness_of(collected.plan)
    if alone:
        claims, completeness = (
            part and PARTS.folded("Nothing of the paper's data is here", part) for part in (claims, completeness)
        )
    sections = [
        ("curves", "Learning curves", _figures(collected, curves, files)),
        ("scoreboard", "Scoreboard", _scoreboard(collected, board)),
        ("figures", "More figures", _figures(collected, others, files)),
        ("verdicts", "The paper's claims", claims),
        ("tables", "Tables", Markup("").join(folded)),
        ("run", "What was run", overview.studies(collected) + PARTS.problems(overview.problems(collected.runs))),
        ("completeness", "Completeness", completeness),
        ("runs", "Runs", Markup(PARTS.sheet("runs", known["runs"].note)) if "runs" in known else Markup("")),
    ]
    content = {
        "sheets": {sheet.name: _json(sheet) for sheet in made},
        "values": {figure.name: figure.values for figure in drawn},
    }
    script = HERE.joinpath("page.js").read_text(encoding="utf-8")
    return PAGE.get_template("page.html").render(
        title=TITLE + (": what was found" if alone else ": what has been reproduced"),
        paper="" if alone else PAPER,
        own=own.sentences(collected, board),
        css=Markup(HERE.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        tiles=overview.tiles(collected, found.claims, alone=alone),
        there=overview.there(collected),
        altered=overview.ALTERED if overview.altered(collected.runs).any() else "",
        missing=[] if alone else overview.missing(collected.plan),
        methods=list(style.looks(collected.steps["algorithm"].unique())),
        sections=[section for section in sections if section[2]],
        # no tag of HTML begins within the text of a script
        data=Markup(json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")),
    )


def _figures(collected: Tables, drawn: Sequence[Drawn], files: Sequence[str]) -> Markup:
    parts = []
    for number, study in enumerate(dict.fromkeys(figure.study for figure in drawn)):
        own = Markup("").join(PARTS.figure(figure, files) for figure in drawn if figure.study == study)
        title = _title(collected, study) if study else "The three criteria"
        parts.append(PARTS.folded(title, own, number < 2 and drawn[0].name.startswith(FIRST)))
    return Markup("").join(parts)


def _title(collected: Tables, study: str) -> str:
    first = collected.steps[collected.steps["study"] == study].iloc[0]
    told = [style.scenario_title(first["scenario"], first["deviations"]), first["deviations"]]
    noted = remark(first["scenario"], first["deviations"])
    return ": ".join(part for part in told if part) + (f" ({noted})" if noted else "")


def _scoreboard(collected: Tables, board: pd.DataFrame) -> Markup:
    """A table for each measure: algorithms down, studies across."""
    if board.empty:
        return Markup("")
    board = board.sort_values(
        "scenario", key=lambda names: names.map(lambda n: style.scenario_order(n)[0]), kind="stable"
    )
    studies = list(dict.fromkeys(board["study"]))
    titles = {study: _title(collected, study) for study in studies}
    tables = []
    for measure in MEASURES:
        rows = []
        of_measure = board[board["measure"] == measure].set_index(["algorithm", "study"])
        cells = {key: _cell(row) for key, row in zip(of_measure.index, of_measure.to_dict("records"), strict=True)}
        for name in style.looks(board["algorithm"]):
            rows.append((name, [cells.get((name, study)) for study in studies]))
        tables.append((measure.upper(), rows))
    return Markup(PARTS.scoreboard(tables, [titles[study] for study in studies], NOTE))


def _cell(row: dict[str, Any]) -> dict[str, str]:
    quoted = not pd.isna(row["paper"]) and row["deviations"] == ""
    compared = row["word"] not in (BASE, FEW, UNPAIRED)
    return {
        "ours": f"{row['mean']:.3g}",
        "paper": f"{row['paper']:g}" if quoted else "",
        "ratio": f"{row['ratio']:.2f}" if quoted else "",
        "seeds": f"{row['seeds']} seed{'s' if row['seeds'] != 1 else ''}",
        "word": row["word"],
        "change": f"{row['relative']:+.1%}" if compared else "",
        "interval": f"{row['low'] - 1:+.1%} to {row['high'] - 1:+.1%}" if compared else "",
        "detectable": f"{row['detectable']:.1%}" if compared else "",
    }


def _claims(claims: pd.DataFrame, known: dict[str, Sheet]) -> Markup:
    """The claims by verdict, each with its evidence folded below."""
    groups = []
    for word in VERDICTS:
        rows = claims[claims["verdict"] == word].to_dict("records")
        for row in rows:
            row["title"] = style.SCENARIOS.get(row["scenario"], row["scenario"])
            row["remark"] = remark(row["scenario"], row["deviations"])
            row["lines"] = row["evidence"].split("; ")
        if rows:
            groups.append((word, rows))
    return Markup(PARTS.claims(groups, known["claims"].note if "claims" in known else ""))


def _json(sheet: Sheet) -> dict[str, object]:
    keys = {KEYS[column.value]: i for i, column in enumerate(sheet.columns) if column.value in KEYS}
    names, rows = [column.heading for column in sheet.columns], sheet.cells()
    words: dict[int, list[str]] = {}
    for place in range(len(names)):
        distinct = dict.fromkeys(row[place] for row in rows)
        # a text that stands in many rows is written once
        if len(rows) > 3 * len(distinct):
            words[place] = list(distinct)
    indices = {place: {text: i for i, text in enumerate(texts)} for place, texts in words.items()}
    coded = [[indices[c][text] if c in indices else text for c, text in enumerate(row)] for row in rows]
    linked = "study" in keys and sheet.name != "runs"
    link = next((name for name in ("Runs", "Seeds", "Pairs") if name in names), "") if linked else ""
    return {"title": sheet.title, "columns": names, "words": words, "rows": coded, "keys": keys, "link": link}
