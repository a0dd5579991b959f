"""The table equals the records, statistics equal a computation by hand, figures show the table's numbers."""

import json

import numpy as np
import pytest

from analysis.build import build, last_step
from analysis.collect import collect
from analysis.figures.learning_curves import learning_curves
from analysis.stats import measured, over_seeds
from bench.errors import UserError
from bench.record import SCHEMA_VERSION

UNITS = {"force": "kcal_mol_A", "energy": "kcal_mol"}


def metrics(value):
    return {f"{q}_{m}_{u}": value * k for q, u in UNITS.items() for k, m in enumerate(("mae", "rmse", "maxe"), 1)}


def write(results, selection, kernel, seed, values, deviations=None):
    identity = {
        "scenario": {"name": "demo", "final": 30},
        "dataset": {"name": "d"},
        "selection": {"name": selection},
        "kernel": {"name": kernel},
        "batch_size": 10,
        "seed": seed,
    }
    steps = [
        {"n_train": 10 * (i + 1), "picked": [1], "metrics": metrics(v), "seconds_training": 1.0}
        for i, v in enumerate(values)
    ]
    folder = results / "runs" / f"{selection}{kernel}{seed}{'altered' if deviations else ''}"
    folder.mkdir(parents=True)
    record = {
        "schema_version": SCHEMA_VERSION,
        "run_id": folder.name,
        "identity": identity,
        "deviations": deviations or {},
        "status": "done",
        "steps": steps,
    }
    (folder / "record.json").write_text(json.dumps(record))


@pytest.fixture
def results(tmp_path):
    for seed, factor in enumerate((1.0, 2.0, 6.0)):
        write(tmp_path, "MaxDiag", "RND", seed, [9 * factor, 6 * factor, 5 * factor])
        write(tmp_path, "LCMD", "FEAT(LL)", seed, [9 * factor, 5 * factor, 4 * factor])
    return tmp_path


def test_collect(results):
    table = collect(results)
    assert len(table) == 18 and set(table["algorithm"]) == {"MaxDiag + RND", "LCMD + FEAT(LL)"}
    row = table[(table["algorithm"] == "MaxDiag + RND") & (table["seed"] == 2) & (table["n_train"] == 20)].iloc[0]
    assert row["force_rmse_kcal_mol_A"] == 72.0 and row["seconds_training"] == 1.0
    with pytest.raises(UserError, match="no finished step"):
        collect(results / "nowhere")


def test_mean_and_standard_error(results):
    means = over_seeds(collect(results), "force")
    row = means[(means["algorithm"] == "LCMD + FEAT(LL)") & (means["n_train"] == 30)].iloc[0]
    values = np.array([4.0, 8.0, 24.0])
    assert row["mae"] == pytest.approx(values.mean())
    assert row["mae_sem"] == pytest.approx(values.std(ddof=1) / np.sqrt(3))
    assert row["seeds"] == 3


def test_figure_shows_the_table(results):
    table = collect(results)
    figure = learning_curves(table, "force")
    means = over_seeds(table, "force")
    for axis, measure in zip(figure.axes, ("mae", "rmse", "maxe"), strict=True):
        lines = {line.get_label(): line for line in axis.get_lines()}
        for algorithm, curve in means.groupby("algorithm"):
            np.testing.assert_allclose(lines[algorithm].get_xydata(), curve[["n_train", measure]])


def test_build(results, capsys):
    build(results)
    written = sorted(path.name for path in (results / "analysis").iterdir())
    stems = [f"learning_curves_demo_b10_{quantity}" for quantity in ("energy", "force")]
    assert written == sorted(["learning_curves.csv", *(f"{s}.{e}" for s in stems for e in ("png", "svg"))])
    svg = (results / "analysis" / "learning_curves_demo_b10_force.svg").read_bytes()
    assert "LCMD + FEAT(LL)" in capsys.readouterr().out
    build(results)
    assert (results / "analysis" / "learning_curves_demo_b10_force.svg").read_bytes() == svg


def test_altered_runs_are_drawn_apart(results, capsys):
    write(results, "MaxDiag", "RND", 0, [90.0, 60.0, 50.0], {"scenario.pool": 7})
    build(results)
    names = {path.name for path in (results / "analysis").glob("*_force.png")}
    assert len(names) == 2 and "learning_curves_demo_b10_force.png" in names
    printed = capsys.readouterr().out
    assert "demo with scenario.pool=7" in printed
    means = over_seeds(collect(results), "force")
    own = means[(means["deviations"] == "") & (means["algorithm"] == "MaxDiag + RND") & (means["n_train"] == 30)]
    assert own["mae"].item() == pytest.approx(np.mean([5, 10, 30]))


def test_one_seed_has_no_standard_error(tmp_path):
    write(tmp_path, "MaxDiag", "RND", 0, [3.0, 2.0])
    table = collect(tmp_path)
    assert measured(table) == ["force", "energy"]
    assert "±" not in last_step(table, "force") and "2.00" in last_step(table, "force")
