"""Every statistic against scipy or a computation by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from analysis.statistics.compare import adjusted, batch_slopes, data_of, paired, ranks, seed_slopes
from analysis.statistics.efficiency import Curve, crossings, efficiency
from analysis.statistics.rules import detectable_factor
from analysis.statistics.values import last_correlations, over_seeds, per_run, run_values, summarise
from analysis.tables.sheet import errors
from tests.analysis import records
from tests.analysis.records import CURVES, JITTER, SEEDS, tables_of

LCMD = np.array([4.0 * f * j for f, j in zip(SEEDS, JITTER["LCMD", "FEAT(LL)"], strict=True)])
RND = 5.0 * np.array(SEEDS)


def chosen(table, **wanted):
    for name, value in wanted.items():
        table = table[table[name] == value]
    return table


def test_mean_and_standard_error(collected):
    row = chosen(over_seeds(collected.steps, "force"), algorithm="LCMD + FEAT(LL)", n_train=30).iloc[0]
    assert row["mae"] == pytest.approx(LCMD.mean()) and row["rmse"] == pytest.approx(2 * LCMD.mean())
    assert row["mae_sem"] == pytest.approx(stats.sem(LCMD))
    assert row["seeds"] == 4 and not row["fewer"]


def test_rmse_of_outlying_seeds():
    """Median and trimmed mean beside the mean: a seed with a few structures of the tail decides the mean."""
    contents = [records.record("MaxDiag", "RND", seed, [9.0, v]) for seed, v in enumerate((1.0, 2.0, 1.5, 40.0, 1.2))]
    sheet = errors(run_values(tables_of(contents).steps), "final")
    row = sheet.data[sheet.data["quantity"] == "force"].iloc[0]
    assert (row["rmse"], row["rmse_median"]) == (pytest.approx(2 * 9.14), 3.0)
    assert row["rmse_trimmed"] == pytest.approx(2 * (2.0 + 1.5 + 1.2) / 3)
    assert {"RMSE, median", "RMSE, trimmed"} <= {column.heading for column in sheet.columns}
    few = errors(run_values(tables_of(contents[:2]).steps), "final").data
    assert few["rmse_trimmed"].isna().all() and few["rmse_median"].tolist() == [3.0, 3.0]


def test_one_seed_has_no_standard_error():
    table = tables_of([records.record("MaxDiag", "RND", 0, [3.0, 2.0])])
    assert over_seeds(table.steps, "force")["mae_sem"].isna().all()
    assert summarise(per_run(table.steps), ["statistic"])["sem"].notna().all()


def test_curve_averages(collected):
    values = per_run(collected.steps)
    for statistic, steps in (("final", [2]), ("curve", [0, 1, 2]), ("curve_grown", [1, 2])):
        row = chosen(values, statistic=statistic, algorithm="MaxDiag + RND", seed=1, quantity="energy", measure="maxe")
        expected = np.mean([CURVES["MaxDiag", "RND"][step] for step in steps]) * SEEDS[1] * 3
        assert row["value"].item() == pytest.approx(expected)


def test_unfinished_runs_have_no_final_error():
    table = tables_of(
        [records.record("A", "B", 0, [3.0, 2.0]), records.record("A", "B", 1, [3.0], status="failed", final=20)]
    )
    assert set(per_run(table.steps)["seed"]) == {0}
    means = over_seeds(table.steps, "force")
    assert means["fewer"].tolist() == [False, True]


def test_seconds_and_correlations():
    found = {"QBC(E)": {"energy": {"pearson": 0.5, "spearman": 0.25}, "energy_of_mean": {"pearson": 0.1}}}
    steps = tables_of([records.record("MaxDiag", "QBC(E)", 0, [3.0, 2.0, 1.0], correlations=found)]).steps
    values = run_values(steps)
    spent = chosen(values, statistic="seconds").set_index("measure")["value"]
    assert spent.to_dict() == {"training": 1.0, "features": 0.5, "selection": 0.25, "features and selection": 0.75}
    assert chosen(values, statistic="pcc").set_index("measure")["value"].to_dict() == {"pearson": 0.5, "spearman": 0.25}
    assert set(last_correlations(steps)["uncertainty"]) == {"own", "QBC(E)"}


def test_ratios_at_equal_seed(collected):
    table = paired(per_run(collected.steps))
    row = chosen(table, algorithm="LCMD + FEAT(LL)", statistic="final", quantity="force", measure="mae").iloc[0]
    expected = stats.ttest_rel(np.log(LCMD), np.log(RND))
    interval = expected.confidence_interval(0.95)
    assert row["ratio"] == pytest.approx(stats.gmean(LCMD / RND))
    assert (row["low"], row["high"]) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert row["p"] == pytest.approx(expected.pvalue) and row["pairs"] == 4
    assert row["relative"] == pytest.approx(row["ratio"] - 1) and row["baseline"] == pytest.approx(RND.mean())
    family = chosen(table, statistic="final")
    ordered = family["p"].sort_values()
    by_hand = np.minimum.accumulate((ordered * len(ordered) / np.arange(1, len(ordered) + 1))[::-1])[::-1].clip(upper=1)
    np.testing.assert_allclose(family["p_adjusted"][ordered.index], by_hand)


def test_pairs_need_equal_seeds():
    contents = [records.record("MaxDiag", "RND", s, [2.0, 1.0 + s]) for s in (0, 1, 2)]
    contents += [records.record("LCMD", "FEAT(LL)", s, [2.0, 0.5 + 2 * s]) for s in (1, 2, 3)]
    row = chosen(paired(per_run(tables_of(contents).steps)), statistic="final", quantity="force", measure="mae").iloc[0]
    assert row["pairs"] == 2 and row["ratio"] == pytest.approx(math.sqrt(2.5 / 2 * 4.5 / 3))


def test_adjusted_leaves_out_what_does_not_exist():
    p = pd.Series([0.01, math.nan, 0.04])
    np.testing.assert_allclose(adjusted(p), [0.02, math.nan, 0.04])


@pytest.mark.parametrize("pairs", [2, 3, 5, 20])
def test_detectable_difference(pairs):
    """At this shift a paired t-test has 80 % power: t = (Z + shift) / sqrt(χ²/ν), integrated over χ² by hand."""
    shift, freedom = detectable_factor(pairs, 0.025), pairs - 1
    critical = stats.t.ppf(0.975, freedom)

    def found(chi2):
        return stats.norm.sf(critical * math.sqrt(chi2 / freedom) - shift) * stats.chi2.pdf(chi2, freedom)

    power = integrate.quad(found, 0, 1, limit=200)[0] + integrate.quad(found, 1, np.inf, limit=200)[0]
    assert power == pytest.approx(0.8, abs=2e-4)
    assert math.isnan(detectable_factor(1))


def test_batch_slopes():
    errors = {2: [1.0, 1.3, 0.9], 5: [1.1, 1.2, 1.2], 10: [1.5, 1.4, 1.3]}
    contents = [
        records.record("MaxDiag", "RND", seed, [5.0, error], batch_size=size)
        for size, by_seed in errors.items()
        for seed, error in enumerate(by_seed)
    ]
    contents.append(records.record("MaxDiag", "RND", 3, [5.0, 1.0], batch_size=2))
    row = chosen(
        batch_slopes(seed_slopes(per_run(tables_of(contents).steps))),
        statistic="final",
        quantity="force",
        measure="mae",
    )
    by_seed = np.log([[errors[size][seed] for size in (2, 5, 10)] for seed in range(3)])
    slopes = [np.polyfit(np.log2([2, 5, 10]), values, 1)[0] for values in by_seed]
    expected = stats.ttest_1samp(slopes, 0)
    assert row["slope"].item() == pytest.approx(np.mean(slopes)) and row["sem"].item() == pytest.approx(
        stats.sem(slopes)
    )
    assert row["low"].item() == pytest.approx(math.expm1(expected.confidence_interval().low))
    assert row["relative"].item() == pytest.approx(math.expm1(np.mean(slopes))) and row["seeds"].item() == 3


def test_ranks():
    levels = {"a": [3.0, 1.0, 2.0], "b": [3.0, 2.0, 1.0], "c": [6.0, 2.0, 5.0], "d": [9.0, 3.0, 3.0]}
    names = [("MaxDiag", "RND"), ("LCMD", "FEAT(LL)"), ("MaxDet", "GP(LL)")]
    contents = [
        records.record(*names[i], 0, [9.0, level], scenario=scenario)
        for scenario, by_method in levels.items()
        for i, level in enumerate(by_method)
    ]
    # one more batch size and an algorithm that only one scenario has change nothing
    contents.append(records.record("MaxDiag", "RND", 0, [9.0, 0.1], scenario="a", batch_size=5))
    contents.append(records.record("MaxDiag", "AE(F)", 0, [9.0, 0.1], scenario="a"))
    means = summarise(
        per_run(tables_of(contents).steps),
        ["study", "scenario", "deviations", "batch_size", "algorithm", "statistic", "quantity", "measure"],
    )
    table = chosen(ranks(means), statistic="final", measure="mae").set_index("algorithm")
    values = np.array(list(levels.values()))
    assert table["rank"].to_dict() == pytest.approx(
        {"MaxDiag + RND": 3.0, "LCMD + FEAT(LL)": (1 + 2 + 1 + 1.5) / 4, "MaxDet + GP(LL)": (2 + 1 + 2 + 1.5) / 4}
    )
    assert table["p_friedman"].iloc[0] == pytest.approx(stats.friedmanchisquare(*values.T).pvalue)
    logs = np.log(values[:, 1] / values[:, 0])
    assert table.loc["LCMD + FEAT(LL)", "p"] == pytest.approx(stats.ttest_1samp(logs, 0).pvalue)
    assert table.loc["LCMD + FEAT(LL)", "ratio"] == pytest.approx(stats.gmean(values[:, 1] / values[:, 0]))
    assert len(table) == 3 and (table["scenarios"] == 4).all() and (table["data"] == 4).all()


def test_scenarios_on_one_data_set_are_one_case():
    """Two of TiO2 count as one: their logarithms are averaged first."""
    levels = {"tio2_10_250": (1.0, 4.0), "tio2_500_2500": (1.0, 1.0), "lmnto_100_1000": (1.0, 2.0)}
    contents = [
        records.record(*name, 0, [9.0, level], scenario=scenario)
        for scenario, pair in levels.items()
        for name, level in zip([("MaxDiag", "RND"), ("LCMD", "FEAT(LL)")], pair, strict=True)
    ]
    means = summarise(
        per_run(tables_of(contents).steps),
        ["study", "scenario", "deviations", "batch_size", "algorithm", "statistic", "quantity", "measure"],
    )
    row = chosen(ranks(means), statistic="final", measure="mae", algorithm="LCMD + FEAT(LL)").iloc[0]
    assert (row["scenarios"], row["data"]) == (3, 2) and row["ratio"] == pytest.approx(2.0)
    assert data_of("md17_100_1000") == "md17" and data_of("my_own") == "my_own"


def test_no_spread_flips_no_test():
    """The same ratio in every seed: an interval without width, significant unless it is one."""
    contents = [records.record("MaxDiag", "RND", s, [2.0, 1.0 + s]) for s in range(3)]
    contents += [records.record("LCMD", "FEAT(LL)", s, [2.0, 0.5 + s / 2]) for s in range(3)]
    contents += [records.record("MaxDet", "GP(LL)", s, [2.0, 1.0 + s]) for s in range(3)]
    table = chosen(paired(per_run(tables_of(contents).steps)), statistic="final", quantity="force", measure="mae")
    table = table.set_index("algorithm")
    half, same = table.loc["LCMD + FEAT(LL)"], table.loc["MaxDet + GP(LL)"]
    assert half["low"] == half["high"] == half["ratio"] == 0.5 and half["p"] == 0
    assert same["low"] == same["high"] == same["ratio"] == 1 and same["p"] == 1


def test_a_curve_is_monotone_and_crossed_where_it_goes_through():
    curve = Curve.of(np.array([10.0, 20.0, 30.0, 40.0]), np.array([8.0, 2.0, 4.0, 1.0]), done=True)
    middle = math.sqrt(2.0 * 4.0)
    assert np.exp(curve.logs) == pytest.approx([8.0, middle, middle, 1.0])
    # straight lines on log scales: the first dip to 2.0 is no crossing of 2.5
    part = math.log(middle / 2.5) / math.log(middle / 1.0)
    assert curve.reaches(2.5) == pytest.approx(30 * (4 / 3) ** part)
    assert curve.reaches(9.0) == 10 and curve.reaches(0.5) == math.inf and curve.at(25.0) == pytest.approx(middle)
    open_one = Curve.of(np.array([10.0, 20.0]), np.array([8.0, 4.0]), done=False)
    assert math.isnan(open_one.reaches(1.0)) and open_one.reaches(4.0) == 20
    assert Curve.of(np.array([10.0]), np.array([math.nan]), done=True) is None


def saved(contents, level="end", **wanted):
    found = efficiency(crossings(tables_of(contents).steps, **wanted))
    return chosen(found, quantity="force", measure="mae", level=level).set_index("algorithm")


def test_labels_and_cost_to_reach_random_selection_s_error_of_the_same_seed():
    contents = [records.record("MaxDiag", "RND", s, [8.0, 4.0, final]) for s, final in ((0, 1.0), (1, 2.0), (2, 2.0))]
    contents += [records.record("LCMD", "FEAT(LL)", s, [8.0, v, 0.5]) for s, v in ((0, 1.0), (1, 4.0), (2, 2.0))]
    contents += [records.record("MaxDiag", "AE(F)", s, [8.0, 1.0, 0.5], pool_labels_read=50) for s in range(3)]
    contents += [records.record("MaxDiag", "GP(LL)", s, [8.0, 4.0, 0.9 + s]) for s in range(3)]
    table = saved(contents, label_seconds=60.0)
    lcmd = table.loc["LCMD + FEAT(LL)"]
    crossings_by_hand = np.array([20.0, 20 * 1.5 ** (1 / 3), 20.0])
    assert lcmd["target"] == pytest.approx(5 / 3) and lcmd["n_train"] == pytest.approx(crossings_by_hand.mean())
    assert lcmd["n_train_sem"] == pytest.approx(stats.sem(crossings_by_hand))
    logs = np.log(30 / crossings_by_hand)
    assert lcmd["saving"] == pytest.approx(math.exp(logs.mean()))
    expected = stats.ttest_1samp(logs, 0).confidence_interval(0.9)
    assert (lcmd["low"], lcmd["high"]) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))
    assert lcmd["labels_bought"] == pytest.approx((crossings_by_hand + 5).mean())
    spent = np.array([2 * 1.75, 2 * 1.75 + 1.5, 2 * 1.75]) / 3600
    assert lcmd["hours"] == pytest.approx((spent + (crossings_by_hand + 5) / 60).mean())
    assert table.loc["MaxDiag + AE(F)", "labels_bought"].item() == pytest.approx(10 + 5 + 50)
    assert table.loc["MaxDiag + RND", "saving"] == pytest.approx(1.0)
    gp = table.loc["MaxDiag + GP(LL)"]
    assert gp["reached"] == 2 and gp["seeds"] == 3 and math.isnan(gp["n_train"]) and math.isnan(gp["saving"])
    half = saved(contents, "half").loc["LCMD + FEAT(LL)"]
    assert half["target"] == pytest.approx(np.mean([8 * 2 ** -math.log2(1.5)] * 3), rel=1e-6)


def test_no_saving_without_random_selection_s_curve():
    """Its last point alone gives the level, and where others reach it, but no saving."""
    contents = [records.record("MaxDiag", "RND", s, [2.0], batch_size=30, final=30) for s in range(3)]
    for content in contents:
        content["identity"]["batch_size"] = 10
    contents += [records.record("LCMD", "FEAT(LL)", s, [8.0, 4.0, 1.0]) for s in range(3)]
    table = saved(contents)
    assert math.isnan(table.loc["LCMD + FEAT(LL)", "saving"]) and table.loc["LCMD + FEAT(LL)", "n_train"] > 20
    assert saved(contents, "half").empty
    # its curve, begun later, takes nothing away
    contents.append(records.record("MaxDiag", "RND", 0, [8.0], status="running", final=30))
    assert saved(contents).loc["LCMD + FEAT(LL)"].equals(table.loc["LCMD + FEAT(LL)"])


def test_an_end_that_is_not_finite_is_no_level_and_not_missed():
    """The step before it is not the end, and what a curve has there is unknown."""
    curves = [[8.0, 4.0, 2.0], [8.0, 4.0, math.nan]]
    random, lcmd = (
        [records.record(*names, seed, values) for seed, values in enumerate(curves)]
        for names in (("MaxDiag", "RND"), ("LCMD", "FEAT(LL)"))
    )
    assert saved(random).loc["MaxDiag + RND", "seeds"] == 1
    whole = [records.record("MaxDiag", "RND", seed, curves[0]) for seed in range(2)]
    assert "LCMD + FEAT(LL)" not in saved([*whole, *lcmd]).index
    assert saved([*whole, *lcmd], "half").loc["LCMD + FEAT(LL)", "reached"] == 2


def test_labels_of_unfinished_runs():
    """One that has crossed the target counts as it stands; one that has not leaves its algorithm open."""
    contents = [records.record("MaxDiag", "RND", s, [8.0, 4.0, 2.0, 2.0]) for s in (0, 1)]
    contents += [records.record("LCMD", "FEAT(LL)", 0, [8.0, 1.0, 1.0, 1.0])]
    contents += [records.record("LCMD", "FEAT(LL)", 1, [8.0, 4.0, 1.0], status="running", final=40)]
    contents += [records.record("MaxDet", "GP(LL)", 0, [8.0, 1.0, 1.0, 1.0])]
    contents += [records.record("MaxDet", "GP(LL)", 1, [8.0, 4.0], status="running", final=40)]
    table = saved(contents)
    assert "MaxDet + GP(LL)" not in table.index
    lcmd = table.loc["LCMD + FEAT(LL)"]
    by_hand = np.array([10 * 2 ** (2 / 3), 20 * 1.5**0.5])
    assert lcmd["reached"] == lcmd["seeds"] == 2 and lcmd["n_train"] == pytest.approx(by_hand.mean())
    # random selection's own curve gets to its last level at 30
    assert lcmd["saving"] == pytest.approx(stats.gmean(30 / by_hand)) and math.isnan(lcmd["low"])


def test_no_baseline_no_comparison():
    steps = tables_of([records.record("LCMD", "FEAT(LL)", s, [2.0, 1.0]) for s in (0, 1)]).steps
    assert paired(per_run(steps)).empty and efficiency(crossings(steps)).empty
