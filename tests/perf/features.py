"""Seconds and memory of features, energies and forces against the pool's size: python -m tests.perf.features.

Aspirin: the embedded structures, repeated with every copy displaced by 0.01 Å. A model with fresh weights: the work
does not depend on training. Neighbour lists, once per dataset, are timed apart. The floor of a row is the time of the
network's matrix products alone.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from bench.data.neighbours import find_neighbours
from bench.data.structures import Structures
from bench.evaluate import structure_errors
from bench.kernels.base import KernelInputs
from bench.kernels.last_layer import LastLayer
from bench.kernels.random_projection import RandomProjection
from bench.model.geometry import GeometryBuilder
from bench.model.potential import Potential, initial_parameters
from bench.provenance import peak_memory_mb, provenance
from bench.schema import ModelSettings, plugin

PROJECT = Path(__file__).resolve().parents[2]
PROJECTIONS = 512


def aspirin(n: int) -> Structures:
    """Read n structures: the embedded ones and displaced copies of them."""
    data = plugin(yaml.safe_load((PROJECT / "conf/dataset/rmd17_aspirin.yaml").read_text()), "dataset").load()
    chosen = np.arange(n) % len(data)
    positions = data.positions.reshape(len(data), -1, 3)[chosen]
    positions[len(data) :] += np.random.default_rng(0).normal(scale=0.01, size=positions[len(data) :].shape)
    return dataclasses.replace(
        data,
        atomic_numbers=np.tile(data.atomic_numbers[:21], n),
        positions=positions.reshape(-1, 3),
        offsets=np.arange(n + 1) * 21,
        cells=np.zeros((n, 3, 3)),
        periodic=np.zeros((n, 3), dtype=bool),
        energies=data.energies[chosen],
        forces=data.forces.reshape(len(data), -1, 3)[chosen].reshape(-1, 3),
    )


def fresh_potential(settings: ModelSettings, data: Structures) -> Potential:
    """A model as training starts it."""
    drawn = initial_parameters(settings, len(data.species), np.zeros(len(data.species)), np.random.default_rng(0))
    parameters = {name: torch.from_numpy(values)[None].float() for name, values in drawn.items()}
    return Potential(settings, data.species, parameters, torch.ones(1))


def products_seconds(what: str, n_atoms: int) -> float:
    """Time the network's matrix products of a pass over some atoms, in chunks as large as the engine's."""
    sizes = [(360, 512), (512, 512)]
    if what == "forces":
        sizes *= 2
    if what == "RP":
        sizes += [(512, 512), (361, PROJECTIONS), (512, PROJECTIONS), (513, PROJECTIONS), (512, PROJECTIONS)]
        sizes += [(513, PROJECTIONS)]
    matrices = [(torch.randn(4095, a), torch.randn(a, b)) for a, b in sizes]
    started = time.perf_counter()
    for _ in range(n_atoms // 4095):
        for left, right in matrices:
            left @ right
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/perf"))
    parser.add_argument("--pools", type=int, nargs="*", default=[1000, 10_000, 100_000, 150_000])
    parser.add_argument("--what", nargs="*", default=["LL", "RP", "forces"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(provenance("cpu")))
    settings = ModelSettings(r_max=4.0)
    rows = []
    for n in sorted(arguments.pools):
        data = aspirin(n)
        started = time.perf_counter()
        neighbours = find_neighbours(data, settings.r_max)
        neighbour_seconds = time.perf_counter() - started
        builder = GeometryBuilder(data, neighbours, settings.r_min, settings.n_gaussians)
        inputs = KernelInputs(fresh_potential(settings, data), builder, np.arange(10), 0)
        for what in arguments.what:
            before = peak_memory_mb("cpu")["peak_memory_mb"]
            started = time.perf_counter()
            if what == "forces":
                structure_errors(inputs.potential, builder, np.arange(n), forces=True)
            else:
                kernel = LastLayer(what, posterior=False) if what == "LL" else RandomProjection(what, posterior=False)
                kernel.prepare(inputs).embed(np.arange(n))
            seconds = time.perf_counter() - started
            peak = peak_memory_mb("cpu")["peak_memory_mb"]
            floor = products_seconds(what, 21 * n)
            rows.append([what, n, seconds, floor, neighbour_seconds, before, peak])
            print(*rows[-1], flush=True)
    columns = ["what", "pool", "seconds", "floor_seconds", "neighbour_seconds", "peak_before_mb", "peak_mb"]
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(arguments.out / "features.csv", index=False)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))


if __name__ == "__main__":
    main()
