"""The active-learning cycle: train, measure, select, label, until the training set has its final size."""

import contextlib
import logging
import time
from itertools import repeat
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from bench.data.neighbours import find_neighbours
from bench.data.split import Split, draw_split
from bench.data.structures import Structures
from bench.errors import UserError, WriteError
from bench.evaluate import StructureErrors, correlations, structure_errors, summarise
from bench.kernels.base import Kernel, KernelInputs, PreparedKernel
from bench.locks import locked
from bench.model.geometry import GeometryBuilder
from bench.provenance import peak_memory_mb, provenance
from bench.record import LAST_STEP, LOCK, MODEL, SPLIT, TRAINING, RunRecord, describe, make_folder, run_folder
from bench.schema import RunConfig, plugin
from bench.seeds import stream
from bench.selection.base import Selection
from bench.training.checkpoint import Checkpoint
from bench.training.fit import FitResult
from bench.training.shared import fit_once
from bench.training.store import save_potential

log = logging.getLogger(__name__)


def check(run: RunConfig) -> tuple[Kernel, Selection]:
    """Build the kernel and the selection and refuse pairs that mean nothing. Raises UserError with the reason."""
    kernel: Kernel = plugin(run.kernel, "kernel")
    selection: Selection = plugin(run.selection, "selection")
    if selection.needs_features and not kernel.has_features:
        raise UserError(
            f"selection {selection.name} needs distances between structures, but kernel {kernel.name} is diagonal:"
            " choose selection=max_diag, or a FEAT or GP kernel"
        )
    if kernel.needs_forces and not run.training.forces:
        raise UserError(
            f"kernel {kernel.name} needs forces, but training.force_weight = 0 in scenario {run.scenario.name}:"
            " choose a kernel of energies"
        )
    return kernel, selection


def run_active_learning(run: RunConfig, *, lock: bool = True) -> RunRecord:
    """Do one run, or what is left of it, and return its record; without `lock` for a caller that holds the run's lock.

    Raises BusyError if another process is at it.
    """
    kernel, selection = check(run)
    data: Structures = plugin(run.dataset, "dataset").load()
    if run.training.forces and data.forces is None:
        raise UserError(f"dataset {data.name} has no forces, but training.force_weight > 0: choose training=energies")
    split = draw_split(data, run.scenario, run.seed)
    identity = run.identity(data.checksum)
    folder = run_folder(run.results, identity)
    make_folder(folder)
    with locked(folder / LOCK, wait=False) if lock else contextlib.nullcontext():
        record = RunRecord.open(folder, identity, run.deviations)
        if record.done:
            log.info("run %s is done: %s", folder.name, folder)
            return record
        record.content["sessions"].append(provenance(run.device) | {"first_step": len(record.steps)})
        record.save_arrays(SPLIT, vars(split))
        record.save(status="running")
        try:
            builder = GeometryBuilder(
                data,
                find_neighbours(data, run.model.r_max),
                run.model.r_min,
                run.model.n_gaussians,
                getattr(torch, run.precision),
                torch.device(run.device),
            )
            _cycle(run, record, builder, split, kernel, selection)
        except WriteError:
            raise
        except Exception as error:
            record.fail(*describe(error))
            raise
        return record


def _cycle(
    run: RunConfig,
    record: RunRecord,
    builder: GeometryBuilder,
    split: Split,
    kernel: Kernel,
    selection: Selection,
) -> None:
    """The paper's loop; each pass adds one row to the record."""
    labelled = np.concatenate([split.initial, *(np.array(step["picked"], dtype=np.int64) for step in record.steps)])
    checkpoint = Checkpoint(record.folder / TRAINING, run.checkpoint_seconds)
    while True:
        fitted = fit_once(run, builder, labelled, split, kernel.members, checkpoint)
        started = time.perf_counter()
        errors = structure_errors(fitted.potential, builder, split.test, forces=run.training.forces)
        row: dict[str, Any] = {
            "n_train": len(labelled),
            "session": len(record.content["sessions"]) - 1,
            "energy_scale_eV": fitted.scaling.scale,
            "best_epochs": fitted.best_epochs,
            "validation_eV": fitted.validation.min(0).tolist(),
            "metrics": summarise(errors),
            "seconds_training": fitted.seconds,
            "seconds_validation": fitted.validation_seconds,
            "seconds_evaluation": time.perf_counter() - started,
        }
        finished = len(labelled) >= run.scenario.final
        started = time.perf_counter()
        inputs = KernelInputs(fitted.potential, builder, labelled, run.seed)
        prepared = kernel.prepare(inputs)
        row["seconds_features"] = time.perf_counter() - started
        uncertainties = {kernel.name: prepared.uncertainty(errors)}
        if finished:
            for other in map(plugin, run.final_kernels, repeat("final_kernels")):
                if other.name not in uncertainties:
                    uncertainties[other.name] = other.prepare(inputs).uncertainty(errors)
        known = {name: values for name, values in uncertainties.items() if values is not None}
        row["correlations"] = {name: correlations(values, errors) for name, values in known.items()}
        if finished:
            row |= {"picked": [], "pool_labels_read": 0}
            _save_last_step(record, builder, fitted, errors, known)
        else:
            selected = _select(run, prepared, selection, split, labelled)
            selected["seconds_features"] += row["seconds_features"]
            row |= selected
            row["pool_labels_read"] = len(split.pool) if kernel.reads_pool_labels else 0
            labelled = np.concatenate([labelled, np.array(row["picked"])])
        record.steps.append(row | peak_memory_mb(run.device))
        record.save(status="done" if finished else "running")
        checkpoint.remove()
        _report(run, row)
        if finished:
            return


def _select(
    run: RunConfig,
    prepared: PreparedKernel,
    selection: Selection,
    split: Split,
    labelled: Int[np.ndarray, " labelled"],
) -> dict[str, Any]:
    """Pick the next batch from what is left of the pool. Features include the posterior, selection does not."""
    pool = np.setdiff1d(split.pool, labelled, assume_unique=True)
    batch_size = min(run.batch_size, run.scenario.final - len(labelled))
    started = time.perf_counter()
    embedding = prepared.embed(pool)
    embedded = time.perf_counter()
    generator = stream(run.seed, "deficit", n_train=len(labelled))
    selected = selection.select(embedding, batch_size, generator)
    return {
        "picked": pool[selected.rows].tolist(),
        "picked_at_random": selected.n_random,
        "seconds_features": embedded - started,
        "seconds_selection": time.perf_counter() - embedded,
    }


def _save_last_step(
    record: RunRecord,
    builder: GeometryBuilder,
    fitted: FitResult,
    errors: StructureErrors,
    uncertainties: dict[str, Float[np.ndarray, " structures"]],
) -> None:
    """Keep the test errors per structure (float32, eV and eV/Å, mean over members), uncertainties and the model."""
    arrays = {"structure": errors.structures, "energy_error_eV": errors.energy.mean(0).astype(np.float32)}
    if errors.force is not None:
        arrays["force_error_eV_A"] = errors.force.mae.mean(0).astype(np.float32)
    for name, values in uncertainties.items():
        arrays[f"uncertainty {name}"] = values.astype(np.float32)
    record.save_arrays(LAST_STEP, arrays)
    save_potential(record.folder / MODEL, fitted.potential, builder.data.reference_energies, {})


def _report(run: RunConfig, row: dict[str, Any]) -> None:
    metrics = row["metrics"]
    quantity = "force" if "force_mae_kcal_mol_A" in metrics else "energy"
    unit = "kcal_mol_A" if quantity == "force" else "kcal_mol"
    errors = ", ".join(f"{m.upper()} {metrics[f'{quantity}_{m}_{unit}']:.2f}" for m in ("mae", "rmse", "maxe"))
    log.info(
        "%s, %s + %s, seed %d, N_train %d: %s %s %s; training %.1f s, features %.1f s, selection %.2f s",
        run.scenario.name,
        run.selection["name"],
        run.kernel["name"],
        run.seed,
        row["n_train"],
        quantity,
        errors,
        "kcal/mol/Å" if quantity == "force" else "kcal/mol",
        row["seconds_training"],
        row.get("seconds_features", 0),
        row.get("seconds_selection", 0),
    )
