"""Small records for tests: a run with given errors and seconds, written as bench writes them."""

import json
from pathlib import Path

import pandas as pd

from analysis.records.collect import Collector
from analysis.records.found import Found
from bench.config.identity import hash_of
from bench.runs.record import RECORD
from bench.runs.record_schema import SCHEMA_VERSION, Record

UNITS = {"force": "kcal_mol_A", "energy": "kcal_mol"}


def metrics(value, quantities=("force", "energy")):
    return {f"{q}_{m}_{UNITS[q]}": value * k for q in quantities for k, m in enumerate(("mae", "rmse", "maxe"), 1)}


def facts(kernel):
    """What the kernels of the project state of themselves."""
    uncertain = {"GP": "energy", "QBC(E)": "energy", "QBC(F)": "force"}
    return {
        "members": 3 if kernel.startswith("QBC") else 1,
        "uncertainty": next((of for name, of in uncertain.items() if kernel.startswith(name)), None),
        "baseline": kernel == "RND",
        "reads_pool_labels": kernel.startswith("AE"),
    }


def record(selection, kernel, seed, values, *, scenario="demo", batch_size=10, status="done", **changes):
    """A run whose force and energy MAE are `values`, RMSE twice, MAXE thrice that; N_train starts at batch_size."""
    sizes = [batch_size * (i + 1) for i in range(len(values))]
    deviations = changes.get("deviations", {})
    identity = {
        "dataset": {"name": changes.get("dataset", "d"), "checksum": changes.get("checksum", "c")},
        "scenario": {"name": scenario, "initial": sizes[0], "validation": 5},
        "model": {"name": "GM-NN"} | ({"version": changes["version"]} if "version" in changes else {}),
        "selection": {"name": selection},
        "kernel": {"name": kernel},
        "batch_size": batch_size,
        "seed": seed,
        "altered": deviations,
    }
    read = changes.get("pool_labels_read", 0)
    steps = [
        {
            "n_train": n,
            "session": 0,
            "energy_scale_eV": 1.0,
            "validation_eV": [0.1],
            "picked": None if n == sizes[-1] else [1] * batch_size,
            "best_epochs": [1],
            "metrics": metrics(v),
            "seconds_training": 1.0,
            "seconds_features": 0.5,
            "seconds_selection": None if n == sizes[-1] else 0.25,
            "pool_labels_read": 0 if n == sizes[-1] else read,
            "correlations": changes.get("correlations", {}),
        }
        for n, v in zip(sizes, values, strict=True)
    ]
    final = changes.get("final", sizes[-1])
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": hash_of(identity),
        "identity": identity,
        "kernels": {name: facts(name) for name in (kernel, "GP(LL)", "GP(RP)")},
        "deviations": deviations,
        "filed_final": final,
        "finals": [final],
        "status": status,
        "sessions": [],
        "steps": steps,
        "failure": {"error": "ValueError", "message": "no luck"},
    }


def found(content):
    """A record as the analysis takes it in; a text is what is wrong with a damaged one."""
    if isinstance(content, str):
        return Found("broken", None, damage=content)
    return Found(content["run_id"], Record.model_validate(content))


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
        collector.add(found(content))
    return collector.tables(Path(results), pd.DataFrame(), checksums or {})


def runs():
    for (selection, kernel), curve in CURVES.items():
        for seed, factor in enumerate(SEEDS):
            jitter = JITTER.get((selection, kernel), (1.0,) * 4)[seed]
            values = [curve[0] * factor, *(value * factor * jitter for value in curve[1:])]
            yield record(selection, kernel, seed, values)
