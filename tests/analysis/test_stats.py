"""Every statistic against scipy or a computation by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from analysis.compare import adjusted, batch_slopes, paired, ranks
from analysis.efficiency import efficiency
from analysis.stats import detectable_factor, last_correlations, over_seeds, per_run, run_values, summarise
from analysis.tables import errors
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


def test_paired_differences(collected):
    table = paired(per_run(collected.steps))
    row = chosen(table, algorithm="LCMD + FEAT(LL)", statistic="final", quantity="force", measure="mae").iloc[0]
    expected = stats.ttest_rel(LCMD, RND)
    interval = expected.confidence_interval(0.95)
    assert row["difference"] == pytest.approx((LCMD - RND).mean())
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert row["p"] == pytest.approx(expected.pvalue) and row["pairs"] == 4
    assert row["relative"] == pytest.approx((LCMD - RND).mean() / RND.mean())
    family = chosen(table, statistic="final")
    ordered = family["p"].sort_values()
    by_hand = np.minimum.accumulate((ordered * len(ordered) / np.arange(1, len(ordered) + 1))[::-1])[::-1].clip(upper=1)
    np.testing.assert_allclose(family["p_adjusted"][ordered.index], by_hand)


def test_pairs_need_equal_seeds():
    contents = [records.record("MaxDiag", "RND", s, [2.0, 1.0 + s]) for s in (0, 1, 2)]
    contents += [records.record("LCMD", "FEAT(LL)", s, [2.0, 0.5 + 2 * s]) for s in (1, 2, 3)]
    row = chosen(paired(per_run(tables_of(contents).steps)), statistic="final", quantity="force", measure="mae").iloc[0]
    assert row["pairs"] == 2 and row["difference"] == pytest.approx(((2.5 - 2) + (4.5 - 3)) / 2)


def test_adjusted_leaves_out_what_does_not_exist():
    p = pd.Series([0.01, math.nan, 0.04])
    np.testing.assert_allclose(adjusted(p), [0.02, math.nan, 0.04])


@pytest.mark.parametrize("pairs", [2, 3, 5, 20])
def test_detectable_difference(pairs):
    """At this shift a paired t-test has 80 % power: t = (Z + shift) / sqrt(χ²/ν), integrated over χ² by hand."""
    shift, freedom = detectable_factor(pairs), pairs - 1
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
    row = chosen(batch_slopes(per_run(tables_of(contents).steps)), statistic="final", quantity="force", measure="mae")
    slopes = [np.polyfit(np.log2([2, 5, 10]), [errors[size][seed] for size in (2, 5, 10)], 1)[0] for seed in range(3)]
    expected = stats.ttest_1samp(slopes, 0)
    assert row["slope"].item() == pytest.approx(np.mean(slopes)) and row["sem"].item() == pytest.approx(
        stats.sem(slopes)
    )
    assert row["low"].item() == pytest.approx(expected.confidence_interval().low) and row["seeds"].item() == 3


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
    assert table.loc["LCMD + FEAT(LL)", "p"] == pytest.approx(
        stats.wilcoxon(np.log(values[:, 1] / values[:, 0])).pvalue
    )
    assert table.loc["LCMD + FEAT(LL)", "ratio"] == pytest.approx(stats.gmean(values[:, 1] / values[:, 0]))
    assert len(table) == 3 and (table["scenarios"] == 4).all()


def test_labels_and_cost_to_reach_an_error():
    contents = [records.record("MaxDiag", "RND", s, [8.0, 4.0, final]) for s, final in ((0, 1.0), (1, 3.0))]
    contents += [records.record("LCMD", "FEAT(LL)", s, [8.0, value, 0.5]) for s, value in ((0, 2.0), (1, 4.0))]
    contents += [records.record("MaxDiag", "AE(F)", s, [8.0, 1.0, 0.5], pool_labels_read=50) for s in (0, 1)]
    contents += [records.record("MaxDiag", "GP(LL)", s, [8.0, 4.0, 2.5 - s]) for s in (0, 1)]
    table = chosen(efficiency(tables_of(contents).steps, label_seconds=60.0), quantity="force", measure="mae")
    table = table.set_index("algorithm")
    assert (table["target"] == 2.0).all()
    # straight lines on log scales: 8 → 4 → 0.5 crosses 2 a third of the way from 20 to 30
    crossings = np.array([20.0, 20 * 1.5 ** (1 / 3)])
    lcmd = table.loc["LCMD + FEAT(LL)"]
    assert lcmd["n_train"] == pytest.approx(crossings.mean()) and lcmd["n_train_sem"] == pytest.approx(
        stats.sem(crossings)
    )
    assert lcmd["saving"] == pytest.approx(30 / crossings.mean())
    assert lcmd["labels_bought"] == pytest.approx((crossings + 5).mean())
    spent = np.array([2 * 1.75, 2 * 1.75 + 1.5]) / 3600
    assert lcmd["hours"] == pytest.approx((spent + (crossings + 5) / 60).mean())
    assert table.loc["MaxDiag + AE(F)", "labels_bought"] == 10 + 5 + 50
    gp = table.loc["MaxDiag + GP(LL)"]
    assert gp["reached"] == 1 and gp["seeds"] == 2 and math.isnan(gp["n_train"])


def test_labels_of_unfinished_runs():
    """One that has crossed the target counts as it stands; one that has not leaves its algorithm open."""
    contents = [records.record("MaxDiag", "RND", s, [8.0, 4.0, 2.0, 2.0]) for s in (0, 1)]
    contents += [records.record("LCMD", "FEAT(LL)", 0, [8.0, 1.0, 1.0, 1.0])]
    contents += [records.record("LCMD", "FEAT(LL)", 1, [8.0, 4.0, 1.0], status="running", final=40)]
    contents += [records.record("MaxDet", "GP(LL)", 0, [8.0, 1.0, 1.0, 1.0])]
    contents += [records.record("MaxDet", "GP(LL)", 1, [8.0, 4.0], status="running", final=40)]
    table = chosen(efficiency(tables_of(contents).steps), quantity="force", measure="mae").set_index("algorithm")
    assert "MaxDet + GP(LL)" not in table.index
    lcmd = table.loc["LCMD + FEAT(LL)"]
    crossings = np.array([10 * 2 ** (2 / 3), 20 * 1.5**0.5])
    assert lcmd["reached"] == lcmd["seeds"] == 2 and lcmd["n_train"] == pytest.approx(crossings.mean())
    assert lcmd["saving"] == pytest.approx(40 / crossings.mean())


def test_no_baseline_no_comparison():
    steps = tables_of([records.record("LCMD", "FEAT(LL)", s, [2.0, 1.0]) for s in (0, 1)]).steps
    assert paired(per_run(steps)).empty and efficiency(steps).empty
