"""What a run writes, and how: one folder, every file replaced atomically, named by what its numbers depend on."""

import contextlib
import io
import json
import os
import socket
import traceback
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UserError, WriteError
from bench.schema import hash_of

SCHEMA_VERSION = 2
RECORD = "record.json"
LOCK = "run.lock"
SPLIT = "split.npz"
LAST_STEP = "last_step.npz"
MODEL = "model.pt"
TRAINING = "training.pt"


class RunRecord:
    """The folder of one run: `record.json` (configuration, provenance, a row per step) and the arrays beside it.

    `record.json` is replaced after every step, last of all files of the step, so that it never speaks of what is not
    there. Its `status` is `running`, `done` or `failed`.
    """

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.folder = folder
        self.content = content

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any], deviations: Mapping[str, Any]) -> "RunRecord":
        """Open the locked folder of a run, new or begun earlier. Raises UserError if its record is damaged.

        The deviations of an earlier record are brought up to date: a scenario's file may have changed since.
        """
        remove_leftovers(folder, "*")
        path = folder / RECORD
        if path.exists():
            record = cls(folder, read_record(path))
            if record.content["deviations"] != deviations:
                record.save(deviations=dict(deviations))
            return record
        content = {
            "schema_version": SCHEMA_VERSION,
            "run_id": folder.name,
            "identity": dict(identity),
            "deviations": dict(deviations),
            "status": "running",
            "sessions": [],
            "steps": [],
        }
        return cls(folder, content)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The finished steps."""
        return self.content["steps"]

    @property
    def done(self) -> bool:
        """Whether the last step is recorded."""
        return self.content["status"] == "done"

    def save(self, **changes: Any) -> None:
        """Write the record with some keys changed."""
        self.content |= changes
        write_atomically(self.folder / RECORD, json.dumps(self.content, indent=1).encode())

    def fail(self, error: str, message: str, trace: str = "") -> None:
        """Record that a session of this run failed, where and at which attempt."""
        attempt = self.content.get("failure", {}).get("attempt", 0) + 1
        failure = {
            "error": error,
            "message": message,
            "traceback": trace,
            "host": socket.gethostname(),
            "attempt": attempt,
            "time": now(),
        }
        self.save(status="failed", failure=failure)

    def save_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays beside the record."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_atomically(self.folder / name, buffer.getvalue())


def describe(error: Exception) -> tuple[str, str, str]:
    """An exception as `RunRecord.fail` takes it: class, message, traceback."""
    return type(error).__name__, str(error), "".join(traceback.format_exception(error))


def state_of(record: Mapping[str, Any]) -> str:
    """What has become of a recorded run: done, failed, running (a process is at work on it) or interrupted.

    A failed run that is being tried again is running.
    """
    if record["status"] == "done":
        return "done"
    if record["in_progress"]:
        return "running"
    return "failed" if record["status"] == "failed" else "interrupted"


def numbers_of(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step without what two machines may differ in: seconds, memory, the session, what was trained beside it."""
    return {
        key: value
        for key, value in step.items()
        if not key.startswith(("seconds_", "peak_")) and key not in ("session", "models_in_lockstep")
    }


def now() -> str:
    """The time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record. Raises UserError if it is damaged or of another schema."""
    try:
        content = json.loads(path.read_bytes())
        version = content["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}): move that folder away and run again") from None
    if version != SCHEMA_VERSION:
        raise UserError(f"{path} has schema version {version}, this code reads {SCHEMA_VERSION}: use another results=")
    return content


def run_folder(results: str | Path, identity: Mapping[str, Any]) -> Path:
    """Where a run of this identity is recorded."""
    return Path(results) / "runs" / hash_of(identity)


def make_folder(folder: Path) -> None:
    """Create a folder. Raises WriteError if that is not possible or nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{uuid.uuid4().hex}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise WriteError(f"cannot write to {folder} ({error.strerror}): set results= to a folder of yours") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as a whole: after a crash it holds the old or the new content. Raises WriteError."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise WriteError(
            f"cannot write {path} ({error.strerror}): make room or set results= to another folder"
        ) from None


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove temporary files of a writer that was killed; the caller holds the lock of these files."""
    for leftover in folder.glob(f"{pattern}.tmp"):
        leftover.unlink(missing_ok=True)
