"""Small records for tests: a run with given errors and seconds, written as bench writes them."""

import json
from pathlib import Path

import pandas as pd

from analysis.collect import Collector
from bench.record import RECORD, SCHEMA_VERSION
from bench.schema import NUMERICS_VERSION, hash_of

UNITS = {"force": "kcal_mol_A", "energy": "kcal_mol"}


def metrics(value, quantities=("force", "energy")):
    return {f"{q}_{m}_{UNITS[q]}": value * k for q in quantities for k, m in enumerate(("mae", "rmse", "maxe"), 1)}


def record(selection, kernel, seed, values, *, scenario="demo", batch_size=10, status="done", **changes):
    """A run whose force and energy MAE are `values`, RMSE twice, MAXE thrice that; N_train starts at batch_size."""
    sizes = [batch_size * (i + 1) for i in range(len(values))]
    identity = {
        "numerics_version": changes.get("numerics_version", NUMERICS_VERSION),
        "scenario": {"name": scenario, "initial": sizes[0], "final": changes.get("final", sizes[-1]), "validation": 5},
        "dataset": {"name": "d", "checksum": changes.get("checksum", "c")},
        "selection": {"name": selection},
        "kernel": {"name": kernel},
        "batch_size": batch_size,
        "seed": seed,
    }
    deviations = changes.get("deviations", {})
    identity["altered"] = deviations
    read = changes.get("pool_labels_read", 0)
    steps = [
        {
            "n_train": n,
            "picked": [1],
            "best_epochs": [1],
            "metrics": metrics(v, changes.get("quantities", ("force", "energy"))),
            "seconds_training": 1.0,
            "seconds_features": 0.5,
            "seconds_selection": None if n == sizes[-1] else 0.25,
            "pool_labels_read": 0 if n == sizes[-1] else read,
            "correlations": changes.get("correlations", {}),
        }
        for n, v in zip(sizes, values, strict=True)
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": hash_of(identity),
        "identity": identity,
        "deviations": deviations,
        "status": status,
        "sessions": [],
        "steps": steps,
        "failure": {"error": "ValueError", "message": "no luck"},
        "in_progress": False,
    }


def write(results, *arguments, **changes):
    content = record(*arguments, **changes)
    folder = results / "runs" / content["run_id"]
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(json.dumps(content))
    return folder


# error at N_train 10, 20, 30 and the factor of each seed
CURVES = {
    ("MaxDiag", "RND"): [9.0, 6.0, 5.0],
    ("MaxDiag", "GP(LL)"): [9.0, 7.0, 5.5],
    ("LCMD", "FEAT(LL)"): [9.0, 5.0, 4.0],
}
SEEDS = (1.0, 1.2, 1.5, 0.9)
JITTER = {("MaxDiag", "GP(LL)"): (1.02, 0.99, 1.0, 1.03), ("LCMD", "FEAT(LL)"): (0.98, 1.05, 1.0, 0.96)}


def tables_of(contents, results="results", checksums=None):
    collector = Collector()
    for content in contents:
        collector.add(content)
    return collector.tables(Path(results), pd.DataFrame(), checksums or {})


def runs():
    for (selection, kernel), curve in CURVES.items():
        for seed, factor in enumerate(SEEDS):
            jitter = JITTER.get((selection, kernel), (1.0,) * 4)[seed]
            values = [curve[0] * factor, *(value * factor * jitter for value in curve[1:])]
            yield record(selection, kernel, seed, values)
