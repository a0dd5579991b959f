"""The active-learning cycle: train, measure, select, label, until the training set has its final size."""

import contextlib
import logging
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
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
from bench.training.shared import Request, fit_requests
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


def run_active_learning(run: RunConfig) -> RunRecord:
    """Do one run, or what is left of it, and return its record. Raises BusyError if another process is at it."""
    (outcome,) = run_pack([run])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def run_pack(runs: Sequence[RunConfig], *, lock: bool = True) -> list[RunRecord | Exception]:
    """Do runs together, or what is left of them: those alike in data, model and training are trained in lockstep.

    Returns a run's record or what made it fail; the others go on. Without `lock` for a caller that holds the runs'
    locks. Raises Stopped after a signal.
    """
    outcomes: dict[int, RunRecord | Exception] = {}
    cycles: dict[int, tuple[Cycle, Request]] = {}
    shared = _Shared({}, {})
    with contextlib.ExitStack() as held:

        def advance(index: int, cycle: Cycle, fitted: FitResult | Exception | None) -> None:
            """Have a run go on until it needs a training again, or ends."""
            try:
                request = cycle.throw(fitted) if isinstance(fitted, Exception) else cycle.send(fitted)
                cycles[index] = cycle, request
            except StopIteration as end:
                outcomes[index] = end.value
            except Exception as error:
                outcomes[index] = error

        for index, run in enumerate(runs):
            advance(index, _recorded(run, shared, held if lock else None), None)
        while cycles:
            # the smallest training sets first: runs that were stopped at different steps meet
            fewest = min(len(request.labelled) for _, request in cycles.values())
            chosen = {i: c for i, c in cycles.items() if len(c[1].labelled) == fewest}
            leader = next(iter(chosen.values()))[1]
            together = [i for i, (_, request) in chosen.items() if alike(request.run, leader.run)]
            for index, outcome in zip(together, _trained([chosen[i][1] for i in together]), strict=True):
                advance(index, cycles.pop(index)[0], outcome)
    return [outcomes[index] for index in range(len(runs))]


def _trained(requests: Sequence[Request]) -> list[FitResult | Exception]:
    """The trainings that runs ask for, together; where that fails, each by itself, so that one does not fail others."""
    try:
        return fit_requests(requests)
    except Exception as error:
        if len(requests) == 1:
            return [error]
        log.warning("training %d runs together failed (%s: %s): each alone", len(requests), type(error).__name__, error)
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return [outcome for request in requests for outcome in _trained([request])]


def alike(one: RunConfig, other: RunConfig) -> bool:
    """Whether two runs can be trained in lockstep: what may differ are seed, kernel and selection."""
    keys = ("scenario", "dataset", "model", "training", "batch_size", "device", "precision")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


Cycle = Generator[Request, FitResult | None, RunRecord]
"""A run in progress: asks for a training and is sent the result (None to start it)."""


@dataclass(frozen=True)
class _Shared:
    """Datasets, and builders of geometries, once for all runs of a pack that they serve."""

    datasets: dict[str, Structures]
    builders: dict[str, GeometryBuilder]

    def data(self, run: RunConfig) -> Structures:
        """Load the dataset of a run. Raises UserError."""
        key = repr(sorted(run.dataset.items()))
        if key not in self.datasets:
            self.datasets[key] = plugin(run.dataset, "dataset").load()
        return self.datasets[key]

    def builder(self, run: RunConfig, data: Structures) -> GeometryBuilder:
        """The builder for the model of a run."""
        settings = run.model.r_max, run.model.r_min, run.model.n_gaussians, run.precision, run.device
        key = repr((data.checksum, settings))
        if key not in self.builders:
            self.builders[key] = GeometryBuilder(
                data,
                find_neighbours(data, run.model.r_max),
                run.model.r_min,
                run.model.n_gaussians,
                getattr(torch, run.precision),
                torch.device(run.device),
            )
        return self.builders[key]


def _recorded(run: RunConfig, shared: _Shared, held: contextlib.ExitStack | None) -> Cycle:
    """One run from opening its record to its end; a failure is recorded. `held` keeps its lock."""
    kernel, selection = check(run)
    data = shared.data(run)
    if run.training.forces and data.forces is None:
        raise UserError(f"dataset {data.name} has no forces, but training.force_weight > 0: choose training=energies")
    split = draw_split(data, run.scenario, run.seed)
    identity = run.identity(data.checksum)
    folder = run_folder(run.results, identity)
    make_folder(folder)
    if held is not None:
        held.enter_context(locked(folder / LOCK, wait=False))
    record = RunRecord.open(folder, identity, run.deviations)
    if record.done:
        log.info("run %s is done: %s", folder.name, folder)
        return record
    record.content["sessions"].append(provenance(run.device) | {"first_step": len(record.steps)})
    record.save_arrays(SPLIT, vars(split))
    record.save(status="running")
    try:
        yield from _cycle(run, record, shared.builder(run, data), split, kernel, selection)
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
) -> Generator[Request, FitResult | None, None]:
    """The paper's loop; each pass adds one row to the record."""
    labelled = np.concatenate([split.initial, *(np.array(step["picked"], dtype=np.int64) for step in record.steps)])
    checkpoint = Checkpoint(record.folder / TRAINING, run.checkpoint_seconds)
    while True:
        fitted = yield Request(run, builder, labelled, split, kernel.members, checkpoint)
        if fitted is None:
            raise ValueError("a run goes on with the result of its training")
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
            "models_in_lockstep": fitted.lockstep,
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
