"""Do our picks equal those of bmdal_reg 3.0.2 on real features? python -m tests.perf.agreement RUN DATASET.yaml PYTHON.

RUN is the folder of a finished run (model and split), DATASET.yaml its dataset, PYTHON an interpreter with bmdal_reg.
MaxDet gets the features of the posterior, the others the features themselves; MaxDiag is compared as a set.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import yaml

from bench.config.plugins import plugin
from bench.data.neighbours import find_neighbours
from bench.kernels.base import KernelInputs
from bench.kernels.last_layer import LastLayer
from bench.kernels.random_projection import RandomProjection
from bench.potentials.gmnn.view import MomentView
from bench.runs.record import read_record
from bench.training.store import load_potential
from tests.perf.selections import peer, select

BATCH = 100
POOL = 4000


def main() -> None:
    folder, dataset, python = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    config = yaml.safe_load(dataset.read_text())
    if len(sys.argv) > 4:
        config["path"] = sys.argv[4]
    data = plugin(config, "dataset").load()
    potential, _, _ = load_potential(folder / "model.pt")
    record, split = read_record(folder / "record.json"), np.load(folder / "split.npz")
    labelled = np.concatenate([split["initial"], *(np.array(s.picked or [], dtype=np.int64) for s in record.steps)])
    pool = np.setdiff1d(np.arange(len(data)), labelled)[:POOL]
    settings = potential.architecture
    builder = MomentView(settings, data, find_neighbours(data, settings.r_max))
    inputs = KernelInputs(potential, builder, labelled, 0)
    for cls, name in ((LastLayer, "LL"), (RandomProjection, "RP")):
        for posterior in (False, True):
            embedding = cls(name, posterior=posterior).prepare(inputs).embed(pool)
            for method in ("MaxDiag", "MaxDet", "MaxDist", "LCMD"):
                ours = select(method, embedding, BATCH)[1]
                theirs = {p: peer(python, method, embedding, BATCH, p)[1] for p in ("float64", "float32")}
                same = {p: len(set(ours) & set(picked)) for p, picked in theirs.items()}
                order = next(
                    (i for i, (a, b) in enumerate(zip(ours, theirs["float64"], strict=False)) if a != b), BATCH
                )
                print(
                    f"{'GP' if posterior else 'FEAT'}({name}) {method}: of {BATCH} picks from {len(pool)}, the same set"
                    f" with float64 {same['float64']}, with float32 {same['float32']}; same order up to {order}",
                    flush=True,
                )


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
