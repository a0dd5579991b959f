"""How often calibrated intervals hold the true energy: python -m tests.perf.coverage NAME=RUN_FOLDER ….

For the finished runs named, each method that their models serve is calibrated on the run's validation set and tried on
its test set: the fraction of structures with |ΔE| within z s σ (the scale s, z of a normal distribution) and within q σ
(conformal), and of atoms with |ΔF_i| within q σ_i for committees. By number of atoms, too, where it differs.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from bench.learning.models import of_run
from bench.runs.record import SPLIT, read_arrays
from bench.uncertainty.estimate import METHODS, held_out
from bench.uncertainty.kept import of_model

NOMINAL = (0.68, 0.90, 0.95)
SIZES = (0, 12, 24, 1000)
"""Borders between groups of structures by their number of atoms."""


def rows_of(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """A row for each method and group of test structures of a run."""
    model = of_run(folder)
    view, potential = model.view(model.data), model.potential
    test = (read_arrays(folder / SPLIT, {}) or {})["test"]
    sizes = model.data.n_atoms[test]
    groups = {"all": np.ones(len(test), dtype=bool)}
    if np.ptp(sizes):
        for low, high in itertools.pairwise(SIZES):
            groups[f"{low + 1}-{min(high, sizes.max())}"] = (low < sizes) & (sizes <= high)
    for method in METHODS:
        if method == "committee" and potential.n_models == 1:
            continue
        fitted = of_model(model, method)
        found, known = held_out(fitted, potential, view, test), fitted.energy
        error, deviation = found.energy_error, found.deviations.energy
        base = {"data": name, "seed": model.seed, "N_train": fitted.n_train, "method": method}
        for group, chosen in groups.items():
            row = {**base, "atoms": group, "structures": int(chosen.sum()), "scale": known.scale}
            row["rms error (eV)"] = float(np.sqrt(np.mean(error[chosen] ** 2)))
            row["rms s σ (eV)"] = known.scale * float(np.sqrt(np.mean(deviation[chosen] ** 2)))
            for nominal in NOMINAL:
                z = NormalDist().inv_cdf((1 + nominal) / 2)
                for kind, width in (("scale", z * known.scale), ("conformal", known.quantile(nominal))):
                    row[f"{kind} {nominal:.0%}"] = float(np.mean(error[chosen] <= width * deviation[chosen]))
                if found.force_error is not None and fitted.force is not None and group == "all":
                    within = found.force_error <= fitted.force.quantile(nominal) * found.deviations.forces
                    row[f"forces {nominal:.0%}"] = float(np.mean(within))
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="NAME=folder of a finished run")
    parser.add_argument("--output", type=Path, default=Path("results/uncertainty"))
    given = parser.parse_args()
    named = [run.partition("=") for run in given.runs]
    rows = [row for name, _, folder in named for row in rows_of(name, Path(folder))]
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "coverage.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table = pd.DataFrame(rows)
    keys = ["data", "N_train", "method", "atoms"]
    mean = table.groupby(keys, sort=False).mean(numeric_only=True).drop(columns="seed").reset_index()
    mean.insert(4, "seeds", table.groupby(keys, sort=False).size().to_numpy())
    mean["structures"] = mean["structures"].round().astype(int)
    print(mean.to_string(index=False))


if __name__ == "__main__":
    main()
