"""From words of a command line to a bound run: Hydra's composition, with every mistake told in one line."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bench.config_files import PROJECT_FILES, ConfigFiles, parse, root
from bench.errors import UserError, nearest
from bench.hydra_mistakes import mistakes_in_one_line
from bench.plugins import name_plugins
from bench.schema import RunConfig, bind, deviations
from bench.sizes import filled, is_open


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
    config = composed(words, files)
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
    chosen = {group: name for group, name in runtime.choices.items() if isinstance(name, str)}
    name, own = run.scenario.name, is_open(_composed_once(files, _words(chosen, "scenario")))
    if name != chosen.get("scenario") and name in PROJECT_FILES.options("scenario"):
        if own:
            raise UserError(f"scenario.name = {name!r} is another scenario's: choose a name of your own")
        chosen["scenario"] = name
    as_filed = _composed_once(files, _words(chosen, "scenario"))
    filed = bind(filled({**as_filed, "dataset": config["dataset"]}, tell=False) if own else as_filed)
    methods = _composed_once(files, _words(chosen, "algorithm", "kernel", "selection"))
    dataset = _composed_once(files, _words(chosen, "dataset"))["dataset"]
    filed = replace(filed, kernel=methods["kernel"], selection=methods["selection"])
    departs = deviations(run, filed, dataset)
    if own:
        departs["scenario.name"] = name
    return replace(run, deviations=departs, filed_final=filed.scenario.final)


def _words(chosen: Mapping[str, str], *groups: str) -> tuple[str, ...]:
    return tuple(f"{group}={chosen[group]}" for group in groups if group in chosen)


@functools.cache
def _composed_once(files: ConfigFiles, words: tuple[str, ...]) -> dict[str, Any]:
    return plain(composed(words, files), files)


def plain(config: DictConfig, files: ConfigFiles = PROJECT_FILES) -> dict[str, Any]:
    """The configuration as plain values, without Hydra's own node: some of that exists in its application only.

    Raises UserError for a reference to nothing.
    """
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
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
