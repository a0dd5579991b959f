"""Kernels are compiled before anything is timed, and kept by content: for another checkout, for processes at once."""

import subprocess
import sys

import pytest
from conftest import subprocess_environment

from bench.potentials.gmnn.ready import _alone
from bench.runs.locks import locked

KERNEL = """
import sys
import numpy as np
from bench.potentials.gmnn.compiled.jit import compiled

@compiled
def half(x):
    return x.dtype.type(0.5) * x.sum()

for name in sys.argv[1:]:
    half(np.ones(3, name))
print(sum(half.stats.cache_hits.values()), sum(half.stats.cache_misses.values()))
"""

EVERY_STEP = """
import sys
import numpy as np, torch
from conftest import SMALL, make_builder, make_structures, random_molecule
from bench.data.split import Split
from bench.training.evaluate import structure_errors
from bench.kernels.base import KernelInputs
from bench.kernels.last_layer import LastLayer
from bench.kernels.random_projection import RandomProjection
from bench.potentials.gmnn.compiled.jit import KERNELS
from bench.config.schema import TrainingSettings
from bench.training.fit import Job, fit

generator = np.random.default_rng(0)
data = make_structures([random_molecule(generator, n) for n in (3, 6, 5, 4)])
known = lambda: [kernel.signatures for kernel in KERNELS]
for dtype, force_weight in ((torch.float32, 4.0), (torch.float64, 0.0)):
    settings = TrainingSettings(2, 2, {"network": 0.03, "radial": 0.02, "shift": 0.05, "scale": 0.001}, force_weight, 1)
    builder = make_builder(data, dtype=dtype)
    before = known()
    builder.make_ready(force_weight)
    ready = known()
    assert ready != before
    fitted = fit(builder, settings, Job(np.arange(2), np.arange(2, 4), seed=0))
    structure_errors(fitted.potential, builder, np.arange(4), forces=force_weight > 0)
    inputs = KernelInputs(fitted.potential, builder, np.arange(2), 0)
    for kernel in (LastLayer("GP(LL)", posterior=True), RandomProjection("GP(RP)", posterior=True)):
        kernel.prepare(inputs).embed(np.arange(4))
    assert "torch._dynamo" not in sys.modules  # torch's compiler, which takes a second to import
    assert known() == ready, [k for k, r in zip(KERNELS, ready) if k.signatures != r]
"""


def test_nothing_is_compiled_after_a_run_was_made_ready():
    """Training, evaluation and features find every kernel they need; in both precisions, with forces and without."""
    done = subprocess.run(
        [sys.executable, "-c", EVERY_STEP], env=subprocess_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def kernel(tmp_path):
    """Starts a program with a kernel, from a folder of its own, with a given folder for compiled code."""

    def start(name, cache, *types):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "kernel.py").write_text(KERNEL)
        return subprocess.Popen(
            [sys.executable, folder / "kernel.py", *types],
            env=subprocess_environment() | {"NUMBA_CACHE_DIR": str(cache)},
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


def test_compiled_code_is_kept_by_content(kernel, tmp_path):
    """Processes that compile at once lose nothing of each other; another checkout finds what they made."""
    cache = tmp_path / "cache"
    types = ["float32", "float64"]
    started = [kernel("one", cache, name) for name in types * 2]
    for process in started:
        process.communicate()
        assert process.returncode == 0
    assert kernel("another", cache, *types).communicate()[0].split() == ["2", "0"]


def test_where_nothing_can_be_kept(kernel):
    """No folder to write in: compiled each time."""
    process = kernel("one", "/proc/nowhere", "float32")
    assert process.communicate()[0].split() == ["0", "1"] and process.returncode == 0


WAITS = """
import logging, sys
from pathlib import Path
from bench.potentials.gmnn.ready import _alone

logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
with _alone(Path(sys.argv[1])):
    print("mark" if Path(sys.argv[1]).exists() else "no mark", flush=True)
"""


def test_one_process_compiles_and_the_others_wait(tmp_path):
    mark = tmp_path / "kernels" / "ready"
    with _alone(mark):
        assert not mark.exists()
        waiting = subprocess.Popen(
            [sys.executable, "-c", WAITS, mark], env=subprocess_environment(), stdout=subprocess.PIPE, text=True
        )
        assert "another process compiles" in waiting.stdout.readline()
    assert waiting.communicate()[0] == "mark\n"
    with _alone(mark), locked(mark.with_name("compiling.lock"), wait=False):
        pass  # nothing is locked once all is compiled


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with _alone(tmp_path / "file" / "ready"):
        pass
