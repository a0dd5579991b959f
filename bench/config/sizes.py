"""What the file of a scenario leaves open (null): its name and its sizes, taken from the data."""

import functools
import json
import logging
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from bench.config.plugins import load_dataset
from bench.errors import UserError

log = logging.getLogger(__name__)
SIZES = ("initial", "final", "validation", "pool")
FEWEST = 10
"""Structures that can be split at all."""
MOST_VALIDATION = 200
UNNAMED = "file"
"""The name of a dataset that was given none."""


def is_open(config: Mapping[str, Any]) -> bool:
    """Whether a composed configuration leaves a size or the name to the data."""
    scenario = config.get("scenario")
    if not scenario or "name" not in (config.get("dataset") or {}):  # what is missing is told where it is bound
        return False
    return config.get("batch_size") is None or any(scenario.get(key) is None for key in ("name", *SIZES))


def filled(config: Mapping[str, Any], *, tell: bool) -> dict[str, Any]:
    """The configuration with what is open taken from its data: numbers, so that they stand in the run's identity.

    A tenth of the structures for validation (200 at most), a fifth for the test, 10 to start with, up to ten times as
    many or half of the pool, in batches as large as the start; what is given stays. Raises UserError.
    """
    given = config["scenario"]
    n = _count(json.dumps(config["dataset"], sort_keys=True))
    if n < FEWEST:
        raise UserError(
            f"dataset {config['dataset']['name']} holds {n} structures, scenario=own needs at least {FEWEST}"
        )

    def size(key: str, usual: int) -> int:
        return usual if given.get(key) is None else given[key]

    sizes = {"validation": size("validation", max(1, min(MOST_VALIDATION, n // 10)))}
    left = max(2, n - sizes["validation"] - size("test", max(1, n // 5)))
    sizes["initial"] = size("initial", min(10, max(1, left // 4)))
    sizes["pool"] = size("pool", max(1, left - sizes["initial"]))
    sizes["final"] = size("final", sizes["initial"] + max(1, min(9 * sizes["initial"], sizes["pool"] // 2)))
    batch = config.get("batch_size")
    batch = max(1, min(sizes["initial"], sizes["final"] - sizes["initial"])) if batch is None else batch
    name = given.get("name") or _name(config["dataset"])
    if tell:
        taken = [f"{key} {sizes[key]}" for key in SIZES if given.get(key) is None]
        taken += [f"batch_size {batch}"] if config.get("batch_size") is None else []
        if taken:
            log.info("scenario %s: %d structures, so %s (scenario.… says otherwise)", name, n, ", ".join(taken))
    return {**config, "scenario": {**given, "name": name, **sizes}, "batch_size": batch}


def _name(dataset: Mapping[str, Any]) -> str:
    """The name of the dataset, or of its first file."""
    path = dataset.get("path")
    first = path[0] if isinstance(path, list) and path else path
    unnamed = dataset["name"] == UNNAMED and first
    name = PurePath(PurePath(str(first)).name.partition("@")[0]).stem if unnamed else str(dataset["name"])
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", name).strip("_")[:64] or UNNAMED


@functools.cache
def _count(dataset: str) -> int:
    return len(load_dataset(json.loads(dataset)))
