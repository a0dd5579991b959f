"""What trains nothing does not import torch, which takes seconds; nor is anything found out twice."""

import subprocess
import sys

import pytest
from conftest import PROJECT, subprocess_environment

from bench.config.compose import compose_run
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
