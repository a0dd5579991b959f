"""A page for each algorithm of conf/algorithm, and their index."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from analysis import style
from analysis.pages.picture import picture, points
from analysis.pages.results import PAPER, Results, error, in_words, quantity_of, ratio, table
from analysis.statistics.values import BASELINE
from bench.config.places import CONF

WORDS = Path(__file__).with_name("words.yaml")
MADE = "<!-- Made by `make pages` from analysis/pages and results/reference: change these, not this file. -->"
MEASURES = ("mae", "rmse", "maxe")
SYMBOLS = (
    "$N_\\mathrm{pool}$, $N_\\mathrm{train}$ and $N_\\mathrm{batch}$ are numbers of structures, $d_\\mathrm{feature}$"
    " is the length of a feature vector; numbers in memory are of 8 bytes."
)
PAUSES = "seconds hold the pauses of machines that did other work beside"
NO_SELECT = "`bmdal-bench select` refuses it: a pool has no labels."


def algorithms() -> dict[str, tuple[str, str, str]]:
    """By the name of its file: how each of the paper's is called, and the files of its kernel and selection."""
    found = {}
    for path in sorted((CONF / "algorithm").glob("*.yaml")):
        defaults = yaml.safe_load(path.read_text(encoding="utf-8"))["defaults"]
        parts = {key.removeprefix("override /"): value for default in defaults for key, value in default.items()}
        names = [_name(group, parts[group]) for group in ("selection", "kernel")]
        found[path.stem] = (" + ".join(names), parts["kernel"], parts["selection"])
    order = list(style.METHODS)
    found = {file: algorithm for file, algorithm in found.items() if algorithm[0] in order}
    return dict(sorted(found.items(), key=lambda item: order.index(item[1][0])))


def _name(group: str, file: str) -> str:
    return str(yaml.safe_load((CONF / group / f"{file}.yaml").read_text(encoding="utf-8"))["name"])


def words() -> dict[str, Any]:
    """What is said of kernels, selections and algorithms."""
    return dict(yaml.safe_load(WORDS.read_text(encoding="utf-8")))


def pages(found: Results) -> dict[str, str]:
    """Every page by its file name."""
    known, said = algorithms(), words()
    written = {f"{file}.md": _page(file, *parts, said, found) for file, parts in known.items()}
    return {"index.md": _index(known, said, found), **written}


def pictures() -> dict[str, Figure]:
    """The picture of every algorithm by its file name."""
    drawn, said = points(), words()["kernels"]
    return {
        f"{file}.png": picture(drawn, name, said[kernel]["picture"]) for file, (name, kernel, _) in algorithms().items()
    }


def _index(known: Mapping[str, tuple[str, str, str]], said: Mapping[str, Any], found: Results) -> str:
    rows = []
    for file, (name, kernel, _) in known.items():
        seeds = _seeds(found, name)
        rows.append([f"[{name}]({file}.md)", _said_of(said, kernel), seeds or "none yet"])
    listed = "\n".join(known)
    return f"""{MADE}

# Algorithms

An algorithm is a kernel, which says what is known of a structure, and a selection, which picks a batch by it. These are
the paper's fifteen, and `conf/algorithm` holds one file for each. The pictures on their pages show what each picks on
one and the same toy pool, computed by this project's own features, posterior and selections.

{table(["algorithm", "what the kernel says", "committed results"], rows)}

Which one to begin with: compare [MaxDiag + RND](maxdiag_rnd.md), [MaxDet + GP(LL)](maxdet_gp_ll.md) and
[LCMD + FEAT(LL)](lcmd_feat_ll.md). How ratios are computed and when a difference counts is told in
[Statistics](../statistics.md), all results by scenario in [Benchmark](../benchmark/index.md).

```{{toctree}}
:hidden:

{listed}
```
"""


def _said_of(said: Mapping[str, Any], kernel: str) -> str:
    return str(said["kernels"][kernel]["does"]).strip()


def _seeds(found: Results, name: str) -> str:
    rows = found.finals[(found.finals["algorithm"] == name) & (found.finals["quantity"] == "energy")]
    told = []
    for scenario in PAPER:
        for form, part in rows[rows["scenario"] == scenario].groupby(rows["deviations"] != ""):
            told.append(f"`{scenario}`{', another form' if form else ''}: {part['seeds'].max()} seeds")
    return "; ".join(told).replace(": 1 seeds", ": 1 seed")


def _page(file: str, name: str, kernel: str, selection: str, said: Mapping[str, Any], found: Results) -> str:
    k, s, a = said["kernels"][kernel], said["selections"][selection], said["algorithms"][file]
    warning = "**It reads the labels of the pool: a yardstick, no method to use.** " if a.get("labels") else ""
    run = shell("with tiny, small", f"bmdal-bench run scenario=demo algorithm={file} batch_size=5 seed=0")
    words = f"labelled=train.xyz dataset.energy_unit=eV algorithm={file}"
    chosen = shell("with training.epochs=2", f"bmdal-bench select pool=frames.xyz n=50 {words}")
    select = NO_SELECT if a.get("labels") else chosen
    return f"""{MADE}

# {name}

{k["does"]} {s["does"]}

![{_alt(name, k, s)}](pictures/{file}.png)

*A toy pool in the plane, shaded by the kernel ({k["picture"]}); squares are the training set, numbers the batch in the
order of picking: {s["batch"]}.*

## Formula

The kernel, {k["equations"]} of the paper:

{k["formula"].strip()}

The selection, {s["equations"]}:

{s["formula"].strip()}

What the paper leaves open is settled in [The method](../method.md).

## Cost

| | time | memory |
|---|---|---|
| kernel | {k["time"]} | {k["memory"]} |
| selection | {s["time"]} | {s["memory"]} |

{SYMBOLS}

{_seconds(name, k, found)}

## When to use it

{warning}{a["use"]}

{a["source"]}.

## Command

{run}

{select}

## Results so far

{_results(name, file, found)}

## Code

`conf/algorithm/{file}.yaml` names [`conf/kernel/{kernel}.yaml`](../../conf/kernel/{kernel}.yaml) and
[`conf/selection/{selection}.yaml`](../../conf/selection/{selection}.yaml); the classes are in
[`{k["code"]}`](../../{k["code"]}) and [`{s["code"]}`](../../{s["code"]}).
"""


def shell(run: str, *lines: str) -> str:
    """A block of commands; `run` tells the tests of the pages how they are run."""
    mark = f"<!-- run: {run} -->\n" if run else ""
    return "\n".join([f"{mark}```bash", *lines, "```"])


def _alt(name: str, k: Mapping[str, Any], s: Mapping[str, Any]) -> str:
    return f"{name} on a toy pool of four clusters: points shaded by {k['picture']}, eight numbered picks; {s['batch']}"


def _seconds(name: str, k: Mapping[str, Any], found: Results) -> str:
    """Seconds measured in committed runs, and of features in the benchmarks."""
    parts = []
    rows = found.seconds[(found.seconds["algorithm"] == name) & found.seconds["features"].notna()]
    if len(rows):
        cells = [
            [
                f"`{row['scenario']}`" + (f", {in_words(row['deviations'])}" if row["deviations"] else ""),
                str(row["batch_size"]),
            ]
            + [f"{row[part]:.2g}" for part in ("features", "selection")]
            + [str(row["seeds"])]
            for _, row in rows.iterrows()
        ]
        heads = ["scenario", "N_batch", "kernel / s", "selection / s", "seeds"]
        parts.append(f"Measured in the committed runs, mean over the steps of a run, then over seeds; {PAUSES}:")
        parts.append(table(heads, cells))
    measured = found.reference / "perf" / "per_structure.csv"
    if k.get("gradients") and measured.is_file():
        times = pd.read_csv(measured)
        times = times[times["threads"] == 1]
        column = f"{k['gradients']}_ms"
        told = ", ".join(f"{row['data']} {row[column]:.2g} ms" for _, row in times.iterrows())
        parts.append(
            f"Features of a structure on one core ([benchmarks](../../results/reference/perf/README.md)): {told}."
        )
    return "\n\n".join(parts) or "Not measured in a committed run yet."


def _results(name: str, file: str, found: Results) -> str:
    rows = found.finals[found.finals["algorithm"] == name]
    chosen = [part[part["quantity"] == quantity_of(part)] for _, part in rows.groupby("study", sort=False)]
    baseline = name == BASELINE
    cells = []
    for _, row in pd.concat(chosen).iterrows() if chosen else ():
        form = f", {in_words(row['deviations'])}" if row["deviations"] else ""
        scenario = f"[`{row['scenario']}`](../benchmark/{row['scenario']}.md){form}"
        values = [error(row, m) if baseline else ratio(found.ratios, row, m) for m in MEASURES]
        cells.append([scenario, row["quantity"], str(row["batch_size"]), str(row["seeds"]), *values])
    if not cells:
        return f"""No run of this algorithm is committed yet. What is missing, and what it would take:

{shell("", f"bmdal-bench plan algorithm={file} --costs results/reference/perf")}

How to add results is told in [Benchmark](../benchmark/index.md#submit-results)."""
    heads = ["scenario", "errors of", "N_batch", "seeds", *(measure.upper() for measure in MEASURES)]
    told = "Errors of the last step in kcal/mol/Å (forces) or kcal/mol (energies), mean ± standard error over seeds:"
    if not baseline:
        told = (
            "Errors of the last step over those of [random selection](maxdiag_rnd.md) at equal seed, geometric mean"
            " and, from three seeds on, 95 % interval; below 1 is better than random; empty where random selection has"
            " no run from the same first training set:"
        )
    return f"{told}\n\n{table(heads, cells)}"
