"""The active-learning cycle: train, measure, select, label, until the training set has its final size."""

import contextlib
import logging
import time
from collections.abc import Generator
from typing import Any

import numpy as np
from jaxtyping import Int

from bench.config.schema import RunConfig
from bench.config.seeds import stream
from bench.errors import WriteError
from bench.kernels.base import Kernel, KernelInputs, PreparedKernel, prepare
from bench.learning.ends import add_correlations, complete, save_end, saved_model
from bench.learning.first_batch import with_first_batch
from bench.learning.opened import Opened, Shared, begin_session, open_run, outside_sources
from bench.runs.provenance import peak_memory_mb
from bench.runs.record import TRAINING, RunRecord, describe
from bench.runs.record_schema import MEASURES, QUANTITIES, Metrics, Step
from bench.runs.stopping import exits_are_errors, raise_if_asked
from bench.selection.base import check_embedding, check_picks, check_uncertainty
from bench.training.checkpoint import Checkpoint
from bench.training.evaluate import correlations, structure_errors, summarise
from bench.training.fit import FitResult
from bench.training.shared import Request, trained

log = logging.getLogger(__name__)
Cycle = Generator[Request, FitResult | None, RunRecord]
"""A run in progress: asks for a training and is sent the result (None to start it)."""


def run_active_learning(run: RunConfig) -> RunRecord:
    """Do one run, or what is left of it, and return its record.

    Raises BusyError if another process is running it, Stopped after a signal.
    """
    with contextlib.ExitStack() as held:
        cycle = cycle_of(run, Shared(), held)
        fitted: FitResult | Exception | None = None
        try:
            while True:
                (fitted,) = trained([answer(cycle, fitted)])
        except StopIteration as end:
            record: RunRecord = end.value
            return record


def answer(cycle: Cycle, fitted: FitResult | Exception | None) -> Request:
    """Have a run go on until it needs a training again. Raises StopIteration with its record at its end."""
    return cycle.throw(fitted) if isinstance(fitted, Exception) else cycle.send(fitted)


def cycle_of(run: RunConfig, shared: Shared, held: contextlib.ExitStack | None) -> Cycle:
    """One run from opening its record to its end; a failure is recorded. `held` keeps its lock."""
    with exits_are_errors():
        opened = with_first_batch(open_run(run, shared, held))
    record = opened.record
    if record.done:
        outside_sources(run, record.content)  # a class that has changed since is told
        complete(opened)
        return record
    begin_session(opened)
    try:
        with exits_are_errors():
            yield from _steps(opened)
    except WriteError:
        raise
    except Exception as error:
        record.fail(*describe(error))
        raise
    return record


def _steps(opened: Opened) -> Generator[Request, FitResult | None, None]:
    """The paper's loop; each pass adds one step to the record, or picks where an earlier run ended."""
    run, record, view, kernel = opened.config, opened.record, opened.view, opened.kernel
    labelled, final = opened.split.initial, run.scenario.final
    checkpoint = Checkpoint(record.folder / TRAINING, run.checkpoint_seconds)
    while True:
        n_train = len(labelled)
        step = record.content.step(n_train)
        picked = (step and step.picked) or []
        wanted = min(run.batch_size, final - n_train)
        if len(picked) >= wanted > 0:
            labelled = np.concatenate([labelled, np.array(picked[:wanted], dtype=np.int64)])
            continue
        request = Request(run, view, labelled, opened.split, kernel.members, checkpoint)
        if step is None:
            fitted = yield from _training(request)
            if fitted.differs:
                log.warning("run %s goes on from elsewhere: %s", record.folder.name, "; ".join(fitted.differs))
                record.content.sessions[-1].differs += fitted.differs
            step, prepared, spent = _measure(opened, fitted, labelled)
        else:
            potential = saved_model(opened, n_train)
            how = "from its model" if potential else "its model is not kept and is trained again"
            log.info("run %s goes on from its end at %d structures: %s", record.folder.name, n_train, how)
            if potential is None:
                potential = (yield from _training(request)).potential
            prepared, spent = _prepared(kernel, KernelInputs(potential, view, labelled, run.seed))
        if n_train < final:
            selected = _select(opened, prepared, labelled)
            selected |= {name: selected[name] + seconds for name, seconds in spent.items()}
            step = step.model_copy(update=selected)
        record.add(step.model_copy(update=peak_memory_mb(run.device)))
        record.save(status="done" if n_train == final else "running")
        checkpoint.remove()
        _tell(run, step)
        if n_train == final:
            return


def _training(request: Request) -> Generator[Request, FitResult | None, FitResult]:
    """Ask for a training and wait for its result."""
    fitted = yield request
    if fitted is None:
        raise ValueError("a run goes on with the result of its training")
    raise_if_asked()  # after a signal in the last moment of a training, or where Python swallows what a handler raises
    return fitted


def _measure(
    opened: Opened, fitted: FitResult, labelled: Int[np.ndarray, " labelled"]
) -> tuple[Step, PreparedKernel, dict[str, float]]:
    """The step of a trained model: errors and correlations on the test set; its kernel, and the seconds of that."""
    run, record, kernel = opened.config, opened.record, opened.kernel
    started = time.perf_counter()
    errors = structure_errors(fitted.potential, opened.view, opened.split.test, forces=run.training.forces)
    seconds_evaluation = time.perf_counter() - started
    inputs = KernelInputs(fitted.potential, opened.view, labelled, run.seed)
    prepared, spent = _prepared(kernel, inputs)
    own = prepared.uncertainty(errors)
    check_uncertainty(own, errors.structures, kernel.name)
    uncertainties = {} if own is None else {kernel.name: own}
    step = Step(
        n_train=len(labelled),
        session=len(record.content.sessions) - 1,
        energy_scale_eV=fitted.scaling.scale,
        best_epochs=fitted.best_epochs,
        validation_eV=fitted.validation.min(0).tolist(),
        metrics=summarise(errors),
        correlations={name: correlations(values, errors) for name, values in uncertainties.items()},
        models_in_lockstep=fitted.lockstep,
        seconds_training=fitted.seconds,
        seconds_validation=fitted.validation_seconds,
        processor_seconds_training=fitted.processor_seconds,
        seconds_evaluation=seconds_evaluation,
    ).model_copy(update=spent)
    if len(labelled) == run.scenario.final:
        uncertainties |= add_correlations(step, opened.final_kernels, inputs, errors)
        save_end(opened, fitted.potential, labelled, errors, uncertainties)
    return step, prepared, spent


def _prepared(kernel: Kernel, inputs: KernelInputs) -> tuple[PreparedKernel, dict[str, float]]:
    """A kernel fixed to trained models, and the seconds that took."""
    started = _clocks()
    return prepare(kernel, inputs), _spent("features", started, _clocks())


def _clocks() -> tuple[float, float]:
    """Seconds on the wall, and seconds of this process on all its processors."""
    return time.perf_counter(), time.process_time()


def _spent(part: str, started: tuple[float, float], ended: tuple[float, float]) -> dict[str, float]:
    wall, processor = (end - start for start, end in zip(started, ended, strict=True))
    return {f"seconds_{part}": wall, f"processor_seconds_{part}": processor}


def _select(opened: Opened, prepared: PreparedKernel, labelled: Int[np.ndarray, " labelled"]) -> dict[str, Any]:
    """Pick the next batch from what is left of the pool. Features include the posterior, selection does not."""
    run, selection = opened.config, opened.selection
    pool = np.setdiff1d(opened.split.pool, labelled, assume_unique=True)
    started = _clocks()
    embedding = prepared.embed(pool)
    check_embedding(embedding, pool, opened.kernel.name, len(labelled))
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
        "pool_labels_read": len(opened.split.pool) if opened.kernel.reads_pool_labels else 0,
    }


def _tell(run: RunConfig, step: Step) -> None:
    """A line about a step."""
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
