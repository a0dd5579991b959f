"""From words of a command line to a bound run: Hydra's composition, with every mistake told in one line."""

import functools
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bench.config.files import PROJECT_FILES, ConfigFiles, parse, root
from bench.config.hydra_mistakes import mistakes_in_one_line
from bench.config.plain_files import choices_of_file, values_of_file
from bench.config.plugins import name_plugins
from bench.config.schema import RunConfig, bind, deviations
from bench.config.sizes import filled, is_open
from bench.errors import UserError, nearest


def composed(words: Sequence[str], files: ConfigFiles = PROJECT_FILES) -> DictConfig:
    """Compose a configuration with Hydra's own node. Raises UserError with the nearest right name."""
    with mistakes_in_one_line(files, words):
        return files.hydra.compose_config(files.name, list(words), RunMode.RUN, from_shell=False)


def split_cluster(words: Sequence[str], files: ConfigFiles = PROJECT_FILES) -> tuple[list[str], list[str]]:
    """The words on where a sweep runs (`cluster=…`, `cluster.…=…`), and the others. Raises UserError."""
    of_cluster = [word for word, o in zip(words, parse(words, files), strict=True) if root(o) == "cluster"]
    return of_cluster, [word for word in words if word not in of_cluster]


def composed_cluster(words: Sequence[str], files: ConfigFiles = PROJECT_FILES) -> dict[str, Any]:
    """Compose what `split_cluster` found: a group that is no part of a run. Raises UserError."""
    name, values = "local", []
    for override in parse(words, files):
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: a launch has one cluster: give one value")
        if override.key_or_group == "cluster" and not override.is_delete():
            name = str(override.value())
        else:
            values.append(override.input_line or "")
    if name not in files.options("cluster"):
        raise UserError(f"no cluster is called {name!r}: {nearest(name, files.options('cluster'))}")
    alone = replace(files, name=f"cluster/{name}")
    tree: dict[str, Any] = plain(composed(values, alone), alone).get("cluster", {})
    return tree


def compose_run(words: Sequence[str], files: ConfigFiles = PROJECT_FILES) -> RunConfig:
    """Compose and bind one run. Raises UserError."""
    return bind_composed(composed(words, files), files)


def bind_composed(config: DictConfig, files: ConfigFiles = PROJECT_FILES) -> RunConfig:
    """Bind what was composed with Hydra's own node. Raises UserError."""
    return bind_chosen(plain(config, files), config.hydra.runtime)


def bind_chosen(config: Mapping[str, Any], runtime: Any) -> RunConfig:
    """Bind a composed configuration and note where it departs from the files chosen for it. Raises UserError.

    `runtime` is what Hydra says of its composition: the files chosen of each group, the folders searched. What the
    project's own files say comes before what other folders say, so that a copy is never taken for the original.
    """
    if "sweeps" in config:
        raise UserError(
            "this sweep is several grids, which one multirun cannot hold: use python -m bench.launch sweep=…, or -m"
            f" with one of {', '.join(config['sweeps'])}"
        )
    name_plugins(config.get("plugins") or [])
    run = bind(filled(config, tell=True) if is_open(config) else config)
    sources = [source for source in runtime.config_sources if source.provider not in ("hydra", "schema")]
    files = ConfigFiles(folders=tuple(f"{source.schema}://{source.path}" for source in sources)).beside_project()
    chosen = chosen_files(runtime)
    name, own = run.scenario.name, is_open(composed_once(files, _words(chosen, "scenario")).values)
    if name != chosen.get("scenario") and name in PROJECT_FILES.options("scenario"):
        if own:
            raise UserError(f"scenario.name = {name!r} is another scenario's: choose a name of your own")
        chosen["scenario"] = name

    def as_filed(*groups: str) -> RunConfig:
        values = composed_once(files, _words(chosen, *groups)).values
        return bind(filled({**values, "dataset": config["dataset"]}, tell=False) if own else values)

    filed = as_filed("scenario")
    other_model = run.model["name"] != filed.model["name"]
    if other_model:  # its values are compared with those of its own file
        filed = as_filed("scenario", "model")
    filed = replace(
        filed, kernel=_filed_method(files, chosen, "kernel"), selection=_filed_method(files, chosen, "selection")
    )
    departs = deviations(run, filed, _filed(files, chosen, "dataset"))
    if own:
        departs["scenario.name"] = name
    if other_model:
        departs["model.name"] = run.model["name"]
    return replace(run, deviations=departs, filed_final=filed.scenario.final)


def chosen_files(runtime: Any) -> dict[str, str]:
    """The file chosen of each group."""
    return {group: name for group, name in runtime.choices.items() if isinstance(name, str)}


def _filed_method(files: ConfigFiles, chosen: Mapping[str, str], group: str) -> dict[str, Any]:
    """The kernel or selection as the files chosen say it."""
    algorithm = chosen.get("algorithm")
    if algorithm is None or choices_of_file(files, "algorithm", algorithm) is not None:
        return _filed(files, chosen, group)
    values: dict[str, Any] = composed_once(files, _words(chosen, "algorithm", "kernel", "selection")).values[group]
    return values


def _filed(files: ConfigFiles, chosen: Mapping[str, str], group: str) -> dict[str, Any]:
    """What the file chosen of a group says."""
    values = values_of_file(files, group, chosen[group]) if group in chosen else None
    return values if values is not None else composed_once(files, _words(chosen, group)).values[group]


def _words(chosen: Mapping[str, str], *groups: str) -> tuple[str, ...]:
    return tuple(f"{group}={chosen[group]}" for group in groups if group in chosen)


@dataclass(frozen=True)
class Composition:
    """A configuration as plain values, what Hydra says of it, and the keys that others refer to, as by `${seed}`."""

    values: dict[str, Any]
    runtime: Any
    referred: frozenset[str]

    @property
    def chosen(self) -> dict[str, str]:
        """The file chosen of each group."""
        return chosen_files(self.runtime)


@functools.cache
def composed_once(files: ConfigFiles, words: tuple[str, ...]) -> Composition:
    """Compose, or take what was composed of the same words before. Raises UserError."""
    config = composed(words, files)
    own = _without_hydra(config)
    references = re.findall(r"\$\{[^}]*\}", json.dumps(OmegaConf.to_container(own), ensure_ascii=False, default=str))
    referred = frozenset(itertools.chain.from_iterable(re.findall(r"\w+", reference) for reference in references))
    return Composition(_resolved(own, config, files), config.hydra.runtime, referred)


def plain(config: DictConfig, files: ConfigFiles = PROJECT_FILES) -> dict[str, Any]:
    """The configuration as plain values, without Hydra's own node: some of that exists in its application only.

    Raises UserError for a reference to nothing.
    """
    return _resolved(_without_hydra(config), config, files)


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _resolved(own: DictConfig, config: DictConfig, files: ConfigFiles) -> dict[str, Any]:
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
    try:
        if before is None:
            hydra_config.set_config(config)
        with mistakes_in_one_line(files):
            values: Any = OmegaConf.to_container(own, resolve=True)
    finally:
        hydra_config.cfg = before
    return values
