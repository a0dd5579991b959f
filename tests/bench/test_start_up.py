"""What trains nothing does not import torch, which takes seconds; nor is anything found out twice."""

import subprocess
import sys

import pytest
from conftest import PROJECT, subprocess_environment
from omegaconf import OmegaConf

from bench.config.compose import compose_run, composed
from bench.config.files import ConfigFiles
from bench.config.places import CONF
from bench.config.sweep import expand
from bench.errors import UserError
from bench.selection import pairs
from bench.selection.pairs import check

COMMANDS = (
    ("bench.launch", "sweep=demo", "--dry-run"),
    ("bench.launch", "sweep=demo", "--status"),
    ("bench.launch", "sweep=demoo"),
    ("bench.run", "scenario=demoo"),
    ("bench.run", "algorithm=maxdet_gp_ll", "training.epoch=3"),
    ("bench.run", "kernel=ae_e", "selection=lcmd"),
    ("bench.run", "-m", "+sweep=demo", "seed=x"),
    ("bench.run", "--help"),
    ("bench.data", "list"),
    ("bench.merge", "nowhere", "elsewhere"),
    ("bench", "--help"),
    ("analysis.plan", "sweep=demo", "--workers", "2"),
    ("analysis.plan", "sweep=demo", "--json"),
)


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """An environment whose torch, numba and pandas cannot be imported, and in which the methods are known."""
    folder = tmp_path_factory.mktemp("without")
    for name in ("torch", "numba", "pandas"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} is imported')\n")
    cache = {"XDG_CACHE_HOME": str(folder / "cache")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*next(iter(cache.items())))
        for cell in expand(["sweep=demo"]):
            check(cell.run)
        with pytest.raises(UserError, match="diagonal"):
            check(compose_run(["kernel=ae_e", "selection=lcmd"]))
    environment = subprocess_environment()
    return environment | cache | {"PYTHONPATH": f"{folder}:{environment['PYTHONPATH']}"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_torch(without_torch, tmp_path, words):
    module, *rest = words
    own = [f"results={tmp_path}"] if module == "bench.launch" and "--help" not in rest else []
    done = subprocess.run(
        [sys.executable, "-m", module, *rest, *own],
        cwd=PROJECT,
        env=without_torch,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "is imported" not in done.stderr + done.stdout and "Traceback" not in done.stderr


def test_a_plan_of_what_is_not_begun_imports_no_numpy(without_torch, tmp_path):
    """It takes a second as it is: nothing of the data or of records is needed."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('numpy is imported')\n")
    done = subprocess.run(
        [sys.executable, "-m", "analysis.plan", "sweep=paper", "--results", tmp_path],
        cwd=PROJECT,
        env=without_torch | {"PYTHONPATH": f"{tmp_path}:{without_torch['PYTHONPATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "1460" in done.stdout.splitlines()[-1], done.stderr


def test_a_file_is_parsed_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    """And what a composition does to its own copy is not in the next."""
    files = ConfigFiles(folders=(str(CONF), str(tmp_path)))
    (tmp_path / "selection").mkdir()
    mine = tmp_path / "selection/mine.yaml"
    mine.write_text("_target_: bench.selection.max_diag.MaxDiag\nname: A\n")
    parsed = []
    load = OmegaConf.load
    monkeypatch.setattr(OmegaConf, "load", lambda file: (parsed.append(file.name), load(file))[1])
    words = ["selection=mine", "++selection.more={a: 1}", "++selection.name=C"]
    assert composed(words, files).selection == {
        "_target_": "bench.selection.max_diag.MaxDiag",
        "name": "C",
        "more": {"a": 1},
    }
    assert str(mine) in parsed
    parsed.clear()
    assert composed(["selection=mine"], files).selection == {
        "_target_": "bench.selection.max_diag.MaxDiag",
        "name": "A",
    }
    assert not parsed
    mine.write_text("_target_: bench.selection.max_diag.MaxDiag\nname: another\n")
    assert composed(["selection=mine"], files).selection.name == "another" and parsed == [str(mine)]


def test_facts_of_methods_are_kept_until_their_code_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = compose_run(["algorithm=maxdiag_qbc_f"])
    facts = check(run)
    assert (facts.kernel, facts.members, facts.needs_forces, facts.has_features) == ("QBC(F)", 3, True, False)
    (file,) = (tmp_path / "bmdal-bench").glob("methods-*.json")
    monkeypatch.setattr(pairs, "_stated", lambda *_: pytest.fail("built anew"))
    assert check(run) == facts
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file.write_text("{")
    assert check(run) == facts
    monkeypatch.setattr(pairs, "_sources", lambda: [b"other code"])
    assert check(run) == facts and len(list(file.parent.glob("methods-*.json"))) == 2
