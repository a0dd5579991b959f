"""From words of a command line to a bound run: Hydra's composition, with every mistake told in one line."""

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.errors import UserError, nearest
from bench.places import CONF
from bench.schema import RunConfig, bind, deviations


def parse(words: Sequence[str]) -> list[Override]:
    """Read overrides. Raises UserError."""
    try:
        return OverridesParser.create().parse_overrides(list(words))
    except OverrideParseException as error:
        raise UserError(f"cannot read {error.override!r} on the command line: quote it or mend it") from None


def values_of(override: Override) -> list[str]:
    """The words a (sweeping or plain) override stands for."""
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key = (override.input_line or "").split("=", 1)[0]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def composed(words: Sequence[str]) -> DictConfig:
    """Compose a configuration with Hydra's own node. Raises UserError with the nearest right name."""
    try:
        with hydra_started():
            return compose("config", list(words), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(str(error))) from None


def composed_group(group: str, name: str, words: Sequence[str]) -> dict[str, Any]:
    """Compose one file of a group that is no part of a run, with overrides. Raises UserError."""
    try:
        with hydra_started():
            tree: Any = OmegaConf.to_container(compose(f"{group}/{name}", list(words)), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        known = [path.stem for path in (CONF / group).glob("*.yaml")]
        if name not in known:
            raise UserError(f"no {group} is called {name!r}: {nearest(name, known)}") from None
        raise UserError(str(error).splitlines()[0]) from None
    values: dict[str, Any] = tree[group]
    return values


def compose_run(words: Sequence[str]) -> RunConfig:
    """Compose and bind one run. Raises UserError."""
    config = composed(words)
    choices = dict(config.hydra.runtime.choices)
    return bind_chosen(_own(config), choices)


def bind_chosen(config: Mapping[str, Any], choices: Mapping[str, str]) -> RunConfig:
    """Bind a composed configuration and note where it departs from the files chosen for it. Raises UserError."""
    if "sweeps" in config:
        raise UserError(
            "this sweep is several grids, which one multirun cannot hold: use python -m bench.launch sweep=…, or -m"
            f" with one of {', '.join(config['sweeps'])}"
        )
    run = bind(config)
    scenario = _as_filed((f"scenario={choices['scenario']}",))
    methods = _as_filed(tuple(f"{group}={choices[group]}" for group in ("algorithm", "kernel", "selection")))
    filed = replace(scenario, kernel=methods.kernel, selection=methods.selection)
    dataset = _as_filed((f"dataset={choices['dataset']}",)).dataset
    return replace(run, deviations=deviations(run, filed, dataset), filed_final=filed.scenario.final)


@functools.cache
def _as_filed(words: tuple[str, ...]) -> RunConfig:
    return bind(_own(composed(words)))


def _own(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, without Hydra's own node: some of that exists in its application only."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    plain: Any = OmegaConf.to_container(own, resolve=True)
    return plain


@contextlib.contextmanager
def hydra_started() -> Iterator[None]:
    """Hydra's composition on this project's files, inside its application or on its own."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().clear()


def _one_line(message: str) -> str:
    """Hydra's message without its advice, with the nearest known name in its place."""
    first = message.strip().splitlines()[0]
    unknown = re.search(r"Could not override '([^']+)'", first)
    if unknown:
        with hydra_started():
            known = _dotted_keys(OmegaConf.to_container(compose("config"), resolve=False))
        known += [folder.name for folder in CONF.iterdir() if folder.is_dir()]
        if unknown[1] in known:
            return f"the value given for {unknown[1]!r} holds a key that its file does not: use the file's keys"
        return f"unknown configuration key {unknown[1]!r}: {nearest(unknown[1], known)}"
    missing = re.search(r"Could not find '([^']+)/([^'/]+)'|Could not load '([^']+)/([^'/]+)'", message)
    if missing:
        group, name = (missing[1] or missing[3]), (missing[2] or missing[4])
        known = [path.stem for path in (CONF / group).glob("*.yaml")]
        return f"no {group} is called {name!r}: {nearest(name, known)}"
    return first


def _dotted_keys(tree: Any, prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += _dotted_keys(value, f"{prefix}{key}.")
    return keys
