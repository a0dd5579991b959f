"""One command makes everything from what is recorded, says what is missing, and makes the same again."""

import json
import math
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.testing.compare import compare_images

from analysis.build import build, collect, draw
from analysis.figures.catalogue import jobs
from analysis.records.collect import Tables
from analysis.report.page import page
from analysis.tables.sheet import Column, Sheet, latex, markdown, with_error
from analysis.tables.sheets import Statistics, sheets
from bench.config.identity import hash_of
from bench.config.sweep import expand
from bench.runs.record import RECORD
from tests.analysis import records
from tests.analysis.generated import generate
from tests.analysis.records import runs, tables_of

PROJECT = Path(__file__).resolve().parents[2]
REFERENCE = PROJECT / "results" / "reference"


def analysis(*arguments):
    command = [sys.executable, "-m", "analysis.build", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def plain_names(path):
    """The text of a file with clip paths numbered: matplotlib names them by a hash of coordinates to the last bit."""
    numbers = {}
    return re.sub("p[0-9a-f]{10}", lambda m: f"p{numbers.setdefault(m[0], len(numbers))}", path.read_text())


@pytest.mark.parametrize("name", sorted(path.parent.name for path in REFERENCE.glob("*/tables")))
def test_reference_is_rebuilt(tmp_path, name):
    """From records or tables: every committed table byte for byte, SVG but for names, pictures within a tolerance."""
    folder = REFERENCE / name
    collected = Tables.load(folder / "data") if (folder / "data").is_dir() else collect(folder)
    found = Statistics.of(collected)
    for part in ("tables", "figures"):
        (tmp_path / part).mkdir()
    for sheet in sheets(found, collected):
        sheet.save(tmp_path / "tables")
    committed = {path.stem for path in (folder / "figures").glob("*.svg")}
    draw([job for job in jobs(collected, found) if job.name in committed], tmp_path / "figures", workers=1)
    tables = sorted((folder / "tables").iterdir())
    assert [path.name for path in tables] == sorted(path.name for path in (tmp_path / "tables").iterdir())
    for path in [*tables, *sorted((folder / "figures").glob("*.svg"))]:
        rebuilt = tmp_path / path.parent.name / path.name
        assert plain_names(rebuilt) == plain_names(path), path.name
    for path in (folder / "figures").glob("*.png"):
        assert compare_images(str(path), str(tmp_path / "figures" / path.name), tol=2) is None
    if (folder / "report.html").exists():
        assert held_by(folder / "report.html") == {sheet.name: sheet.cells() for sheet in sheets(found, collected)}


def held_by(path):
    """The rows of every table that a page holds."""
    text = path.read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    tables = {}
    for name, sheet in json.loads(data)["sheets"].items():
        words = {int(place): texts for place, texts in sheet["words"].items()}
        tables[name] = [[words[c][v] if c in words else v for c, v in enumerate(row)] for row in sheet["rows"]]
    return tables


def test_the_page_over_all_committed_results_is_theirs():
    parts = [REFERENCE / name for name in ("aspirin", "tio2", "qm9", "fidelity")]
    collected = collect(parts)
    made = sheets(Statistics.of(collected), collected)
    assert held_by(REFERENCE / "report.html") == {sheet.name: sheet.cells() for sheet in made}


def test_holes_failures_and_damage(tmp_path):
    """A sweep with holes, a failure, NaN, a damaged and a stale record: built, and every one is accounted for."""
    cells = expand(["sweep=figure_3", "seed=0,1", "algorithm=maxdiag_rnd,maxdiag_qbc_f,lcmd_feat_ll"])
    generate(tmp_path, cells[1:])
    paths = sorted((tmp_path / "runs").glob(f"*/{RECORD}"))
    contents = [json.loads(path.read_text()) for path in paths]
    contents[0]["status"], contents[0]["steps"] = "failed", contents[0]["steps"][:4]
    contents[0]["failure"] = {"error": "ArithmeticError", "message": "no rank"}
    contents[1]["steps"][3]["metrics"]["force_mae_kcal_mol_A"] = math.nan
    contents[2]["identity"]["model"]["version"] = -1
    contents[2]["run_id"] = hash_of(contents[2]["identity"])
    paths[2] = paths[2].parent.rename(paths[2].parent.with_name(contents[2]["run_id"])) / RECORD
    for path, content in zip(paths, contents, strict=True):
        path.write_text(json.dumps(content))
    paths[3].write_text("{")
    next(paths[4].parent.glob("end_*.npz")).unlink()
    collected = collect(tmp_path, "figure_3")
    assert sorted(collected.runs["state"]) == ["damaged", "done", "done", "failed", "stale"]
    assert len(collected.plan) == 35 and (collected.plan["state"] == "missing").sum() == 35 - 4
    build(collected, tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    for told in ("1 damaged", "1 failed", "1 stale", "1 with values that are not finite", "no rank"):
        assert told in text
    assert {path.suffix for path in (tmp_path / "out" / "tables").iterdir()} == {".csv", ".md", ".tex"}


def test_a_new_algorithm_and_scenario_appear_everywhere():
    contents = [*runs(), *(records.record("My", "method", s, [4.0, 3.0, 2.0 + s], scenario="mine") for s in range(3))]
    contents += [records.record("MaxDiag", "RND", s, [4.0, 3.0, 2.5 + s], scenario="mine") for s in range(3)]
    collected = tables_of(contents)
    found = Statistics.of(collected)
    made = {sheet.name: sheet for sheet in sheets(found, collected)}
    for name in ("errors_final", "errors_curve", "comparisons", "efficiency", "seconds", "runs"):
        rows = made[name].cells()
        assert any("mine" in row and "My + method" in row for row in rows), name
    assert "mine" in page(collected, found, list(made.values()), [])


def test_altered_runs_are_never_in_the_papers_numbers():
    altered = {"scenario": "md17_10_100", "deviations": {"scenario.pool": 7}}
    collected = tables_of(records.record("MaxDiag", "RND", s, [3.0, 2.0], **altered) for s in range(3))
    found = Statistics.of(collected)
    full = found.paper["deviations"] == ""
    assert (found.paper.loc[full, "seeds"] == 0).all() and set(found.claims["verdict"]) == {"not yet tested"}
    assert set(found.paper.loc[~full, "deviations"]) == {"scenario.pool=7"}
    assert set(found.means["study"].str.startswith("md17_10_100_altered_")) == {True}
    made = {sheet.name: sheet.data for sheet in sheets(found, collected)}
    ours = made["paper"]["mean"].notna().to_numpy()  # what runs speak of comes first, the rest as in the paper
    assert 0 < ours.sum() < len(ours) and not ours[ours.sum() :].any()
    assert made["paper"]["paper"][~ours].tolist() == found.paper.loc[found.paper["mean"].isna(), "paper"].tolist()
    assert made["claims"]["claim"].tolist() == found.claims["claim"].tolist()


@pytest.mark.parametrize(
    ("value", "sem", "text"),
    [(1.23456, 0.0123, "1.235 ± 0.012"), (123.4, 12.3, "123 ± 12"), (1.5, math.nan, "1.5"), (math.nan, 1.0, "")],
)
def test_numbers_to_the_second_digit_of_their_error(value, sem, text):
    assert with_error(value, sem) == text


def test_markdown_and_latex():
    data = pd.DataFrame({"name": ["a|b_c", "Δ & 5 %"], "value": [1.25, math.nan], "sem": [0.5, 0.5]})
    sheet = Sheet("s", "A title", "A note.", data, [Column("Name", "name"), Column("MAE", "value", "sem")])
    assert markdown(sheet).splitlines()[4:] == [
        "| Name | MAE |",
        "| --- | --- |",
        "| a\\|b_c | 1.25 ± 0.50 |",
        "| Δ & 5 % |  |",
    ]
    assert r"a|b\_c & 1.25 $\pm$ 0.50 \\" in latex(sheet) and r"$\Delta$ \& 5 \% &  \\" in latex(sheet)


@pytest.mark.long
@pytest.mark.parametrize(("seeds", "gigabytes"), [(5, 2), (35, 4)])
def test_the_whole_paper_within_bounds(tmp_path, seeds, gigabytes):
    """1460 and 10 220 records of full length; the time is printed (60 s and 3 minutes on two idle cores)."""
    generate(tmp_path, expand(["sweep=paper", f"seed=range(0,{seeds})"]))
    started = time.perf_counter()
    done = analysis("--results", tmp_path)
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    computing, memory = used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
    page = tmp_path / "analysis" / "report.html"
    size = page.stat().st_size / 1e6
    print(f"built in {seconds:.0f} s ({computing:.0f} s of computing), {memory:.2f} GB, a page of {size:.1f} MB")
    assert memory < gigabytes and size < 10
    steps = pd.read_parquet(tmp_path / "analysis" / "data" / "steps.parquet")
    assert len(steps) == 13530 * seeds and steps["run_id"].nunique() == 292 * seeds
    plan = pd.read_parquet(tmp_path / "analysis" / "data" / "plan.parquet")
    assert (plan["state"] == "done").all() and len(plan) == 1460


def test_figures_for_a_paper_of_one_s_own(tmp_path):
    """Which figures, which algorithms, width, format and style; a page alone; what does not exist is told in a line."""
    generate(tmp_path, expand(["sweep=figure_3", "seed=0,1", "algorithm=maxdiag_rnd,lcmd_feat_ll"]), arrays=False)
    sheet = tmp_path / "mine.mplstyle"
    sheet.write_text("axes.facecolor: ffeedd\n")
    chosen = ["--figures", "learning_curves_*_force", "--algorithms", "LCMD + FEAT(LL)", "--width", "3.5"]
    given = ["--results", tmp_path, "--sweep", "figure_3", "--workers", "1"]
    done = analysis(*given, *chosen, "--format", "pdf", "--style", sheet, "--output", tmp_path / "own")
    assert done.returncode == 0, done.stderr
    figures = sorted(path.name for path in (tmp_path / "own" / "figures").iterdir())
    assert figures == ["learning_curves_md17_10_100_force.pdf", "learning_curves_md17_10_100_force.svg"]
    text = (tmp_path / "own" / "figures" / figures[1]).read_text()
    assert 'width="252pt"' in text and "#ffeedd" in text and "LCMD + FEAT(LL)" in text and "MaxDiag" not in text
    assert (tmp_path / "own" / "figures" / figures[0]).read_bytes().startswith(b"%PDF")
    report = (tmp_path / "own" / "report.html").read_text()
    assert f'href="figures/{figures[0]}"' in report and "learning_curves_md17_10_100_energy" not in report
    done = analysis(*given, *chosen, "--page", "--output", tmp_path / "alone")
    assert done.returncode == 0 and [path.name for path in (tmp_path / "alone").iterdir()] == ["report.html"]
    assert 'href="figures/' not in (tmp_path / "alone" / "report.html").read_text()
    wrongs = (["--figures", "nothing"], ["--algorithms", "Nobody"], ["--format", "gif"], ["--width", "90"])
    for wrong in (*wrongs, ["--label-seconds", "inf"]):
        told = analysis(*given, *wrong, "--output", tmp_path / "wrong")
        assert told.returncode == 2 and wrong[1] in told.stderr and len(told.stderr.splitlines()) == 1
    told = analysis(*given, "--style", tmp_path / "none", "--output", tmp_path / "wrong")
    assert told.returncode == 2 and "matplotlib style file" in told.stderr


def test_several_results_together(tmp_path):
    """A run that lies in two folders counts once."""
    first, second = tmp_path / "first", tmp_path / "second"
    generate(first, expand(["sweep=figure_3", "seed=0,1", "algorithm=maxdiag_rnd"]))
    generate(second, expand(["sweep=figure_3", "seed=1,2", "algorithm=maxdiag_rnd"]))
    collected = collect([first, second], "figure_3")
    assert sorted(collected.runs["seed"]) == [0, 1, 2] and len(collected.calibration) > 0
    told = analysis("--results", first, second)
    assert told.returncode == 2 and "--output" in told.stderr


def test_names_with_dollars_are_drawn_as_they_are(tmp_path):
    """No formula begins with a name from outside."""
    contents = [*runs(), *(records.record("My$", "a_b$^$x$", s, [4.0, 3.0, 2.0 + s]) for s in range(3))]
    correlations = {"a_b$^$x$": {"energy": {"pearson": 0.5}}}
    contents += [
        records.record("MaxDet", "$", s, [4.0, 3.0], correlations={"$": correlations["a_b$^$x$"]}) for s in (0, 1)
    ]
    collected = tables_of(contents)
    found = Statistics.of(collected)
    drawn = draw(list(jobs(collected, found)), tmp_path, workers=1)
    curves = next(one for one in drawn if one.name == "learning_curves_demo_force")
    assert "My$ + a_b$^$x$" in curves.svg and 'data-method="My$ + a_b$^$x$"' in curves.inline()
    assert "MaxDet + $" in next(one for one in drawn if one.name == "seconds_demo").svg
