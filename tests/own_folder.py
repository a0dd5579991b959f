"""A working folder of a user: a kernel, and configuration that names it."""

import subprocess
import sys

import yaml
from conftest import PROJECT, subprocess_environment
from small_sweeps import words

KERNEL = """
from dataclasses import dataclass
from bench.kernels.random import Random

@dataclass(frozen=True)
class Mine(Random):
    shift: float = 0.0
"""
SMALL = [
    *(word for word in words("out") if not word.startswith(("algorithm", "kernel", "scenario.f"))),
    *("scenario.initial=2", "scenario.final=4", "threads=1"),
]
"""The words of a sweep that takes a second a run, written to out/."""


def write(folder):
    """Put it there."""
    scenario = yaml.safe_load((PROJECT / "conf/scenario/demo.yaml").read_text())
    scenario["scenario"] |= {"name": "mine", "initial": 5, "final": 7}
    copy = yaml.safe_load((PROJECT / "conf/scenario/demo.yaml").read_text())
    copy["training"]["epochs"] = 7
    scenario["plugins"] = ["own_kernel"]
    pair = (
        "# @package _global_\ndefaults: [override /kernel: mine, override /selection: max_diag]\nplugins: own_kernel\n"
    )
    files = {
        "own_kernel.py": KERNEL,
        "conf/scenario/mine.yaml": f"# @package _global_\n{yaml.safe_dump(scenario)}",
        "conf/scenario/copy_of_demo.yaml": f"# @package _global_\n{yaml.safe_dump(copy)}",
        "conf/kernel/mine.yaml": "_target_: own_kernel.Mine\nname: MINE\nshift: 0.5\n",
        "conf/algorithm/maxdiag_mine.yaml": pair,
        "conf/sweep/mine.yaml": "# @package _global_\ndefaults: [override /scenario: mine]\n"
        "hydra: {sweeper: {params: {algorithm: glob(maxdiag_m*), seed: 'range(1,3)'}}}\n",
        "conf/cluster/mine.yaml": "defaults: [local, _self_]\nworkers: 1\n",
        "conf/primary.yaml": "defaults: [config, _self_]\nseed: 5\nresults: of_seed_${seed}\n",
        "conf/broken.yaml": "a: [\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def in_folder(module, *arguments):
    """A command in the folder of the test."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=subprocess_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
