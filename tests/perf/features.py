"""Seconds and memory of features, energies and forces against the pool's size: python -m tests.perf.features.

Aspirin: the embedded structures, repeated with every copy displaced by 0.01 Å; QM9 where it is prepared. A model with
fresh weights: the work does not depend on training. Neighbour lists, once per dataset, are timed apart. The floor of a
row is the time of the network's products alone (plain torch, chunks as large as the engine's), measured in turn with
the engine on a part of the pool (`share` = seconds/floor there, the median of --repeats); compare it, not the seconds,
where the machine is shared. Compilation, once per machine, is in none of them.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from bench.config.plugins import plugin
from bench.data.neighbours import Neighbours, find_neighbours
from bench.data.structures import Structures
from bench.errors import UserError
from bench.kernels.base import KernelInputs
from bench.kernels.last_layer import LastLayer
from bench.kernels.random_projection import RandomProjection
from bench.potentials.gmnn.architecture import GaussianMoments
from bench.potentials.gmnn.potential import MomentPotential, initial_parameters
from bench.potentials.gmnn.view import ATOMS_PER_CHUNK, MomentView
from bench.runs.provenance import peak_memory_mb, provenance
from bench.runs.system import cores
from bench.training.evaluate import structure_errors

PROJECT = Path(__file__).resolve().parents[2]
PROJECTIONS = 512
PART = 1000


@dataclass(frozen=True)
class Case:
    """A dataset as the paper trains on it."""

    name: str
    data: Structures
    settings: GaussianMoments
    forces: bool

    @cached_property
    def neighbours(self) -> Neighbours:
        """Within the cutoff, made once."""
        return find_neighbours(self.data, self.settings.r_max)


def cases(names: Sequence[str] = ("aspirin", "TiO2", "LMNTO", "QM9")) -> list[Case]:
    """Aspirin is part of the project; the others are measured where `python -m bench.data prepare` has put them."""
    known = {
        "aspirin": ("rmd17_aspirin", GaussianMoments(r_max=4.0), True),
        "TiO2": ("tio2", GaussianMoments(r_max=6.5), True),
        "LMNTO": ("lmnto", GaussianMoments(r_max=6.5), True),
        "QM9": ("qm9", GaussianMoments(r_max=3.0, normalise_invariants=True), False),
    }
    found = []
    for name in names:
        dataset, settings, forces = known[name]
        config = yaml.safe_load((PROJECT / f"conf/dataset/{dataset}.yaml").read_text())
        try:
            found.append(Case(name, plugin(config, "dataset").load(), settings, forces))
        except UserError as error:
            print(f"{name} is left out: {error}")
    return found


def aspirin(n: int) -> Structures:
    """Read n structures: the embedded ones and displaced copies of them."""
    data = cases(["aspirin"])[0].data
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


def fresh_potential(settings: GaussianMoments, data: Structures, device: str = "cpu") -> MomentPotential:
    """A model as training starts it."""
    drawn = initial_parameters(settings, len(data.species), np.zeros(len(data.species)), np.random.default_rng(0))
    parameters = {name: torch.from_numpy(values)[None].float().to(device) for name, values in drawn.items()}
    return MomentPotential(settings, data.species, parameters, torch.ones(1, device=device))


def products_seconds(what: str, n_atoms: int) -> float:
    """Time the network's matrix products of a pass over some atoms, in chunks as large as the engine's."""
    sizes = [(360, 512), (512, 512)]
    if what == "forces":
        sizes *= 2
    if what == "RP":
        sizes += [(512, 512), (360, PROJECTIONS), (512, PROJECTIONS), (512, PROJECTIONS), (512, PROJECTIONS)]
    matrices = [(torch.randn(ATOMS_PER_CHUNK, a), torch.randn(a, b)) for a, b in sizes]
    chunks = -(-n_atoms // ATOMS_PER_CHUNK)
    started = time.perf_counter()
    for _ in range(chunks):
        for left, right in matrices:
            left @ right
    return (time.perf_counter() - started) * n_atoms / (chunks * ATOMS_PER_CHUNK)


def work(what: str, inputs: KernelInputs, picked: np.ndarray) -> float:
    """Time features or predictions of some structures."""
    if what in ("forces", "energies"):
        started = time.perf_counter()
        structure_errors(inputs.potential, inputs.view, picked, forces=what == "forces")
        return time.perf_counter() - started
    kernel = LastLayer(what, posterior=False) if what == "LL" else RandomProjection(what, posterior=False)
    prepared = kernel.prepare(inputs)
    started = time.perf_counter()
    prepared.embed(picked)
    return time.perf_counter() - started


def measure(name: str, data: Structures, settings: GaussianMoments, whats: list[str], repeats: int) -> list[list]:
    """A row for each kind of work on all of the data."""
    started = time.perf_counter()
    neighbours = find_neighbours(data, settings.r_max)
    neighbour_seconds = time.perf_counter() - started
    builder = MomentView(settings, data, neighbours)
    inputs = KernelInputs(fresh_potential(settings, data), builder, np.arange(10), 0)
    part, rows = np.arange(min(PART, len(data))), []
    for what in whats:
        work(what, inputs, part)
        shares = [work(what, inputs, part) / products_seconds(what, data.offsets[len(part)]) for _ in range(repeats)]
        before = peak_memory_mb("cpu")["peak_memory_mb"]
        load = os.getloadavg()[0]
        floor = products_seconds(what, min(data.offsets[-1], 100 * ATOMS_PER_CHUNK))
        floor *= data.offsets[-1] / min(data.offsets[-1], 100 * ATOMS_PER_CHUNK)
        seconds = work(what, inputs, np.arange(len(data)))
        peak = peak_memory_mb("cpu")["peak_memory_mb"]
        rows.append(
            [name, what, len(data), seconds, floor, statistics.median(shares), neighbour_seconds, before, peak, load]
        )
        print(*rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/perf"))
    parser.add_argument("--pools", type=int, nargs="*", default=[1000, 10_000, 100_000, 150_000])
    parser.add_argument("--what", nargs="*", default=["LL", "RP", "forces"])
    parser.add_argument("--threads", type=int, default=len(cores()))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(provenance("cpu")))
    rows = []
    for n in sorted(arguments.pools):
        rows += measure("aspirin", aspirin(n), GaussianMoments(r_max=4.0), arguments.what, arguments.repeats)
    for case in cases(["QM9"]):
        data = first(case.data, 100_000)
        rows += measure("QM9", data, case.settings, [w for w in arguments.what if w != "forces"], arguments.repeats)
    columns = ["data", "what", "pool", "seconds", "floor_seconds", "share", "neighbour_seconds", "peak_before_mb"]
    table = pd.DataFrame(rows, columns=[*columns, "peak_mb", "load"])
    table.to_csv(arguments.out / "features.csv", index=False)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))


def first(data: Structures, n: int) -> Structures:
    """The first n structures, or all there are."""
    n = min(n, len(data))
    atoms = data.offsets[n]
    return dataclasses.replace(
        data,
        atomic_numbers=data.atomic_numbers[:atoms],
        positions=data.positions[:atoms],
        offsets=data.offsets[: n + 1],
        cells=data.cells[:n],
        periodic=data.periodic[:n],
        energies=data.energies[:n],
        forces=None if data.forces is None else data.forces[:atoms],
    )


if __name__ == "__main__":
    main()
