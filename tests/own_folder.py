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
SELECTION = """
from dataclasses import dataclass, replace
from bench.selection.max_diag import MaxDiag

@dataclass(frozen=True)
class Smallest(MaxDiag):
    def select(self, embedding, batch_size, generator):
        return super().select(replace(embedding, diagonal=-embedding.diagonal), batch_size, generator)
"""
DATASET = """
from dataclasses import dataclass
import numpy as np
from bench.data.structures import Structures, check_structures

@dataclass(frozen=True)
class Springs:
    name: str
    structures: int

    def load(self):
        n = self.structures
        positions = np.random.default_rng(0).normal(scale=0.1, size=(n, 2, 3)) + [[0, 0, 0], [1.2, 0, 0]]
        bond = positions[:, 1] - positions[:, 0]
        length = np.linalg.norm(bond, axis=1)
        pull = ((length - 1.1) / length)[:, None] * bond
        data = Structures(
            name=self.name, atomic_numbers=np.full(2 * n, 8), positions=positions.reshape(-1, 3),
            offsets=np.arange(n + 1) * 2, cells=np.zeros((n, 3, 3)), periodic=np.zeros((n, 3), bool),
            energies=(length - 1.1) ** 2 / 2, forces=np.stack([pull, -pull], 1).reshape(-1, 3),
            reference_energies={8: 0.0},
        )
        check_structures(data)
        return data
"""
POTENTIAL = {
    **{"_target_": "own_potential.Pairs", "name": "PAIRS", "r_max": 4.0, "n_gaussians": 8, "minibatch": 2},
    "learning_rates": {"weights": 0.05, "shift": 0.05},
}
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
        "own_selection.py": SELECTION,
        "own_dataset.py": DATASET,
        "own_potential.py": (PROJECT / "tests/pair_potential.py").read_text(),
        "conf/selection/mine.yaml": "_target_: own_selection.Smallest\nname: SMALLEST\n",
        "conf/dataset/mine.yaml": "_target_: own_dataset.Springs\nname: springs\nstructures: 120\n",
        "conf/model/mine.yaml": yaml.safe_dump(POTENTIAL),
        "conf/scenario/mine.yaml": f"# @package _global_\n{yaml.safe_dump(scenario)}",
        "conf/scenario/copy_of_demo.yaml": f"# @package _global_\n{yaml.safe_dump(copy)}",
        "conf/kernel/mine.yaml": "_target_: own_kernel.Mine\nname: MINE\nshift: 0.5\n",
        "conf/algorithm/maxdiag_mine.yaml": pair,
        "conf/sweep/mine.yaml": "# @package _global_\ndefaults: [override /scenario: mine]\n"
        "hydra: {sweeper: {params: {algorithm: glob(maxdiag_m*), seed: 'range(1,3)'}}}\n",
        "conf/cluster/mine.yaml": "defaults: [local, _self_]\nworkers: 1\n",
        "conf/primary.yaml": "defaults: [config, _self_]\nseed: 5\nresults: of_seed_${seed}\n",
        "conf/broken.yaml": "a: [\n",
        "holder/results/runs.txt": "",
        "holder/seed/runs.txt": "",
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
