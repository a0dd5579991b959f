"""A page for each of the paper's scenarios with what has been measured, and their index."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from analysis import style
from analysis.pages.algorithms import MADE, MEASURES, PAUSES, algorithms, shell
from analysis.pages.results import PAPER, Results, error, in_words, of_paper, quantity_of, ratio, table, unit
from analysis.paper.numbers import is_reduced, paper_numbers, remark
from analysis.statistics.values import BASELINE
from bench.config.places import CONF

SUBMIT = Path(__file__).with_name("submit.md")
ATTRIBUTION = (
    "The paper's numbers are those of V. Zaverkin, D. Holzmüller, I. Steinwart, J. Kästner, *Digital Discovery* 2022,"
    " 1, 605, [doi:10.1039/D2DD00034B](https://doi.org/10.1039/D2DD00034B), licence CC BY 3.0, read from its text. It"
    " gives no standard errors, so nothing is tested against them."
)
REDUCED = (
    "The paper's pool is larger: of its numbers only those of random selection can stand beside these, and no MAXE,"
    " which grows with the test set."
)
NOTHING = "## Results\n\nNo finished run of this scenario is committed with tables yet."


def pages(found: Results) -> dict[str, str]:
    """Every page by its file name."""
    return {"index.md": _index(found), **{f"{scenario}.md": _page(scenario, found) for scenario in PAPER}}


def _index(found: Results) -> str:
    rows = []
    for scenario in PAPER:
        finals = found.finals[found.finals["scenario"] == scenario]
        full = finals[(finals["deviations"] == "") & (finals["quantity"] == "energy")]
        altered = finals[(finals["deviations"] != "") & (finals["quantity"] == "energy")]
        of, algorithms_of = _planned(scenario)
        whole = [found.is_curve(run) for runs in full["runs"] for run in runs.split()]
        hours = found.cost_of(_runs(finals))[0] if len(finals) else ""
        others = sum(len(runs.split()) for runs in altered["runs"])
        rows.append([f"[{style.SCENARIOS[scenario]}]({scenario}.md)", f"{sum(whole)} of {of}"])
        rows[-1] += [
            str(len(whole) - sum(whole)),
            str(others),
            f"{full['algorithm'].nunique()} of {algorithms_of}",
            hours,
        ]
    listed = "\n".join(PAPER)
    heads = ["scenario", "runs", "last points alone", "runs of other forms", "algorithms", "core hours"]
    return f"""{MADE}

# Benchmark

Results of active learning on the paper's seven scenarios. Every number is made from the records in
[`results/reference`](../../results/reference/README.md), which also says in words what has been reproduced so far. A
page a scenario: errors of the last step, ratios to random selection at equal seed, learning curves, seeds, cost, and
the paper's numbers beside them.

{table(heads, rows)}

A run is one algorithm, batch size and seed. A last point alone is one training of random selection on as many
structures as the curve ends with; it stands in for the end of a curve that is not there. Other forms are runs whose
settings depart from the scenario's, a smaller pool say; they have tables of their own and are never mixed with it.

{ATTRIBUTION}

{SUBMIT.read_text(encoding="utf-8").strip()}

```{{toctree}}
:hidden:

{listed}
```
"""


def _planned(scenario: str) -> tuple[int, int]:
    """The runs and the algorithms of the scenario's sweep."""
    sweep = yaml.safe_load((CONF / "sweep" / f"{scenario}.yaml").read_text(encoding="utf-8"))
    counts = {key: len(str(values).split(",")) for key, values in sweep["hydra"]["sweeper"]["params"].items()}
    return math.prod(counts.values()), counts["algorithm"]


def _runs(rows: pd.DataFrame) -> list[str]:
    return sorted({run for runs in rows["runs"] for run in runs.split()})


def _page(scenario: str, found: Results) -> str:
    settings = yaml.safe_load((CONF / "scenario" / f"{scenario}.yaml").read_text(encoding="utf-8"))
    sizes = settings["scenario"]
    studies = found.studies(scenario)
    parts = [_section(study, found) for study in studies] or [NOTHING]
    told = remark(scenario, "")
    note = f"\n\nOf the scenario: {told} ([why](../method.md#training))." if told else ""
    body = "\n\n".join(parts)
    overrides = {key: value for default in settings["defaults"] for key, value in default.items()}
    data, sweep = overrides["override /dataset"], f"sweep={scenario}"
    size = {name: _number(sizes[name]) for name in ("initial", "final", "pool", "validation", "test")}
    return f"""{MADE}

# {style.SCENARIOS[scenario]}

`{scenario}`: from {size["initial"]} to {size["final"]} training structures; pool {size["pool"]}, validation
{size["validation"]}, test {size["test"]} ([all scenarios](../method.md#experiments)).{note}

{body}

{_paper(scenario)}

## Command

Which runs are done, which are missing, and what they take:

{shell("", f"bmdal-bench plan {sweep} --costs results/reference/perf")}

The data, what a launch would do, and, without `--dry-run`, the launch:

{shell("never, other data", f"bmdal-bench data prepare {data}", f"bmdal-bench launch {sweep} seed=0 --dry-run")}

How to add results: [Submit results](index.md#submit-results).
"""


def _number(value: int) -> str:
    return f"{value:,}".replace(",", " ") if value >= 10_000 else str(value)


def _section(study: str, found: Results) -> str:
    """Errors, ratios, cost and curves of one form of a scenario."""
    rows = found.finals[found.finals["study"] == study]
    deviations, scenario, folder = (str(rows.iloc[0][key]) for key in ("deviations", "scenario", "folder"))
    title = "As in the paper" if not deviations else f"With {in_words(deviations).replace('=', ' = ')}"
    main = quantity_of(rows)
    parts = [f"## {title}"]
    if is_reduced(deviations):
        parts.append(REDUCED)
    for quantity in [main] + [q for q in ("energy",) if q != main and q in set(rows["quantity"])]:
        parts.append(_errors(rows[rows["quantity"] == quantity], quantity, scenario, deviations))
    compared = rows[(rows["quantity"] == main) & (rows["algorithm"] != BASELINE)]
    if len(compared):
        parts.append(_ratios(compared, found))
    parts.append(_cost(rows[rows["quantity"] == main], found))
    for path in found.figures(study):
        inside = path.relative_to(found.reference).as_posix()
        what = "forces" if path.stem.endswith("_force") else "energies"
        form = f", {title[0].lower()}{title[1:]}" if deviations else ""
        parts.append(
            f"![Errors of {what} against the number of training structures, a curve for each algorithm{form}]"
            f"(../../results/reference/{inside})"
        )
    parts.append(f"Records, tables and all figures: `results/reference/{folder}`.")
    return "\n\n".join(parts)


def _linked(known: Mapping[str, str], name: str) -> str:
    return f"[{name}](../algorithms/{known[name]}.md)" if name in known else name


def _errors(rows: pd.DataFrame, quantity: str, scenario: str, deviations: str) -> str:
    known = {name: file for file, (name, *_) in algorithms().items()}
    heads, cells = ["algorithm", "N_batch", "seeds"], []
    beside = quantity_of(rows) == quantity and (not deviations or is_reduced(deviations))
    for _, row in rows.sort_values(["batch_size", "algorithm"], key=_order).iterrows():
        cells.append([_linked(known, row["algorithm"]), str(row["batch_size"]), str(row["seeds"])])
        for measure in MEASURES:
            cells[-1].append(error(row, measure))
            if beside:
                same = not deviations or (row["algorithm"] == BASELINE and measure != "maxe")
                asked = (scenario, int(row["batch_size"]), str(row["algorithm"]), quantity, measure)
                cells[-1].append(of_paper(*asked) if same else "")
    for measure in MEASURES:
        heads += [measure.upper(), "paper"] if beside else [measure.upper()]
    kept = [i for i, head in enumerate(heads) if head != "paper" or any(row[i] for row in cells)]
    heads, cells = [heads[i] for i in kept], [[row[i] for i in kept] for row in cells]
    told = f"{quantity.capitalize()} errors of the last step in {unit(quantity)}, mean ± standard error"
    return f"{told}:\n\n{table(heads, cells)}"


def _order(values: pd.Series) -> pd.Series:
    """Algorithms in the order of the paper."""
    names = list(style.METHODS)
    return values if values.dtype.kind in "if" else values.map(lambda v: names.index(v) if v in names else len(names))


def _ratios(rows: pd.DataFrame, found: Results) -> str:
    known = {name: file for file, (name, *_) in algorithms().items()}
    cells = [
        [_linked(known, row["algorithm"]), str(row["batch_size"])]
        + [ratio(found.ratios, row, measure) for measure in MEASURES]
        for _, row in rows.sort_values(["batch_size", "algorithm"], key=_order).iterrows()
    ]
    heads = ["algorithm", "N_batch", *(f"{measure.upper()} / random" for measure in MEASURES)]
    told = "Errors over random selection's at equal seed, geometric mean and, from three seeds on, 95 % interval"
    if not any(cell for row in cells for cell in row[2:]):
        return "Random selection has no run here that begins with the same first training set: no ratios."
    return f"{told} ([how](../statistics.md)):\n\n{table(heads, cells)}"


def _cost(rows: pd.DataFrame, found: Results) -> str:
    cells = []
    for _, row in rows.sort_values(["batch_size", "algorithm"], key=_order).iterrows():
        hours, steps = found.cost_of(row["runs"].split())
        cells.append([row["algorithm"], str(row["batch_size"]), str(row["seeds"]), steps, hours])
    heads = ["algorithm", "N_batch", "seeds", "steps of a run", "core hours, all seeds"]
    told = (
        f"Cost: seconds of training, evaluation, features and selection, times threads; {PAUSES}. A run of one step is"
    )
    return f"{told} the last point alone, without a learning curve:\n\n{table(heads, cells)}"


def _paper(scenario: str) -> str:
    """The numbers that the paper's text gives of the scenario."""
    numbers = paper_numbers()
    numbers = numbers[(numbers["scenario"] == scenario) & numbers["statistic"].isin(["final", "at", "curve"])]
    if not len(numbers):
        return "## The paper\n\nThe paper's text quotes no number of this scenario."
    kinds = {"final": "last step", "curve": "curve average"}
    cells = [
        [
            *(row["algorithm"], str(row["batch_size"]), kinds.get(row["statistic"], f"at {row['n_train']:.0f}")),
            *(
                f"{row['quantity']} {row['measure'].upper()}",
                f"{row['value']:.2f}",
                unit(row["quantity"]),
                row["place"],
            ),
        ]
        for row in _rows(numbers)
    ]
    heads = ["algorithm", "N_batch", "statistic", "error", "value", "unit", "place"]
    return f"## The paper\n\n{ATTRIBUTION}\n\n{table(heads, cells)}"


def _rows(numbers: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in numbers.to_dict("records")]
