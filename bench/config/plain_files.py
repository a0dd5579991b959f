"""Configuration files that say so little that nothing need be composed to know what they add.

An algorithm that only chooses a kernel and a selection, a method or dataset of plain values, a sweep of one scenario: a
composition of Hydra takes 70 ms, and a sweep over the paper would need sixty. Files that say more are composed.
"""

import functools
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bench.config.files import ConfigFiles


@functools.cache
def values_of_file(files: ConfigFiles, group: str, name: str) -> dict[str, Any] | None:
    """What a file of a group sets, or None if it refers to other files or keys, sets a package, or is not there."""
    loaded = _load(files, f"{group}/{name}")
    if loaded is None or loaded.defaults_list or loaded.header.get("package") is not None:
        return None
    return _plain(loaded.config)


@functools.cache
def choices_of_file(files: ConfigFiles, group: str, name: str) -> dict[str, str] | None:
    """The files that a file of a group chooses instead of others (`override /kernel: rnd`), or None if it says more."""
    loaded = _load(files, f"{group}/{name}")
    if loaded is None or _plain(loaded.config):
        return None
    return _chosen(loaded)


@functools.cache
def sweep_of_file(files: ConfigFiles, name: str) -> tuple[str, dict[str, Any]] | None:
    """The scenario that a sweep chooses and its sweeper's values, or None if the file says more."""
    loaded = _load(files, f"sweep/{name}")
    config = _global(loaded)
    if config is None or set(config) != {"hydra"}:
        return None
    chosen, hydra = _chosen(loaded), config["hydra"]
    if (
        chosen is None
        or set(chosen) != {"scenario"}
        or set(hydra) != {"sweeper"}
        or set(hydra["sweeper"]) != {"params"}
    ):
        return None
    return chosen["scenario"], hydra["sweeper"]["params"] or {}


@functools.cache
def parts_of_file(files: ConfigFiles, name: str) -> list[str] | None:
    """The sweeps that make up a sweep, or None if its file says more than these."""
    loaded = _load(files, f"sweep/{name}")
    config = _global(loaded)
    return config["sweeps"] if config and set(config) == {"sweeps"} and not loaded.defaults_list else None


def _load(files: ConfigFiles, path: str) -> Any:
    """A file as Hydra's search finds it, None if there is none."""
    loader: Any = files.hydra.config_loader
    return loader.repository.load_config(path)


def _global(loaded: Any) -> dict[str, Any] | None:
    """What a file sets at the top of the configuration, None as for `_plain`."""
    return _plain(loaded.config) if loaded is not None and loaded.header.get("package") == "_global_" else None


def _plain(config: Any) -> dict[str, Any] | None:
    """A mapping as plain values; None if something in it is a reference or missing."""
    if not isinstance(config, DictConfig) or OmegaConf.missing_keys(config):
        return None
    values: Any = OmegaConf.to_container(config)
    return None if "${" in json.dumps(values, default=str) else values


def _chosen(loaded: Any) -> dict[str, str] | None:
    """What a list of defaults chooses; None if it does more than to choose one file each for groups, absolutely."""
    chosen = {}
    for default in loaded.defaults_list:
        is_choice = getattr(default, "override", False) and isinstance(getattr(default, "value", None), str)
        if not is_choice or default.package is not None or not default.group.startswith("/") or "$" in default.value:
            return None
        chosen[default.group.removeprefix("/")] = default.value
    return chosen
