"""What a launch hands to its workers, the runs in order; what is left of them is on disk and nowhere else."""

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench.config.identity import identity_of
from bench.config.plugins import name_plugins
from bench.config.schema import RunConfig
from bench.config.sweep import Cell
from bench.data.loaded import loaded
from bench.data.split import draw_split
from bench.data.structures import check_forces
from bench.errors import UserError
from bench.runs.locks import is_locked
from bench.runs.record import (
    LOCK,
    RECORD,
    initial_model,
    may_be_there,
    read_record,
    run_folder,
    state_of,
    write_atomically,
)
from bench.runs.record_schema import SCHEMA_VERSION, Failure
from bench.selection.pairs import check

QUEUE = "queue.json"
DIED = "ProcessDied"
"""What is recorded as the error of a run whose process ended without a word."""


@dataclass(frozen=True)
class Entry:
    """One run, where it is recorded, the initial model it starts from, and how often it had failed before."""

    folder: Path
    initial: Path
    words: list[str]
    failures_before: int
    data_checksum: str
    run: RunConfig

    @property
    def end(self) -> tuple[Path, int]:
        """The run and the size it is to reach: a run to two ends is two entries of one folder."""
        return self.folder, self.run.scenario.final

    def failures(self) -> int:
        """How often it has failed so far."""
        failure = _state(self)[1]
        return failure.attempt if failure else 0

    def reason(self) -> str:
        """Why it failed, or cannot be read, in one line."""
        try:
            failure = read_record(self.folder / RECORD).failure
        except UserError as error:
            return str(error)
        return failure.line if failure else ""

    def state(self, *, mine: bool = False) -> str:
        """done, running, interrupted, failed, missing or damaged; `mine` if it is the caller who holds its lock."""
        return _state(self, mine)[0]

    def is_open(self, attempts: int, *, mine: bool = False) -> bool:
        """Whether a worker should do it: nobody is running it, and it has not failed, or its process died only.

        A process that dies may have been unlucky and is tried `attempts` times; an error of the run itself would come
        again.
        """
        state, failure = _state(self, mine)
        if state != "failed":
            return state in ("interrupted", "missing")
        if failure is None:
            return False
        return failure.attempt - self.failures_before < (attempts if failure.error == DIED else 1)

    def waits_for_another(self) -> bool:
        """Whether another process trains the initial model just now."""
        return not may_be_there(self.initial) and is_locked(self.initial.with_suffix(".lock"))


def _state(entry: Entry, mine: bool = False) -> tuple[str, Failure | None]:
    in_progress = not mine and is_locked(entry.folder / LOCK)
    if not may_be_there(entry.folder / RECORD):
        return ("running" if in_progress else "missing"), None
    try:
        record = read_record(entry.folder / RECORD)
    except UserError:
        return "damaged", None
    return state_of(record, entry.run.scenario.final, in_progress=in_progress), record.failure


@dataclass(frozen=True)
class Queue:
    """The runs of one launch, of this version of the code; a worker trains up to `pack` of them in lockstep."""

    schema_version: int
    attempts: int
    pack: int
    entries: list[Entry]

    def write(self, folder: Path) -> None:
        """Keep it in the folder of a launch."""
        write_atomically(folder / QUEUE, TypeAdapter(Queue).dump_json(self))


def read_queue(folder: Path) -> Queue:
    """Read the queue of a launch. Raises UserError if it is not there, damaged or of another version of the code."""
    path = folder / QUEUE
    try:
        content = json.loads(path.read_bytes())
        if content["schema_version"] != SCHEMA_VERSION:
            raise UserError(f"{path} is of another version of this code: launch the sweep again")
        queue: Queue = TypeAdapter(Queue).validate_python(content)
        for entry in queue.entries:
            name_plugins(entry.run.plugins)
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}): launch the sweep again") from None
    return queue


def entries_of(cells: Sequence[Cell]) -> list[Entry]:
    """The runs of a sweep with all that can be checked before anything runs: pairs, data, sizes. Raises UserError.

    Of words that stand for one run, as those that only say where it is computed, the first are taken.
    """
    load = functools.cache(_load)
    entries: dict[tuple[Path, int], Entry] = {}
    for cell in cells:
        run = replace(cell.run, results=os.path.realpath(cell.run.results))
        members = check(run).members
        data = load(json.dumps(run.dataset, sort_keys=True), run.scenario, run.training.forces)
        folder = run_folder(run.results, identity_of(run, data))
        entry = Entry(folder, initial_model(run, data, members), list(cell.words), 0, data, run)
        entries.setdefault(entry.end, entry)
    return _ordered([*entries.values()])


def _load(dataset: str, scenario: Any, forces: bool) -> str:
    data = loaded(json.loads(dataset))
    if forces:
        check_forces(data)
    draw_split(data, scenario, seed=0)
    return data.checksum


def _ordered(entries: Sequence[Entry]) -> list[Entry]:
    """First a run of every initial model, which the others wait for; then the long ones, so that none is left last."""
    first = {entry.initial: entry for entry in reversed(entries)}
    leading = set(map(id, first.values()))
    return sorted(entries, key=lambda entry: (id(entry) not in leading, -_work(entry.run)))


def _work(run: RunConfig) -> int:
    """Structures seen in training: what a run costs, roughly."""
    return sum(run.training_set_sizes()) * run.training.epochs * int(run.kernel.get("members", 1))
