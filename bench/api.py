"""Training, features, selection and uncertainty from Python, on ASE's atoms: what `bench.select` does, in four calls.

from bench import api

model = api.train(labelled)                     # ASE atoms with energies (eV) and forces (eV/Å)
batch = api.select(pool, 50, model=model)       # which of the pool to label next
pool[batch.rows[0]], batch.uncertainty          # rows in the order of picking
api.uncertainty(model, frames)                  # standard deviation of the energy in eV
api.features(model, frames)                     # what the selection works on
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float

from bench.config.files import parse
from bench.config.plugins import build, plugin
from bench.config.schema import RunConfig
from bench.data.datasets.file import FileDataset
from bench.data.formats.ase_files import check_current, of_frames
from bench.data.structures import Structures
from bench.errors import UserError
from bench.kernels.base import Kernel, KernelInputs, energy_deviation, prepare
from bench.learning.models import Model, of_run, trained
from bench.pools.embedded import remove
from bench.pools.frames import Frames, frames_of_atoms, joined_structures, read_frames
from bench.pools.guards import Guards, check_usable
from bench.pools.selecting import Batch, Known, Method, check_model, select_from
from bench.pools.words import configured
from bench.runs.device import prepare_device

Pool = Iterable[Any] | str | Path
"""ASE's atoms, or a file of structures."""


def load(run: str | Path, device: str = "cpu") -> Model:
    """The model of a finished run, from its folder or its model.pt. Raises UserError."""
    return _model(run, device)


def train(
    labelled: Pool,
    *,
    forces: bool = True,
    members: int = 1,
    seed: int = 0,
    words: Sequence[str] = (),
) -> Model:
    """Train a potential on ASE atoms, or on a file of them, with energies in eV (and forces in eV/Å), as ASE has them.

    `dataset.energy_unit=…` among `words` names another unit. A tenth of the structures (200 at most) is for validation.
    What was trained on the same structures in the same way before is taken from results/models. `words` set anything
    else as on a command line: `model=gmnn`, `training.epochs=200`, `results=FOLDER`,
    `dataset.reference_energies={H:-13.6,O:-2042.6}`. Raises UserError.
    """
    if isinstance(members, bool) or not isinstance(members, int | np.integer) or members < 1:
        raise UserError(f"members = {members!r}: give a whole number of models to train, at least 1")
    run = _configured([f"training={'forces' if forces else 'energies'}", f"seed={seed}", *words])
    for word, override in zip(words, parse(words), strict=True):
        if override.key_or_group == "dataset.path":
            raise UserError(f"words: the structures are those given: leave {word} out")
    dataset = plugin(run.dataset, "dataset")
    if not isinstance(dataset, FileDataset):
        raise UserError("words: the structures are those given: leave dataset=… out")
    if isinstance(labelled, str | Path):
        data = replace(dataset, path=str(labelled)).load()
    else:
        named = [(f"atoms:{i}", one) for i, one in enumerate(_atoms(labelled, "labelled"))]
        for label, one in named:
            check_current(one, label)
        data = replace(dataset, path="atoms").of(of_frames(named, dataset.energy_key, dataset.forces_key))
    return trained(run, data, int(members))


def features(
    model: Model | str | Path, atoms: Pool, kernel: str = "feat_ll", seed: int = 0
) -> Float[np.ndarray, "n features"]:
    """The features of structures by a kernel of conf/kernel that has some: feat_ll, feat_rp, gp_ll, gp_rp, descriptor.

    `seed` draws random projections, as that of `select` does. Raises UserError for a kernel without features.
    """
    found = _embedding(_model(model), atoms, kernel, seed).pool
    if found is None:
        raise UserError(f"kernel {kernel} has no features: choose feat_ll, feat_rp, gp_ll, gp_rp or descriptor")
    return found.cpu().numpy()


def uncertainty(model: Model | str | Path, atoms: Pool, kernel: str = "gp_ll") -> Float[np.ndarray, " n"]:
    """The standard deviation of the energies in eV by gp_ll, gp_rp or qbc_e, not calibrated.

    The calculator's uncalibrated ones are the same: random projections are drawn by the model's own seed. Raises
    UserError for a kernel that predicts none.
    """
    model = _model(model)
    values = energy_deviation(_kernel(kernel), _embedding(model, atoms, kernel, model.seed).diagonal)
    if values is None:
        raise UserError(f"kernel {kernel} predicts no uncertainty of energies: choose gp_ll, gp_rp or qbc_e")
    return values


def select(
    pool: Pool,
    n: int,
    *,
    model: Model | str | Path | None = None,
    labelled: Pool | None = None,
    pending: Pool | None = None,
    exclude: Pool | None = None,
    algorithm: str | None = None,
    guards: Guards | None = None,
    seed: int = 0,
    words: Sequence[str] = (),
) -> Batch:
    """Choose `n` structures of a pool without labels, aware of what is labelled and out for labelling.

    `algorithm` is one of conf/algorithm, by default lcmd_feat_ll; without a model LCMD on a fixed descriptor. With a
    model, or the folder of its run, `labelled` stands in for the structures that it was trained on. Raises UserError.
    """
    named = [] if algorithm is None else [f"algorithm={algorithm}"]
    run = _configured([*named, f"seed={seed}", *words], with_model=model is not None)
    model = None if model is None else _model(model, run.device)
    known = Known(*map(_structures, (labelled, pending, exclude)))
    if not isinstance(guards, Guards | None):
        raise UserError(f"guards = {guards!r}: give bench.pools.guards.Guards(…)")
    method = Method.of(run, build(Guards, vars(guards or Guards()), "guards."))
    batch = select_from(_frames(pool), n, method, model=model, known=known, folder=Path(run.results))
    remove(batch.kept)
    return batch


def _model(given: Any, device: str = "cpu") -> Model:
    """A model, that of a finished run where its folder is given. Raises UserError."""
    if isinstance(given, str | Path):
        return of_run(given, device)
    if not isinstance(given, Model):
        raise UserError(f"a model of type {type(given).__name__}: give api.load(FOLDER) or api.train(…)")
    return given


def _configured(words: Sequence[str], *, with_model: bool = True) -> RunConfig:
    """What words say; threads are the caller's own unless they say them. Raises UserError, also for want of a GPU."""
    run = configured(words, with_model=with_model)
    if run.threads or run.device != "cpu":
        prepare_device(replace(run, threads=run.threads or torch.get_num_threads()))
    return run


def _structures(given: Pool | None) -> Structures | None:
    """None for an empty list, too: what is out for labelling at first."""
    if given is not None and not isinstance(given, str | Path):
        given = list(_atoms(given, "atoms")) or None
    return None if given is None else _frames(given).data


def _frames(given: Pool) -> Frames:
    if isinstance(given, str | Path):
        return read_frames(str(given), "pool")
    return frames_of_atoms(_atoms(given, "atoms"))


def _atoms(given: Iterable[Any], what: str) -> Iterator[Any]:
    """ASE's atoms, one after the other: of a trajectory not all at once. Raises UserError where they are none."""
    if isinstance(given, Atoms) or not isinstance(given, Iterable):
        raise UserError(f"{what}: a single {type(given).__name__}: give a list of ase.Atoms")
    for place, one in enumerate(given):
        if not isinstance(one, Atoms):
            raise UserError(f"{what}:{place} is of type {type(one).__name__}: give a list of ase.Atoms")
        yield one


def _kernel(name: str) -> Kernel:
    kernel: Kernel = plugin(configured([f"kernel={name}", "selection=max_diag"]).kernel, "kernel")
    return kernel


def _embedding(model: Model, atoms: Pool, kernel: str, seed: int) -> Any:
    made = _kernel(kernel)
    check_model(made, model)
    labelled = model.data.part(model.training)
    frames = _frames(atoms)
    check_usable(frames, model.seen.get("elements") or model.reference_energies)
    pool = frames.with_references(model.reference_energies).data
    data = joined_structures([labelled, pool])
    known = np.arange(len(labelled))
    prepared = prepare(made, KernelInputs(model.potential, model.view(data), known, seed))
    return prepared.embed(np.arange(len(labelled), len(data)))
