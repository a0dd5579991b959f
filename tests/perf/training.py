"""Milliseconds of a training step beside the network's own products: python -m tests.perf.training.

Aspirin from the embedded data, and TiO2, LMNTO and QM9 (energies alone) where they are prepared. Minibatches of 32 are
drawn from 100 structures, smaller ones are the whole training set; Adam is included; `models` is how many are trained
together: as a committee side by side on a CPU's threads, in stretches of 16 steps, and in lockstep on a GPU. The floor
is the products of the network in plain torch at the batch's number of atoms: forward, gradient, and backward through
both (without forces: forward and backward). Engine and floor run in turn; medians, and the median of their ratio, of
seconds and of processor seconds: the latter, on one thread, are those to trust where others use the machine.
`validation_ms` is one structure's share of a validation check. With --apax PYTHON (an interpreter with apax 0.14)
single models run in turn with its training and its evaluation, --rounds times; `of_apax` is the ratio of the medians.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench.config.schema import TrainingSettings
from bench.data.neighbours import find_neighbours
from bench.kernels.base import KernelInputs
from bench.potentials.base import Draw
from bench.potentials.gmnn.products import Products, parameter_type, tensor_cores
from bench.potentials.gmnn.view import MomentView
from bench.potentials.scaling import EnergyScaling
from bench.runs.provenance import provenance
from bench.runs.system import cores
from bench.training.groups import Group, Model, in_groups
from bench.training.side_by_side import SideBySide
from tests.perf.apax_steps import apax_milliseconds
from tests.perf.features import Case, cases, first, fresh_potential, work

MINIBATCH = 32
SETTINGS = TrainingSettings(
    epochs=1000,
    minibatch=MINIBATCH,
    learning_rates={"network": 0.03, "radial": 0.02, "shift": 0.05, "scale": 0.001},
    force_weight=4.0,
    validation_checks=20,
)
N_TRAIN, N_VALID, N_EVALUATED = 100, 100, 500
WARM = 60
"""Steps that are not timed where a GPU replays them: it records a graph for each shape of a minibatch."""


def seconds_now(device: str) -> float:
    """The time, when the device has done all that was asked of it."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def floor_seconds(
    n_atoms: int, models: int, forces: bool, device: str = "cpu", precision: str = "float32"
) -> tuple[float, float, float]:
    """The products of a step: per layer z; with forces dE/dx, the tangent; then dL/dW of one or two streams, dL/dx.

    One model after another on a CPU, all in one product on a GPU. Returns what `products_of` does.
    """
    together, times = (models, 1) if device.startswith("cuda") else (1, models)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(together, *shape, device=device)

    products = []
    for inputs, outputs in ((360, 512), (512, 512)):
        weight = random(inputs, outputs)
        x, delta = random(n_atoms, inputs), random(n_atoms, outputs)
        streams = 2 if forces else 1
        products += [(x, weight), (delta, weight.transpose(1, 2))] * streams
        both = random(streams * n_atoms, inputs), random(streams * n_atoms, outputs)
        products.append((both[0].transpose(1, 2), both[1]))
    return products_of(products, times, device, precision)


def products_of(
    products: list[tuple[torch.Tensor, torch.Tensor]], times: int, device: str, precision: str
) -> tuple[float, float, float]:
    """Seconds, processor seconds and operations of some products, done so many times."""
    dtype = torch.bfloat16 if precision == "bfloat16" else parameter_type(precision)
    pairs = [(left.to(dtype), right.to(dtype)) for left, right in products]
    operations = times * sum(2 * left.numel() * right.shape[2] for left, right in pairs)
    with tensor_cores(precision == "tf32" and device.startswith("cuda")):
        started, processor = seconds_now(device), time.process_time()
        for _ in range(times):
            for left, right in pairs:
                torch.bmm(left, right)
        processor = time.process_time() - processor
        return seconds_now(device) - started, processor, operations


def group_of(case: Case, minibatch: int, models: int, device: str, precision: str, *, plain: bool) -> list[Group]:
    """Models at the beginning of a training."""
    settings, data = case.settings, case.data
    builder = MomentView(
        settings,
        data,
        case.neighbours,
        parameter_type(precision),
        torch.device(device),
        plain,
        Products.of(precision),
    )
    training = dataclasses.replace(SETTINGS, minibatch=minibatch, force_weight=4.0 if case.forces else 0.0)
    order = np.random.default_rng(0).permutation(len(data))
    n_train = minibatch if minibatch < MINIBATCH else max(N_TRAIN, minibatch)
    train, valid = order[:n_train], order[n_train : n_train + N_VALID]
    scaling = EnergyScaling(1.0, np.zeros(len(data.species)), False)
    draws = [Draw(0, member, n_train, scaling) for member in range(models)]
    return in_groups(builder, training, [Model(train, valid, draw) for draw in draws])


def measure(
    case: Case,
    minibatch: int,
    models: int,
    steps: int,
    device: str = "cpu",
    precision: str = "float32",
    *,
    plain: bool = False,
) -> dict[str, object]:
    """A row: medians of step, floor and their ratio, and a validation check per structure.

    `plain` asks for the engine that GPUs run, on a CPU too.
    """
    groups = group_of(case, minibatch, models, device, precision, plain=plain)
    seconds, floors, atoms, pairs, operations = [], [], [], [], 0.0
    processor, processor_floors = [], []
    at_once = min(models, torch.get_num_threads()) if len(groups) == models else 1
    for index in range(WARM if groups[0].replay else 0):  # minibatches of all shapes
        groups[0].step(index, 0.0)
    with SideBySide(groups, [at_once] * len(groups)) as all_groups:
        stretch = all_groups.stretch
        for first_step in range(0, steps + 5, stretch):
            started, processor_started = seconds_now(device), time.process_time()
            all_groups.step(first_step, first_step + stretch, 10**6)
            processor.append((time.process_time() - processor_started) / stretch)
            seconds.append((seconds_now(device) - started) / stretch)
            minibatches = groups[0].minibatches
            rows, every = minibatches.rows(first_step), minibatches.data.prepared.geometry.pair_counts
            of_rows = minibatches.data.n_atoms[rows]
            widest = int(of_rows.sum(1).max())
            atoms.append(widest)
            pairs.append(every[rows].sum() / of_rows.sum())
            several = [floor_seconds(widest, models, case.forces, device, precision) for _ in range(stretch)]
            floors.append(statistics.median(one[0] for one in several))
            processor_floors.append(statistics.median(one[1] for one in several))
            operations = several[0][2]
    skip = 5 if stretch == 1 else 1
    checks = []
    for _ in range(5):
        started = seconds_now(device)
        groups[0].check()
        checks.append(seconds_now(device) - started)
    row = {
        "data": case.name,
        "forces": case.forces,
        "minibatch": minibatch,
        "models": models,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "atoms": statistics.median(atoms),
        "pairs_per_atom": statistics.median(pairs),
        "step_ms": 1e3 * statistics.median(seconds[skip:]),
        "floor_ms": 1e3 * statistics.median(floors[skip:]),
        "ratio": statistics.median(s / f for s, f in zip(seconds[skip:], floors[skip:], strict=True)),
        "processor_step_ms": 1e3 * statistics.median(processor[skip:]),
        "processor_ratio": statistics.median(
            s / f for s, f in zip(processor[skip:], processor_floors[skip:], strict=True)
        ),
        "floor_gflops": operations / statistics.median(floors[skip:]) / 1e9,
        "validation_ms": 1e3 * statistics.median(checks) / (N_VALID * groups[0].potential.n_models),
        "load": os.getloadavg()[0],
    }
    print(*(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()))
    return row


def per_structure(case: Case, device: str = "cpu") -> dict[str, object]:
    """Milliseconds for a structure's energy and forces, and for its features, with the network's products beside."""
    data = first(case.data, N_EVALUATED)
    builder = MomentView(
        case.settings,
        data,
        find_neighbours(data, case.settings.r_max),
        device=torch.device(device),
    )
    inputs = KernelInputs(fresh_potential(case.settings, data, device), builder, np.arange(10), 0)
    row: dict[str, object] = {"data": case.name, "threads": torch.get_num_threads()}
    for what in ("forces", "LL", "RP") if case.forces else ("energies", "LL", "RP"):
        seconds = [work(what, inputs, np.arange(len(data))) for _ in range(4)]
        row[f"{what}_ms"] = 1e3 * statistics.median(seconds[1:]) / len(data)
    print(*(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items()))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/perf"))
    parser.add_argument("--data", nargs="*", default=["aspirin", "TiO2", "LMNTO", "QM9"])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--models", type=int, nargs="*", default=[1, 3])
    parser.add_argument("--minibatches", type=int, nargs="*", default=[10, MINIBATCH])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, len(cores())])
    parser.add_argument("--device", default="cpu", help="cuda: with models in lockstep, e.g. --models 1 4 16 64")
    parser.add_argument("--precision", default="float32", help="float32, float64, tf32 or bfloat16")
    parser.add_argument("--apax", help="an interpreter with apax 0.14")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = arguments.device
    here = provenance(device)
    print(json.dumps(here))
    steps, structures, apax = [], [], []
    for _ in range(arguments.rounds):
        for case in cases(arguments.data):
            for threads in sorted(set(arguments.threads)):
                torch.set_num_threads(threads)
                for minibatch in arguments.minibatches:
                    for models in arguments.models:
                        steps.append(measure(case, minibatch, models, arguments.steps, device, arguments.precision))
                structures.append(per_structure(case, device))
            if arguments.apax:
                threads, data = max(arguments.threads), first(case.data, 1000)
                step, evaluation = apax_milliseconds(arguments.apax, data, case, MINIBATCH, threads)
                key = {
                    "data": case.name,
                    "minibatch": MINIBATCH,
                    "models": 1,
                    "precision": "float32",
                    "threads": threads,
                }
                apax.append(key | {"apax_step_ms": step, "apax_evaluation_ms": evaluation})
                print(apax[-1], flush=True)
    keys = ["data", "minibatch", "models", "precision", "threads"]
    table = pd.DataFrame(steps).groupby(keys, sort=False).median().reset_index()
    each = pd.DataFrame(structures).groupby(["data", "threads"], sort=False).median().reset_index()
    if apax:
        theirs = pd.DataFrame(apax).groupby(keys, sort=False).median().reset_index()
        table = table.merge(theirs[[*keys, "apax_step_ms"]], on=keys, how="left")
        table["of_apax"] = table["step_ms"] / table["apax_step_ms"]
        each = each.merge(theirs[["data", "threads", "apax_evaluation_ms"]], on=["data", "threads"], how="left")
    for name, found in (("training", table), ("per_structure", each)):
        found.to_csv(arguments.out / f"{name}.csv", index=False)
        print(found.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    (arguments.out / "machine.json").write_text(json.dumps(here, indent=1))


if __name__ == "__main__":
    main()
