"""The active-learning cycle: train, measure, select, label, until the training set has its final size."""

import contextlib
import logging
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from bench.config.identity import identity_of
from bench.config.plugins import load_dataset, offers, outside_source, plugin
from bench.config.schema import RunConfig
from bench.config.seeds import stream
from bench.data.duplicates import first_copies
from bench.data.split import Split, draw_split
from bench.data.structures import Structures
from bench.errors import UserError, WriteError
from bench.kernels.base import Kernel, KernelInputs, PreparedKernel
from bench.potentials.architecture import Architecture
from bench.potentials.base import Potential, View
from bench.runs.locks import locked
from bench.runs.provenance import peak_memory_mb, provenance
from bench.runs.record import (
    LOCK,
    MODEL,
    SPLIT,
    TRAINING,
    RunRecord,
    describe,
    end_file,
    make_folder,
    read_arrays,
    run_folder,
)
from bench.runs.record_schema import MEASURES, QUANTITIES, KernelFacts, Metrics, Record, Session, Step
from bench.runs.stopping import raise_if_asked
from bench.selection.base import Selection, check_embedding, check_picks
from bench.selection.pairs import check
from bench.training.checkpoint import Checkpoint
from bench.training.evaluate import StructureErrors, correlations, structure_errors, summarise
from bench.training.fit import FitResult
from bench.training.ready import make_ready
from bench.training.shared import Request, fit_requests
from bench.training.store import as_file, load_potential, trained_on

log = logging.getLogger(__name__)


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
    """Datasets, and views of models on them, once for all runs of a pack that they serve."""

    datasets: dict[str, Structures]
    views: dict[str, View]

    def data(self, run: RunConfig) -> Structures:
        """Load the dataset of a run. Raises UserError."""
        key = repr(sorted(run.dataset.items()))
        if key not in self.datasets:
            self.datasets[key] = load_dataset(run.dataset)
        return self.datasets[key]

    def view(self, run: RunConfig, data: Structures) -> View:
        """The view of the run's model on its data."""
        key = repr((data.checksum, run.model, run.precision, run.device))
        if key not in self.views:
            architecture: Architecture = plugin(run.model, "model")
            self.views[key] = architecture.on(data, run.precision, run.device)
            make_ready(self.views[key], run.training)
        return self.views[key]


def _recorded(run: RunConfig, shared: _Shared, held: contextlib.ExitStack | None) -> Cycle:
    """One run from opening its record to its end; a failure is recorded. `held` keeps its lock."""
    check(run)
    kernel: Kernel = plugin(run.kernel, "kernel")
    selection: Selection = plugin(run.selection, "selection")
    data = shared.data(run)
    if run.training.forces and data.forces is None:
        found = f"give dataset.forces_key={data.like_forces[0]}, or " if data.like_forces else ""
        raise UserError(
            f"dataset {data.name} has no forces, but training.force_weight > 0: {found}choose training=energies"
        )
    split = draw_split(data, run.scenario, run.seed)
    _tell_copies(data, split)
    identity = identity_of(run, data.checksum)
    folder = run_folder(run.results, identity)
    make_folder(folder)
    if held is not None:
        held.enter_context(locked(folder / LOCK, wait=False))
    record = RunRecord.open(folder, run, identity)
    final_kernels: list[Kernel] = [
        offers(plugin(one, "final_kernels"), Kernel, "final_kernels") for one in run.final_kernels
    ]
    if record.done:
        log.info("run %s is done: %s", folder.name, folder)
        damaged = record.damaged_files()
        for error in damaged:
            log.warning("%s", error)
        if not damaged:
            _complete(run, record, shared, data, split, final_kernels)
        return record
    sources = outside_sources(run, record.content)
    session = Session(**provenance(run.device), sources=sources, first_step=len(record.steps))
    if record.content.sessions and (record.steps or (folder / TRAINING).exists()):
        session.differs = session.differences(record.content.sessions[-1])
        if session.differs:
            log.warning("run %s goes on elsewhere: %s", folder.name, "; ".join(session.differs))
    record.content.sessions = [*record.content.sessions, session]
    record.content.kernels |= {one.name: facts_of(one) for one in (*final_kernels, kernel)}
    record.save_arrays(SPLIT, vars(split))
    record.save(status="running")
    try:
        yield from _cycle(run, record, shared.view(run, data), split, kernel, selection, final_kernels)
    except WriteError:
        raise
    except Exception as error:
        record.fail(*describe(error))
        raise
    return record


def facts_of(kernel: Kernel) -> KernelFacts:
    """What a kernel states of itself, for its record."""
    return KernelFacts(
        members=kernel.members,
        uncertainty=kernel.uncertainty_of,
        baseline=kernel.baseline,
        reads_pool_labels=kernel.reads_pool_labels,
    )


def outside_sources(run: RunConfig, content: Record) -> dict[str, dict[str, Any]]:
    """Where classes from outside the project come from. Raises UserError if the record's are others of one name."""
    parts = {"dataset": run.dataset, "model": run.model, "kernel": run.kernel, "selection": run.selection}
    found = {group: source for group, part in parts.items() if (source := outside_source(part, group))}
    for group, source in found.items():
        earlier = next((s.sources[group] for s in reversed(content.sessions) if group in s.sources), source)
        if earlier["sha256"] == source["sha256"]:
            continue
        if earlier["class"].rpartition(".")[2] != source["class"].rpartition(".")[2]:
            raise UserError(
                f"{group}.name = {source['name']!r} belongs to {earlier['class']} in run {content.run_id}: give"
                f" {source['class']} a name of its own"
            )
        log.warning(
            "the source of %s has changed since run %s began; if its results have, raise its version",
            source["class"],
            content.run_id,
        )
    return found


def _tell_copies(data: Structures, split: Split) -> None:
    """Say how many test structures are copies of others; a prepared dataset is searched by `bench.data verify`."""
    if data.origin is None:
        first = first_copies(data)
        others = np.concatenate([split.initial, split.pool, split.validation])
        shared = int(np.isin(first[split.test], first[others]).sum())
        if shared:
            log.warning(
                "note: dataset %s: %d of %d test structures are copies of structures to train on or to validate with",
                data.name,
                shared,
                len(split.test),
            )


def _cycle(
    run: RunConfig,
    record: RunRecord,
    view: View,
    split: Split,
    kernel: Kernel,
    selection: Selection,
    final_kernels: Sequence[Kernel],
) -> Generator[Request, FitResult | None, None]:
    """The paper's loop; each pass adds one step to the record, or picks where an earlier run ended."""
    labelled, final = split.initial, run.scenario.final
    checkpoint = Checkpoint(record.folder / TRAINING, run.checkpoint_seconds)
    while True:
        n_train = len(labelled)
        step = record.content.step(n_train)
        picked = (step and step.picked) or []
        wanted = min(run.batch_size, final - n_train)
        if len(picked) >= wanted > 0:
            labelled = np.concatenate([labelled, np.array(picked[:wanted], dtype=np.int64)])
            continue
        request = Request(run, view, labelled, split, kernel.members, checkpoint)
        if step is None:
            fitted = yield from _training(request)
            if fitted.differs:
                log.warning("run %s goes on from elsewhere: %s", record.folder.name, "; ".join(fitted.differs))
                record.content.sessions[-1].differs += fitted.differs
            started = time.perf_counter()
            errors = structure_errors(fitted.potential, view, split.test, forces=run.training.forces)
            seconds_evaluation = time.perf_counter() - started
            inputs = KernelInputs(fitted.potential, view, labelled, run.seed)
            prepared, spent = _prepared(kernel, inputs)
            own = prepared.uncertainty(errors)
            known = {} if own is None else {kernel.name: own}
            step = Step(
                n_train=n_train,
                session=len(record.content.sessions) - 1,
                energy_scale_eV=fitted.scaling.scale,
                best_epochs=fitted.best_epochs,
                validation_eV=fitted.validation.min(0).tolist(),
                metrics=summarise(errors),
                correlations={name: correlations(values, errors) for name, values in known.items()},
                models_in_lockstep=fitted.lockstep,
                seconds_training=fitted.seconds,
                seconds_validation=fitted.validation_seconds,
                seconds_evaluation=seconds_evaluation,
            ).model_copy(update=spent)
            if n_train == final:
                known |= _add_correlations(step, final_kernels, inputs, errors)
                _save_end(record, view, fitted.potential, labelled, errors, known)
        else:
            potential = _saved_model(run, record, n_train)
            how = "from its model" if potential else "its model is not kept and is trained again"
            log.info("run %s goes on from its end at %d structures: %s", record.folder.name, n_train, how)
            if potential is None:
                potential = (yield from _training(request)).potential
            prepared, spent = _prepared(kernel, KernelInputs(potential, view, labelled, run.seed))
        if n_train < final:
            selected = _select(run, prepared, selection, split, labelled)
            selected |= {name: selected[name] + seconds for name, seconds in spent.items()}
            selected["pool_labels_read"] = len(split.pool) if kernel.reads_pool_labels else 0
            step = step.model_copy(update=selected)
        record.add(step.model_copy(update=peak_memory_mb(run.device)))
        record.save(status="done" if n_train == final else "running")
        checkpoint.remove()
        _report(run, step)
        if n_train == final:
            return


def _training(request: Request) -> Generator[Request, FitResult | None, FitResult]:
    """Ask for a training and wait for its result."""
    fitted = yield request
    if fitted is None:
        raise ValueError("a run goes on with the result of its training")
    raise_if_asked()  # after a signal in the last moment of a training, or where Python swallows what a handler raises
    return fitted


def _prepared(kernel: Kernel, inputs: KernelInputs) -> tuple[PreparedKernel, dict[str, float]]:
    """A kernel fixed to trained models, and the seconds that took."""
    started = _clocks()
    return kernel.prepare(inputs), _spent("features", started, _clocks())


def _clocks() -> tuple[float, float]:
    """Seconds on the wall, and seconds of this process on all its processors."""
    return time.perf_counter(), time.process_time()


def _spent(part: str, started: tuple[float, float], ended: tuple[float, float]) -> dict[str, float]:
    wall, processor = (end - start for start, end in zip(started, ended, strict=True))
    return {f"seconds_{part}": wall, f"processor_seconds_{part}": processor}


def _select(
    run: RunConfig,
    prepared: PreparedKernel,
    selection: Selection,
    split: Split,
    labelled: Int[np.ndarray, " labelled"],
) -> dict[str, Any]:
    """Pick the next batch from what is left of the pool. Features include the posterior, selection does not."""
    pool = np.setdiff1d(split.pool, labelled, assume_unique=True)
    started = _clocks()
    embedding = prepared.embed(pool)
    check_embedding(embedding, pool, run.kernel["name"])
    embedded = _clocks()
    generator = stream(run.seed, "deficit", n_train=len(labelled))
    batch_size = min(run.batch_size, len(pool))
    selected = selection.select(embedding, batch_size, generator)
    check_picks(selected, len(pool), batch_size, selection.name)
    return {
        "picked": pool[selected.rows].tolist(),
        "picked_at_random": selected.n_random,
        **_spent("features", started, embedded),
        **_spent("selection", embedded, _clocks()),
    }


Uncertainties = dict[str, Float[np.ndarray, " structures"]]


def _add_correlations(
    step: Step, kernels: Sequence[Kernel], inputs: KernelInputs, errors: StructureErrors
) -> Uncertainties:
    """Add the correlations of kernels that a step lacks; returns their uncertainties."""
    added: Uncertainties = {}
    for kernel in kernels:
        if kernel.name not in step.correlations:
            values = kernel.prepare(inputs).uncertainty(errors)
            if values is not None:
                added[kernel.name] = values
    step.correlations = step.correlations | {name: correlations(values, errors) for name, values in added.items()}
    return added


def _save_end(
    record: RunRecord,
    view: View,
    potential: Potential,
    labelled: Int[np.ndarray, " labelled"],
    errors: StructureErrors,
    uncertainties: Uncertainties,
) -> None:
    """Keep the test errors per structure (float32, eV and eV/Å, mean over members), uncertainties and the model.

    The model of a smaller end does not replace that of a larger one.
    """
    n_train = len(labelled)
    record.save_arrays(end_file(n_train), _per_structure(errors, uncertainties))
    if n_train >= max((step.n_train for step in record.steps if step.picked is None), default=0):
        extra = {"n_train": n_train} | trained_on(view, labelled)
        record.save_file(MODEL, as_file(potential, view.data.reference_energies, extra))


def _per_structure(errors: StructureErrors, uncertainties: Uncertainties) -> dict[str, np.ndarray]:
    arrays = {"structure": errors.structures, "energy_error_eV": errors.energy.mean(0).astype(np.float32)}
    if errors.force is not None:
        arrays["force_error_eV_A"] = errors.force.mae.mean(0).astype(np.float32)
    for name, values in uncertainties.items():
        arrays[f"uncertainty {name}"] = values.astype(np.float32)
    return arrays


def _saved_model(run: RunConfig, record: RunRecord, n_train: int) -> Potential | None:
    """The model of an end that was reached earlier, if it is still here."""
    path = record.folder / MODEL
    if not path.exists():
        return None
    try:
        potential, _, extra = load_potential(path, run.device, record.content.files)
    except UserError as error:
        log.warning("%s", error)
        return None
    # models kept before ends had files of their own are those of the only end
    return potential if extra.get("n_train", record.content.finals[0]) == n_train else None


def _complete(
    run: RunConfig, record: RunRecord, shared: _Shared, data: Structures, split: Split, final_kernels: Sequence[Kernel]
) -> None:
    """Add what `final_kernels` asks for and the end of a finished run lacks, from its model; say so if that is gone."""
    n_train = run.scenario.final
    step = record.content.step(n_train)
    missing = [one for one in final_kernels if one.uncertainty_of and step and one.name not in step.correlations]
    if step is None or not missing:
        return
    names = ", ".join(one.name for one in missing)
    potential = _saved_model(run, record, n_train)
    if potential is None:
        log.warning("run %s: no correlations of %s, for its model is not kept", record.folder.name, names)
        return
    view = shared.view(run, data)
    errors = structure_errors(potential, view, split.test, forces=run.training.forces)
    labelled = split.initial
    for one in record.content.path(n_train):
        picked = np.array((one.picked or [])[: n_train - len(labelled)], dtype=np.int64)
        labelled = np.concatenate([labelled, picked])
    step = step.model_copy()
    added = _add_correlations(step, missing, KernelInputs(potential, view, labelled, run.seed), errors)
    path = record.folder / end_file(n_train)
    arrays = read_arrays(path, record.content.files) or {}
    record.save_arrays(path.name, _per_structure(errors, added) | arrays)
    record.content.kernels |= {one.name: facts_of(one) for one in missing}
    record.add(step)
    record.save()
    log.info("run %s: correlations of %s added from its model", record.folder.name, names)


def _report(run: RunConfig, step: Step) -> None:
    metrics = step.metrics.given()
    quantity = "force" if "force_mae_kcal_mol_A" in metrics else "energy"
    errors = ", ".join(f"{m.upper()} {metrics[f'{quantity}_{m}_{QUANTITIES[quantity]}']:.2f}" for m in MEASURES)
    log.info(
        "%s, %s + %s, seed %d, N_train %d: %s %s %s; training %.1f s, features %.1f s, selection %.2f s",
        run.scenario.name,
        run.selection["name"],
        run.kernel["name"],
        run.seed,
        step.n_train,
        quantity,
        errors,
        Metrics.columns()[f"{quantity}_mae_{QUANTITIES[quantity]}"].unit,
        step.seconds_training,
        step.seconds_features or 0.0,
        step.seconds_selection or 0.0,
    )
