"""What the fifteen algorithms pick in the plane: python -m tests.analysis.toy writes the points for analysis.pages.

A structure is a point, its energy a smooth function of it. The models are networks on two inputs whose hidden layers
stay as they are drawn and whose last layer is fitted to the labels. Features, posterior and selections are those of
`bench`.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bench.kernels.base import Embedding, squared_norms
from bench.kernels.posterior import fit_posterior
from bench.potentials.gmnn.gradients import Entering, last_layer, projected
from bench.potentials.gmnn.network import BIAS_FACTOR
from bench.selection.distances import nearest_centres
from bench.selection.lcmd import LargestClusterMaximumDistance
from bench.selection.max_det import MaxDet
from bench.selection.max_diag import MaxDiag
from bench.selection.max_dist import MaxDist

PATH = Path(__file__).resolve().parents[2] / "analysis" / "pages" / "toy.csv"
BATCH, MEMBERS, WIDTH, PROJECTIONS, RIDGE = 8, 3, 96, 96, 1e-3
CLUSTERS = [((-1.0, -0.7), 0.36, 230), ((1.05, 0.75), 0.26, 110), ((1.2, -0.95), 0.2, 40), ((-1.3, 1.15), 0.13, 25)]
SELECTIONS = {"MaxDiag": MaxDiag, "MaxDet": MaxDet, "MaxDist": MaxDist, "LCMD": LargestClusterMaximumDistance}
PAIRS = [
    (("RND", "AE(E)", "AE(F)", "QBC(E)", "QBC(F)"), ("MaxDiag",)),
    (("GP(LL)", "GP(RP)"), ("MaxDiag", "MaxDet", "MaxDist")),
    (("FEAT(LL)", "FEAT(RP)"), ("MaxDist", "LCMD")),
]


def energy(points):
    """What is to be learnt: two wells, a ridge, and a ripple that grows to the right."""
    x, y = points[:, 0], points[:, 1]
    wells = torch.exp(-4 * ((x + 1.1) ** 2 + (y + 0.7) ** 2)) + torch.exp(-6 * ((x - 1.15) ** 2 + (y - 0.75) ** 2))
    return -wells + 0.3 * torch.sin(3 * x + y) * torch.exp(0.5 * x)


class Model:
    """A network on two inputs: its hidden layers drawn, its last one fitted to energies and forces by ridge."""

    def __init__(self, training, seed):
        generator = np.random.default_rng(seed)
        shapes = [(2, WIDTH), (WIDTH, WIDTH), (WIDTH, 1)]
        drawn = [torch.from_numpy(generator.standard_normal((1, *shape))) for shape in shapes]
        biases = [torch.from_numpy(generator.standard_normal((1, n))) / BIAS_FACTOR for _, n in shapes]
        self.weights, self.biases = drawn, biases
        rows = torch.cat([self.last_layer(training), *self.slopes(training)])
        labels = torch.cat([energy(training), *forces(training, energy)])
        gram = rows.T @ rows + RIDGE * torch.eye(rows.shape[1], dtype=torch.float64)
        self.fitted = torch.linalg.solve(gram, rows.T @ labels)
        self.weights = [*drawn[:-1], self.fitted[:-1].reshape(1, WIDTH, 1)]

    def entering(self, points):
        return Entering(points, torch.ones(len(points), dtype=torch.float64), torch.arange(len(points) + 1))

    def last_layer(self, points):
        return last_layer(self.weights, self.biases, self.entering)(points)

    def projected(self, points):
        generator = np.random.default_rng(5)
        layers = [(3, WIDTH), (WIDTH + 1, WIDTH), (WIDTH + 1, 1)]
        drawn = [
            tuple(torch.from_numpy(generator.standard_normal((n, PROJECTIONS))) for n in sizes) for sizes in layers
        ]
        return projected(self.weights, self.biases, self.entering, drawn)(points)

    def slopes(self, points, step=1e-4):
        """Central differences of the features along x and y, with the sign of forces."""
        shifts = step * torch.eye(2, dtype=torch.float64)
        return [(self.last_layer(points - s) - self.last_layer(points + s)) / (2 * step) for s in shifts]

    def predict(self, points):
        """Energies, and forces with a row for x and one for y."""
        return self.last_layer(points) @ self.fitted, torch.stack([part @ self.fitted for part in self.slopes(points)])


def forces(points, function, step=1e-4):
    """Central differences."""
    shifts = step * torch.eye(2, dtype=torch.float64)
    return [(function(points - shift) - function(points + shift)) / (2 * step) for shift in shifts]


def diagonals(pool, members):
    """k(S, S) of Eqs. (24), (25) and of RND."""
    energies, of_forces = zip(*(member.predict(pool) for member in members), strict=True)
    true = torch.stack(forces(pool, energy))
    return {
        "RND": torch.from_numpy(np.random.default_rng(7).uniform(size=len(pool))),
        "AE(E)": (energies[0] - energy(pool)).abs(),
        "AE(F)": (of_forces[0] - true).abs().mean(0),
        "QBC(E)": torch.stack(energies).std(0, correction=0),
        "QBC(F)": torch.stack(of_forces).var(0, correction=0).mean(0).sqrt(),
    }


def points():
    """Pool and training set; for each kernel how far or uncertain a point is, for each algorithm its batch in order."""
    rng = np.random.default_rng(2)
    pool = np.concatenate([rng.normal(centre, width, (n, 2)) for centre, width, n in CLUSTERS])
    pool = np.concatenate([pool, rng.uniform((-1.9, -1.7), (2.0, 1.6), (8, 2))]).round(3)
    training = np.array([(-1.0, -0.6), (-1.3, -0.95), (1.1, 0.7), (1.0, -0.8)])
    table = pd.DataFrame(np.concatenate([pool, training]), columns=["x", "y"])
    table.insert(0, "part", ["pool"] * len(pool) + ["training"] * len(training))
    given, labelled = torch.tensor(pool), torch.tensor(training)
    members = [Model(labelled, seed) for seed in range(MEMBERS)]
    embeddings = {name: Embedding(values) for name, values in diagonals(given, members).items()}
    for layers, read in (("LL", members[0].last_layer), ("RP", members[0].projected)):
        of_pool, of_training = read(given), read(labelled)
        embeddings[f"FEAT({layers})"] = Embedding(squared_norms(of_pool), of_pool, of_training)
        posterior = fit_posterior(of_training)
        of_pool, of_training = posterior.transform(of_pool), posterior.transform(of_training)
        embeddings[f"GP({layers})"] = Embedding(squared_norms(of_pool), of_pool, of_training)
    for kernel, selections in ((kernel, selections) for kernels, selections in PAIRS for kernel in kernels):
        embedding = embeddings[kernel]
        score = embedding.diagonal.sqrt() if kernel.startswith("GP") else embedding.diagonal
        if kernel.startswith("FEAT"):
            score = nearest_centres(embedding.pool, embedding.training)[0].sqrt()
        table[kernel] = [*(score / score.max()).numpy().round(2), *[0.0] * len(training)]
        for name in selections:
            order = np.zeros(len(table), dtype=int)
            batch = SELECTIONS[name](name).select(embedding, BATCH, np.random.default_rng(0))
            order[batch.rows] = np.arange(1, BATCH + 1)
            table[f"{name} + {kernel}"] = order
    return table


if __name__ == "__main__":
    points().to_csv(PATH, index=False)
