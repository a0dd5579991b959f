"""Completion in real shells, and beside what Hydra and the commands' own help say."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROJECT, subprocess_environment

from bench.commands import COMMANDS
from bench.completion import FLAGS, OF_SELECT, candidates, for_shell
from bench.config.compose import composed
from bench.config.files import ConfigFiles
from bench.config.hydra_mistakes import dotted_keys

BREAKS = " \t\n\"'@><=;|&(:"  # bash's
SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
# what is typed before TAB, what must then be on the line
TYPED = {
    "bmdal-bench la": "bmdal-bench launch ",
    "bmdal-bench run scenario=lm": "scenario=lmnto_100_1000",
    "bmdal-bench run -m algorithm=lcmd_feat_ll,maxdet_gp_r": "maxdet_gp_rp",
    "bmdal-bench run model.learning_rates.ne": "model.learning_rates.network=",
    "bmdal-bench launch sweep=demo --wa": "--wait",
    "bmdal-bench run --config-dir conf scenario=mi": "scenario=mine",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "conf/scenario").mkdir(parents=True)
    (tmp_path / "conf/scenario/mine.yaml").write_text("# @package _global_\nscenario: {final: 50, extra: 1}\n")
    (tmp_path / "conf/primary.yaml").write_text("defaults: [config, _self_]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def environment(tmp_path):
    """The console command on PATH, under this Python."""
    program = tmp_path / "bin/bmdal-bench"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bench "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    return {**subprocess_environment(), "PATH": path, "TERM": "xterm", "PS1": "> ", "HOME": str(tmp_path)}


def needs(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}, which is not installed")


def read_until(terminal, text):
    """What a shell writes until a text is there, without colours and the like."""
    written, shown, started = b"", "", time.monotonic()
    while text not in shown and time.monotonic() - started < 60:
        if select.select([terminal], [], [], 0.1)[0]:
            written += os.read(terminal, 65536)
            shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode(errors="replace"))
    return shown


@pytest.mark.parametrize("shell", SHELLS)
def test_typed_in_a_shell(folder, environment, shell):
    needs(shell)
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(SHELLS[shell][0], SHELLS[shell], environment)
    try:
        os.write(terminal, f'eval "$(bmdal-bench completion {shell})"; echo loa""ded\n'.encode())
        assert "loaded" in read_until(terminal, "loaded")
        for typed, completed in TYPED.items():
            os.write(terminal, f"{typed}\t".encode())
            end = completed.removeprefix(typed.rpartition(" ")[2])
            shown = read_until(terminal, end)
            assert end in shown, (typed, shown)
            os.write(terminal, b"\x15")  # the line is emptied
    finally:
        os.close(terminal)
        os.waitpid(process, 0)


def test_in_fish(folder, environment):
    needs("fish")
    asked = "; ".join(f"complete -C '{typed}'" for typed in TYPED)
    command = ["fish", "-c", f"bmdal-bench completion fish | source; {asked}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert found == [
        *("launch", "scenario=lmnto_100_1000", "algorithm=lcmd_feat_ll,maxdet_gp_rp"),
        *("model.learning_rates.network=", "--wait", "scenario=mine"),
    ], done.stderr


def all_keys(words, prefix=""):
    """Every key that completion leads to."""
    for found in candidates(["run", *words], prefix):
        key = found.rstrip("=.")
        if found.startswith(prefix) and found[-1] in "=." and not found.startswith(("+", "hydra")):
            yield key
            if found.endswith("."):
                yield from all_keys(words, found)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["scenario=qm9_1000_10000", "algorithm=maxdiag_qbc_e"],
        ["dataset=file", "kernel=feat_rp", "selection=lcmd"],
        ["--config-dir", "conf", "scenario=mine"],
        ["--config-dir=conf", "hydra.searchpath=[conf]", "scenario=mine"],
    ],
)
def test_keys_are_those_that_hydra_composes(folder, words):
    files = ConfigFiles(folders=(str(PROJECT / "conf"), str(folder / "conf")))
    config = composed([word for word in words if not word.startswith(("-", "conf", "hydra"))], files)
    keys = {key for key in dotted_keys(config) if not key.startswith("hydra")}
    groups = {path.name for path in (PROJECT / "conf").iterdir() if path.is_dir()}
    assert set(all_keys(words)) - groups == keys - groups


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("bmdal-bench run training.epochs=", ["100 "]),
        ("bmdal-bench run training.force_weight=4", ["4.0 "]),
        ("bmdal-bench run ~training.last", ["~training.last_minibatch "]),
        ("bmdal-bench run +sw", ["+sweep="]),
        ("bmdal-bench plan swe", ["sweep="]),
        ("bmdal-bench launch cluster=slurm cluster.part", ["cluster.partition="]),
        ("bmdal-bench run hydra.searchpath=[file://conf] scenario=mi", ["mine "]),
        ("bmdal-bench run -cd conf -cn primary 'scenario=mi", ["mine "]),
        ("bmdal-bench run --config-dir=co", ["conf/"]),
        ("bmdal-bench run --config-dir con", ["conf/"]),
        ("bmdal-bench run --cfg j", ["job "]),
        ("bmdal-bench run --info=defaults-", ["defaults-tree "]),
        ("bmdal-bench data prepare ti", ["tio2 "]),
        ("bmdal-bench completion f", ["fish "]),
        ("bmdal-bench build --results co", ["conf/"]),
        ("bmdal-bench select guards.max", ["guards.max_force=", "guards.max_uncertainty="]),
        ("bmdal-bench select pool=co", ["conf/"]),
        ("bmdal-bench select algorithm=lcmd_feat_r", ["lcmd_feat_rp "]),
        ("bmdal-bench nothing x", []),
        ("bmdal-bench run nothing.x", []),
        ("bmdal-bench run nothing=", []),
    ],
)
def test_one_line(folder, line, found):
    assert for_shell("bash", line, BREAKS) == found


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"run", "data"}))
def test_flags_are_those_of_the_help(command):
    """Hydra's (`run`) are compared in code, those of `data` belong to its own subcommands."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", command, "--help"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"^  (?:-\w+, )?(--[a-z-]+)", done.stdout, re.MULTILINE)) == set(FLAGS[command])


def test_words_of_a_selection():
    from bench.pools.guards import Guards
    from bench.select import Asked

    own = {f"{name}=" for name in Asked.__dataclass_fields__ if name not in ("core", "guards")} | {"repeat="}
    assert set(OF_SELECT) == own | {f"guards.{name}=" for name in Guards.__dataclass_fields__}


def test_flags_of_hydra():
    from hydra._internal.utils import get_args_parser

    known = {option for action in get_args_parser()._actions for option in action.option_strings}
    assert {option for option in known if option.startswith("--")} == set(FLAGS["run"])


def test_a_tab_imports_little():
    code = "import sys, bench.completion as c; c.for_shell('bash', 'bmdal-bench run training.', ''); "
    code += "sys.exit(bool({'torch', 'hydra', 'omegaconf', 'numpy', 'pydantic', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


def test_scripts_are_part_of_the_package():
    assert {path.name for path in Path(PROJECT, "bench/commands/shells").iterdir()} == {
        f"completion.{shell}" for shell in ("bash", "zsh", "fish")
    }
