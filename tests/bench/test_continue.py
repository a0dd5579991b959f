"""A run is continued to a larger end: what was done is taken over, and it still counts as the shorter one."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from bench_commands import records, resume
from small_sweeps import numbers, words

from analysis.plan import states
from analysis.records.collect import Collector
from analysis.records.found import read_or_describe, read_records, record_paths
from bench.config.sweep import expand
from bench.runs.record import read_record

KERNEL = ["algorithm=lcmd_feat_ll", "kernel=feat_ll", "seed=0"]


def asked(results, final, *more):
    left_out = ("kernel.", "algorithm=", "final_kernels=", "+kernel.")
    plain = [word for word in words(results, final=final) if not word.startswith(left_out)]
    return [*plain, *KERNEL, *more]


def run(results, final, *more):
    """Gives what it logs."""
    return resume(*asked(results, final, *more))


def folder_of(results):
    (folder,) = (results / "runs").iterdir()
    return folder


@pytest.fixture(scope="module")
def shorter(tmp_path_factory):
    results = tmp_path_factory.mktemp("shorter")
    run(results, 6)
    return results


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    results = tmp_path_factory.mktemp("longer")
    run(results, 10)
    return results


@pytest.mark.parametrize("model", ["kept", "lost"])
def test_continued_is_the_run_to_that_end(tmp_path, shorter, longer, model):
    """Bit for bit, whether its last model is at hand or has to be trained again."""
    results = tmp_path / "results"
    shutil.copytree(shorter, results)
    folder = folder_of(results)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".npz"}
    first = read_record(folder / "record.json")
    if model == "lost":
        (folder / "model.pt").unlink()
    done = run(results, 10)
    assert f"from its end at 6 structures: {'from its' if model == 'kept' else 'its model is not kept'}" in done
    assert [line.split("N_train ")[1].split(":")[0] for line in done.splitlines() if "N_train" in line] == [
        *("6", "8", "10")
    ]
    found, whole = numbers(folder), numbers(folder_of(longer))
    # told at the end that was, and not on the way
    assert found[2][2].pop("correlations").keys() == {"GP(LL)", "GP(RP)"} and whole[2][2].pop("correlations") == {}
    assert found == whole
    record = read_record(folder / "record.json")
    assert record.finals == [6, 10] and [step.n_train for step in record.steps] == [2, 4, 6, 8, 10]
    assert record.steps[:2] == first.steps[:2] and record.steps[2].metrics == first.steps[2].metrics
    assert record.steps[2].correlations == first.steps[2].correlations and len(record.steps[2].correlations) == 2
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    assert {path.name for path in folder.glob("end_*.npz")} == {"end_6.npz", "end_10.npz"}


def test_it_counts_at_both_ends(tmp_path, shorter):
    results = tmp_path / "results"
    shutil.copytree(shorter, results)
    run(results, 10)
    for final, sizes in ((6, [2, 4, 6]), (10, [2, 4, 6, 8, 10])):
        cells = expand(["sweep=demo", *asked(results, final)])
        table = states(cells, read_records(results)[0])
        assert [(row["state"], row["steps"]) for row in table] == [("done", len(sizes))]
    collector = Collector()
    for path in record_paths(results):
        collector.add(read_or_describe(path))
    tables = collector.tables(results, pd.DataFrame(table), {})
    assert sorted(zip(tables.runs["final"], tables.runs["state"], strict=True)) == [(6, "done"), (10, "done")]
    assert tables.runs["study"].nunique() == 2
    by_study = tables.steps.groupby("final")["n_train"].agg(list)
    assert by_study.to_dict() == {6: [2, 4, 6], 10: [2, 4, 6, 8, 10]}
    # what was picked at 6 for the longer run is no cost of the shorter
    short = tables.steps[(tables.steps["final"] == 6) & (tables.steps["n_train"] == 6)]
    assert short["seconds_selection"].isna().all() and short["seconds_features"].isna().all()
    assert set(tables.calibration["study"]) <= set(tables.runs["study"])


def test_an_end_between_two_batches(tmp_path, longer):
    """The last batch is cut, and no part of the way further."""
    results = tmp_path / "results"
    run(results, 7)
    folder = folder_of(results)
    record = read_record(folder / "record.json")
    assert [step.n_train for step in record.steps] == [2, 4, 6, 7]
    assert len(record.steps[2].picked) == 2
    run(results, 10)
    record = read_record(folder / "record.json")
    assert [step.n_train for step in record.path(10)] == [2, 4, 6, 8, 10]
    assert [step.n_train for step in record.path(7)] == [2, 4, 6, 7]
    whole = numbers(folder_of(longer))
    assert numbers(folder)[3:] == whole[3:]  # arrays of the end and weights
    # a smaller end asked for again is done, and leaves the model of the larger
    before = (folder / "model.pt").read_bytes()
    assert "is done" in run(results, 7) and (folder / "model.pt").read_bytes() == before
    run(results, 9)
    assert (folder / "model.pt").read_bytes() == before and (folder / "end_9.npz").exists()


def test_diagnostics_that_are_missing_are_computed_from_the_model(tmp_path, shorter):
    results = tmp_path / "results"
    run(results, 6, "final_kernels=[]")
    folder = folder_of(results)
    assert records(results)[0]["steps"][-1]["correlations"] == {}
    bare, end = ((folder / name).read_bytes() for name in ("record.json", "end_6.npz"))
    done = run(results, 6)
    assert "correlations of GP(LL), GP(RP) added from its model" in done
    assert numbers(folder) == numbers(folder_of(shorter))
    (folder / "record.json").write_bytes(bare)
    (folder / "end_6.npz").write_bytes(end)
    (folder / "model.pt").unlink()
    done = run(results, 6)
    assert "no correlations of GP(LL), GP(RP), for its model is not kept" in done
    assert records(results)[0]["steps"] == json.loads(bare)["steps"]


def test_a_smaller_end_of_a_longer_run_is_done(tmp_path, longer):
    results = tmp_path / "results"
    shutil.copytree(longer, results)
    done = run(results, 6)
    assert "is done" in done and "for its model is not kept" in done
    record = json.loads((folder_of(results) / "record.json").read_text())
    assert record["finals"] == [10, 6] and record["status"] == "done"
    assert np.load(folder_of(results) / "end_10.npz")
