"""Milliseconds of a training step beside the network's own products: python -m tests.perf.training.

Aspirin with forces from the embedded data; with --tio2 FILE and --qm9 FILE also TiO2 with forces and QM9 with energies
alone. Minibatches of 32 new structures a step, Adam included. The floor is the products of the network in plain torch
at the batch's number of atoms: forward, gradient, and backward through both (without forces: forward and backward).
Engine and floor run in turn; medians, and the median of their ratio. With --apax PYTHON (an interpreter with apax 0.14)
single models run in turn with its training, --rounds times; `of_apax` is the ratio of the medians.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench.data.neighbours import find_neighbours
from bench.data.structures import Structures
from bench.model.geometry import GeometryBuilder
from bench.provenance import provenance
from bench.schema import LearningRates, ModelSettings, TrainingSettings
from bench.training.fit import _initialise, _Minibatches, _Optimizer
from bench.training.scaling import EnergyScaling
from tests.perf.apax_steps import apax_milliseconds
from tests.perf.features import archive, embedded, first

MINIBATCH = 32
RATES = LearningRates(network=0.03, radial=0.02, shift=0.05, scale=0.001)


def floor_seconds(n_atoms: int, models: int, forces: bool) -> float:
    """The products of a step: per layer z; with forces dE/dx, the tangent; then dL/dW of one or two streams, dL/dx."""
    products = []
    for inputs, outputs in ((360, 512), (512, 512)):
        weight = torch.randn(models, inputs, outputs)
        x, delta = torch.randn(models, n_atoms, inputs), torch.randn(models, n_atoms, outputs)
        streams = 2 if forces else 1
        products += [(x, weight), (delta, weight.transpose(1, 2))] * streams
        both = torch.randn(models, streams * n_atoms, inputs), torch.randn(models, streams * n_atoms, outputs)
        products.append((both[0].transpose(1, 2), both[1]))
    started = time.perf_counter()
    for left, right in products:
        torch.bmm(left, right)
    return time.perf_counter() - started


def measure(name: str, data: Structures, settings: ModelSettings, forces: bool, steps: int, models: int) -> list:
    """A row: median step and floor."""
    builder = GeometryBuilder(data, find_neighbours(data, settings.r_max), settings.r_min, settings.n_gaussians)
    training = TrainingSettings(
        epochs=1000,
        minibatch=MINIBATCH,
        learning_rates=RATES,
        force_weight=4.0 if forces else 0.0,
        validation_checks=20,
    )
    picked = np.random.default_rng(0).permutation(len(data))[:100]
    scaling = EnergyScaling(1.0, np.zeros(len(data.species)), False)
    potential = _initialise(builder, settings, scaling, 0, len(picked), models)
    optimizer, minibatches = _Optimizer(potential, training), _Minibatches(builder, picked, training, 0, models)
    seconds, floors, atoms, epoch = [], [], [], 0
    while len(seconds) < steps + 5:
        epoch += 1
        started = time.perf_counter()
        for batch, energies, targets in minibatches.of(epoch):
            potential.observe(batch, 0.01)
            _, gradient = potential.loss_gradient(batch, energies, targets, training.force_weight)
            optimizer.step(gradient, 1e-6)
            seconds.append(time.perf_counter() - started)
            atoms.append(batch.slot_count)
            floors.append(floor_seconds(batch.slot_count, models, forces))
            started = time.perf_counter()
    milliseconds, floor = (1e3 * statistics.median(values[5:]) for values in (seconds, floors))
    ratio = statistics.median(s / f for s, f in zip(seconds[5:], floors[5:], strict=True))
    row = [name, models, forces, statistics.median(atoms), milliseconds, floor, ratio, os.getloadavg()[0]]
    print(*row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/perf"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--models", type=int, nargs="*", default=[1, 3])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--apax", help="an interpreter with apax 0.14")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tio2", type=Path)
    parser.add_argument("--qm9", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(provenance("cpu")))
    cases = [("aspirin", first(embedded(), 1000), ModelSettings(r_max=4.0), True)]
    if arguments.tio2:
        cases.append(("TiO2", first(archive(arguments.tio2), 1000), ModelSettings(r_max=6.5), True))
    if arguments.qm9:
        settings = ModelSettings(r_max=3.0, normalise_invariants=True)
        cases.append(("QM9", first(archive(arguments.qm9), 1000), settings, False))
    columns = ["data", "models", "forces", "atoms", "step_ms", "floor_ms", "ratio", "load"]
    rows, apax = [], []
    for _ in range(arguments.rounds):
        for case in cases:
            rows += [measure(*case, arguments.steps, models) for models in arguments.models]
            if arguments.apax:
                apax.append((case[0], 1, apax_milliseconds(arguments.apax, *case[1:], MINIBATCH)))
                print(*apax[-1], flush=True)
    keys = ["data", "models"]
    table = pd.DataFrame(rows, columns=columns).groupby(keys, sort=False).median().reset_index()
    if apax:
        theirs = pd.DataFrame(apax, columns=[*keys, "apax_ms"]).groupby(keys).median().reset_index()
        table = table.merge(theirs, on=keys, how="left")
        table["of_apax"] = table["step_ms"] / table["apax_ms"]
    table.to_csv(arguments.out / "training.csv", index=False)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))


if __name__ == "__main__":
    main()
