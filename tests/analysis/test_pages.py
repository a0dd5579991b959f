"""The pages of docs/algorithms and docs/benchmark are what the committed results say, and what a submission needs."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import PROJECT
from matplotlib.image import imread

from analysis.pages import algorithms, submission
from analysis.pages.__main__ import pages
from analysis.pages.picture import POINTS, SHADES, points, save
from analysis.pages.results import PAPER, Results
from bench.config import versions
from bench.config.compose import compose_run
from bench.config.sweep import expand
from bench.errors import UserError
from tests.analysis import toy

DOCS = PROJECT / "docs"
REFERENCE = PROJECT / "results" / "reference"
PICTURES = sorted((DOCS / "algorithms" / "pictures").glob("*.png"))


@pytest.fixture(scope="module")
def written():
    return pages(REFERENCE)


def test_pages_are_up_to_date(written):
    """After a change of results, of the paper's numbers or of the words: make pages."""
    kept = {
        path.relative_to(DOCS).as_posix() for name in ("algorithms", "benchmark") for path in DOCS.glob(f"{name}/*.md")
    }
    assert kept == set(written)
    stale = [name for name, text in written.items() if (DOCS / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run make pages"


def test_every_algorithm_and_scenario_has_a_page(written):
    files = set(algorithms.algorithms())
    assert len(files) == 15 and {f"algorithms/{file}.md" for file in files} <= set(written)
    assert len(PAPER) == 7 and {f"benchmark/{scenario}.md" for scenario in PAPER} <= set(written)
    said = algorithms.words()
    assert set(said["algorithms"]) == files and {path.stem for path in PICTURES} == files


def test_runs_that_lie_in_several_folders_count_once(tmp_path):
    for name in ("a", "b"):
        shutil.copytree(REFERENCE / "aspirin" / "runs", tmp_path / name / "runs")
        shutil.copytree(REFERENCE / "aspirin" / "tables", tmp_path / name / "tables")
    errors = tmp_path / "a" / "tables" / "errors_final.csv"
    table = pd.read_csv(errors)
    table.loc[table["algorithm"] == "LCMD + FEAT(LL)", "seeds"] = 2
    table.to_csv(errors, index=False)
    found = Results.read(tmp_path)
    assert len(found.finals) == len(table) and set(found.finals["seeds"]) == {3}
    assert dict(found.finals.groupby("folder").size()) == {"a": len(table) - 2, "b": 2}


def test_what_is_no_reference_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no results"):
        pages(tmp_path)
    (tmp_path / "mine" / "runs").mkdir(parents=True)
    (tmp_path / "mine" / "tables").mkdir()
    with pytest.raises(UserError, match="no table errors_final"):
        pages(tmp_path)


def test_energies_alone_are_told_too(tmp_path):
    """Results as those of QM9, which has no forces, from runs that have: their tables, cut down."""
    shutil.copytree(REFERENCE / "aspirin" / "runs", tmp_path / "qm9" / "runs")
    (tmp_path / "qm9" / "tables").mkdir()
    scenario = {"scenario": "qm9_1000_10000", "study": "qm9_1000_10000", "deviations": "", "batch_size": 250}
    for name in ("errors_final", "comparisons", "seconds"):
        table = pd.read_csv(REFERENCE / "aspirin" / "tables" / f"{name}.csv").assign(**scenario)
        table = table[table["quantity"] == "energy"] if "quantity" in table else table
        table.to_csv(tmp_path / "qm9" / "tables" / f"{name}.csv", index=False)
    texts = pages(tmp_path)
    assert "| 12 of 195 | 0 | 0 | 4 of 13 |" in texts["benchmark/index.md"]
    assert "| 0.62 |" in texts["benchmark/qm9_1000_10000.md"], "the paper's MAE of LCMD + FEAT(LL)"
    assert "`qm9_1000_10000`: 3 seeds" in texts["algorithms/index.md"]
    row = next(line for line in texts["algorithms/lcmd_feat_ll.md"].splitlines() if line.startswith("| [`qm9"))
    assert row.split("|")[2].strip() == "energy" and "0.93 (" in row


def test_links_lead_somewhere(written):
    for name, text in written.items():
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", text):
            if not link.startswith("http"):
                assert ((DOCS / name).parent / link).exists(), (name, link)
        for place in re.findall(r"`((?:analysis|bench|conf|results)/[\w/.]+)`", text):
            assert (PROJECT / place).exists(), (name, place)


def test_commands_compose(written):
    lines = {line for text in written.values() for line in text.splitlines() if line.startswith("bmdal-bench ")}
    run = [line.split()[2:] for line in lines if line.startswith("bmdal-bench run")]
    assert len(run) == 15 and all(compose_run(words) for words in run)
    swept = [line.split()[2:] for line in lines if line.split()[1] in ("launch", "plan") and "sweep=" in line]
    assert all(expand([word for word in words if "=" in word]) for words in swept)


def test_points_are_what_the_selections_pick():
    """Features, posterior and selections of bench; scores are rounded, so a last digit may differ between machines."""
    computed, kept = toy.points(), points()
    pd.testing.assert_frame_equal(computed, kept, check_exact=False, atol=0.011)
    for name in (name for name in kept if " + " in name):
        assert sorted(kept[name][kept[name] > 0]) == list(range(1, toy.BATCH + 1))
        np.testing.assert_array_equal(computed[name], kept[name])
    assert POINTS.stat().st_size < 60_000


def test_pictures_are_up_to_date_and_small(tmp_path):
    drawn = algorithms.pictures()
    assert set(drawn) == {path.name for path in PICTURES}
    for path in PICTURES:
        save(drawn[path.name], tmp_path / path.name)
        assert path.stat().st_size < 60_000
        new, kept = imread(tmp_path / path.name), imread(path)
        assert new.shape == kept.shape and np.abs(new - kept).mean() < 0.01, f"{path.name}: run make pages"


def test_pictures_are_readable_in_grey():
    """The luminance of the shades falls without a turn, so it is told without colour."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    grey = SHADES(np.linspace(0, 1, 50))[:, :3] @ weights
    assert (np.diff(grey) < 0).all() and grey[0] - grey[-1] > 0.5


def test_committed_results_could_be_submitted(tmp_path):
    """The records of aspirin are complete, current, clean and paired with random selection."""
    assert list(submission.problems(REFERENCE / "aspirin")) == []


def test_random_selection_at_the_last_point_counts_for_a_submission(tmp_path):
    """Of TiO2 only the last point of random selection is committed: the report compares with it, so it is enough."""
    for path in (REFERENCE / "tio2" / "runs").glob("*/record.json"):
        content = json.loads(path.read_text())
        if content["identity"]["kernel"]["name"] == "GP(LL)" and not content["deviations"]:
            shutil.copytree(path.parent, tmp_path / "runs" / path.parent.name)
    told = list(submission.problems(tmp_path, REFERENCE / "tio2"))
    assert not [line for line in told if line.startswith("MaxDiag + GP(LL)") and "no random selection" in line]
    assert [line for line in submission.problems(tmp_path) if "no random selection at seed 0, 1, 2" in line]


@pytest.fixture
def mine(tmp_path):
    """Results to be submitted: those of aspirin; and their runs of random selection."""
    shutil.copytree(REFERENCE / "aspirin" / "runs", tmp_path / "runs")
    runs = sorted((tmp_path / "runs").iterdir())
    return tmp_path, [
        run for run in runs if '"name": "RND"' in (run / "record.json").read_text().split('"batch_size"')[0]
    ]


def test_what_a_submission_lacks_is_told(mine):
    """No random selection at a seed, of three algorithms and of two seeds of the baseline; a model that was left in."""
    folder, random = mine
    assert len(random) == 3
    shutil.rmtree(random[0])
    (random[1] / "model.pt").write_bytes(b"")
    told = list(submission.problems(folder))
    assert sum("no random selection at seed" in line for line in told) == 3
    assert sum("leave models out" in line for line in told) == 1 and len(told) == 4
    assert len(list(submission.problems(folder, REFERENCE / "aspirin"))) == 1, "random selection is committed"


def test_damaged_unfinished_and_changed_runs_are_told(mine, monkeypatch):
    folder, random = mine
    others = [run / "record.json" for run in sorted((folder / "runs").iterdir()) if run not in random]
    one, two, three = others[:3]
    one.write_text(one.read_text().replace('"seed": ', '"seed": 1'))
    for path, key, value in ((two, "status", "running"), (three, "git_dirty", True)):
        content = json.loads(path.read_text())
        content.pop("checksum", None)
        (content if key in content else content["sessions"][0])[key] = value
        path.write_text(json.dumps(content))
    told = "\n".join(submission.problems(folder))
    assert one.parent.name in told
    assert f"{two.parent.name}: is running" in told and f"{three.parent.name}: the checkout of commit" in told
    assert "2 seeds, 3 are needed" in told
    monkeypatch.setitem(versions.METHODS["selection"], "LCMD", 2)
    assert sum("earlier version" in line for line in submission.problems(folder)) >= 2


def test_what_is_committed_is_not_asked_about():
    """Of TiO2 some runs are unfinished; they are no submission."""
    assert list(submission.problems(REFERENCE / "tio2", REFERENCE / "tio2")) == []


def test_no_results_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no results in"):
        list(submission.problems(tmp_path / "nowhere"))


def test_the_check_is_a_command(tmp_path):
    command = [sys.executable, "-m", "analysis.pages.submission"]
    done = subprocess.run([*command, REFERENCE / "aspirin"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("runs can be submitted\n"), done.stderr
    nothing = subprocess.run([*command, tmp_path], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert nothing.returncode == 2 and nothing.stderr.startswith("error: no results in")
