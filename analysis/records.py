"""What a record says of its run, in the words of tables and reports."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.locks import is_locked
from bench.record import LOCK, RECORD, read_record
from bench.schema import NUMERICS_VERSION, TrainingSettings


def record_paths(results: Path) -> list[Path]:
    """Every record below `results`/runs, by folder name."""
    return sorted((results / "runs").glob(f"*/{RECORD}"))


def read_or_describe(path: Path) -> dict[str, Any]:
    """A record with `in_progress`, or what is wrong with it: {"run_id", "damaged"}."""
    in_progress = is_locked(path.parent / LOCK)
    try:
        return read_record(path) | {"in_progress": in_progress}
    except (UserError, OSError) as error:
        return {"run_id": path.parent.name, "damaged": str(error)}


def read_records(results: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Every sound record below `results`, and a line for each damaged one."""
    found = [read_or_describe(path) for path in record_paths(results)]
    return [one for one in found if "damaged" not in one], [one["damaged"] for one in found if "damaged" in one]


def is_current(record: Mapping[str, Any], checksum: str | None) -> bool:
    """Whether a record's numbers are those of this code and of the data at hand, with all of today's settings named."""
    identity = record["identity"]
    asked = identity.get("training")
    if asked is not None and set(asked) != {field.name for field in fields(TrainingSettings)}:
        return False
    same_data = checksum is None or identity["dataset"]["checksum"] == checksum
    return identity["numerics_version"] == NUMERICS_VERSION and same_data


def progress_of(record: Mapping[str, Any]) -> tuple[bool, int]:
    """Sorts records of one cell: finished ones last, then by their steps."""
    return record["status"] == "done", len(record["steps"])


def failure_of(record: Mapping[str, Any]) -> str:
    """One line: the error's class and message."""
    failure = record["failure"]
    return f"{failure['error']}: {failure['message']}".splitlines()[0]


def algorithm_of(identity: Mapping[str, Any]) -> str:
    """As the paper writes it: selection + kernel."""
    return f"{identity['selection']['name']} + {identity['kernel']['name']}"


def deviations_text(deviations: Mapping[str, Any]) -> str:
    """Where a run departs from its scenario, in one line; empty for the full scenario."""
    return ", ".join(f"{key}={value}" for key, value in sorted(deviations.items()))
