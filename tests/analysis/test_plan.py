"""Every cell's state comes from the records alone, and costs from their seconds."""

import json
import math
import os
from dataclasses import replace

import pandas as pd
import pytest
from bench_commands import command

from analysis import plan
from analysis.costs import benchmarked
from analysis.plan import current_checksums, describe
from analysis.records.collect import label
from analysis.records.found import read_records
from bench.config.identity import hash_of, identity_of
from bench.config.plugins import plugin
from bench.config.sweep import expand
from bench.errors import UserError
from bench.runs.locks import locked
from bench.runs.record import LOCK, write_named
from tests.analysis import records

SECONDS = {10: 100.0, 20: 200.0, 30: 300.0, 40: 400.0}


def states(*of):
    return pd.DataFrame(plan.states(*of))


@pytest.fixture(scope="module")
def cells():
    return expand(["sweep=demo"])


@pytest.fixture(scope="module")
def checksum(cells):
    return plugin(cells[0].run.dataset, "dataset").load().checksum


def write(results, run, checksum, status, sizes, **changes):
    identity = identity_of(run, checksum) | changes
    whole = records.record("MaxDiag", "RND", 0, [1.0])
    measured = {"best_epochs": [1], "seconds_features": 7.0, "seconds_selection": None}
    steps = [whole["steps"][0] | measured | {"n_train": n, "seconds_training": SECONDS[n]} for n in sizes]
    failure = {"error": "ValueError", "message": "no luck\nat all"}
    content = whole | {"identity": identity, "status": status, "steps": steps, "failure": failure}
    folder = results / "runs" / hash_of(identity)
    folder.mkdir(parents=True)
    ends = {"filed_final": run.filed_final, "finals": [run.scenario.final]}
    (folder / "record.json").write_text(json.dumps(content | ends | {"run_id": folder.name}))
    return folder


def test_states_and_costs(tmp_path, cells, checksum):
    runs = [cell.run for cell in cells]
    assert len(runs) == 6 and runs[0].training_set_sizes() == [10, 20, 30, 40]
    write(tmp_path, runs[0], checksum, "done", [10, 20, 30, 40])
    write(tmp_path, runs[1], checksum, "failed", [10, 20])
    at_work = write(tmp_path, runs[2], checksum, "running", [10])
    write(tmp_path, runs[3], checksum, "running", [10, 20, 30])
    write(tmp_path, runs[4], "another data version", "done", [10, 20, 30, 40])
    write(
        tmp_path,
        runs[5],
        checksum,
        "done",
        [10, 20, 30, 40],
        model=identity_of(runs[5], checksum)["model"] | {"version": 0},
    )
    with locked(at_work / LOCK, wait=False):
        table = states(cells, read_records(tmp_path)[0])
    assert table["state"].tolist() == ["done", "failed", "running", "interrupted", "stale", "stale"]
    assert table["seconds_spent"].tolist() == [1028, 314, 107, 621, 0, 0]
    assert table["seconds_to_come"].tolist() == [0, 714, 921, 407, 1028, 1028]
    assert table["failure"][1] == "ValueError: no luck"
    printed = describe(table.to_dict("records")).splitlines()
    assert printed[-2].split() == ["all", "3", "6", "1", "1", "1", "1", "2", "0", "0.6", "1.1"]
    assert "ValueError: no luck" in printed[-1]


def test_a_committee_costs_its_members(tmp_path, checksum):
    cells = expand(["sweep=demo", "algorithm=maxdiag_rnd,maxdiag_qbc_e", "seed=0"])
    write(tmp_path, cells[0].run, checksum, "done", [10, 20, 30, 40])
    assert states(cells, read_records(tmp_path)[0])["seconds_to_come"].tolist() == [0, 3 * 1000 + 4 * 7]


def test_costs_from_the_benchmarks_of_a_machine(tmp_path, cells):
    """By hand: the demo's runs, minibatch 5, twenty-odd checks, test set, features."""
    (tmp_path / "training.csv").write_text(
        "data,minibatch,models,threads,step_ms,validation_ms\n"
        "aspirin,10,1,1,20,0.5\naspirin,32,1,1,64,0.5\naspirin,10,3,1,999,9\naspirin,10,1,2,999,9\n"
    )
    (tmp_path / "per_structure.csv").write_text(
        "data,threads,forces_ms,LL_ms,RP_ms\naspirin,1,0.4,0.2,0.7\naspirin,2,9,9,9\n"
    )
    costs = benchmarked(tmp_path)
    table = states(cells, [], costs)
    run = cells[0].run
    epochs, checks, sizes = run.training.epochs, run.training.validation_checks, run.scenario
    minibatches = sum(n // 5 for n in (10, 20, 30, 40))
    each = checks * sizes.validation * 0.5 + sizes.test * 0.4
    last = sizes.test * (0.2 + 0.7)
    expected = {
        "MaxDiag + RND": 0.0,
        "MaxDet + GP(LL)": 0.2 * (sizes.pool + sizes.test),
        "LCMD + FEAT(LL)": 0.2 * sizes.pool,
    }
    for row in table.to_dict("records"):
        seconds = (epochs * minibatches * 20 + 4 * each + 3 * expected[row["algorithm"]] + last) / 1000
        assert row["seconds_to_come"] == pytest.approx(seconds)
    committee = expand(["sweep=demo", "algorithm=maxdiag_qbc_f", "seed=0", "training.minibatch=21"])[0].run
    steps = sum(epochs * (n // min(n, 21)) * (20 if n == 10 else 40 if n == 20 else 42) for n in (10, 20, 30, 40))
    assert costs.to_come(committee, 0) == pytest.approx((3 * (steps + 4 * each + 3 * 0.4 * sizes.pool) + last) / 1000)
    large = expand(["sweep=demo", "algorithm=maxdiag_rnd", "seed=0", "training.minibatch=40"])[0].run
    (kept,) = expand(["sweep=demo", "algorithm=maxdiag_rnd", "seed=0", "training.minibatch=40", "scenario.initial=40"])
    assert costs.to_come(kept.run, 0) == pytest.approx((epochs * 64 * 40 / 32 + each + last) / 1000)
    assert math.isnan(costs.to_come(replace(large, scenario=replace(large.scenario, test=None)), 0))
    # the benchmarks measure one potential
    assert math.isnan(costs.to_come(replace(run, model=run.model | {"name": "SchNet"}), 0))
    assert "2 workers: " in describe(table.to_dict("records"), workers=2).splitlines()[-1]
    unknown = [row | {"seconds_to_come": math.nan} for row in table.to_dict("records")]
    assert describe(unknown, workers=2).splitlines()[-1] == "2 workers: unknown (--costs FOLDER predicts it) to come"
    with pytest.raises(UserError, match="make perf"):
        benchmarked(tmp_path / "elsewhere")


def test_beyond_what_was_measured(tmp_path, cells, checksum):
    """In proportion to N_train above the largest measured; nothing is guessed where nothing was measured."""
    assert states(cells, [])["seconds_to_come"].isna().all()
    assert states(cells, [])["state"].eq("missing").all()
    write(tmp_path, cells[0].run, checksum, "running", [10, 20])
    left = states(cells, read_records(tmp_path)[0])["seconds_to_come"][0]
    assert math.isclose(left, 200 * 30 / 20 + 200 * 40 / 20 + 14)


def test_altered_runs_are_other_cells(tmp_path, cells, checksum):
    (altered,) = expand(["sweep=demo", "algorithm=maxdiag_rnd", "seed=0", "training.epochs=3"])
    write(tmp_path, altered.run, checksum, "done", [10, 20, 30, 40])
    assert states(cells, read_records(tmp_path)[0])["state"].eq("missing").all()
    assert states([altered], read_records(tmp_path)[0])["state"].tolist() == ["done"]


def test_other_reference_energies_are_other_cells(tmp_path, cells, checksum):
    words = ["sweep=demo", "algorithm=maxdiag_rnd", "seed=0", "dataset.reference_energies={1:-839,6:-838.5,8:-839}"]
    (altered,) = expand(words)
    other = plugin(altered.run.dataset, "dataset").load().checksum
    assert other != checksum
    write(tmp_path, altered.run, other, "done", [10, 20, 30, 40])
    found = read_records(tmp_path)[0]
    assert states(cells, found)["state"].eq("missing").all()
    assert states([altered], found)["state"].tolist() == ["done"]
    assert list(label(found, current_checksums(cells)).values()) == ["done"]
    assert list(label(found, current_checksums([altered])).values()) == ["done"]


def test_a_damaged_record_hides_nothing_else(tmp_path, cells, checksum):
    write(tmp_path, cells[0].run, checksum, "done", [10, 20, 30, 40])
    torn = write(tmp_path, cells[1].run, checksum, "done", [10, 20, 30, 40]) / "record.json"
    torn.write_bytes(torn.read_bytes()[:50])
    done = command("sweep=demo", "--results", str(tmp_path), module="analysis.plan")
    assert done.returncode == 0, done.stderr
    assert f"{torn} is damaged" in done.stdout.splitlines()[-1] and len(done.stdout.splitlines()) == 4
    assert done.stdout.splitlines()[-2].split()[:5] == ["all", "3", "6", "1", "0"]


def test_a_named_file_is_written_where_it_leads(tmp_path):
    """Through a link, into a pipe as it is, in place of a plain file as a whole; a folder is told."""
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    write_named(tmp_path / "link.csv", b"new")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_named(tmp_path / "pipe", b"new")
    assert os.read(reader, 10) == b"new" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    with pytest.raises(UserError, match="Is a directory"):
        write_named(tmp_path, b"new")
