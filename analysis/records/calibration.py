"""Uncertainties beside errors per structure, from the arrays of finished runs: thinned for a picture, and binned."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.config.units import KCAL_PER_MOL
from bench.errors import cannot_read
from bench.runs.record import end_file, may_be_there
from bench.runs.record_schema import KernelFacts

BINS = 10
POINTS = 30
"""Structures kept per run, evenly spread over the order of their uncertainty."""
ALIKE = ("MaxDiag + GP(LL)", "MaxDiag + GP(RP)", "MaxDist + GP(LL)", "MaxDist + GP(RP)")
"""Left out: their uncertainties are those that MaxDet + GP and random selection show already."""
PREFIX = "uncertainty "
TARGETS = {"energy": ("energy_error_eV", "kcal_mol"), "force": ("force_error_eV_A", "kcal_mol_A")}
COLUMNS = ["run_id", "study", "algorithm", "seed", "uncertainty", "target", "kind", "predicted", "error", "of"]


def calibration_of(
    done: pd.DataFrame, results: Sequence[Path], kernels: Mapping[str, Mapping[str, KernelFacts]]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Read the arrays at the end of the finished runs with the largest batch of their study.

    A row per bin (`kind` is bin: mean uncertainty, root-mean-square error) and per kept structure (point); energies in
    kcal/mol, force errors ΔF(S) in kcal/mol/Å, the uncertainty in the unit of what it is `of`. A run's own uncertainty
    is read; of a baseline, those that every run tells at its end. `kernels` are the facts by run and name. Also returns
    what is wrong with files that cannot be read, by run.
    """
    parts, damaged = [], {}
    if len(done):
        largest = done["batch_size"] == done.groupby("study")["batch_size"].transform("max")
        for run in done[largest & ~done["algorithm"].isin(ALIKE)].to_dict("records"):
            paths = [folder / "runs" / run["run_id"] / end_file(run["final"]) for folder in results]
            path = next((path for path in paths if may_be_there(path)), paths[0])
            known = {name: facts for name, facts in kernels[run["run_id"]].items() if facts.uncertainty}
            names = known if run["baseline"] else known.keys() & {run["kernel"]}
            if not may_be_there(path):
                continue
            try:
                parts += _run(run, path, {name: known[name].uncertainty or "" for name in names})
            except PermissionError as error:
                damaged[run["run_id"]] = str(cannot_read(error, path))
            except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
                damaged[run["run_id"]] = f"{path} is damaged ({type(error).__name__}): copy it anew or run again"
    table = pd.DataFrame(parts, columns=COLUMNS)
    return table.sort_values(COLUMNS[:7], ignore_index=True, kind="stable"), damaged


def _run(run: Mapping[Any, Any], path: Path, names: Mapping[str, str]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    # np.load leaves a file that it cannot read open
    with path.open("rb") as file, np.load(file) as arrays:
        for name, of in names.items():
            if PREFIX + name not in arrays:
                continue
            predicted = arrays[PREFIX + name].astype(np.float64)
            # those of energies in eV, of forces in eV/Å
            for target, (column, _) in TARGETS.items():
                if column in arrays:
                    pairs = binned(predicted / KCAL_PER_MOL, arrays[column].astype(np.float64) / KCAL_PER_MOL)
                    common = {k: run[k] for k in ("run_id", "study", "algorithm", "seed")}
                    common |= {"uncertainty": name, "target": target, "of": of}
                    rows += [common | {"kind": k, "predicted": p, "error": e} for k, p, e in pairs]
    return rows


def binned(predicted: np.ndarray, error: np.ndarray) -> list[tuple[str, float, float]]:
    """Bins of equally many structures in the order of their uncertainty, and single structures from that order."""
    finite = np.isfinite(predicted) & np.isfinite(error)
    order = np.argsort(predicted[finite], kind="stable")
    predicted, error = predicted[finite][order], error[finite][order]
    rows = [
        ("bin", float(p.mean()), float(np.sqrt((e**2).mean())))
        for p, e in zip(np.array_split(predicted, BINS), np.array_split(error, BINS), strict=True)
        if len(p)
    ]
    kept = np.unique(np.linspace(0, max(len(predicted) - 1, 0), min(POINTS, len(predicted))).astype(int))
    return rows + [("point", float(predicted[i]), float(error[i])) for i in kept]
