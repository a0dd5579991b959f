"""The tables equal the records; nothing is dropped, and what does not belong together is not mixed."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.build import collect
from analysis.records.calibration import binned
from analysis.records.collect import Tables
from analysis.records.found import read_or_describe, record_paths
from analysis.report.overview import studies
from analysis.statistics.compare import paired
from analysis.statistics.efficiency import crossings, with_cost
from analysis.statistics.values import over_seeds, per_run, run_values
from analysis.tables.sheets import Statistics
from bench.errors import UserError
from tests.analysis import records
from tests.analysis.records import runs, tables_of

PROJECT = Path(__file__).resolve().parents[2]


def test_rows_equal_records(collected):
    assert len(collected.runs) == 12 and len(collected.steps) == 36
    content = records.record("LCMD", "FEAT(LL)", 2, [13.5, 7.5, 6.0])
    steps = collected.steps[collected.steps["run_id"] == content["run_id"]]
    for row, step in zip(steps.to_dict("records"), content["steps"], strict=True):
        assert all(row[name] == value for name, value in step["metrics"].items())
        assert row["n_train"] == step["n_train"] and row["seconds_training"] == 1.0
        assert row["labels_bought"] == step["n_train"] + 5
    assert math.isnan(steps["seconds_selection"].iloc[-1])


def test_correlations_become_columns():
    found = {"GP(LL)": {"energy": {"pearson": 0.5, "spearman": None}}, "GP(RP)": {"force": {"pearson": 0.25}}}
    steps = tables_of([records.record("MaxDet", "GP(LL)", 0, [2.0, 1.0], correlations=found)]).steps
    first, last = steps.to_dict("records")
    assert first["pearson_energy_own"] == 0.5 and first["pearson_force_GP(RP)"] == 0.25
    assert last["pearson_energy_own"] == last["pearson_energy_GP(LL)"] == 0.5
    assert math.isnan(first["spearman_energy_own"])


def test_pool_labels_are_bought_once():
    steps = tables_of([records.record("MaxDiag", "AE(E)", 0, [3.0, 2.0, 1.0], pool_labels_read=100)]).steps
    assert steps["labels_bought"].tolist() == [10 + 5 + 100] * 3


def test_states():
    contents = [
        records.record("MaxDiag", "RND", 0, [2.0, 1.0], dataset="tio2"),
        records.record("MaxDiag", "RND", 0, [2.0, 1.5], dataset="tio2", checksum="other"),
        records.record("MaxDiag", "RND", 1, [2.0, 1.0], version=0),
        records.record("MaxDiag", "RND", 2, [2.0], status="failed", final=20),
        records.record("MaxDiag", "RND", 3, [2.0], status="running", final=20),
        "it is damaged",
    ]
    runs = tables_of(contents, checksums={"tio2": "c"}).runs
    assert sorted(runs["state"]) == ["damaged", "done", "failed", "interrupted", "stale", "stale"]
    # without the data at hand both answer the same cell: one is kept
    tables = tables_of(contents)
    assert sorted(tables.runs["state"]) == ["damaged", "done", "failed", "interrupted", "stale", "superseded"]
    kept = tables.runs.set_index("run_id")["state"]
    assert set(tables.steps["run_id"]) == set(kept[kept.isin(["done", "failed", "interrupted"])].index)
    assert "no luck" in tables.runs.set_index("state").loc["failed", "failure"]


def test_altered_runs_are_a_study_of_their_own(collected):
    altered = records.record("MaxDiag", "RND", 0, [90.0, 60.0, 50.0], deviations={"scenario.pool": 7})
    steps = tables_of([*runs(), altered]).steps
    assert steps["study"].nunique() == 2 and set(steps["deviations"]) == {"", "scenario.pool=7"}
    own, alone = over_seeds(steps, "force"), over_seeds(collected.steps, "force")
    pd.testing.assert_frame_equal(own[own["deviations"] == ""].reset_index(drop=True), alone)


def last_point(seed, value, **deviations):
    """A single training on 30 structures."""
    content = records.record("MaxDiag", "RND", seed, [value], deviations=deviations)
    content["identity"]["scenario"]["initial"] = 30
    content["steps"][0]["n_train"] = 30
    return content | {"filed_final": 30, "finals": [30]}


def test_a_seed_beyond_a_column_hides_no_other_run():
    """Runs of before could have one."""
    tables = tables_of([*runs(), records.record("MaxDiag", "RND", 2**64, [9.0, 6.0, 5.0])])
    assert len(tables.steps) == 36 and tables.steps["seed"].dtype == "int64"
    assert f"the seed {2**64} is beyond" in tables.runs.set_index("state").loc["damaged", "failure"]


def test_seconds_of_several_devices_are_not_told():
    """A run that went on elsewhere says both, and is in no table of times; its errors count."""
    moved, stayed = (records.record("MaxDiag", "RND", seed, [3.0, 2.0, 1.0]) for seed in range(2))
    for content, devices in ((moved, ("H100", "cpu")), (stayed, ("cpu", "cpu"))):
        session = {"started": "2026-01-01T00:00:00", "host": "node", "cpu": "EPYC", "cores": 2, "python": "3.12"}
        content["sessions"] = [session | {"device": device, "threads": 1} for device in devices]
        content["steps"][2]["session"] = 1
    tables = tables_of([moved, stayed])
    told = tables.runs.set_index("seed")
    assert told["device"].to_dict() == {0: "H100, cpu", 1: "cpu"}
    assert told.loc[0, "hardware"] == "EPYC, H100, threads: 1; EPYC, cpu, threads: 1"
    values = run_values(tables.steps)
    assert set(values.loc[values["statistic"] == "final", "seed"]) == {0, 1}
    assert set(values.loc[values["statistic"] == "seconds", "seed"]) == {1}
    assert set(with_cost(tables.steps, 300.0)["seed"]) == {1}
    hours = crossings(tables.steps).set_index("seed")["compute_hours"]
    assert hours[0].isna().all() and hours[1].notna().all()
    assert "EPYC, H100, threads: 1; EPYC, cpu, threads: 1" in studies(tables)


@pytest.mark.parametrize("name", ["file", "mine"])
@pytest.mark.parametrize("deviations", [{"scenario.name": "own"}, {"training.epochs": 2}])
def test_own_data_of_one_name_are_never_mixed(name, deviations):
    """Two files of one name, or two labels of one file: a seed on one is no second seed of the other."""
    told = {"dataset": name, "deviations": deviations}
    one = [records.record("MaxDiag", "RND", seed, [2.0, 1.0], **told) for seed in range(2)]
    other = [records.record("MaxDiag", "RND", seed, [8.0, 4.0], checksum="0123456789", **told) for seed in range(3)]
    apart = tables_of([*one, *other])
    assert set(apart.runs["state"]) == {"done"}
    assert apart.runs.groupby("study")["checksum"].unique().map(list).tolist() in (
        [["c"], ["0123456789"]],
        [["0123456789"], ["c"]],
    )
    assert apart.steps["deviations"].str.contains("dataset.checksum=(?:01234567|c)", regex=True).all()
    values = per_run(apart.steps)
    found = values[(values["statistic"] == "final") & (values["measure"] == "mae") & (values["quantity"] == "force")]
    each = found.groupby(["study", "deviations"])["value"].agg(["mean", "count"])
    assert sorted(each.to_numpy().tolist()) == [[1.0, 2], [4.0, 3]]
    # of one file alone nothing is told
    assert set(tables_of(other).steps["deviations"]) == set(tables_of(one).steps["deviations"])
    assert not tables_of(one).steps["deviations"].str.contains("checksum").any()


def test_damaged_records_alone_are_named(tmp_path):
    for name, text in (("a", "{"), ("b", "")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "record.json").write_text(text)
    with pytest.raises(UserError, match=r"no sound record below .*runs: .*/a/record.json is damaged.*/b/record.json"):
        collect(tmp_path)


def test_random_selection_may_come_as_its_last_point_alone():
    alone = {"scenario.initial": 30, "scenario.pool": 7}
    points = [last_point(seed, 4.0, **alone) for seed in range(6)]
    tables = tables_of([*runs(), *points])
    assert set(tables.steps["deviations"]) == {""}
    # seeds 0 to 3 have whole curves
    assert sorted(tables.runs["state"]) == ["done"] * 14 + ["superseded"] * 4
    values = per_run(tables.steps)
    random = values[values["algorithm"].eq("MaxDiag + RND") & values["measure"].eq("mae")]
    random = random[random["quantity"] == "force"]
    counts = random.groupby("statistic")["value"].agg(["count", "max"])
    assert counts.loc["final"].tolist() == [6, 7.5] and counts.loc["curve", "count"] == 4
    # it shares no first training set with others, which are compared with curves alone
    assert set(paired(values)["pairs"]) == {4}
    points_alone = [one for one in runs() if one["identity"]["kernel"]["name"] != "RND"] + points
    assert paired(per_run(tables_of(points_alone).steps)).empty
    # one changed setting is told by equal trainings, those of seeds that have a curve, too
    changed = [last_point(seed, 5.0, **alone, **{"training.minibatch": 7}) for seed in range(5)]
    tables = tables_of([*runs(), *points, *changed])
    table = Statistics.of(tables).variants.query("quantity == 'force' and measure == 'mae'")
    assert table[["changed", "initial", "pairs"]].values.tolist() == [["training.minibatch=7", 30, 5]]
    assert table["ratio"].item() == pytest.approx(1.25)
    # other algorithms are not drawn at random
    points[0]["identity"]["kernel"]["name"] = "GP(LL)"
    points[0]["kernels"] = {"GP(LL)": records.facts("GP(LL)")}
    assert set(tables_of([*runs(), *points]).steps["deviations"]) == {"", "scenario.initial=30, scenario.pool=7"}


def test_values_that_are_not_finite_are_counted_and_left_out():
    whole, hole = records.record("A", "B", 0, [3.0, 2.0, 1.0]), records.record("A", "B", 1, [3.0, 2.0, 1.0])
    hole["steps"][1]["metrics"]["force_mae_kcal_mol_A"] = math.nan
    hole["steps"][2]["metrics"]["energy_mae_kcal_mol"] = math.inf
    tables = tables_of([whole, hole])
    assert sorted(tables.runs["not_finite"]) == [0, 2]
    values = per_run(tables.steps)
    counts = values.groupby(["statistic", "quantity", "measure"])["value"].count()
    assert counts["final", "force", "mae"] == 2 and counts["final", "energy", "mae"] == 1
    assert counts["curve", "force", "mae"] == counts["curve", "energy", "mae"] == 1
    means = over_seeds(tables.steps, "force").set_index("n_train")
    assert means.loc[20, "mae"] == 2.0 and means.loc[20, "seeds"] == 1 and means.loc[20, "fewer"]


def test_parquet_is_read_by_pandas_alone(collected, tmp_path):
    paths = collected.save(tmp_path)
    for path in paths:
        pd.testing.assert_frame_equal(pd.read_parquet(path), getattr(collected, path.stem), check_dtype=False)
    again = Tables.load(tmp_path)
    assert again.save(tmp_path) and len(again.steps) == 36
    collected.steps.drop(columns="n_train").to_parquet(tmp_path / "steps.parquet")
    with pytest.raises(UserError, match="no column 'n_train'"):
        Tables.load(tmp_path)
    collected.steps.astype({"n_train": float}).to_parquet(tmp_path / "steps.parquet")
    with pytest.raises(UserError, match="float64, not int64"):
        Tables.load(tmp_path)
    (tmp_path / "steps.parquet").write_text("no table")
    with pytest.raises(UserError, match="cannot read the table"):
        Tables.load(tmp_path)


def test_records_on_disk(tmp_path):
    records.write(tmp_path, "MaxDiag", "RND", 0, [2.0, 1.0])
    broken = records.write(tmp_path, "MaxDiag", "RND", 1, [2.0, 1.0])
    (broken / "record.json").write_text('{"schema_ver')
    found = [read_or_describe(path) for path in record_paths(tmp_path)]
    assert sorted(bool(one.damage) for one in found) == [False, True]


@pytest.mark.parametrize("arguments", [["--results"], ["--output", "out", "--data"]])
def test_nothing_recorded_is_one_line(tmp_path, arguments):
    command = [sys.executable, "-m", "analysis.build", *arguments, str(tmp_path / "nowhere")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_bins_of_equally_many():
    rng = np.random.default_rng(0)
    predicted, error = rng.random(1000), rng.random(1000)
    rows = pd.DataFrame(binned(predicted, error), columns=["kind", "predicted", "error"])
    order = np.argsort(predicted)
    bins = rows[rows["kind"] == "bin"]
    np.testing.assert_allclose(bins["predicted"], predicted[order].reshape(10, 100).mean(1))
    np.testing.assert_allclose(bins["error"] ** 2, (error[order] ** 2).reshape(10, 100).mean(1))
    points = rows[rows["kind"] == "point"]
    assert len(points) == 30 and set(points["error"]) <= set(error)
    assert len(binned(np.full(3, np.nan), np.ones(3))) == 0
