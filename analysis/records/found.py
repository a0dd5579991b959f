"""What a record says of its run, in the words of tables and reports."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.identity import hash_of
from bench.config.versions import METHODS
from bench.errors import UserError
from bench.runs.locks import is_locked
from bench.runs.record import LOCK, read_record, record_paths
from bench.runs.record import STATES as RECORDED
from bench.runs.record_schema import Record

NAME = "scenario.name"
STATES = (*RECORDED, "stale", "missing")
"""Of the runs of a sweep."""


@dataclass(frozen=True)
class Found:
    """A record as it was found: whether a process is running it, or what is wrong with it."""

    run_id: str
    record: Record | None
    in_progress: bool = False
    damage: str = ""


def read_or_describe(path: Path) -> Found:
    """Read a record, or say what is wrong with it."""
    try:
        return Found(path.parent.name, read_record(path), is_locked(path.parent / LOCK))
    except (UserError, OSError) as error:
        return Found(path.parent.name, None, damage=str(error))


def read_records(results: Path) -> tuple[list[Found], list[str]]:
    """Every sound record below `results`, and a line for each damaged one."""
    found = [read_or_describe(path) for path in record_paths(results)]
    return [one for one in found if one.record], [one.damage for one in found if not one.record]


def progress_of(record: Record, final: int) -> tuple[bool, int, int]:
    """Sorts records of one cell: finished ones last, then by the version of outside classes and by their steps."""
    version = sum(record.identity[group].get("version", 1) for group in METHODS)
    return record.reached(final), version, sum(1 for _ in record.path(final))


def algorithm_of(identity: Mapping[str, Any]) -> str:
    """As the paper writes it: selection + kernel."""
    return f"{identity['selection']['name']} + {identity['kernel']['name']}"


def deviations_text(deviations: Mapping[str, Any]) -> str:
    """Where a run departs from its scenario, in one line; empty for the full scenario, or for one of another name."""
    return ", ".join(f"{key}={value}" for key, value in sorted(deviations.items()) if key != NAME)


def split_deviations(text: str) -> list[str]:
    """The single `key=value` of `deviations_text`."""
    return re.split(r", (?=[\w.]+=)", text) if text else []


def study_of(scenario: str, deviations: Mapping[str, Any]) -> str:
    """What a scenario, or an altered form of it, is called: a name of one's own stays as it is."""
    altered = deviations_text(deviations)
    return altered_name(scenario, altered) if altered and NAME not in deviations else scenario


def altered_name(scenario: str, deviations: str) -> str:
    """A name that no other form of the scenario has."""
    return f"{scenario}_altered_{hash_of({'deviations': deviations})[:6]}"
