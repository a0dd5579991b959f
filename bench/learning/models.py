"""Trained potentials with what they were trained on: a finished run's, or trained here and kept by content."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from bench.config.identity import hash_of, identity_of
from bench.config.places import path_of
from bench.config.plugins import filed, name_plugins, plugin
from bench.config.schema import RunConfig
from bench.config.seeds import stream
from bench.config.sizes import MOST_VALIDATION
from bench.data.loaded import loaded
from bench.data.structures import Structures
from bench.errors import UserError
from bench.potentials.architecture import Architecture, check_precision
from bench.potentials.base import Potential, View
from bench.runs.locks import locked
from bench.runs.record import MODEL, RECORD, SPLIT, TRAINING, make_folder, read_arrays, read_record, remove_leftovers
from bench.training.checkpoint import Checkpoint
from bench.training.fit import Job, fit
from bench.training.store import load_potential, save_potential, trained_on

log = logging.getLogger(__name__)
FEWEST = 2
"""Labelled structures from which something can be trained and validated."""


@dataclass(frozen=True)
class Model:
    """A trained potential; `training` and `validation` are rows of `data`, the labelled structures.

    `file` is where it lies, `seen` what its training structures held (`bench.training.store.trained_on`), `seed` that
    of the draws it was trained by.
    """

    potential: Potential
    data: Structures
    training: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " valid"]
    seen: dict[str, Any]
    file: Path
    seed: int = 0

    @property
    def reference_energies(self) -> dict[int, float]:
        """The elements that it knows, with their energies in eV, by atomic number."""
        return self.data.reference_energies

    def view(self, data: Structures) -> View:
        """The potential's architecture on structures, in its precision and on its device."""
        precision, device = str(self.potential.dtype).removeprefix("torch."), str(self.potential.device)
        view: View = self.potential.architecture.on(data, precision, device)
        return view


def of_run(given: str | Path, device: str = "cpu") -> Model:
    """The model of a finished run, from its folder or its model.pt, with the structures that its record names.

    Raises UserError if the file is no model, or the run's data are not here or not the same.
    """
    path = path_of(given)
    folder = path if path.is_dir() else path.parent
    if not (folder / RECORD).is_file():
        raise UserError(f"{given} is no folder of a finished run (it has no {RECORD}): give results/runs/HASH")
    record = read_record(folder / RECORD)
    potential, _, seen = load_potential(folder / MODEL, device, record.files)
    split = read_arrays(folder / SPLIT, record.files)
    if split is None:
        raise UserError(f"{folder} has no {SPLIT}: run again what it is a record of")
    asked = record.configuration["dataset"]
    if "_target_" not in asked:  # an early record: a dataset of the project's own
        asked = filed("dataset").get(asked["name"], asked)
    data = loaded(asked)
    expected = record.identity["dataset"]["checksum"]
    if data.checksum != expected:
        raise UserError(
            f"dataset {data.name} has checksum {data.checksum[:12]}…, run {record.run_id} was trained on"
            f" {expected[:12]}…: give the structures as they were"
        )
    n_train = int(seen.get("n_train", record.finals[0]))
    labelled = np.concatenate([split["initial"], np.array(record.picked_before(n_train), dtype=np.int64)])
    seed = int(record.identity["seed"])
    return Model(potential, data, labelled, split["validation"], seen, folder / MODEL, seed)


def trained(run: RunConfig, data: Structures, members: int = 1) -> Model:
    """Train on labelled structures, or take what was trained on the same ones in the same way before.

    A tenth of them, drawn by the seed, is for validation (200 at most). Kept in `results`/models by content; a kill
    costs no more than `checkpoint_seconds`. Raises UserError, Stopped after a signal.
    """
    name_plugins(run.plugins)
    if len(data) < FEWEST:
        raise UserError(f"{len(data)} labelled structures: give at least {FEWEST}, one of them is for validation")
    if run.training.forces and data.forces is None:
        raise UserError("the labelled structures have no forces: choose training=energies")
    order = stream(run.seed, "split").permutation(len(data))
    n_validation = max(1, min(MOST_VALIDATION, len(data) // 10))
    validation, training = np.sort(order[:n_validation]), np.sort(order[n_validation:])
    identity = identity_of(run, data.checksum)
    kept = {key: identity[key] for key in ("dataset", "model", "training", "seed", "precision") if key in identity}
    folder = Path(run.results) / "models" / hash_of(kept | {"members": members, "validation": n_validation})
    path = folder / MODEL
    make_folder(folder)
    with locked(folder / "model.lock", wait=True, at_work="trains this model"):
        remove_leftovers(folder, "*")
        there = path.exists()
        if not there:
            architecture: Architecture = plugin(run.model, "model")
            check_precision(architecture, run.precision)
            view = architecture.on(data, run.precision, run.device)
            view.make_ready(run.training.force_weight)
            checkpoint = Checkpoint(folder / TRAINING, run.checkpoint_seconds)
            fitted = fit(view, run.training, Job(training, validation, run.seed, members, checkpoint))
            best = fitted.validation.min(0).tolist()
            extra = {"n_train": len(training), "validation_eV": best} | trained_on(view, training)
            save_potential(path, fitted.potential, data.reference_energies, extra)
            checkpoint.remove()
    source = f"taken from {path}" if there else path
    log.info(
        "model trained on %d of %d labelled structures, %d validate it: %s",
        len(training),
        len(data),
        n_validation,
        source,
    )
    potential, _, seen = load_potential(path, run.device)
    return Model(potential, data, training, validation, seen, path, run.seed)


def digest_of(model: Model) -> str:
    """SHA-256 of a model's file."""
    return hashlib.sha256(model.file.read_bytes()).hexdigest()
