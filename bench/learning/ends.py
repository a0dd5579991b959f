"""What is kept at an end of a run, and how it is used when the run goes on or is asked for more."""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from bench.errors import UserError
from bench.kernels.base import Kernel, KernelInputs, prepare
from bench.learning.opened import Opened, facts_of
from bench.potentials.base import Potential
from bench.runs.record import MODEL, end_file, read_arrays
from bench.runs.record_schema import Step
from bench.selection.base import check_uncertainty
from bench.training.evaluate import StructureErrors, correlations, structure_errors
from bench.training.store import as_file, load_potential, trained_on

log = logging.getLogger(__name__)
Uncertainties = dict[str, Float[np.ndarray, " structures"]]


def add_correlations(
    step: Step, kernels: Sequence[Kernel], inputs: KernelInputs, errors: StructureErrors
) -> Uncertainties:
    """Add the correlations of kernels that a step lacks; returns their uncertainties."""
    added: Uncertainties = {}
    for kernel in kernels:
        if kernel.name not in step.correlations:
            values = prepare(kernel, inputs).uncertainty(errors)
            check_uncertainty(values, errors.structures, kernel.name)
            if values is not None:
                added[kernel.name] = values
    step.correlations = step.correlations | {name: correlations(values, errors) for name, values in added.items()}
    return added


def save_end(
    opened: Opened,
    potential: Potential,
    labelled: Int[np.ndarray, " labelled"],
    errors: StructureErrors,
    uncertainties: Uncertainties,
) -> None:
    """Keep the test errors per structure (float32, eV and eV/Å, mean over members), uncertainties and the model.

    The model of a smaller end does not replace that of a larger one.
    """
    record, n_train = opened.record, len(labelled)
    record.save_arrays(end_file(n_train), _per_structure(errors, uncertainties))
    if n_train >= max((step.n_train for step in record.steps if step.picked is None), default=0):
        extra = {"n_train": n_train} | trained_on(opened.view, labelled)
        record.save_file(MODEL, as_file(potential, opened.data.reference_energies, extra))


def _per_structure(errors: StructureErrors, uncertainties: Uncertainties) -> dict[str, np.ndarray]:
    arrays = {"structure": errors.structures, "energy_error_eV": errors.energy.mean(0).astype(np.float32)}
    if errors.force is not None:
        arrays["force_error_eV_A"] = errors.force.mae.mean(0).astype(np.float32)
    for name, values in uncertainties.items():
        arrays[f"uncertainty {name}"] = values.astype(np.float32)
    return arrays


def saved_model(opened: Opened, n_train: int) -> Potential | None:
    """The model of an end that was reached earlier, if it is still here."""
    record = opened.record
    path = record.folder / MODEL
    if not path.exists():
        return None
    try:
        potential, _, extra = load_potential(path, opened.config.device, record.content.files)
    except UserError as error:
        log.warning("%s", error)
        return None
    # models kept before ends had files of their own are those of the only end
    return potential if extra.get("n_train", record.content.finals[0]) == n_train else None


def complete(opened: Opened) -> None:
    """Add what `final_kernels` asks for and the end of a finished run lacks, from its model; say so if that is gone."""
    run, record, n_train = opened.config, opened.record, opened.config.scenario.final
    log.info("run %s is done: %s", record.folder.name, record.folder)
    damaged = record.damaged_files()
    for error in damaged:
        log.warning("%s", error)
    step = record.content.step(n_train)
    missing = [one for one in opened.final_kernels if one.uncertainty_of and step and one.name not in step.correlations]
    if damaged or step is None or not missing:
        return
    names = ", ".join(one.name for one in missing)
    potential = saved_model(opened, n_train)
    if potential is None:
        log.warning("run %s: no correlations of %s, for its model is not kept", record.folder.name, names)
        return
    errors = structure_errors(potential, opened.view, opened.split.test, forces=run.training.forces)
    picked = np.array(record.content.picked_before(n_train), dtype=np.int64)
    labelled = np.concatenate([opened.split.initial, picked])
    step = step.model_copy()
    added = add_correlations(step, missing, KernelInputs(potential, opened.view, labelled, run.seed), errors)
    path = record.folder / end_file(n_train)
    arrays = read_arrays(path, record.content.files) or {}
    record.save_arrays(path.name, _per_structure(errors, added) | arrays)
    record.content.kernels |= {one.name: facts_of(one) for one in missing}
    record.add(step)
    record.save()
    log.info("run %s: correlations of %s added from its model", record.folder.name, names)
