"""Installed, everything works from any folder, also from one whose own folders have our packages' names."""

import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from bench_commands import records
from conftest import PROJECT

from bench.commands import COMMANDS

BIN = Path(sys.executable).parent
TINY = [
    *("scenario.initial=2", "scenario.final=4", "scenario.pool=12", "scenario.validation=4", "scenario.test=6"),
    *("batch_size=2", "training.epochs=2", "training.validation_checks=1", "threads=1", "final_kernels=[]"),
    *("model.hidden=[8,8]", "model.n_radial=2"),
]
MINE = """
from dataclasses import dataclass
from bench.kernels.random import Random

@dataclass(frozen=True)
class Mine(Random):
    pass
"""


@pytest.fixture
def folder(tmp_path):
    """A working folder with packages of our names, and a kernel."""
    for name in ("analysis", "bench", "conf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('this is not bmdal-bench')\n")
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def console(folder, *arguments, **environment):
    """The console command as a user types it: nothing but the installation leads to this code."""
    return called(folder, BIN / "bmdal-bench", *arguments, **environment)


def called(folder, *arguments, **environment):
    """A command with a plain environment."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        arguments, cwd=folder, env=plain | environment, capture_output=True, text=True, check=False, timeout=600
    )


def test_a_run_and_its_analysis_in_such_a_folder(folder):
    """A run with a kernel of the working folder; results and data are looked for from there."""
    mine = ["kernel._target_=mine.Mine", "kernel.name=Mine", "plugins=mine"]
    done = console(folder, "run", *TINY, *mine)
    assert done.returncode == 0, done.stderr
    (record,) = records(folder / "results")
    assert record["status"] == "done" and record["identity"]["kernel"]["name"] == "Mine"
    launched = console(folder, "launch", "sweep=demo", *TINY, *mine, "algorithm=maxdiag_rnd", "seed=1", "--wait")
    assert launched.returncode == 0, launched.stdout + launched.stderr
    assert [found["status"] for found in records(folder / "results")] == ["done", "done"]
    planned = console(folder, "plan", "sweep=demo", *TINY, *mine, "algorithm=maxdiag_rnd", "seed=0,1")
    assert planned.returncode == 0 and planned.stdout.splitlines()[-1].split()[:4] == ["all", "1", "2", "2"]
    built = console(folder, "build")
    assert built.returncode == 0 and (folder / "results/analysis/report.html").is_file(), built.stderr
    merged = console(folder, "merge", "results", "elsewhere")
    assert merged.returncode == 0 and "2 new" in merged.stdout and (folder / "elsewhere/runs").is_dir()
    model = next(folder.glob("results/runs/*/model.pt"))
    code = f"from bench.calculator import PotentialCalculator; PotentialCalculator('{model.relative_to(folder)}')"
    assert called(folder, sys.executable, "-P", "-c", code).returncode == 0


def test_the_command_names_what_it_does(folder):
    """Help, an unknown subcommand, and each subcommand's own help and advice under the name it was called by."""
    told = console(folder, "--help")
    assert told.returncode == 0 and all(f"\n  {name} " in told.stdout for name in COMMANDS)
    assert console(folder).returncode == 2
    wrong = console(folder, "pln")
    assert wrong.returncode == 2 and wrong.stderr == "error: no command is called 'pln': did you mean 'plan'?\n"
    advice = console(folder, "data", "lst")
    assert advice.returncode == 2 and advice.stderr.endswith("(bmdal-bench data --help)\n"), advice.stderr
    by_module = called(folder, sys.executable, "-P", "-m", "bench.data", "lst")
    assert by_module.returncode == 2 and by_module.stderr.endswith("(python -m bench.data --help)\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_is_there(name):
    assert callable(importlib.import_module(COMMANDS[name].module).main)


def test_plain_folders_of_our_names_hide_nothing(tmp_path):
    """Folders without an __init__.py, of data say: `import` and `python -m` find this code all the same."""
    for name in ("analysis", "bench", "conf"):
        (tmp_path / name).mkdir()
    done = called(tmp_path, sys.executable, "-c", "import bench.config.schema, analysis.statistics.values")
    assert done.returncode == 0, done.stderr
    assert called(tmp_path, sys.executable, "-m", "bench.merge", "--help").returncode == 0


def test_a_wheel_holds_everything(tmp_path):
    """The files of the checkout beside the modules too; unpacked elsewhere it runs, data/ in its folder."""
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, PROJECT]
    assert called(tmp_path, sys.executable, "-m", *build).returncode == 0
    (wheel,) = tmp_path.glob("*.whl")
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    for name in ("bench", "analysis", "conf"):
        target = unpacked / ("bench/conf" if name == "conf" else name)
        kept = [path.relative_to(PROJECT / name) for path in (PROJECT / name).rglob("*") if path.is_file()]
        missing = [path for path in kept if "__pycache__" not in path.parts and not (target / path).is_file()]
        assert missing == []
    here = {"PYTHONPATH": str(unpacked)}
    for command in ("init -q", "-c user.name=a -c user.email=b commit -q --allow-empty -m theirs"):
        assert called(tmp_path, "git", *command.split()).returncode == 0
    done = called(tmp_path, sys.executable, "-P", "-m", "bench.run", *TINY, **here)
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "results")
    assert record["status"] == "done" and record["sessions"][0].get("git_commit") is None
    listed = called(tmp_path, sys.executable, "-P", "-m", "bench", "data", "list", **here)
    assert f"data folder: {tmp_path}/data" in listed.stdout and "rmd17_aspirin" in listed.stdout


def version_of(folder):
    done = called(folder, sys.executable, "-m", "hatchling", "metadata", "version")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_version_is_that_of_the_tag(tmp_path):
    """In a clone and in an archive of it; a clone without tags and a bare copy have one, too."""
    clone, copy = tmp_path / "clone", tmp_path / "copy"
    assert called(tmp_path, "git", "clone", "--quiet", "--no-tags", PROJECT, clone).returncode == 0
    assert ".dev" in version_of(clone)
    for command in ("-c user.name=a -c user.email=b tag --annotate --message=t v7.8.9", "archive -o ../a.tar HEAD"):
        assert called(clone, "git", *command.split()).returncode == 0
    assert version_of(clone) == "7.8.9"
    with tarfile.open(tmp_path / "a.tar") as archive:
        archive.extractall(tmp_path / "archive", filter="data")
    assert version_of(tmp_path / "archive") == "7.8.9"
    shutil.copytree(clone, copy, ignore=shutil.ignore_patterns(".git"))
    assert version_of(copy) == "0.1.0"


@pytest.mark.long
def test_installed_without_an_index(tmp_path):
    """`make wheelhouse` where there is internet, then `make setup` from that folder alone, and a wheel from it."""
    checkout = tmp_path / "checkout"
    assert called(tmp_path, "git", "clone", "--quiet", PROJECT, checkout).returncode == 0
    (checkout / "ready").touch()  # newer than pyproject.toml: the environment of these tests is used as it is
    made = called(checkout, "make", "wheelhouse", f"VENV={BIN.parent}", "READY=ready", f"PYTHON={sys.executable}")
    assert made.returncode == 0, made.stderr
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "https://localhost:9/"}
    done = called(checkout, "make", "setup", "WHEELHOUSE=wheelhouse", f"PYTHON={sys.executable}", **nowhere)
    assert done.returncode == 0, done.stderr
    assert called(tmp_path, checkout / ".venv/bin/bmdal-bench", "data", "list").returncode == 0
    assert called(tmp_path, sys.executable, "-m", "venv", "plain").returncode == 0
    pip = [tmp_path / "plain/bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--find-links"]
    assert called(tmp_path, *pip, checkout / "wheelhouse", "bmdal-bench", **nowhere).returncode == 0
    assert called(tmp_path, tmp_path / "plain/bin/bmdal-bench", "run", *TINY).returncode == 0


def test_make_refuses_an_environment_of_another_python_than_asked_for(tmp_path):
    """What is there is taken as it is, but not in place of what was asked for."""
    (tmp_path / "bin").mkdir()
    other = tmp_path / "bin/python"
    other.write_text("#!/bin/sh\necho Python 3.9.0\n")
    other.chmod(0o755)
    (tmp_path / ".ready").touch()
    of_it = [f"--directory={PROJECT}", "setup", f"VENV={tmp_path}"]
    refused = called(tmp_path, "make", *of_it, f"PYTHON={sys.executable}")
    assert refused.returncode == 2
    mine = ".".join(map(str, sys.version_info[:3]))
    assert refused.stderr.startswith(
        f"error: {tmp_path} holds Python 3.9.0 and not Python {mine}: remove it (rm -r {tmp_path})\n"
    )
    taken = called(tmp_path, "make", *of_it)
    assert taken.returncode == 0, taken.stderr
