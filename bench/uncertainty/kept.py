"""The uncertainty of a finished run's model, kept beside it: made from the record and its data when first asked for."""

import contextlib
import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config import versions
from bench.config.plugins import filed, load_dataset
from bench.data.structures import Structures
from bench.errors import UserError, WriteError
from bench.kernels.posterior import Posterior
from bench.potentials.base import Potential
from bench.runs.record import RECORD, SPLIT, read_arrays, read_validated, write_atomically
from bench.runs.record_schema import Record
from bench.uncertainty.calibration import Calibration
from bench.uncertainty.estimate import KERNELS, Uncertainty, check_method, fit_uncertainty

log = logging.getLogger(__name__)
VERSION = 1
"""Raised when what is kept changes its form or its meaning: it is then made again."""


def file_beside(model: Path, method: str) -> Path:
    """Where the uncertainty of a model file is kept."""
    return model.with_name(f"{model.stem}.{method}.npz")


def of_model(
    model: Path, potential: Potential, method: str, *, n_train: int | None = None, calibrated: bool = True
) -> Uncertainty:
    """Take what is kept beside a model file, or fit it as its run's record says and keep it.

    `n_train` is what the model file says of its training set (None: it is of the run's first end).

    Raises UserError where that takes a record or data that are not there. A committee that is not to be calibrated
    needs neither.
    """
    check_method(method, potential)
    found = _read(model, method, potential.device)
    if found is None and method == "committee" and not calibrated:
        return Uncertainty(method, 0, 0, None)
    if found is None:
        found = _fit(model, potential, method, n_train)
        with _told(model):
            keep(model, found)
    if calibrated and found.energy is None:
        raise UserError(
            f"uncertainty of {model}: nothing is known of its errors, for it was fitted without validation structures:"
            " give calibrated=False"
        )
    return found


def keep(model: Path, fitted: Uncertainty) -> None:
    """Write an uncertainty beside its model file. Raises WriteError."""
    arrays: dict[str, Any] = {"key": _key(model, fitted.method), "seed": fitted.seed, "n_train": fitted.n_train}
    if fitted.posterior is not None:
        arrays |= {"noise": fitted.posterior.noise, "factor": fitted.posterior.factor.cpu().numpy()}
    for name, calibration in (("energy", fitted.energy), ("force", fitted.force)):
        if calibration is not None:
            arrays[name] = calibration.ratios
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_atomically(file_beside(model, fitted.method), buffer.getvalue())


def _key(model: Path, method: str) -> str:
    """What an uncertainty belongs to: the content of a model's file, the method and its version."""
    kernel = versions.KERNELS.get(KERNELS.get(method, ""), 1)
    content = hashlib.sha256(model.read_bytes()).hexdigest()
    return f"{method} {VERSION}.{kernel} {content}"


def _read(model: Path, method: str, device: torch.device) -> Uncertainty | None:
    """What is kept, or None where nothing is, where it is of another model, or where it is damaged (which is said)."""
    path = file_beside(model, method)
    if not path.exists():
        return None
    try:
        arrays = read_arrays(path, {}) or {}
        if str(arrays["key"]) != _key(model, method):
            log.info("%s is of another model or version: it is made again", path)
            return None
        posterior = None
        if method in KERNELS:
            posterior = Posterior(float(arrays["noise"]), torch.from_numpy(arrays["factor"]).to(device))
        energy, force = (Calibration(arrays[name]) if name in arrays else None for name in ("energy", "force"))
        return Uncertainty(method, int(arrays["seed"]), int(arrays["n_train"]), posterior, energy, force)
    except (UserError, KeyError, TypeError, ValueError) as error:
        log.warning("%s is damaged (%s): it is made again", path, error)
        return None


@contextlib.contextmanager
def _told(model: Path) -> Any:
    """Say what cannot be kept, and go on."""
    try:
        yield
    except WriteError as error:
        log.warning("the uncertainty of %s is not kept, and will be fitted again: %s", model, error)


def _fit(model: Path, potential: Potential, method: str, n_train: int | None) -> Uncertainty:
    """Fit to the labelled structures of a run, as its record names them. Raises UserError."""
    record = _record(model, method)
    data = data_of(model, record, method)
    split = read_arrays(model.with_name(SPLIT), record.files)
    if split is None:
        raise UserError(f"uncertainty {method} of {model}: no {SPLIT} beside it, which says what it was trained on")
    picked = np.array(record.picked_before(n_train or record.finals[0]), dtype=np.int64)
    labelled = np.concatenate([split["initial"].astype(np.int64), picked])
    precision, device = str(potential.dtype).removeprefix("torch."), str(potential.device)
    view = potential.architecture.on(data, precision, device)
    log.info("uncertainty %s of %s: fitted to %d structures", method, model, len(labelled))
    validation = split["validation"].astype(np.int64)
    return fit_uncertainty(method, potential, view, labelled, validation, int(record.identity["seed"]))


def _record(model: Path, method: str) -> Record:
    path = model.with_name(RECORD)
    if not path.exists():
        raise UserError(
            f"uncertainty {method} of {model}: neither {file_beside(model, method).name} nor {RECORD} is beside it:"
            " give the model in the folder of its run, or fit with bench.uncertainty"
        )
    return read_validated(path)


def data_of(model: Path, record: Record, method: str) -> Structures:
    """The dataset of a run, if it is here and the same. Raises UserError."""
    asked, expected = record.configuration.get("dataset", {}), record.identity["dataset"]
    if "_target_" not in asked:  # an early record: a dataset of the project's own
        asked = filed("dataset").get(expected["name"])
    if asked is None:
        raise UserError(f"uncertainty {method} of {model}: its record does not say which data, for it is too old")
    try:
        data: Structures = load_dataset(asked)
    except UserError as error:
        raise UserError(
            f"uncertainty {method} of {model} needs the data of its run once, which are not here ({error}); or copy"
            f" {file_beside(model, method).name} from where it was made"
        ) from None
    if data.checksum != expected["checksum"]:
        raise UserError(
            f"uncertainty {method} of {model}: dataset {data.name} has checksum {data.checksum[:12]}…, the run had"
            f" {expected['checksum'][:12]}…: bring the data of the run back"
        )
    return data
