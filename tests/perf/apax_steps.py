"""Milliseconds of a training step and of evaluating a structure with apax 0.14 at the same sizes of its network.

Its own command trains in its own environment: Gaussian basis of the same length, 5 radial functions, 8 contractions,
512-512 network with NTK parametrisation, minibatches of 32. The time of an epoch, as apax measures it, without the
first ones, which compile, is divided by its steps; the single validation structure is in it. Energies and forces are
evaluated in batches by its calculator: the median time from one batch's results to the next, without the first, which
compiles.
"""

import csv
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

import ase.io
import numpy as np
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from bench.data.structures import Structures
from bench.runs.system import bind_to, cores
from tests.perf.features import Case

STEPS_PER_EPOCH = 10
EPOCHS = 8
COMPILING = 3


def atoms_of(data: Structures, index: int) -> Atoms:
    """One structure for ASE."""
    rows = slice(data.offsets[index], data.offsets[index + 1])
    atoms = Atoms(data.atomic_numbers[rows], data.positions[rows], cell=data.cells[index], pbc=data.periodic[index])
    forces = np.zeros((len(atoms), 3)) if data.forces is None else data.forces[rows]
    atoms.calc = SinglePointCalculator(atoms, energy=float(data.energies[index]), forces=forces)
    return atoms


EVALUATE = """
import itertools, statistics, sys, time, warnings
warnings.filterwarnings("ignore")
import ase.io
import apax.md.ase_calc as apax_calculator
frames = ase.io.read("data.extxyz", index=":")
size, ends, unpack = int(sys.argv[2]), [], apax_calculator.unpack_results
def timed(*arguments):
    results = unpack(*arguments)
    ends.append(time.perf_counter())
    return results
apax_calculator.unpack_results = timed
calculator = apax_calculator.ASECalculator(sys.argv[1])
calculator.batch_eval((frames * size)[: 12 * size], batch_size=size, silent=True)
print(statistics.median(after - before for before, after in itertools.pairwise(ends[1:])) / size)
"""


def apax_milliseconds(python: str, data: Structures, case: Case, minibatch: int, threads: int) -> tuple[float, float]:
    """Train in a folder of its own on `threads` cores, then evaluate: a step (the median over epochs), a structure."""
    settings, forces = case.settings, case.forces
    command = Path(python).with_name("apax")
    where = "import apax.cli, pathlib; print(pathlib.Path(apax.cli.__file__).parent)"
    template = _run(".", threads, python, "-c", where).strip()
    config = yaml.safe_load((Path(template) / "templates/train_config_full.yaml").read_text())
    n_train = STEPS_PER_EPOCH * minibatch
    with tempfile.TemporaryDirectory() as folder:
        ase.io.write(f"{folder}/data.extxyz", [atoms_of(data, i) for i in range(n_train + 1)], format="extxyz")
        del config["transfer_learning"]
        config |= {"n_epochs": EPOCHS, "ckpt_interval": 10 * EPOCHS}
        config["data"] |= {"directory": folder, "data_path": f"{folder}/data.extxyz", "n_train": n_train, "n_valid": 1}
        config["data"] |= {"batch_size": minibatch, "valid_batch_size": 1}
        basis = {"name": "gaussian", "n_basis": settings.n_gaussians, "r_min": settings.r_min, "r_max": settings.r_max}
        config["model"] |= {"basis": basis, "nn": list(settings.hidden), "use_ntk": True, "n_radial": settings.n_radial}
        if not forces:
            config["loss"] = [loss for loss in config["loss"] if loss["name"] == "energy"]
            config["metrics"] = [metric for metric in config["metrics"] if metric["name"] == "energy"]
        Path(f"{folder}/config.yaml").write_text(yaml.safe_dump(config))
        _run(folder, threads, command, "train", f"{folder}/config.yaml")
        with next(Path(folder).rglob("log.csv")).open() as file:
            seconds = [float(row["epoch_time"]) for row in csv.DictReader(file)]
        model = next(Path(folder).rglob("log.csv")).parent
        evaluated = _run(folder, threads, python, "-c", EVALUATE, model, minibatch)
    evaluation = 1e3 * float(evaluated.split()[-1])
    return 1e3 * statistics.median(seconds[COMPILING:]) / STEPS_PER_EPOCH, evaluation


def _run(folder: str, threads: int, *command: object) -> str:
    """What a command of apax's environment prints. Raises RuntimeError with the end of its errors."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    everywhere = cores()
    bind_to(everywhere[:threads])
    try:
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, cwd=folder, env=environment
        )
    finally:
        bind_to(everywhere)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout
