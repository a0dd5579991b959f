"""What Hydra says of a mistake, in one line with the right name."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from typing import Any

import yaml
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config.files import ConfigFiles, folder_of, parse
from bench.config.plugins import default_of
from bench.config.schema import COMPUTED, RunConfig, TrainingSettings, computed
from bench.errors import UserError, nearest

SEVERAL = "several values need -m (one value with a comma in it needs quotes)"


@contextlib.contextmanager
def mistakes_in_one_line(files: ConfigFiles, words: Sequence[str] = ()) -> Iterator[None]:
    """Raise UserError where Hydra stumbles over these words or files."""
    try:
        yield
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f"{place.name}, line {place.line + 1}" if place else "a yaml file"
        raise UserError(f"{where} is no YAML ({getattr(error, 'problem', error)}): fix it") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error, files)) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise _wrong_choice(words, files) or error from None


def _wrong_choice(words: Sequence[str], files: ConfigFiles) -> UserError | None:
    """A group that is given something else than the name of a file: Hydra has no word for that."""
    groups = files.groups()
    for override in parse(words, files):
        if override.key_or_group in groups and not isinstance(override.value(), str):
            if hidden := _hidden_by(override.key_or_group, files):
                return UserError(hidden)
            known = nearest("", files.options(override.key_or_group))
            return UserError(f"{override.input_line}: give the name of a file of this group; {known}")
        if not override.key_or_group:
            return UserError(f"{override.input_line}: a key is missing before the =")
    return None


def _one_line(error: Exception, files: ConfigFiles) -> str:
    """Hydra's message without its advice, with the nearest known name in its place."""
    message, cause = str(error).strip(), str(error.__cause__ or "").strip()
    if not message:
        message, cause = cause, ""
    first = message.splitlines()[0]
    unknown = re.search(r"Could not override '([^']+)'|Could not delete from config. '([^']+)' does not exist", first)
    if unknown:
        return _unknown_key(unknown[1] or unknown[2], files)
    missing = re.search(r"Could not (?:find|load) '([^']+)/([^'/]*)'", message)
    if missing:
        return _unknown_file(missing[1], missing[2], files)
    cause = cause.splitlines()[0] if cause else ""
    return _about_use(first) or (f"{first}: {cause}" if cause and cause not in first else first)


OF_NO_RUN = {
    "sweep": "sweep=… is for bench.launch; bench.run takes it as -m +sweep=…",
    "cluster": "cluster=… is for bench.launch: leave it out",
    **{key: computed(key) for key in COMPUTED},
}
"""What is no word of a run."""


def _hidden_by(name: str, files: ConfigFiles) -> str:
    """What hides a key that takes a value: a folder of its name, a group to Hydra; empty where nothing does."""
    defaults = _defaults(files)
    if name not in files.groups() or name not in defaults or isinstance(defaults[name], DictConfig):
        return ""
    holder = next((str(path) for folder in files.folders if (path := folder_of(folder)) and (path / name).is_dir()), "")
    return (
        f"{name}=…: {holder or '.'} holds a folder {name!r}, which Hydra takes for a group of configuration files: keep"
        " configuration in a folder of its own, as in --config-dir my_conf"
    )


def _unknown_key(name: str, files: ConfigFiles) -> str:
    if name in OF_NO_RUN:
        return OF_NO_RUN[name]
    defaults = _defaults(files)
    if name in files.groups() and name not in defaults:
        return f"the defaults name no file of the group {name!r}: put a + in front to add one"
    known = {*dotted_keys(defaults), *files.groups()}
    if hidden := _hidden_by(name, files):
        return hidden
    if name in known:
        remedy = f"use the file's keys, or +{name}.KEY=… to add one"
        return f"the value given for {name!r} holds a key that its file does not: {remedy}"
    if _has_default(name):
        return f"configuration key {name!r} is at its default, for no file names it: put a + in front to set it"
    hint = nearest(name, known, listed={*map(str, defaults), *files.groups()})
    return f"unknown configuration key {name!r}: {hint}"


def _has_default(name: str) -> bool:
    """Whether a key is one of a run that files may leave out."""
    group, _, key = name.rpartition(".")
    holder = {"": RunConfig, "training": TrainingSettings}.get(group)
    return holder is not None and any(f.name == key and default_of(f) is not MISSING for f in fields(holder))


def _unknown_file(group: str, name: str, files: ConfigFiles) -> str:
    options = files.options(group)
    if options:
        return f"no {group} is called {name!r}: {nearest(name, options)}"
    return f"no configuration group is called {group!r}: {nearest(group, files.groups())}"


def _about_use(first: str) -> str | None:
    """A better word for what is not wrong by itself."""
    several = re.search(r"Ambiguous value for argument '(.*)'|Sweep parameters '(.*)' requires --multirun", first)
    if several:
        return f"{several[1] or several[2]}: {SEVERAL}"
    twice = re.match(r"(\S+) appears more than once in the final defaults list", first)
    if twice:
        return f"{twice[1]} is chosen twice: leave out the + to choose another"
    there = re.search(r"Could not append to config. An item is already at '([^']+)'", first)
    return f"configuration key {there[1]!r} exists: leave out the + to change it" if there else None


def _defaults(files: ConfigFiles) -> DictConfig:
    """The configuration without any override; empty where that cannot be composed either."""
    with contextlib.suppress(HydraException, OmegaConfBaseException):
        return files.hydra.compose_config(files.name, [], RunMode.RUN, from_shell=False)
    return DictConfig({})


def dotted_keys(config: DictConfig) -> list[str]:
    """All keys of a configuration."""
    return _dotted(OmegaConf.to_container(config, resolve=False))


def _dotted(tree: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += _dotted(value, f"{prefix}{key}.")
    return keys
