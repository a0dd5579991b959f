"""Hostile and odd input: code from outside that nobody named, languages without letters."""

import dataclasses
import importlib.metadata
import json
import os
import re
import subprocess
import sys

import ase
import ase.io
import numpy as np
import pytest
import torch
from bench_commands import command
from conftest import PROJECT, subprocess_environment
from small_sweeps import words

from bench.commands.frame import framed
from bench.config import plugins
from bench.config.blame import in_one_line
from bench.config.compose import compose_run
from bench.config.plugins import class_of, load_dataset, name_plugins, plugin
from bench.config.sweep import expand
from bench.errors import UserError
from bench.launch.queue import QUEUE, Queue, entries_of, read_queue
from bench.runs.record_schema import SCHEMA_VERSION
from bench.selection.pairs import check

BAIT = """
import pathlib
pathlib.Path(__file__).with_name("imported").touch()
from bench.kernels.random import Random as Bait
"""


NAMELESS = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Bait:
    shift: float = 0.0
"""


@pytest.fixture
def bait(tmp_path, monkeypatch):
    """A module of the working folder that tells when it is imported, and that nobody has named."""
    (tmp_path / "bait.py").write_text(BAIT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_named", set())
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path / "imported"
    sys.modules.pop("bait", None)


def test_nothing_is_imported_that_nobody_named(bait):
    for group in ("kernel", "selection", "dataset"):
        with pytest.raises(UserError, match=rf"{group}._target_ = 'bait.Bait' is no part .* plugins=bait"):
            class_of({"_target_": "bait.Bait", "name": "x"}, group)
    with pytest.raises(UserError, match="is no part of the project"):
        check(compose_run(["kernel._target_=bait.Bait"]))
    assert not bait.exists()
    name_plugins("bait")
    assert class_of({"_target_": "bait.Bait"}, "kernel").__name__ == "Random" and bait.exists()


@pytest.mark.parametrize("target", ["os.system", "benchmark.X", "subprocess.Popen", "bait", ".", "a..b", "bench"])
def test_targets_that_are_none(bait, target):
    """One line each; a name that only begins like the project's is not the project's."""
    with pytest.raises(UserError, match=r"kernel\._target_ = "):
        class_of({"_target_": target}, "kernel")
    assert not bait.exists()


@pytest.mark.parametrize(
    ("text", "config", "told"),
    [
        (
            "import nosuchpackage",
            {},
            r"'bait.Bait' cannot be imported \(No module .*\): install nosuchpackage, or mend bait",
        ),
        ("from os import nothing", {}, r"\(ImportError: cannot import name .*\): mend bait"),
        ("import os\nos.nothing", {}, r"\(AttributeError: .*\): mend bait"),
        ("", {}, r"\(module 'bait' has no 'Bait'\): give a dotted class name"),
        ("", {"_target_": "bait.deeper.Bait"}, r"\(No module named 'bait.deeper'.*\): give a dotted class name"),
        ("", {"_target_": ""}, r"^kernel has no _target_: give its yaml one, the dotted name of a class"),
        ("", {"_target_": None}, r"^kernel has no _target_"),
        (NAMELESS, {"name": "MINE"}, r"^kernel bait\.Bait has no field name: give the class one, name: str"),
    ],
)
def test_what_to_mend_of_a_class(bait, text, config, told):
    bait.with_name("bait.py").write_text(text)
    name_plugins("bait")
    with pytest.raises(UserError, match=told):
        plugin({"_target_": "bait.Bait", **config}, "kernel")


def test_the_configuration_names_modules(bait):
    """As a word or a list, and what lies in them, too; a module of a like name is another."""
    compose_run(["plugins=[bait,a.b]"])
    assert plugins._named == {"bait", "a.b"}
    for allowed, module in [(True, "a.b"), (True, "a.b.c"), (False, "a"), (False, "a.bc"), (False, "baiting")]:
        assert plugins.is_outside(module) is allowed
    for given, told in [("a b", "plugins = 'a b'"), ("bait.py", "my_kernel for my_kernel.py"), ("../bait", "plugins")]:
        with pytest.raises(UserError, match=told):
            compose_run([f"plugins=['{given}']"])
    for given in ("3", "{a: b}", "[3]"):
        with pytest.raises(UserError, match="plugins"):
            compose_run([f"plugins={given}"])


BROKEN = """
from dataclasses import dataclass
from bench.kernels.random import Random


@dataclass(frozen=True)
class Kernel(Random):
    def prepare(self, inputs):
        return deeper()


def deeper():
    return {}["nothing"]


@dataclass(frozen=True)
class Data:
    name: str = "mine"

    def load(self):
        raise RuntimeError("no such luck")
"""


@pytest.fixture
def broken(tmp_path):
    """A plugin of the working folder whose methods raise, and one that is no Python; runs a command there."""
    (tmp_path / "my_broken.py").write_text(BROKEN)
    (tmp_path / "my_typo.py").write_text("x = = 1")
    for group, name, target in [("kernel", "MINE", "Kernel"), ("dataset", "mine", "Data")]:
        (tmp_path / "my_conf" / group).mkdir(parents=True)
        (tmp_path / "my_conf" / group / "mine.yaml").write_text(f"_target_: my_broken.{target}\nname: {name}\n")

    def run(module, *given, **environment):
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, given)],
            cwd=tmp_path,
            env=subprocess_environment() | {"PYTHONPATH": str(PROJECT)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_what_a_plugin_raises_is_one_line_that_names_it(broken, tmp_path):
    """Of a run, of a selection and of a launch; the traceback is in the record, and shown where it is asked for."""
    own = ["--config-dir", "my_conf", "plugins=my_broken"]
    sizes = ["initial=2", "final=4", "pool=12", "validation=4", "test=6"]
    run = ["scenario=demo", *(f"scenario.{one}" for one in sizes), "training.epochs=2", "training.minibatch=2", *own]
    run += ["batch_size=2", "training.validation_checks=1", "model.hidden=[8,8]", "model.n_radial=2", "threads=1"]
    kernel = ["kernel=mine", "selection=max_diag"]
    told = "error: KeyError in the plugin my_broken.Kernel.prepare, my_broken.py:13: 'nothing' (traceback: "
    done = broken("bench.run", *run, *kernel)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
    (record,) = (tmp_path / "results/runs").glob("*/record.json")
    failure = json.loads(record.read_text())["failure"]
    assert failure["message"] == "'nothing' (in the plugin my_broken.Kernel.prepare, my_broken.py:13)"
    assert "in deeper" in failure["traceback"]
    asked = broken("bench.run", *run, *kernel, BMDAL_BENCH_TRACEBACK="1")
    assert asked.returncode == 2 and "in deeper" in asked.stderr
    ase.io.write(tmp_path / "pool.xyz", [ase.Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 0.1 * i]]) for i in range(4)])
    chosen = broken("bench.select", "pool=pool.xyz", "n=1", *own, *kernel)
    assert chosen.returncode == 2 and told in chosen.stderr and "Traceback" not in chosen.stderr
    launched = broken("bench.launch", "sweep=demo", "seed=0", *run, "dataset=mine")
    line = "error: RuntimeError in the plugin my_broken.Data.load, my_broken.py:21: no such luck"
    assert launched.returncode == 2 and launched.stderr.startswith(line) and launched.stderr.count("\n") == 1


def test_several_lines_of_a_plugin_are_told_in_one(bait):
    bait.with_name("bait.py").write_text("def prepare():\n    raise ValueError('one\\n  two')\n")
    name_plugins("bait")
    with pytest.raises(ValueError, match="one") as caught:
        importlib.import_module("bait").prepare()
    told = in_one_line(caught.value)
    assert told == "ValueError in the plugin bait.prepare, bait.py:2: one two (traceback: BMDAL_BENCH_TRACEBACK=1)"


def test_an_exit_of_a_plugin_is_told(bait, capsys):
    bait.with_name("bait.py").write_text("def prepare():\n    raise SystemExit('bye')\n")
    name_plugins("bait")
    for call, status, told in (
        (importlib.import_module("bait").prepare, 2, "bait.prepare, bait.py:2: bye"),
        (exit_3, 3, ""),
    ):
        with pytest.raises(SystemExit) as end:
            framed(call)()
        assert end.value.code == status and told in capsys.readouterr().err


def exit_3():
    sys.exit(3)


TOO_MUCH = 10**16


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (
            lambda: np.empty(TOO_MUCH),
            r"there is too little memory \(Unable to allocate .*lower training",
        ),
        (lambda: torch.empty(TOO_MUCH), r"there is too little memory \(can't allocate memory: you tried to allocate 4"),
        (lambda: bytearray(TOO_MUCH), r"there is too little memory \(none is left\): end what else uses it"),
        (lambda: np.empty(-1), "^$"),
    ],
)
def test_too_little_memory_is_one_line(ask, told, monkeypatch):
    with pytest.raises((MemoryError, RuntimeError, ValueError)) as error:
        ask()
    assert re.search(told, in_one_line(error.value))
    monkeypatch.setenv("BMDAL_BENCH_TRACEBACK", "1")
    assert in_one_line(error.value) == ""


def test_a_plugin_that_cannot_be_imported(broken, tmp_path):
    done = broken("bench.run", "scenario=demo", "plugins=my_typo", "kernel._target_=my_typo.Kernel")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "'my_typo.Kernel' cannot be imported (SyntaxError: " in done.stderr and "mend my_typo" in done.stderr


def test_an_installed_package_offers_modules(bait, monkeypatch):
    offered = importlib.metadata.EntryPoint("mine", "bait", plugins.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [offered] * (group == "bmdal_bench.plugins"))
    assert class_of({"_target_": "bait.Bait"}, "kernel").__name__ == "Random"


def test_a_queue_carries_what_was_named_and_no_more(bait, tmp_path):
    """A worker imports for its runs what the launch's words named; what a queue file was given later it does not."""
    folder = tmp_path / "launch" / "one"
    folder.mkdir(parents=True)
    entries = entries_of(expand(["sweep=demo", *words(tmp_path, "seed=0")]))
    Queue(SCHEMA_VERSION, 3, 1, entries).write(folder)
    plugins._named.clear()
    assert [entry.run.plugins for entry in read_queue(folder).entries] == [["small_methods", "own_kernel"]]
    assert plugins._named == {"small_methods", "own_kernel"}
    content = json.loads((folder / QUEUE).read_text())
    content["entries"][0]["run"]["kernel"]["_target_"] = "bait.Bait"
    (folder / QUEUE).write_text(json.dumps(content))
    done = command(str(folder), str(os.getpid()), module="bench.launch.worker")
    assert done.returncode == 2 and "'bait.Bait' is no part of the project" in done.stderr
    assert "Traceback" not in done.stderr and not bait.exists()


def test_what_is_no_dataset_or_kernel_is_told(monkeypatch):
    """Of the project, or of a module that was named: the group's contract holds after the import."""
    with pytest.raises(UserError, match=r"dataset bench.kernels.random.Random has no load"):
        load_dataset({"_target_": "bench.kernels.random.Random", "name": "x"})
    name_plugins(__name__)
    with pytest.raises(UserError, match=r"load gives list, not bench.data.structures.Structures"):
        load_dataset({"_target_": f"{__name__}.Lists", "name": "x"})
    with pytest.raises(UserError, match=r"kernel .*FewMolecules has no members"):
        check(compose_run(["plugins=small_methods", "kernel._target_=small_methods.FewMolecules", "kernel.name=few"]))


@dataclasses.dataclass(frozen=True)
class Lists:
    """A dataset that is none."""

    name: str

    def load(self):
        return []


@pytest.mark.parametrize("module", ["bench.run", "bench.launch", "analysis.plan"])
def test_a_language_without_letters(tmp_path, module):
    """What can be told is told; a path that is no text there ends in one line."""
    folder = tmp_path / "für"
    folder.mkdir()
    own = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for where, more in [(PROJECT, [f"results={folder}"]), (folder, []), (PROJECT, [])]:
        word = {"bench.run": ["-c", "job"], "bench.launch": ["sweep=demo", "--status"], "analysis.plan": ["sweep=demo"]}
        done = subprocess.run(
            [sys.executable, "-m", module, *word[module], *more],
            cwd=where,
            env=subprocess_environment() | own,
            capture_output=True,
            text=True,
            check=False,
        )
        plain = where == PROJECT and not more
        assert done.returncode == (0 if plain else 2), done.stderr
        assert plain or (
            done.stderr.count("\n") == 1 and "is no text in this shell's language (ascii): set" in done.stderr
        )
