"""What a training costs per added atom, neighbour, structure and model: python -m tests.perf.scaling.

Medians of steps on one thread unless --threads says otherwise; `growth` is the exponent between a row and the one
before it (1: in proportion). Training times and memory against N_train are of processes of their own: an epoch with its
data prepared, and the largest resident memory less what the process held before it built anything.
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench.data.neighbours import find_neighbours
from bench.potentials.gmnn.view import MomentView
from bench.runs.provenance import provenance
from bench.training.fit import Job, fit
from tests.perf.features import PROJECT, Case, cases
from tests.perf.selections import memory_mb
from tests.perf.training import SETTINGS, measure

SIZES = {
    "aspirin": [32, 100, 316, 1000],
    "TiO2": [32, 250, 1000, 2500],
    "LMNTO": [32, 100, 400],
    "QM9": [100, 1000, 5000, 25_000],
}


def subset(case: Case, n_atoms: int) -> Case:
    """The structures of one size."""
    data = case.data
    chosen = np.flatnonzero(data.n_atoms == n_atoms)
    atoms = data.atoms_of(chosen)
    return dataclasses.replace(
        case,
        data=dataclasses.replace(
            data,
            atomic_numbers=data.atomic_numbers[atoms],
            positions=data.positions[atoms],
            offsets=np.arange(len(chosen) + 1) * n_atoms,
            cells=data.cells[chosen],
            periodic=data.periodic[chosen],
            energies=data.energies[chosen],
            forces=None if data.forces is None else data.forces[atoms],
        ),
    )


def common_sizes(case: Case) -> list[int]:
    """Numbers of atoms that at least 150 structures have, at most four of them, spread."""
    sizes, counts = np.unique(case.data.n_atoms, return_counts=True)
    found = sizes[counts >= 150]
    return sorted({int(found[i]) for i in np.linspace(0, len(found) - 1, min(4, len(found))).round().astype(int)})


def against(what: str, rows: list[dict[str, object]], value: str, cost: str) -> list[dict[str, object]]:
    """Rows of the printed table: the cost against one quantity."""
    found: list[dict[str, object]] = []
    for row in rows:
        growth = math.nan
        if found:
            growth = math.log(row[cost] / found[-1]["cost"]) / math.log(row[value] / found[-1]["at"])
        found.append({"data": row["data"], "against": what, "at": row[value], "cost": row[cost], "growth": growth})
    return found


def one_epoch(name: str, n_train: int) -> dict[str, float]:
    """Seconds of an epoch, and memory in MB; in a process of its own."""
    (case,) = cases([name])
    neighbours = find_neighbours(case.data, case.settings.r_max)
    builder = MomentView(case.settings, case.data, neighbours)
    weight = 4.0 if case.forces else 0.0
    settings = dataclasses.replace(SETTINGS, epochs=1, force_weight=weight, validation_checks=1)
    order = np.random.default_rng(0).permutation(len(case.data))
    fit(builder, settings, Job(order[-32:], order[:1], seed=0))
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew (Linux)
    started = time.perf_counter()
    fit(builder, settings, Job(order[:n_train], order[-1:], seed=0))
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "mb": memory_mb("VmHWM") - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/perf"))
    parser.add_argument("--data", nargs="*", default=["aspirin", "TiO2", "LMNTO", "QM9"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one-epoch", nargs=2, metavar=("DATA", "N_TRAIN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one_epoch:
        print(json.dumps(one_epoch(arguments.one_epoch[0], int(arguments.one_epoch[1]))))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(provenance("cpu")))
    rows: list[dict[str, object]] = []
    for case in cases(arguments.data):
        steps = [measure(case, minibatch, 1, arguments.steps) for minibatch in (4, 8, 16, 32, 64)]
        rows += against("structures of a minibatch", steps, "minibatch", "step_ms")
        if case.name == "aspirin":
            steps = [measure(case, 10, models, arguments.steps) for models in (1, 2, 3, 6)]
            rows += against("models in lockstep, minibatch 10", steps, "models", "step_ms")
        else:
            steps = [measure(subset(case, n_atoms), 32, 1, arguments.steps) for n_atoms in common_sizes(case)]
            rows += against("atoms, minibatches of 32 of one size", steps, "atoms", "step_ms")
        if case.name in ("TiO2", "LMNTO"):
            settings = [dataclasses.replace(case.settings, r_max=r_max) for r_max in (4.0, 5.0, 6.5, 8.0)]
            steps = [measure(dataclasses.replace(case, settings=s), 32, 1, arguments.steps) for s in settings]
            rows += against("pairs of an atom (cutoff 4 to 8 Å)", steps, "pairs_per_atom", "step_ms")
        epochs = []
        for n_train in SIZES[case.name]:
            command = [sys.executable, "-m", "tests.perf.scaling", "--threads", str(arguments.threads)]
            done = subprocess.run(
                [*command, "--one-epoch", case.name, str(n_train)],
                cwd=PROJECT,
                capture_output=True,
                text=True,
                check=True,
            )
            epochs.append({"data": case.name, "n_train": n_train} | json.loads(done.stdout.splitlines()[-1]))
            print(epochs[-1], flush=True)
        rows += against("N_train: seconds of an epoch", epochs, "n_train", "seconds")
        rows += against("N_train: MB", [one | {"mb": max(one["mb"], 1.0)} for one in epochs], "n_train", "mb")
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out / "scaling.csv", index=False)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))


if __name__ == "__main__":
    main()
