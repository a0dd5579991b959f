"""scenario=own: sizes from the data as numbers of the run's identity, and a name of one's own up to the report."""

import dataclasses
import logging

import ase
import ase.io
import numpy as np
import pandas as pd
import pytest
from ase.units import kcal, mol
from conftest import PROJECT, make_structures

from analysis.build import collect
from analysis.records.collect import _told_apart
from analysis.records.found import deviations_text, study_of
from analysis.style import scenario_title
from bench.config import sizes
from bench.config.compose import compose_run
from bench.config.identity import hash_of, identity_of
from bench.data.split import draw_split
from bench.errors import UserError
from bench.learning.cycle import run_active_learning

OPEN = {"name": None, "initial": None, "final": None, "validation": None, "pool": None, "test": None}


def filled(monkeypatch, n, batch_size=None, **given):
    monkeypatch.setattr(sizes, "_count", lambda dataset: n)
    config = {"scenario": {**OPEN, **given}, "batch_size": batch_size, "dataset": {"name": "file", "path": "a/w 1.xyz"}}
    return sizes.filled(config, tell=False)


@pytest.mark.parametrize("n", [10, 11, 12, 20, 37, 100, 600, 4019, 150000])
def test_sizes_fit_the_data(monkeypatch, n):
    """They can be split, something is left to test and to choose from, and the last batch is there."""
    found = filled(monkeypatch, n)
    run = compose_run([*(f"scenario.{key}={found['scenario'][key]}" for key in sizes.SIZES), "scenario.test=null"])
    data = make_structures([([8, 1], [[0, 0, 0], [0, 0, 1]], None)])
    many = dataclasses.replace(
        data,
        atomic_numbers=np.tile(data.atomic_numbers, n),
        positions=np.tile(data.positions, (n, 1)),
        offsets=2 * np.arange(n + 1),
        cells=np.zeros((n, 3, 3)),
        periodic=np.zeros((n, 3), dtype=bool),
        energies=np.zeros(n),
        forces=None,
    )
    split = draw_split(many, run.scenario, 0)
    assert len(split.test) >= max(1, n // 5) and len(split.pool) >= run.scenario.final - run.scenario.initial > 0
    assert 1 <= found["batch_size"] <= run.scenario.final - run.scenario.initial


def test_what_is_taken_is_told(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sizes, "_count", lambda dataset: 600)
    given = {"initial": 20, "final": 70, "pool": 100, "validation": 60, "test": 50}
    config = {"scenario": {**OPEN, **given}, "batch_size": 3, "dataset": {"name": "water"}}
    sizes.filled(config, tell=True)
    assert not caplog.messages
    sizes.filled({**config, "batch_size": None}, tell=True)
    assert caplog.messages == ["scenario water: 600 structures, so batch_size 20 (scenario.… says otherwise)"]


def test_braces_without_quotes_are_told():
    """As a shell makes several words of {H:-13.6,O:-2042.6}."""
    words = ["scenario=own", "dataset.path=a.xyz", "dataset.energy_unit=eV", "dataset.reference_energies=O:-2042.6"]
    with pytest.raises(UserError, match=r"in a shell within quotes: \"dataset.reference_energies=\{…\}\""):
        compose_run([*words, "scenario.name=a", *(f"scenario.{key}=4" for key in sizes.SIZES), "batch_size=2"])


def test_what_is_given_stays(monkeypatch):
    found = filled(monkeypatch, 600, batch_size=3, initial=20, pool=100, test=50, name="mine")
    assert found["scenario"] == {
        **{"name": "mine", "initial": 20, "final": 70, "validation": 60, "pool": 100, "test": 50}
    }
    assert found["batch_size"] == 3
    assert filled(monkeypatch, 600)["scenario"]["name"] == "w_1"
    for path, name in ((["a@b/md.xyz@:9", "c"], "md"), ("runs/*/OUTCAR", "OUTCAR"), ("*", "file")):
        assert sizes._name({"name": "file", "path": path}) == name
    assert sizes._name({"name": "my water", "path": "x"}) == "my_water"
    with pytest.raises(UserError, match="dataset file holds 9 structures, scenario=own needs at least 10"):
        filled(monkeypatch, 9)


EMBEDDED = ["scenario=own", "dataset=rmd17_aspirin"]


def test_identity_holds_numbers():
    """The same words are the same run; a name, or a size of one's own, is another; nothing is left open."""
    run = compose_run(EMBEDDED)
    scenario = identity_of(run, "")["scenario"]
    assert scenario == {"name": "rmd17_aspirin_4019", "initial": 10, "validation": 200, "pool": 3006, "test": None}
    assert (
        run.batch_size == 10 and run.scenario.final == 100 and run.deviations == {"scenario.name": "rmd17_aspirin_4019"}
    )
    other = compose_run([*EMBEDDED, "scenario.name=asp", "scenario.pool=500", "training.epochs=7"])
    assert other.deviations == {"scenario.name": "asp", "scenario.pool": 500, "training.epochs": 7}
    names = [hash_of(identity_of(r, "x")) for r in (run, compose_run(EMBEDDED), other)]
    assert names[0] == names[1] != names[2]
    demo = compose_run(["scenario.name=quick", "training.epochs=7"])
    assert demo.deviations == {"scenario.name": "quick", "training.epochs": 7}


def test_names_that_will_not_do():
    with pytest.raises(UserError, match=r"scenario.name = 'tio2_10_250' is another scenario's"):
        compose_run(["scenario=own", "dataset=rmd17_aspirin", "scenario.name=tio2_10_250"])


def test_studies_have_names_of_their_own():
    """A name given is the study's; altered forms of a known scenario, or two forms of one name, are told apart."""
    assert study_of("water", {"scenario.name": "water", "training.epochs": 7}) == "water"
    assert study_of("demo", {}) == "demo" and study_of("demo", {"training.epochs": 7}).startswith("demo_altered_")
    assert deviations_text({"scenario.name": "water"}) == ""
    assert scenario_title("water", "training.epochs=7") == "water"
    assert scenario_title("demo", "training.epochs=7").endswith("(altered)")
    runs = pd.DataFrame(
        [
            *[("a", "water", "water", ""), ("b", "water", "water", "training.epochs=7"), ("c", "salt", "salt", "x=1")],
            *[("d", study_of("demo", {"x": 1}), "demo", "x=1"), ("e", "demo", "demo", ""), ("f", None, None, None)],
        ],
        columns=["run_id", "study", "scenario", "deviations"],
    )
    found = dict(zip(runs["run_id"], _told_apart(runs), strict=True))
    assert found["a"] == "water" and found["b"].startswith("water_altered_") and found["c"] == "salt"
    assert found["d"] == study_of("demo", {"x": 1}) and found["e"] == "demo"


def test_from_a_file_to_a_study(tmp_path, caplog):
    """An extended XYZ in kcal/mol with unusual names, as docs/own/data.md has it, named in every table."""
    caplog.set_level(logging.INFO)
    raw = np.load(PROJECT / "bench/data/embedded/rmd17_aspirin_4019.npz")
    frames = []
    for i in range(60):
        frames.append(ase.Atoms(raw["Z"], raw["R"][i].astype(float)))
        frames[-1].info["U_pbe"] = raw["E_eV"][i] * mol / kcal
        frames[-1].arrays["minus_gradient"] = raw["F_eV_A"][i].astype(float) * mol / kcal
    ase.io.write(tmp_path / "aspirin.xyz", frames, format="extxyz")
    own = ["scenario=own", f"dataset.path={tmp_path}/aspirin.xyz@:50", "dataset.energy_unit=kcal/mol"]
    own += ["dataset.energy_key=U_pbe", "model.hidden=[16,16]", "training.epochs=3", f"results={tmp_path}/results"]
    with pytest.raises(UserError, match=r"has no forces.*: give dataset.forces_key=minus_gradient, or choose traini"):
        run_active_learning(compose_run(own))
    record = run_active_learning(compose_run([*own, "dataset.forces_key=minus_gradient"]))
    assert "scenario aspirin: 50 structures, so initial 8, final 21, validation 5, pool 27, batch_size 8" in caplog.text
    assert [step.n_train for step in record.steps] == [8, 16, 21]
    tables = collect(tmp_path / "results", "demo")
    assert tables.runs["study"].tolist() == ["aspirin"] and set(tables.steps["study"]) == {"aspirin"}
    assert tables.runs["deviations"].iloc[0] == "model.hidden=[16, 16], training.epochs=3"
