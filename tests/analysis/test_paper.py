"""The paper's numbers: what is quoted, and how ours stand beside them."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.paper.numbers import against_paper, is_reduced, overlay, paper_numbers, remark, split_deviations
from analysis.statistics.compare import variants
from analysis.statistics.values import run_values
from tests.analysis import records
from tests.analysis.claimed import curves
from tests.analysis.records import tables_of


def test_ours_beside_the_papers():
    finals = [25.0, 23.0, 27.0]
    # uncertainties may point the wrong way: no logarithm is taken of coefficients
    correlations = {"GP(LL)": {"force": {"pearson": 0.6}, "energy": {"pearson": -0.5}}}
    contents = [c for s in (0, 1, 2) for c in [
        records.record("MaxDiag", "RND", s, [40.0, 30.0, finals[s]], scenario="tio2_10_250"),
        records.record("MaxDiag", "GP(LL)", s, [40.0, 20.0, 12.0, 10.0 + s, 9.0, 8.0], scenario="tio2_10_250"),
        records.record("MaxDet", "GP(LL)", s, [40.0, 20.0, 9.0], scenario="tio2_10_250", correlations=correlations),
    ]]  # fmt: skip
    # a run that is not finished counts where it has been
    contents[7] = records.record(
        "MaxDiag", "GP(LL)", 2, [40.0, 20.0, 12.0, 12.0], scenario="tio2_10_250", status="running", final=60
    )
    steps = tables_of(contents).steps
    table = against_paper(steps, run_values(steps))

    def ours(algorithm, statistic, quantity, measure):
        wanted = {"algorithm": algorithm, "statistic": statistic, "quantity": quantity, "measure": measure}
        return table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1) & (table["seeds"] > 0)]

    random = ours("MaxDiag + RND", "final", "force", "rmse").iloc[0]
    values = [2 * final for final in finals]
    assert random["paper"] == 24.68 and random["mean"] == pytest.approx(50.0)
    assert (random["lowest"], random["highest"]) == (min(values), max(values)) and random["seeds"] == 3
    assert random["covered"] == "no" and random["within"] == "too few seeds" and math.isnan(random["low"])
    assert random["ratio"] == pytest.approx(50.0 / 24.68) and random["remark"] == "minibatch 10, inferred"
    at = ours("MaxDiag + GP(LL)", "at", "force", "rmse").sort_values("n_train")
    assert at["n_train"].tolist() == [40, 60] and at["seeds"].tolist() == [3, 2]
    assert at["mean"].tolist() == pytest.approx([22.0, 16.0])
    # the coefficients of TiO2 belong to no stated algorithm, so none of ours stands beside them
    assert ours("MaxDet + GP(LL)", "pcc", "force", "pearson").empty
    assert set(table.loc[table["statistic"] == "pcc", "mean"].isna()) == {True}
    seconds = ours("MaxDet + GP(LL)", "seconds", "", "features and selection")
    assert seconds["mean"].item() == 0.75 and set(seconds["within"]) == {""}
    assert len(table) == 55 + 8
    # both readings of a curve average stand beside each of the paper's eight
    assert (table["statistic"] == "curve").sum() == (table["statistic"] == "curve_grown").sum() == 8


def test_one_run_that_is_not_finished():
    """All that there is, in no scenario of the paper: no number of ours stands beside the paper's."""
    only = records.record("MaxDiag", "RND", 0, [40.0, 30.0], scenario="mine", status="running", final=60)
    steps = tables_of([only]).steps
    table = against_paper(steps, run_values(steps))
    assert len(table) == 55 + 8 and not table["seeds"].any()


def test_what_five_more_runs_would_give():
    """The interval is computed on logarithms; from five seeds on, and never for a maximum over other test sets."""
    finals = [12.0, 15.0, 9.0, 11.0, 13.0]
    steps = tables_of(curves("MaxDiag + RND", finals, start=40.0, scenario="tio2_10_250")).steps
    table = against_paper(steps, run_values(steps))
    row = table[(table["algorithm"] == "MaxDiag + RND") & (table["seeds"] == 5)].iloc[0]
    logs = np.log(2 * np.array(finals))
    half = stats.t.ppf(0.975, 4) * logs.std(ddof=1) * math.sqrt(1 / 5 + 1 / 5)
    assert (row["low"], row["high"]) == pytest.approx((24 * math.exp(-half), 24 * math.exp(half)))
    assert row["within"] == row["covered"] == "yes"
    assert {"z", "p", "sem_paper"}.isdisjoint(table.columns)


def test_an_inferred_setting_stands_beside_its_numbers():
    assert remark("md17_10_100", "scenario.pool=600") == remark("tio2_10_250", "") == "minibatch 10, inferred"
    assert remark("tio2_10_250", "training.minibatch=32") == remark("qm9_1000_10000", "") == ""


REDUCED = {"scenario.pool": 1200, "scenario.test": None}


def test_on_a_reduced_pool_random_selection_alone_is_compared():
    """Rows of their own; none for other changes."""
    settings = {"scenario": "tio2_10_250", "deviations": REDUCED}
    contents = [
        *curves("MaxDiag + RND", [25.0, 23.0, 27.0], **settings),
        *curves("MaxDiag + GP(LL)", [8.0, 9.0, 7.0], **settings),
        *curves("MaxDiag + RND", [5.0, 6.0, 7.0], scenario="tio2_10_250", deviations={"training.epochs": 3}),
        *curves("MaxDiag + RND", [5.0, 6.0], scenario="tio2_10_250", deviations={"scenario.pool": 7}),
    ]
    steps = tables_of(contents).steps
    table = against_paper(steps, run_values(steps))
    assert not table.loc[table["deviations"] == "", "seeds"].any()
    found = table[table["deviations"] != ""].set_index("deviations")
    assert set(found["algorithm"]) == {"MaxDiag + RND"} and len(found) == 2
    reduced = found.loc["scenario.pool=1200, scenario.test=None"]
    assert reduced["mean"] == pytest.approx(50.0) and reduced["covered"] == "no"
    assert found.loc["scenario.pool=7", "within"] == "too few seeds"
    assert split_deviations("model.hidden=[8, 8], scenario.pool=7") == ["model.hidden=[8, 8]", "scenario.pool=7"]
    assert is_reduced("scenario.pool=7") and not is_reduced("") and not is_reduced("scenario.final=7, scenario.pool=7")


def test_a_maximum_over_another_test_set_is_not_compared():
    """Maxima grow with the size of what they are taken from."""
    steps = tables_of(curves("MaxDiag + RND", [1.2, 1.3], scenario="md17_10_100", deviations=REDUCED)).steps
    table = against_paper(steps, run_values(steps)).query("deviations != '' and statistic == 'final'")
    ratios = table.set_index("measure")["ratio"]
    assert ratios.notna().to_dict() == {"mae": True, "rmse": True, "maxe": False}


def test_variants_at_equal_seed():
    """One setting changed, with and without another one that both have."""
    other = {"dataset.name": "x"}
    contents = [
        *curves("MaxDiag + RND", [2.0, 2.2, 2.1], deviations=other),
        *curves("MaxDiag + RND", [1.0, 1.25], deviations=other | {"training.minibatch": 10}),
        *curves("MaxDiag + RND", [9.0], deviations={"a.b": 1, "c.d": 2}),
    ]
    table = variants(run_values(tables_of(contents).steps).query("statistic == 'final'"))
    row = table[(table["quantity"] == "force") & (table["measure"] == "mae")]
    assert len(row) == 1 and set(table["changed"]) == {"training.minibatch=10"}
    row = row.iloc[0]
    assert row["base"] == "dataset.name=x" and row["pairs"] == 2
    assert row["ratio"] == pytest.approx(math.sqrt(1.0 / 2.0 * 1.25 / 2.2)) and row["mean_base"] == pytest.approx(2.1)
    assert variants(run_values(tables_of(contents[:3]).steps)).empty


def test_overlay_is_of_one_scenario():
    assert overlay(paper_numbers(), "qm9_1000_10000", 250, "energy")["value"].tolist() == [
        0.62,
        1.01,
        40.67,
        0.64,
        1.25,
        62.77,
    ]
    assert overlay(paper_numbers(), "qm9_1000_10000", 50, "energy").empty
