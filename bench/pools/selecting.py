"""Which structures to label next: guards, a kernel's values, a selection, and how well it covers the pool."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from bench.config.plugins import as_config, offers, plugin
from bench.config.schema import RunConfig
from bench.config.seeds import stream
from bench.data.structures import Structures
from bench.errors import UserError
from bench.kernels.base import Kernel, KernelInputs, PreparedKernel, energy_deviation, prepare
from bench.learning.models import Model, digest_of
from bench.pools.choosing import Chosen, choose
from bench.pools.coverage import Coverage, coverage
from bench.pools.embedded import BLOCK, embed
from bench.pools.frames import Frames, digest, joined_structures
from bench.pools.guards import FORCES, UNCERTAIN, Guards, Sieve, sift, usable
from bench.potentials.architecture import Architecture
from bench.potentials.base import Potential, View, chunks, untrained
from bench.selection.base import Selection
from bench.selection.pairs import without_distances

LABELLED, PENDING, EXCLUDED = "labelled already", "out for labelling", "excluded"


@dataclass(frozen=True)
class Known:
    """Structures that are not chosen again: labelled ones, those out for labelling (both are covered), excluded ones.

    `labelled` is None where the model's own training structures are meant.
    """

    labelled: Structures | None = None
    pending: Structures | None = None
    excluded: Structures | None = None


@dataclass(frozen=True)
class Method:
    """How to choose; `architecture`, precision and device are for kernels that need no trained model."""

    kernel: Kernel
    selection: Selection
    architecture: Architecture
    seed: int = 0
    guards: Guards = field(default_factory=Guards)
    precision: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse what does not go together, before anything is read or trained. Raises UserError."""
        if self.kernel.reads_pool_labels:
            raise UserError(f"kernel {self.kernel.name} reads the labels of the pool, which has none: choose another")
        if self.selection.needs_features and not self.kernel.has_features:
            raise UserError(without_distances(self.selection.name, self.kernel.name))

    @staticmethod
    def of(run: RunConfig, guards: Guards) -> "Method":
        """What words have chosen (`bench.pools.words`). Raises UserError."""
        return Method(
            offers(plugin(run.kernel, "kernel"), Kernel, "kernel"),
            offers(plugin(run.selection, "selection"), Selection, "selection"),
            offers(plugin(run.model, "model"), Architecture, "model"),
            run.seed,
            guards,
            run.precision,
            run.device,
        )


@dataclass(frozen=True)
class Batch:
    """What was chosen from a pool, and why; `uncertainty` in eV of all that could be chosen, None if none is known."""

    frames: Frames
    sieve: Sieve
    chosen: Chosen
    coverage: Coverage | None
    next_coverage: Coverage | None
    """That of these and of as many again, where they are the picks that come next; None of pools of several blocks."""
    uncertainty: Float[np.ndarray, " allowed"] | None
    known: int
    validating: int
    """Labelled structures that validate the model: not covered, and not chosen."""
    kept: Path
    """The folder of the features, if they were too many for memory: of use until the batch is written."""

    @property
    def rows(self) -> Int[np.ndarray, " picked"]:
        """Rows of the pool in the order of picking."""
        return self.chosen.rows


def select_from(
    frames: Frames,
    n: int,
    method: Method,
    *,
    model: Model | None,
    known: Known,
    folder: Path | None = None,
    at_most: bool = False,
) -> Batch:
    """Choose `n` structures of a pool, with `at_most` all that can be chosen where these are fewer.

    `folder` is where the features of a large pool are kept until they have served. Raises UserError naming what does
    not go together, what is missing, or why too few are left.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise UserError(f"n = {n!r}: give a whole number of structures to choose")
    if n < 1:
        raise UserError(f"n = {n}: choose at least 1 structure")
    kernel = method.kernel
    check_model(kernel, model)
    if method.guards.max_force is not None and model is None:
        raise UserError(
            "guards.max_force: only a trained model predicts forces: give model=RUN_FOLDER, or labelled=FILE and a"
            " kernel that trains on it (in Python model=api.train(labelled)), or leave it out"
        )
    others = _others(known, model)
    elements = model.seen.get("elements") if model is not None else None
    references = _references(frames, [one for _, one in others], model)
    frames = frames.with_references(references)
    sieve = sift(frames, elements or references, others, method.guards)
    sieve.check(n, at_most=at_most)
    covered = [
        replace(usable(one, elements or references, what), reference_energies=references)
        for what, one in ((LABELLED, known.labelled), (PENDING, known.pending))
        if one is not None
    ]
    if known.labelled is None and model is not None:
        covered.insert(0, model.data.part(model.training))
    candidates = sieve.rows
    pool = frames.data if sieve.allowed.all() else frames.data.part(candidates)
    whole = joined_structures([*covered, pool])
    n_known = len(whole) - len(pool)
    if covered and n_known == 0 and getattr(kernel, "posterior", False):
        raise UserError(
            f"kernel {kernel.name} needs labelled structures, and the model can describe none of those given: give"
            " others, or choose a FEAT kernel"
        )
    view, potential = _potential(whole, method, model)
    if method.guards.max_force is not None:
        _reject_forces(sieve, candidates, view, potential, method.guards.max_force)
    prepared = prepare(kernel, KernelInputs(potential, view, np.arange(n_known), method.seed))
    embedded = sieve.rows
    rows = n_known + np.flatnonzero(sieve.allowed[candidates])
    kept = _kept(folder, whole, rows, method, model)
    embedding = embed(prepared, rows, kernel.name, kept, n_known)
    uncertainty = energy_deviation(kernel, embedding.diagonal)
    if uncertainty is not None:
        _reject_uncertain(sieve, embedded, uncertainty, frames, method.guards)
    elif method.guards.max_uncertainty is not None:
        raise UserError(f"guards.max_uncertainty: kernel {kernel.name} predicts none of energies: choose GP or QBC(E)")
    generator = stream(method.seed, "deficit", n_train=n_known)
    chosen = choose(frames, sieve, embedded, embedding, n, method.selection, method.guards, generator, at_most=at_most)
    if uncertainty is not None:
        uncertainty = uncertainty[np.isin(embedded, chosen.among)]
    noise, further = _noise(prepared), _with_the_next(chosen, method.selection, generator)
    validating = 0 if model is None or known.labelled is not None else len(model.validation)
    covers = coverage(chosen.embedding, chosen.places, noise)
    next_covers = None if further is None else coverage(chosen.embedding, further, noise)
    return Batch(frames, sieve, chosen, covers, next_covers, uncertainty, n_known, validating, kept)


def check_left(frames: Frames, n: int, labelled: Structures, known: Known) -> None:
    """Refuse a pool that holds too few structures beside what is known, before a model is trained. Raises UserError."""
    others = _others(replace(known, labelled=labelled), None)
    sift(frames, labelled.reference_energies, others, Guards(), distances=False).check(n)


def _with_the_next(
    chosen: Chosen, selection: Selection, generator: np.random.Generator
) -> Int[np.ndarray, " picked"] | None:
    """The places of the picks and of as many again; None where a larger batch does not begin with this one.

    None, too, of a pool of several blocks, where selecting takes long, or too small a pool.
    """
    n, among = len(chosen.rows), len(chosen.among)
    if chosen.n_random or 2 * n > among or among > BLOCK:
        return None
    try:
        rows = selection.select(chosen.embedding, 2 * n, generator).rows
    except UserError:  # no more rank
        return None
    return rows if np.array_equal(rows[:n], chosen.places) else None


def check_model(kernel: Kernel, model: Model | None) -> None:
    """Refuse a model that the kernel cannot use, or none where it needs one. Raises UserError."""
    if not getattr(kernel, "needs_model", True):
        return
    if model is None:
        raise UserError(
            f"kernel {kernel.name} needs a trained model: give model=RUN_FOLDER or labelled=FILE (in Python"
            f" model=api.train({_training(kernel)})), or choose kernel=descriptor, chgnet, sevennet or soap"
        )
    if kernel.members > model.potential.n_models:
        raise UserError(
            f"kernel {kernel.name} needs a committee of {kernel.members} models, {model.file} holds"
            f" {model.potential.n_models}: give labelled=FILE, from which one is trained, without model= (in Python"
            f" model=api.train({_training(kernel)})), or another algorithm"
        )


def _training(kernel: Kernel) -> str:
    """What to call `bench.api.train` with for a kernel."""
    return f"labelled, members={kernel.members}" if kernel.members > 1 else "labelled"


def _others(known: Known, model: Model | None) -> Sequence[tuple[str, Structures]]:
    labelled = known.labelled
    if labelled is None and model is not None:
        labelled = model.data.part(np.concatenate([model.training, model.validation]))
    others = [(LABELLED, labelled), (PENDING, known.pending), (EXCLUDED, known.excluded)]
    return [(what, one) for what, one in others if one is not None]


def _references(frames: Frames, others: Sequence[Structures], model: Model | None) -> dict[int, float]:
    """The elements that there are: the model's, or all."""
    if model is not None:
        return model.reference_energies
    present = {z for one in (frames.data, *others) for z in np.unique(one.atomic_numbers).tolist() if z > 0}
    return dict.fromkeys(sorted(present), 0.0)


def _potential(data: Structures, method: Method, model: Model | None) -> tuple[View, Potential]:
    if model is not None:
        return model.view(data), model.potential
    view = method.architecture.on(data, method.precision, method.device)
    return view, untrained(view, method.seed)


def _reject_forces(
    sieve: Sieve, rows: Int[np.ndarray, " candidates"], view: View, potential: Potential, most: float
) -> None:
    """Keep out structures with a predicted force above `most` eV/Å on some atom, of any member.

    The candidates `rows` are the last structures of the view's data.
    """
    largest = np.empty(len(rows))
    places = np.arange(len(view.data) - len(rows), len(view.data))
    for part, inputs in chunks(view, places, forces=True, models=potential.n_models, what="forces of the pool"):
        _, forces = potential.predict(inputs, forces=True)
        if forces is None:
            raise UserError("guards.max_force: this model predicts no forces: leave it out")
        length = forces.double().norm(dim=1).cpu().numpy().reshape(potential.n_models, -1).max(0)
        n_atoms = view.data.n_atoms[places[part]]
        largest[part] = np.maximum.reduceat(length, np.cumsum(n_atoms) - n_atoms)
    sieve.reject(rows[~(largest <= most)], f"{FORCES} ({most:g} eV/Å)")


def _reject_uncertain(
    sieve: Sieve,
    rows: Int[np.ndarray, " embedded"],
    uncertainty: Float[np.ndarray, " embedded"],
    frames: Frames,
    guards: Guards,
) -> None:
    if guards.max_uncertainty is not None:
        beyond = uncertainty / frames.data.n_atoms[rows] > guards.max_uncertainty
        sieve.reject(rows[beyond], f"{UNCERTAIN} ({guards.max_uncertainty:g} eV per atom)")


def _noise(prepared: PreparedKernel) -> float | None:
    """σ² of a posterior kernel."""
    posterior = getattr(prepared, "posterior", None)
    return None if posterior is None else float(posterior.noise)


def _kept(
    folder: Path | None, data: Structures, rows: Int[np.ndarray, " embedded"], method: Method, model: Model | None
) -> Path:
    """The folder for the features of these structures by this kernel and model."""
    found = hashlib.sha256(digest(data).encode())
    found.update(rows.tobytes())
    said: dict[str, Any] = {
        "kernel": as_config(method.kernel),
        "architecture": as_config(method.architecture),
        "model": None if model is None else digest_of(model),
        "seed": method.seed,
        "precision": method.precision,
    }
    found.update(json.dumps(said, sort_keys=True).encode())
    return (folder or Path("results")) / "pools" / found.hexdigest()[:16]
