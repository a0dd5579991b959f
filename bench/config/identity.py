"""What a run's numbers depend on, as names and values: its identity, the hash that names its folder, its cell."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from bench.config import plugins, versions
from bench.config.schema import REFERENCES, RunConfig

PRECISION = "float32"
"""The precision that an identity need not name."""
FIRST_BATCH = "random"
"""How the first training set comes about where an identity does not name it."""


def identity_of(run: RunConfig, data_checksum: str) -> dict[str, Any]:
    """Everything that changes a run's numbers. A setting at its default and a version of 1 are not named.

    Left out is where the code lives, where and on how many threads a run is computed (that is recorded), what is
    measured at its end (`final_kernels`), and its final size: the steps up to it are those of any larger one.
    """
    dataset: dict[str, Any] = {"name": run.dataset["name"], "checksum": data_checksum}
    if REFERENCES in run.deviations:
        dataset["reference_energies"] = run.deviations[REFERENCES]
    scenario = {key: value for key, value in _plain(run.scenario).items() if key != "final"}
    return {
        "dataset": dataset | _version(versions.DATA),
        "scenario": scenario,
        "model": plugins.identity_of_model(run.model),
        "training": _not_default(run.training),
        "kernel": plugins.identity_of("kernel", run.kernel),
        "selection": plugins.identity_of("selection", run.selection),
        "batch_size": run.batch_size,
        "seed": run.seed,
        **({} if run.precision == PRECISION else {"precision": run.precision}),
        **({} if run.first_batch == FIRST_BATCH else {"first_batch": run.first_batch}),
    }


def _plain(value: Any) -> dict[str, Any]:
    return plugins.as_plain(type(value), value)


def _not_default(value: Any) -> dict[str, Any]:
    """The fields of a typed configuration that have no default, or another value."""
    defaults = {field.name: plugins.default_of(field) for field in fields(value)}
    plain = {key: given for key, given in _plain(value).items() if given != defaults[key]}
    nested = {f.name: getattr(value, f.name) for f in fields(value) if is_dataclass(getattr(value, f.name))}
    return plain | {key: _not_default(part) for key, part in nested.items() if key in plain}


def _version(version: int) -> dict[str, Any]:
    return {} if version == 1 else {"version": version}


def hash_of(identity: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the canonical JSON of an identity."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def cell_of(identity: Mapping[str, Any]) -> str:
    """Hash of what an identity asks for, whichever version of data and code answered: a cell of a sweep's plan."""
    asked = dict(identity)
    for part in versions.PARTS:
        asked[part] = {key: value for key, value in identity[part].items() if key != "version"}
    return hash_of(asked | {"dataset": data_of(identity)})


def data_of(identity: Mapping[str, Any]) -> str:
    """The name of an identity's dataset, with its reference energies where they are not those of its file."""
    name, references = identity["dataset"]["name"], identity["dataset"].get("reference_energies")
    return f"{name} {references}" if references else str(name)


def is_current(identity: Mapping[str, Any], checksum: str | None) -> bool:
    """Whether an identity's numbers are those of this code and of the data at hand (None: not at hand)."""
    return versions.is_current(identity) and checksum in (None, identity["dataset"]["checksum"])
