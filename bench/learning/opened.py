"""A run is opened: its words become data, kernel, selection and a locked record; nothing is computed."""

import contextlib
import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import ValidationError

from bench.config.identity import identity_of
from bench.config.plugins import offers, outside_source, plugin
from bench.config.schema import RunConfig
from bench.data.duplicates import first_copies
from bench.data.loaded import loaded
from bench.data.split import Split, draw_split
from bench.data.structures import Structures, check_forces
from bench.errors import UserError
from bench.kernels.base import ChecksData, Kernel
from bench.potentials.architecture import Architecture
from bench.potentials.base import View
from bench.runs.locks import locked
from bench.runs.provenance import provenance
from bench.runs.record import LOCK, SPLIT, TRAINING, RunRecord, make_folder, run_folder
from bench.runs.record_schema import KernelFacts, Record, Session
from bench.selection.base import Selection
from bench.selection.pairs import check

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shared:
    """Datasets, and views of models on them, once for all runs of a pack that they serve."""

    datasets: dict[str, Structures] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)

    def data(self, run: RunConfig) -> Structures:
        """Load the dataset of a run. Raises UserError."""
        key = repr(sorted(run.dataset.items()))
        if key not in self.datasets:
            self.datasets[key] = loaded(run.dataset)
        return self.datasets[key]

    def view(self, run: RunConfig, data: Structures) -> View:
        """The view of the run's model on its data."""
        key = repr((data.checksum, run.model, run.precision, run.device))
        if key not in self.views:
            architecture: Architecture = plugin(run.model, "model")
            self.views[key] = architecture.on(data, run.precision, run.device)
            self.views[key].make_ready(run.training.force_weight)
        return self.views[key]


@dataclass(frozen=True)
class Opened:
    """What a run is made of."""

    config: RunConfig
    record: RunRecord
    data: Structures
    split: Split
    kernel: Kernel
    selection: Selection
    final_kernels: list[Kernel]
    shared: Shared

    @cached_property
    def view(self) -> View:
        """The model on the data; compiles what it compiles when it is first asked for."""
        return self.shared.view(self.config, self.data)


def open_run(run: RunConfig, shared: Shared, held: contextlib.ExitStack | None) -> Opened:
    """Everything that a run needs, its lock included, which `held` keeps (None where the caller holds it).

    Raises UserError if something is wrong with it, BusyError if another process is running it.
    """
    check(run)
    kernel: Kernel = plugin(run.kernel, "kernel")
    selection: Selection = plugin(run.selection, "selection")
    data = shared.data(run)
    for part in (kernel, plugin(run.model, "model")):
        if isinstance(part, ChecksData):
            part.check_data(data)
    if run.training.forces:
        check_forces(data)
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
    return Opened(run, record, data, split, kernel, selection, final_kernels, shared)


def begin_session(opened: Opened) -> None:
    """Record that work on a run begins here, and on what."""
    run, record = opened.config, opened.record
    sources = outside_sources(run, record.content)
    session = Session(**provenance(run.device), sources=sources, first_step=len(record.steps))
    if record.content.sessions and (record.steps or (record.folder / TRAINING).exists()):
        session.differs = session.differences(record.content.sessions[-1])
        if session.differs:
            log.warning("run %s goes on elsewhere: %s", record.folder.name, "; ".join(session.differs))
    record.content.sessions = [*record.content.sessions, session]
    record.content.kernels |= {one.name: facts_of(one) for one in (*opened.final_kernels, opened.kernel)}
    record.save_arrays(SPLIT, vars(opened.split))
    record.save(status="running")


def facts_of(kernel: Kernel) -> KernelFacts:
    """What a kernel states of itself, for its record. Raises UserError where that is nothing that it can state."""
    try:
        return KernelFacts(
            members=kernel.members,
            uncertainty=kernel.uncertainty_of,
            baseline=kernel.baseline,
            reads_pool_labels=kernel.reads_pool_labels,
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = {"uncertainty": "uncertainty_of"}.get(str(first["loc"][0]), first["loc"][0])
        raise UserError(f"kernel {kernel.name}: {name} = {first['input']!r} of its class: {first['msg']}") from None


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
