"""The uncertainty of a finished run's model, kept beside it: made from the record and its data when first asked for."""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config import versions
from bench.errors import UserError, WriteError
from bench.kernels.posterior import Posterior
from bench.learning.models import Model, of_run
from bench.potentials.base import Potential
from bench.runs.record import read_arrays, write_atomically
from bench.uncertainty.calibration import Calibration
from bench.uncertainty.estimate import KERNELS, Uncertainty, check_method, fit_uncertainty

log = logging.getLogger(__name__)
VERSION = 1
"""Raised when what is kept changes its form or its meaning: it is then made again."""


def file_beside(model: Path, method: str) -> Path:
    """Where the uncertainty of a model file is kept."""
    return model.with_name(f"{model.stem}.{method}.npz")


def of_file(path: Path, potential: Potential, method: str, *, calibrated: bool = True) -> Uncertainty:
    """The uncertainty of a model file: what is kept beside it, or fitted to the structures that its run's record names.

    Raises UserError where that takes a record or data that are not there. A committee that is not to be calibrated
    needs neither.
    """
    check_method(method, potential)
    found = _read(path, method, potential.device)
    if found is None and method == "committee" and not calibrated:
        return Uncertainty(method, 0, 0, None)
    if found is None:
        try:
            model = of_run(path, str(potential.device))
        except UserError as error:
            raise UserError(
                f"uncertainty {method} of {path} needs the run and its data once ({error}); or copy"
                f" {file_beside(path, method).name} to it from where it was made"
            ) from None
        if model.file.resolve() != path.resolve():
            raise UserError(
                f"uncertainty {method} of {path}: the model of its run is {model.file.name}: give that file"
            )
        found = _fitted(model, method)
    if calibrated and found.energy is None:
        raise UserError(
            f"uncertainty of {path}: nothing is known of its errors, for it was fitted without validation structures:"
            " give calibrated=False"
        )
    return found


def of_model(model: Model, method: str) -> Uncertainty:
    """The uncertainty of a model that is at hand with its structures: what is kept beside it, or fitted and kept.

    Raises UserError for a method that it does not serve.
    """
    check_method(method, model.potential)
    return _read(model.file, method, model.potential.device) or _fitted(model, method)


def _fitted(model: Model, method: str) -> Uncertainty:
    log.info("uncertainty %s of %s: fitted to %d structures", method, model.file, len(model.training))
    view = model.view(model.data)
    found = fit_uncertainty(method, model.potential, view, model.training, model.validation, model.seed)
    try:
        keep(model.file, found)
    except WriteError as error:
        log.warning("the uncertainty of %s is not kept, and will be fitted again: %s", model.file, error)
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
