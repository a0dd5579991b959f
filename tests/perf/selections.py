"""Seconds and memory of the selections, by pool and training size, beside floors: python -m tests.perf.selections.

The floor of MaxDist and LCMD is the single-precision product of pool and training features, that of MaxDet the
double-precision product of pool and batch. The posterior transform is not counted: it belongs to the features. With
--peer PYTHON (an interpreter that has bmdal_reg 3.0.2) the cases of --peer-cases run in turn with it.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench.config.plugins import plugin
from bench.kernels.base import Embedding, squared_norms
from bench.runs.provenance import provenance
from bench.runs.system import cores

METHODS = {
    "MaxDiag": "max_diag.MaxDiag",
    "MaxDet": "max_det.MaxDet",
    "MaxDist": "max_dist.MaxDist",
    "LCMD": "lcmd.LargestClusterMaximumDistance",
}
FEATURES = 513


def features(rows: int, seed: int, decay: float) -> torch.Tensor:
    """Normal features whose scales fall as a power law, as those of trained networks do; decay 0 is isotropic."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, FEATURES + 1, dtype=torch.float64) ** -decay
    return torch.randn(rows, FEATURES, generator=generator, dtype=torch.float64) * scales


def floor_seconds(method: str, pool: torch.Tensor, training: torch.Tensor, batch: int) -> float:
    """Time the products that the method cannot do without."""
    if method == "MaxDiag":
        return float("nan")
    single, centres = pool.float(), training.float()
    started = time.perf_counter()
    if method == "MaxDet":
        pool @ pool[:batch].T
        return time.perf_counter() - started
    for start in range(0, len(pool), 1024):
        for first in range(0, len(training), 1024):
            single[start : start + 1024] @ centres[first : first + 1024].T
    return time.perf_counter() - started


def memory_mb(name: str) -> float:
    """VmRSS, or the high-water mark VmHWM, of this process (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def working_set_mb(method: str, embedding: Embedding, batch: int) -> float:
    """Memory that a selection needs beyond the features it is given."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = memory_mb("VmRSS")
    select(method, embedding, batch)
    return memory_mb("VmHWM") - before


def select(method: str, embedding: Embedding, batch: int) -> tuple[float, list[int]]:
    """Time one selection."""
    selection = plugin({"_target_": f"bench.selection.{METHODS[method]}", "name": method}, "selection")
    embedding = dataclasses.replace(embedding)  # of which nothing is worked out yet
    started = time.perf_counter()
    selected = selection.select(embedding, batch, np.random.default_rng(0))
    return time.perf_counter() - started, selected.rows.tolist()


def peer(python: str, method: str, embedding: Embedding, batch: int, precision: str) -> tuple[float, list[int]]:
    """Time the same selection of bmdal_reg in its own process; reading the features is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/pool.npy", embedding.pool.numpy())
        np.save(f"{folder}/train.npy", embedding.training.numpy())
        script = str(Path(__file__).with_name("peer.py"))
        done = subprocess.run(
            [python, script, f"{folder}/pool.npy", f"{folder}/train.npy", method, str(batch), precision],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return result["seconds"], result["picked"]


def embedding_of(n_pool: int, n_train: int, decay: float) -> Embedding:
    """A random pool and training set."""
    pool = features(n_pool, 0, decay)
    return Embedding(squared_norms(pool), pool, features(n_train, 1, decay))


def scan(pools: list[int], trainings: list[int], largest_batch: int, repeats: int, decay: float) -> pd.DataFrame:
    """Every method at every size; medians."""
    rows = []
    for n_pool in pools:
        for n_train in trainings:
            embedding = embedding_of(n_pool, n_train, decay)
            batch = min(largest_batch, n_pool // 4)
            for method in METHODS:
                seconds = [select(method, embedding, batch)[0] for _ in range(repeats)]
                floor = floor_seconds(method, embedding.pool, embedding.training, batch)
                given = (embedding.pool.nbytes + embedding.training.nbytes) / 1024**2
                beyond = working_set_mb(method, embedding, batch)
                rows.append([method, n_pool, n_train, batch, statistics.median(seconds), floor, given, beyond])
                print(*rows[-1], flush=True)
    columns = ["method", "pool", "training", "batch", "seconds", "floor_seconds", "features_mb", "beyond_mb"]
    return pd.DataFrame(rows, columns=columns)


def against_peer(python: str, cases: list[tuple[str, int, int, int]], repeats: int, decay: float) -> pd.DataFrame:
    """Interleaved with bmdal_reg: ours, theirs, ours, theirs; medians and the ratio, and whether the picks agree."""
    rows = []
    for method, n_pool, n_train, batch in cases:
        embedding = embedding_of(n_pool, n_train, decay)
        ours, theirs, picks = [], [], {}
        for _ in range(repeats):
            seconds, picks["ours"] = select(method, embedding, batch)
            ours.append(seconds)
            seconds, picks["theirs"] = peer(python, method, embedding, batch, "float32")
            theirs.append(seconds)
        floor = floor_seconds(method, embedding.pool, embedding.training, batch)
        same = len(set(picks["ours"]) & set(picks["theirs"]))
        own, other = statistics.median(ours), statistics.median(theirs)
        rows.append([method, n_pool, n_train, batch, own, other, other / own, floor, same])
        print(*rows[-1], flush=True)
    columns = ["method", "pool", "training", "batch", "seconds", "bmdal_reg_seconds", "ratio", "floor_seconds", "same"]
    return pd.DataFrame(rows, columns=columns)


def figure(table: pd.DataFrame, path: Path) -> None:
    """Seconds and memory against the size of the pool, log-log, a column for every training size."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 5.5), layout="constrained")
    axes = drawing.subplots(2, table["training"].nunique(), sharey="row", sharex=True, squeeze=False)
    for (time_axis, memory_axis), (n_train, part) in zip(axes.T, table.groupby("training"), strict=True):
        for number, (method, curve) in enumerate(part.groupby("method")):
            time_axis.loglog(curve["pool"], curve["seconds"], "o-", color=f"C{number}", label=method)
            if method != "MaxDiag":
                time_axis.loglog(curve["pool"], curve["floor_seconds"], ":", color=f"C{number}")
            memory_axis.loglog(curve["pool"], curve["beyond_mb"].clip(lower=0.1), "o-", color=f"C{number}")
        memory_axis.loglog(curve["pool"], curve["features_mb"], "k:")
        time_axis.set_title(f"{n_train} training structures")
        memory_axis.set_xlabel("pool")
    axes[0, 0].set_ylabel("seconds (dotted: floor)")
    axes[1, 0].set_ylabel("MB beyond the features (dotted: features)")
    axes[0, 0].legend(fontsize=7)
    drawing.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/perf"))
    parser.add_argument("--pools", type=int, nargs="*", default=[1000, 10_000, 100_000, 150_000])
    parser.add_argument("--trainings", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--batch", type=int, default=100, help="at most a quarter of the pool")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--decay", type=float, default=0.75)
    parser.add_argument("--threads", type=int, default=len(cores()))
    parser.add_argument("--peer", help="an interpreter with bmdal_reg 3.0.2")
    parser.add_argument("--peer-cases", nargs="*", default=["LCMD:150000:1000:100"], help="METHOD:POOL:TRAINING:BATCH")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(provenance("cpu")))
    if arguments.peer:
        cases = [(m, int(p), int(t), int(b)) for m, p, t, b in (case.split(":") for case in arguments.peer_cases)]
        table = against_peer(arguments.peer, cases, arguments.repeats, arguments.decay)
        table.to_csv(arguments.out / "selections_peer.csv", index=False)
    else:
        table = scan(arguments.pools, arguments.trainings, arguments.batch, arguments.repeats, arguments.decay)
        table.to_csv(arguments.out / "selections.csv", index=False)
        figure(table, arguments.out / "selections.png")
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3g}"))


if __name__ == "__main__":
    main()
