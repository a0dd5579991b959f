"""Figures show the tables' numbers, not pixels only; looks are one for each method, everywhere."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from bench_commands import file_system
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analysis import style
from analysis.figures.base import log_ticks, spread
from analysis.figures.catalogue import jobs
from analysis.figures.errors import learning_curves
from analysis.figures.illustration import POINTS
from analysis.figures.uncertainty import correlations
from analysis.paper.numbers import paper_numbers
from analysis.records.collect import EXPERIMENT
from analysis.statistics.values import MEASURES, last_correlations, over_seeds, summarise
from analysis.tables.sheets import Statistics
from bench.errors import WriteError
from tests.analysis import records
from tests.analysis.illustration import points
from tests.analysis.records import runs, tables_of

CONF = Path(__file__).resolve().parents[2] / "conf"
FOUND = {"GP(LL)": {"energy": {"pearson": 0.5}, "force": {"pearson": 0.25}}}


@pytest.fixture(scope="module")
def found():
    """A small set with two batch sizes: its tables and statistics."""
    tables = tables_of([*runs(), *_with(batch_size=5)])
    return tables, Statistics.of(tables)


@pytest.fixture(scope="module")
def drawn(found):
    """Its figures, by name."""
    wanted = ("learning_curves_demo_force", "batch_size_demo_energy", "projections_demo_force", "seconds_demo")
    return {job.name: job.draw(*job.arguments) for job in jobs(*found) if job.name in wanted}


def _with(**changes):
    for kernel, seed in itertools.product(("GP(LL)", "GP(RP)", "AE(E)", "AE(F)"), range(2)):
        yield records.record("MaxDiag", kernel, seed, [4.0, 3.0 + seed], correlations=FOUND, **changes)
    for seed in range(2):
        yield records.record("MaxDiag", "RND", seed, [4.0, 2.0 + seed], correlations=FOUND, **changes)
        yield records.record("My", "method", seed, [4.0, 2.0 + seed], correlations=FOUND, **changes)


def test_every_kind_is_drawn(found):
    kinds = ("learning_curves_demo_", "batch_size_demo_", "projections_demo_")
    expected = {f"{kind}{q}" for kind in kinds for q in ("force", "energy")} | {"illustration", "seconds_demo"}
    expected |= {"cost_demo", "savings_demo"}
    assert {job.name for job in jobs(*found)} >= expected


def test_a_single_point_of_a_curve_has_its_error_as_a_bar():
    """Random selection that was trained for the last step alone, beside a whole curve."""
    row = {"study": "s", "scenario": "s", "deviations": "", "batch_size": 10, "fewer": False, "seeds": 3}
    numbers = {"mae": 5.0, "rmse": 7.0, "maxe": 9.0, "mae_sem": 0.5, "rmse_sem": 0.7, "maxe_sem": 0.9}
    rows = [row | numbers | {"algorithm": "LCMD + FEAT(LL)", "n_train": n} for n in (10, 20)]
    rows.append(row | numbers | {"algorithm": "MaxDiag + RND", "n_train": 20})
    figure = learning_curves(pd.DataFrame(rows), "force", style.METHODS, paper_numbers().head(0)).figure
    for axis, measure in zip(figure.axes, MEASURES, strict=True):
        (bar,) = [container for container in axis.containers if container.has_yerr]
        (ends,) = bar.lines[2][0].get_segments()
        value, error = numbers[measure], numbers[f"{measure}_sem"]
        np.testing.assert_allclose(ends, [[20, value - error], [20, value + error]])


def test_learning_curves_show_the_table(found, drawn):
    figure = drawn["learning_curves_demo_force"].figure
    means = over_seeds(found[0].steps[found[0].steps["batch_size"] == 10], "force")
    for axis, measure in zip(figure.axes, MEASURES, strict=True):
        lines = {line.get_label(): line for line in axis.get_lines()}
        assert set(lines) == set(means["algorithm"])
        for algorithm, curve in means.groupby("algorithm"):
            np.testing.assert_allclose(lines[algorithm].get_xydata(), curve[["n_train", measure]])
        bands = [band.get_paths()[0].get_extents() for band in axis.collections]
        heights = (means[measure] + means[f"{measure}_sem"]).groupby(means["algorithm"]).max()
        assert sorted(band.y1 for band in bands) == pytest.approx(sorted(heights))


def test_batch_size_shows_the_table(found, drawn):
    means = found[1].means
    means = means[(means["statistic"] == "final") & (means["quantity"] == "energy")]
    axis = drawn["batch_size_demo_energy"].figure.axes[1]
    lines = {line.get_label(): line for line in axis.get_lines()}
    # AE(E) and AE(F) stand for what is trained on; a method that the paper does not know is drawn as well
    assert "MaxDiag + AE(F)" in lines and "MaxDiag + AE(E)" not in lines and "My + method" in lines
    rmse = means[means["measure"] == "rmse"]
    for algorithm, line in lines.items():
        part = rmse[rmse["algorithm"] == algorithm].sort_values("batch_size")
        np.testing.assert_allclose(line.get_xydata(), part[["batch_size", "mean"]])
    projections = {line.get_label() for line in drawn["projections_demo_force"].figure.axes[0].get_lines()}
    assert projections == {"MaxDiag + GP(LL)", "MaxDiag + GP(RP)", "LCMD + FEAT(LL)"}


def test_seconds_and_correlations_show_the_table(drawn):
    assert [bar.get_width() for bar in drawn["seconds_demo"].figure.axes[0].patches[:3]] == [1.0] * 3
    known = last_correlations(tables_of(_with(batch_size=5)).steps)
    means = summarise(known, [*EXPERIMENT, "quantity", "uncertainty", "coefficient"])
    axis = correlations(means).figure.axes[0]
    shown = np.concatenate([container.lines[0].get_xdata() for container in axis.containers])
    assert set(shown) == {0.5}


def test_values_under_the_pointer_lie_on_the_points(drawn, tmp_path):
    drawing = drawn["learning_curves_demo_force"]
    style.save(drawing.figure, tmp_path / "figure")
    at = dict.fromkeys(text for *_, text in drawing.positions())
    assert any(text.startswith("LCMD + FEAT(LL), N_train 30: 4.") and "(4 seeds)" in text for text in at)
    (panel, x, y, _), (left, top, _) = drawing.points[0], drawing.positions()[0]
    pixel = drawing.figure.axes[panel].transData.transform((x, y)) * 72 / drawing.figure.dpi
    assert (left, top) == pytest.approx((pixel[0], drawing.figure.get_figheight() * 72 - pixel[1]), abs=0.1)


def test_fewer_seeds_are_dotted():
    contents = [records.record("A", "B", 0, [4.0, 3.0, 2.0]), records.record("A", "B", 1, [4.0, 3.0], status="running")]
    contents[1] |= {"filed_final": 30, "finals": [30]}
    means = over_seeds(tables_of(contents).steps, "force")
    drawing = learning_curves(means, "force", style.looks(["A + B"]), paper_numbers().head(0))
    solid, dotted = drawing.figure.axes[0].get_lines()
    assert solid.get_xdata().tolist() == [10, 20] and dotted.get_xdata().tolist() == [20, 30]
    assert dotted.get_linestyle() == ":" and "Dotted" in drawing.caption


def test_the_papers_numbers_lie_over_the_curves():
    numbers = paper_numbers()
    chosen = numbers[(numbers["scenario"] == "tio2_10_250") & numbers["statistic"].isin(["final", "at"])]
    table = tables_of([records.record("MaxDiag", "GP(LL)", s, [40.0, 30.0, 20.0]) for s in (0, 1)])
    means = over_seeds(table.steps, "force")
    drawing = learning_curves(means, "force", style.looks(["MaxDiag + GP(LL)"]), chosen)
    crosses = [line.get_xydata()[0].tolist() for line in drawing.figure.axes[1].get_lines() if line.get_marker() == "x"]
    assert crosses == [[40, 21.51], [60, 17.71], [250, 6.16]]


def test_every_method_looks_different():
    named = {
        path.stem: yaml.safe_load(path.read_text())["name"]
        for g in ("kernel", "selection")
        for path in (CONF / g).glob("*.yaml")
    }
    pairs = [yaml.safe_load(path.read_text())["defaults"] for path in (CONF / "algorithm").glob("*.yaml")]
    chosen = [{key.split("/")[1]: value for part in pair for key, value in part.items()} for pair in pairs]
    assert set(style.METHODS) == {f"{named[pair['selection']]} + {named[pair['kernel']]}" for pair in chosen}
    looks = {(look.colour, look.marker, look.hollow) for look in style.METHODS.values()}
    assert len(looks) == 15
    # colours that deuteranopes or protanopes confuse never share a marker
    colours = {
        to_hex(look.colour): {m.marker for m in style.METHODS.values() if m.colour == look.colour}
        for look in style.METHODS.values()
    }
    assert all(a.isdisjoint(b) for (_, a), (_, b) in itertools.combinations(colours.items(), 2))


def test_a_new_method_looks_like_none_of_the_others():
    looks = style.looks([*style.METHODS, "My + method", "Your + method"])
    assert list(looks)[:15] == list(style.METHODS)
    assert len({(look.colour, look.marker, look.hollow) for look in looks.values()}) == 17


@given(st.floats(1e-4, 1e5), st.floats(1.1, 1e6))
def test_log_ticks_are_few_round_and_inside(low, factor):
    ticks = log_ticks(low, low * factor, 0.17)
    assert 2 <= len(ticks) <= 6
    assert all((low <= tick <= low * factor and tick == float(f"{tick:.2g}")) or factor < 2.5 for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_markers_are_few_and_hold_both_ends():
    sizes = np.arange(10, 1001, 10, dtype=float)
    chosen = spread(sizes)
    assert chosen[0] == 0 and chosen[-1] == len(sizes) - 1 and len(chosen) <= 9
    assert spread(np.array([10.0, 20.0])) == [0, 1]


def test_illustration_is_what_the_selections_pick():
    pd.testing.assert_frame_equal(points(), pd.read_csv(POINTS))


def test_same_bytes_for_the_same_data(found, tmp_path):
    job = next(job for job in jobs(*found) if job.name == "seconds_demo")
    first, second = (style.save(job.draw(*job.arguments).figure, tmp_path / name)[0].read_bytes() for name in "ab")
    assert first == second and b"<dc:date>" not in first


def test_summaries_name_the_runs(found):
    tables, values = found[0], found[1].values
    row = summarise(values[values["statistic"] == "final"], ["batch_size", "algorithm", "quantity", "measure"]).iloc[0]
    assert set(row["runs"].split()) <= set(tables.runs["run_id"]) and len(row["runs"].split()) == row["seeds"]


def test_kernels_that_the_paper_does_not_know_are_drawn_by_what_they_state():
    """Whatever their names hold: an underscore, GP(…), of forces; and a baseline of one's own is compared with."""
    coefficients = {"energy": {"pearson": 0.5, "spearman": 0.4}, "force": {"pearson": 0.25, "spearman": 0.2}}
    contents = []
    for kernel, facts in {
        "GP(mine)": {"uncertainty": "energy"},
        "my_force": {"uncertainty": "force"},
        "own_ensemble": {"uncertainty": "energy", "members": 4},
        "coin": {"baseline": True},
    }.items():
        found = {kernel: coefficients} if "uncertainty" in facts else {}
        for seed in range(3):
            content = records.record("MaxDiag", kernel, seed, [4.0, 3.0, 2.0 + seed], correlations=found)
            contents.append(content | {"kernels": {kernel: facts}})
    tables = tables_of(contents)
    found = Statistics.of(tables)
    table = found.correlations
    assert set(table["algorithm"]) == {"MaxDiag + GP(mine)", "MaxDiag + my_force", "MaxDiag + own_ensemble"}
    means = summarise(table, [*EXPERIMENT, "quantity", "uncertainty", "coefficient"])
    drawing = correlations(means)
    told = {text.split(":")[0] for *_, text in drawing.points}
    assert {name.split(", ")[0] for name in told} == set(table["algorithm"])
    assert set(found.paired["algorithm"]) == set(table["algorithm"])  # against the coin
    assert set(found.efficiency["algorithm"]) == {*table["algorithm"], "MaxDiag + coin"}


def test_cost_is_labels_at_their_price_and_computing(found):
    job = next(job for job in jobs(*found) if job.name == "cost_demo")
    axis = job.draw(*job.arguments).figure.axes[0]
    line = next(line for line in axis.get_lines() if line.get_label() == "LCMD + FEAT(LL)")
    # 10, 20, 30 structures and 5 of validation at 300 s; 1.75 s a step that selects, 1.5 s the last
    expected = (300 * (np.array([10, 20, 30]) + 5) + np.array([1.75, 3.5, 5.0])) / 3600
    np.testing.assert_allclose(line.get_xdata(), expected)


def test_savings_show_the_table(found):
    job = next(job for job in jobs(*found) if job.name == "savings_demo")
    drawing = job.draw(*job.arguments)
    table = found[1].efficiency
    table = table[(table["quantity"] == "force") & (table["batch_size"] == 10) & table["saving"].notna()]
    shown = {(panel, round(x, 6)) for panel, x, *_ in drawing.points}
    rows = table[~table["algorithm"].str.endswith("RND")]
    rows = rows[rows["algorithm"] != "MaxDiag + AE(E)"]
    assert shown == {(MEASURES.index(r.measure), round(r.saving, 6)) for r in rows.itertuples()} and len(shown) > 2
    assert any("[" in text for *_, text in drawing.points)


def test_a_full_disk_is_told_and_no_cut_figure_stays(tmp_path):
    figure = Figure()
    figure.subplots().plot(range(2000))
    with file_system(tmp_path, "8k"):
        with pytest.raises(WriteError, match=r"cannot write .*a\.svg \(No space left on device\): make room"):
            style.save(figure, tmp_path / "a")
        assert not [*tmp_path.iterdir()]


def test_a_long_name_is_cut_in_its_middle():
    assert style.plain("LCMD + FEAT(LL)$") == r"LCMD + FEAT(LL)\$"
    assert style.plain("a" * 60 + "b" * 60) == "a" * 24 + "…" + "b" * 23
