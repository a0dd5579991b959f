"""What a run writes, and how: one folder, every file replaced atomically, named by what its numbers depend on."""

import contextlib
import hashlib
import io
import json
import math
import os
import socket
import tempfile
import traceback
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench.config.blame import blamed
from bench.config.identity import hash_of, identity_of
from bench.config.schema import RunConfig
from bench.errors import UserError, cannot_read, cannot_write
from bench.runs.record_schema import SCHEMA_VERSION, Failure, Record, Step

RECORD = "record.json"
LOCK = "run.lock"
SPLIT = "split.npz"
MODEL = "model.pt"
TRAINING = "training.pt"
CHECKSUM = "checksum"
"""The key of a record's file that holds a SHA-256 of the others; records written by hand or earlier have none."""
TOLERANCE = 1e-6
"""By which errors (relative) and correlations (absolute) may differ between machines: see bench/config/versions.py."""
MEASURED = ("seconds", "processor_seconds", "peak")
MACHINE = ("session", "models_in_lockstep", "timing", *(c for c in Step.columns() if c.startswith(MEASURED)))
"""Fields of a step that two machines may differ in."""


class RunRecord:
    """The folder of one run: `record.json` (`Record`) and the arrays beside it.

    `record.json` is replaced after every step, last of all files of the step, so that it never speaks of what is not
    there.
    """

    def __init__(self, folder: Path, content: Record) -> None:
        self.folder = folder
        self.content = content

    @classmethod
    def open(cls, folder: Path, run: RunConfig, identity: Mapping[str, Any]) -> "RunRecord":
        """Open the locked folder of a run, new or begun earlier. Raises UserError if its record is damaged.

        The deviations of an earlier record are brought up to date: a scenario's file may have changed since. A run that
        ended at a smaller size is taken up again.
        """
        remove_leftovers(folder, "*")
        final = run.scenario.final
        asked: dict[str, Any] = {
            "deviations": {key: value for key, value in run.deviations.items() if key != "scenario.final"},
            "filed_final": run.filed_final or final,
            "configuration": run.configuration(),
        }
        if not (folder / RECORD).exists():
            return cls(folder, Record(run_id=folder.name, identity=dict(identity), finals=[final], **asked))
        record = cls(folder, read_record(folder / RECORD))
        content = record.content
        if content.finals[-1] != final:
            asked["finals"] = [*(one for one in content.finals if one != final), final]
            asked["status"] = "done" if content.reached(final) else "running"
        if any(getattr(content, key) != value for key, value in asked.items()):
            record.save(**asked)
        return record

    @property
    def steps(self) -> list[Step]:
        """The finished steps."""
        return self.content.steps

    @property
    def done(self) -> bool:
        """Whether the end asked for is reached."""
        return self.content.reached(self.content.finals[-1])

    def add(self, step: Step) -> None:
        """Take in a step, in the order of training set sizes; it replaces an earlier one of its size."""
        others = [one for one in self.steps if one.n_train != step.n_train]
        self.content.steps = sorted([*others, step], key=lambda one: one.n_train)

    def save(self, **changes: Any) -> None:
        """Write the record with some of its fields changed."""
        for key, value in changes.items():
            setattr(self.content, key, value)
        write_atomically(self.folder / RECORD, as_json(self.content))

    def fail(self, error: str, message: str, trace: str = "") -> None:
        """Record that a session of this run failed, where and at which attempt."""
        attempt = self.content.failure.attempt + 1 if self.content.failure else 1
        failure = Failure(
            error=error, message=message, traceback=trace, host=socket.gethostname(), attempt=attempt, time=now()
        )
        self.save(status="failed", failure=failure)

    def save_arrays(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Write arrays beside the record."""
        self.save_file(name, as_npz(arrays))

    def save_file(self, name: str, content: bytes) -> None:
        """Write a file beside the record; its checksum is saved with what is recorded next.

        The record first forgets that of another content, so that a kill in between makes no file look damaged.
        """
        digest = hashlib.sha256(content).hexdigest()
        if self.content.files.get(name, digest) != digest:
            del self.content.files[name]
            self.save()
        write_atomically(self.folder / name, content)
        self.content.files[name] = digest

    def damaged_files(self) -> list[UserError]:
        """What is wrong with the files beside the record that are kept; they may be removed to save room."""
        found = []
        for name in self.content.files:
            try:
                read_file(self.folder / name, self.content.files)
            except UserError as error:
                found.append(error)
        return found


def as_json(record: Record) -> bytes:
    """A record as the text of its file, with a checksum over all that it says."""
    content = record.model_dump(exclude_none=True)
    return json.dumps({**content, CHECKSUM: _digest(content)}, indent=1).encode()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def as_npz(arrays: Mapping[str, Any]) -> bytes:
    """Arrays as the content of a file."""
    import numpy as np  # noqa: PLC0415 - not where records are only looked at

    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def arrays_of(content: bytes) -> dict[str, Any]:
    """The arrays of `as_npz`. Raises some exception if they are damaged."""
    import numpy as np  # noqa: PLC0415

    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def read_file(path: Path, checksums: Mapping[str, str]) -> bytes | None:
    """A file beside a record, None where it is not kept. Raises UserError if it has not the SHA-256 for its name."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_read(error, path) from None
    if checksums.get(path.name, "") not in ("", hashlib.sha256(content).hexdigest()):
        raise UserError(
            f"{path} is damaged (its checksum is not the one in {RECORD}): move that folder away, then run again or"
            " merge the run from a copy"
        )
    return content


def checksums_beside(path: Path) -> Mapping[str, str]:
    """The checksums of the files of a run, for one of them; none where its record cannot be read or is older."""
    try:
        return read_validated(path.parent / RECORD).files
    except UserError:
        return {}


def read_arrays(path: Path, checksums: Mapping[str, str]) -> dict[str, Any] | None:
    """What `save_arrays` wrote, None where it is not kept. Raises UserError if it is damaged."""
    content = read_file(path, checksums)
    try:
        return None if content is None else arrays_of(content)
    except Exception as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}): move that folder away and run again") from None


def end_file(n_train: int) -> str:
    """The file of errors and uncertainties per test structure at an end of a run."""
    return f"end_{n_train}.npz"


def describe(error: Exception) -> tuple[str, str, str]:
    """An exception as `RunRecord.fail` takes it: class, message, traceback."""
    where = blamed(error)
    message = f"{error} (in the plugin {where})" if where else str(error)
    return type(error).__name__, message, "".join(traceback.format_exception(error))


STATES = ("done", "running", "interrupted", "failed")
"""What may have become of a run that has a record."""


def state_of(record: Record, final: int, *, in_progress: bool) -> str:
    """What has become of a run to an end: done, failed, running (by a process now) or interrupted.

    A failed run that is being tried again is running.
    """
    if record.reached(final):
        return "done"
    if in_progress:
        return "running"
    return "failed" if record.status == "failed" else "interrupted"


def numbers_of(step: Step) -> dict[str, Any]:
    """A step without what two machines may differ in: seconds, memory, the session, what was trained beside it."""
    return step.model_dump(exclude={*MACHINE}, exclude_none=True)


def agree(one: Step, other: Step) -> bool:
    """Whether two steps of a size say the same where both say something: one may not have picked yet.

    What was picked must be equal. Measured numbers may differ by TOLERANCE: threads and kinds of processors do that.
    """
    if one.picked is not None and other.picked is not None and one.picked != other.picked:
        return False
    return _close(_measured(one), _measured(other))


def _measured(step: Step) -> dict[str, Any]:
    """Numbers that may differ in their last digits."""
    return {"metrics": step.metrics.model_dump(), "correlations": step.model_dump()["correlations"]}


def _close(one: Any, other: Any) -> bool:
    """Whether values are alike: of keys that both have, and of numbers within TOLERANCE (correlations: absolute)."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_close(one[key], other[key]) for key in one.keys() & other.keys())
    if isinstance(one, float) and isinstance(other, float):
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(one == other)


def now() -> str:
    """The time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_record(path: Path) -> Record:
    """Read a record. Raises UserError if it is damaged, of another schema, or in a folder of another name."""
    record = read_validated(path)
    if record.run_id != path.parent.name:
        raise UserError(f"{path.parent} is a copy of run {record.run_id}, which is named by its folder: move it away")
    if record.run_id != hash_of(record.identity):
        raise _damaged(path, "its identity is not that of its name")
    return record


def read_validated(path: Path) -> Record:
    """Read a record, whatever its folder is called. Raises UserError if it is damaged or of another schema."""
    content = read_json(path)
    version = content["schema_version"]
    if version != SCHEMA_VERSION:
        remedy = "run python -m bench.migrate on its results" if version == 2 else "use another results="
        raise UserError(f"{path} has schema version {version}, this code reads {SCHEMA_VERSION}: {remedy}")
    if CHECKSUM in content and content.pop(CHECKSUM) != _digest(content):
        raise _damaged(path, "its checksum does not fit")
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _damaged(path, f"{where}: {first['msg']}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A record of any schema as it stands. Raises UserError if it is none, or closed to this user."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        content["schema_version"] + 0
    except PermissionError as error:
        raise cannot_read(error, path) from None
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise _damaged(path, type(error).__name__) from None
    return content


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged ({reason}): move that folder away and run again")


def record_paths(results: Path) -> list[Path]:
    """Every record below `results`/runs, by folder name; folders whose name begins with a dot are no runs.

    In a run that is closed to this user there may be one. Raises UserError where all of them are.
    """
    folders = (folder for folder in listed(results / "runs") if not folder.name.startswith("."))
    return [path for folder in folders if may_be_there(path := folder / RECORD)]


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, by name; nothing where there is no folder. Raises UserError where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise cannot_read(error, folder) from None


def may_be_there(path: Path) -> bool:
    """Whether a file is there, or lies where this user may not look: then reading it tells so."""
    try:
        path.stat()
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def run_folder(results: str | Path, identity: Mapping[str, Any]) -> Path:
    """Where a run of this identity is recorded."""
    return Path(results) / "runs" / hash_of(identity)


def initial_model(run: RunConfig, data_checksum: str, members: int) -> Path:
    """Where the initial model lies. It depends on the run's identity without what comes after it."""
    identity = identity_of(run, data_checksum)
    chosen = () if run.first_batch == "random" else ("kernel", "selection")
    for later in {"kernel", "selection", "batch_size"} - set(chosen):
        del identity[later]
    return Path(run.results) / "initial" / f"{hash_of(identity | {'members': members})}.pt"


def make_folder(folder: Path) -> None:
    """Create a folder. Raises WriteError if that is not possible or nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # where the system has files without a name, a kill leaves none
    except OSError as error:
        message = f"cannot write to {folder} ({error.strerror}): make it writable, or name another folder"
        raise cannot_write(error, message) from None


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as a whole: after a crash it holds the old or the new content. Raises WriteError."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder_to_disk(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        message = f"cannot write {path} ({error.strerror}): make room, or name another folder"
        raise cannot_write(error, message) from None


def write_named(path: Path, content: bytes) -> None:
    """Write a file that a user has named: what a link leads to, and into what is no plain file (a pipe, /dev/null).

    Raises WriteError.
    """
    if path.is_file() or not path.exists():
        write_atomically(path.resolve(), content)
        return
    try:
        with path.open("wb") as file:
            file.write(content)
    except OSError as error:
        raise cannot_write(error, f"cannot write {path} ({error.strerror}): name another file") from None


def folder_to_disk(folder: Path) -> None:
    """Have what was renamed in a folder survive a power cut, where the system can (not every file system)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove temporary files of a writer that was killed; the caller holds the lock of these files."""
    for leftover in folder.glob(f"{pattern}.tmp"):
        leftover.unlink(missing_ok=True)
