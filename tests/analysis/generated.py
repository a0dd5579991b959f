"""Made-up records of a whole sweep at full length: what the analysis reads, with none of the computing.

python -m tests.analysis.generated FOLDER [sweep words …]
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

from analysis.plan import current_checksums
from bench.config.identity import hash_of, identity_of
from bench.config.sweep import expand
from bench.runs.record import RECORD, end_file
from bench.runs.record_schema import SCHEMA_VERSION
from tests.analysis.records import facts

# the level of an error beside random selection's, and how it changes when the batch doubles
EFFECTS = {"MaxDiag": (1.04, 1.03), "MaxDet": (0.93, 1.0), "MaxDist": (0.95, 1.0), "LCMD": (0.9, 1.0)}
LEVELS = {"md17": (9.0, 0.4), "qm9": (20.0, 0.38), "tio2": (60.0, 0.35), "lmnto": (12.0, 0.4), "demo": (12.0, 0.4)}
MEASURES = {"mae": 1.0, "rmse": 1.5, "maxe": 4.0}
EXTRA = ("structure_mean_mae", "max_structure_rmse", "max_component", "mean_max_component")


def generate(results, cells, arrays=True):
    """Write a record for every cell, and the arrays of its end for those with the largest batch of their scenario."""
    checksums = current_checksums(cells)
    largest = {}
    for cell in cells:
        name = cell.run.scenario.name
        largest[name] = max(largest.get(name, 0), cell.run.batch_size)
    for cell in cells:
        run = cell.run
        record, identity = record_of(run, checksums[run.dataset["name"]] or "generated")
        folder = Path(results) / "runs" / hash_of(identity)
        folder.mkdir(parents=True)
        (folder / RECORD).write_text(json.dumps(record))
        if arrays and run.batch_size == largest[run.scenario.name]:
            np.savez(folder / end_file(run.scenario.final), **last_step(run))


def record_of(run, checksum):
    identity = identity_of(run, checksum)
    sizes = run.training_set_sizes()
    rng = np.random.default_rng([run.seed, run.batch_size, zlib.crc32(f"{run.selection} {run.kernel}".encode())])
    members = run.kernel.get("members", 1)
    kernel, random = run.kernel["name"], run.kernel["name"] == "RND"
    level, slope = LEVELS.get(run.scenario.name.split("_")[0], (10.0, 0.3))
    effect, batch = (1.0, 1.0) if random else EFFECTS.get(run.selection["name"], (0.97, 1.0))
    if "RP" in kernel:
        effect *= 0.98
    split = 1 + 0.03 * np.random.default_rng(run.seed).standard_normal()
    grown = np.linspace(0, 1, len(sizes))
    factors = 1 + ((effect * batch ** np.log2(run.batch_size)) - 1) * grown
    noise = 1 + 0.02 * rng.standard_normal((len(sizes), 6))
    noise[0] = 1 + 0.02 * np.random.default_rng(run.seed + 99).standard_normal(6)
    names = [("force_", "_kcal_mol_A")] * 3 + [("energy_", "_kcal_mol")] * 3
    steps, start = [], 0
    for i, n_train in enumerate(sizes):
        last = i == len(sizes) - 1
        metrics = {}
        for j, (prefix, unit) in enumerate(names):
            if j < 3 and not run.training.forces:
                continue
            measure = list(MEASURES)[j % 3]
            value = level * MEASURES[measure] * n_train**-slope * factors[i] * split * noise[i, j]
            metrics[f"{prefix}{measure}{unit}"] = float(value)
        if run.training.forces:
            metrics |= {f"force_{name}_kcal_mol_A": float(level * n_train**-slope) for name in EXTRA}
        picked = [] if last else range(start, start + min(run.batch_size, run.scenario.final - n_train))
        start += len(picked)
        own = kernel.startswith(("GP", "QBC"))
        known = ([kernel] if own else []) + (["GP(LL)", "GP(RP)"] if last else [])
        targets = ["energy", *(["force"] if run.training.forces else [])]
        targets += [f"{t}_of_mean" for t in targets] if members > 1 else []
        step = {
            "n_train": n_train,
            "session": 0,
            "energy_scale_eV": 0.5,
            "best_epochs": [run.training.epochs] * members,
            "validation_eV": [0.1] * members,
            "metrics": metrics,
            "seconds_training": members * (20 + 0.05 * n_train) * (1 + 0.05 * rng.random()),
            "seconds_validation": 1.0,
            "seconds_evaluation": 3.0,
            "seconds_features": 0.0
            if random
            else (30 if "QBC" in kernel else 7 if "LL" in kernel else 9) + rng.random(),
            "correlations": {
                name: {
                    target: {
                        "pearson": float((0.5 if "RP" in name else 0.3) + 0.03 * rng.standard_normal()),
                        "spearman": float(0.4 + 0.03 * rng.standard_normal()),
                    }
                    for target in targets
                }
                for name in dict.fromkeys(known)
            },
            "picked": None if last else list(picked),
            "pool_labels_read": 0 if last or not kernel.startswith("AE") else run.scenario.pool - start + len(picked),
            "peak_memory_mb": 1000.0,
        }
        if not last:
            step |= {"picked_at_random": 0, "seconds_selection": 0.01 if run.selection["name"] == "MaxDiag" else 1.5}
        steps.append(step)
    session = {"started": "2026-01-01T00:00:00+00:00", "host": "made-up", "cpu": "none", "cores": 6, "threads": 6}
    session |= {"device": "cpu", "python": "3.11", "git_commit": "0" * 40, "git_dirty": False, "first_step": 0}
    record = {
        "schema_version": SCHEMA_VERSION,
        "run_id": hash_of(identity),
        "identity": identity,
        "kernels": {name: facts(name) for name in (kernel, "GP(LL)", "GP(RP)")},
        "deviations": {key: value for key, value in run.deviations.items() if key != "scenario.final"},
        "filed_final": run.filed_final,
        "finals": [run.scenario.final],
        "status": "done",
        "sessions": [session | {"versions": {"torch": "0", "numpy": "0"}}],
        "steps": steps,
    }
    return record, identity


def last_step(run):
    rng = np.random.default_rng(run.seed)
    n = run.scenario.test or 500
    error = rng.lognormal(-4, 0.7, n).astype(np.float32)
    arrays = {"structure": np.arange(n), "energy_error_eV": error}
    if run.training.forces:
        arrays["force_error_eV_A"] = error * rng.lognormal(0, 0.3, n).astype(np.float32)
    kernel = run.kernel["name"]
    own = [kernel] if kernel.startswith("QBC") else []
    for name in [*own, "GP(LL)", "GP(RP)"]:
        arrays[f"uncertainty {name}"] = (error * rng.lognormal(0, 1.0, n)).astype(np.float32)
    return arrays


if __name__ == "__main__":
    generate(sys.argv[1], expand(sys.argv[2:] or ["sweep=paper"]))
