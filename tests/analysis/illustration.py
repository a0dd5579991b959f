"""The points of Fig. 1, picked by bench.selection: python -m tests.analysis.illustration writes them for analysis."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench.kernels.base import Embedding
from bench.selection.distances import nearest_centres
from bench.selection.lcmd import LargestClusterMaximumDistance
from bench.selection.max_diag import MaxDiag
from bench.selection.max_dist import MaxDist

PATH = Path(__file__).resolve().parents[2] / "analysis" / "figures" / "illustration.csv"
BATCH = 12


def points():
    """A pool of clusters of unlike density and a thin spread between them; the batch of each method, in its order."""
    rng = np.random.default_rng(1)
    clusters = [((0.0, 0.0), 0.55, 260), ((3.4, 2.3), 0.3, 200), ((3.1, -1.5), 0.75, 120), ((-2.6, 2.4), 0.4, 90)]
    pool = np.concatenate([rng.normal(centre, width, (n, 2)) for centre, width, n in clusters])
    pool = np.concatenate([pool, rng.uniform((-3.5, -3.3), (4.8, 3.6), (24, 2))]).round(3)
    training = np.array([(0.2, 0.1), (-0.5, -0.4), (2.6, -1.2), (-2.5, 2.2)])
    features = torch.tensor(pool)
    distance, _ = nearest_centres(features, torch.tensor(training))
    embedding = Embedding(diagonal=distance, pool=features, training=torch.tensor(training))
    table = pd.DataFrame(np.concatenate([pool, training]), columns=["x", "y"])
    table.insert(0, "part", ["pool"] * len(pool) + ["training"] * len(training))
    for method in (MaxDiag("MaxDiag"), MaxDist("MaxDist"), LargestClusterMaximumDistance("LCMD")):
        order = np.zeros(len(table), dtype=int)
        order[method.select(embedding, BATCH, np.random.default_rng(0)).rows] = np.arange(1, BATCH + 1)
        table[method.name] = order
    return table


if __name__ == "__main__":
    points().to_csv(PATH, index=False)
