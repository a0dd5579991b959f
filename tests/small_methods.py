"""A dataset of a few molecules, and a kernel that misbehaves for chosen seeds: what the runs of `small_sweeps` are of.

Nothing of the tests is imported here, for every process of such a run imports this.
"""

import ctypes
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.structures import Structures
from bench.kernels.random import Random


@dataclass(frozen=True)
class FewMolecules:
    """Forty bent triatomic molecules with the labels of springs."""

    name: str

    def load(self) -> Structures:
        generator = np.random.default_rng(1)
        equilibrium = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
        displaced = 0.1 * generator.normal(size=(40, 3, 3))
        return Structures(
            name="test",
            atomic_numbers=np.tile([8, 1, 1], 40),
            positions=(equilibrium + displaced).reshape(-1, 3),
            offsets=np.arange(0, 121, 3),
            cells=np.zeros((40, 3, 3)),
            periodic=np.zeros((40, 3), dtype=bool),
            energies=5 * (displaced**2).sum((1, 2)),
            forces=-10 * displaced.reshape(-1, 3),
            reference_energies={1: 0.0, 8: 0.0},
        )


@dataclass(frozen=True)
class Misbehaving(Random):
    """RND that, for some seeds, raises or dies at its second step, as long as a file exists; and takes its time.

    As long as the file `gate` exists, it waits at the second step: runs outlast what a test does to them.
    """

    raises: tuple[int, ...] = ()
    dies: tuple[int, ...] = ()
    seconds: float = 0.0
    fault: str = ""
    gate: str = ""

    def prepare(self, inputs):
        time.sleep(self.seconds)
        while len(inputs.labelled) > 2 and Path(self.gate).is_file():
            time.sleep(0.05)
        if len(inputs.labelled) > 2 and Path(self.fault).is_file():
            if inputs.seed in self.raises:
                raise ArithmeticError(f"seed {inputs.seed}\nmisbehaves")
            if inputs.seed in self.dies:
                ctypes.string_at(0)
        return super().prepare(inputs)
