"""Sweeps: the runs that a yaml of conf/sweep and further words of a command line stand for."""

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from bench.compose import bind_chosen, compose_run, composed, plain
from bench.config_files import PROJECT_FILES, ConfigFiles, parse, refuse_interval, values_of, with_search_path
from bench.errors import UserError
from bench.schema import RunConfig

PLAIN = re.compile(r"batch_size=[1-9]\d*|seed=\d+")
"""Words that are set without composing anew, unless something in the configuration refers to their keys."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: the words after `python -m bench.run` that stand for it, and what they bind to."""

    words: tuple[str, ...]
    run: RunConfig


def expand(words: Sequence[str], files: ConfigFiles = PROJECT_FILES) -> list[Cell]:
    """All runs of `sweep=NAME[,NAME…]` and further overrides, which replace the sweep's own values of a key.

    Nothing is read but configuration, and the data where a scenario takes its sizes from them. A run that several
    sweeps name appears once. Raises UserError.
    """
    files, words = with_search_path(files, words)
    overrides = parse(words, files)
    named = [o for o in overrides if o.key_or_group == "sweep"]
    if len(named) != 1:
        raise UserError("say which sweep: sweep=NAME, a file of conf/sweep, e.g. sweep=demo or sweep=paper")
    own = {o.get_key_element(): _listed(o) for o in overrides if o is not named[0]}
    names = [value.split("=", 1)[1] for value in values_of(named[0])]
    wanted = dict.fromkeys(itertools.chain.from_iterable(_grid(name, own, files) for name in names))
    by_composition: dict[tuple[str, ...], list[list[str]]] = {}
    for combination in wanted:
        filled = [word for word in combination if is_plain(word)]
        by_composition.setdefault(tuple(w for w in combination if w not in filled), []).append(filled)
    cells: dict[str, Cell] = {}
    for rest, variants in by_composition.items():
        found = _compose(rest, files)
        for filled in variants:
            values: dict[str, Any] = {word.partition("=")[0]: int(word.partition("=")[2]) for word in filled}
            run = (
                compose_run([*rest, *filled], files) if found.referred & values.keys() else replace(found.run, **values)
            )
            cells.setdefault(repr(run), Cell((*files.words(), *rest, *filled), run))
    return list(cells.values())


def _listed(override: Override) -> list[str]:
    refuse_interval(override)
    return values_of(override)


def is_plain(word: str) -> bool:
    """Whether a word can be filled in without composing anew, and is right."""
    return PLAIN.fullmatch(word) is not None


def _grid(name: str, own: dict[str, list[str]], files: ConfigFiles) -> list[tuple[str, ...]]:
    """The words of every run of one sweep."""
    config = composed([f"+sweep={name}"], files)
    parts = config.get("sweeps")
    if parts is not None:
        return list(itertools.chain.from_iterable(_grid(part, own, files) for part in parts))
    params = config.hydra.sweeper.get("params") or {}
    replaced = {key.lstrip("+~") for key in own}
    swept = [
        _listed(o)
        for o in parse([f"{key}={value}" for key, value in params.items()], files)
        if o.get_key_element().lstrip("+~") not in replaced
    ]
    return [(f"+sweep={name}", *combination) for combination in itertools.product(*swept, *own.values())]


@dataclass(frozen=True)
class _Composed:
    """A run, and the keys from whose values others of its configuration are made, as by `${seed}`."""

    run: RunConfig
    referred: frozenset[str]


@functools.cache
def _composed_once(words: tuple[str, ...], files: ConfigFiles) -> _Composed:
    config = composed(words, files)
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    references = re.findall(r"\$\{[^}]*\}", OmegaConf.to_yaml(own))
    referred = frozenset(itertools.chain.from_iterable(re.findall(r"\w+", reference) for reference in references))
    return _Composed(bind_chosen(plain(config, files), config.hydra.runtime), referred)


def _compose(words: tuple[str, ...], files: ConfigFiles) -> _Composed:
    """What `_composed_once` gives. An algorithm that sets nothing but kernel and selection is composed once for all."""
    algorithm = tuple(word for word in words if word.startswith("algorithm="))
    default, methods = _composed_once((), files).run, _composed_once(algorithm, files).run
    only_methods = replace(methods, kernel=default.kernel, selection=default.selection) == default
    if only_methods and not any(word.lstrip("+~").startswith(("kernel", "selection")) for word in words):
        base = _composed_once(tuple(word for word in words if word not in algorithm), files)
        same = (base.run.kernel, base.run.selection) == (default.kernel, default.selection)
        if same and not base.referred & {"kernel", "selection", "algorithm"}:
            return replace(base, run=replace(base.run, kernel=methods.kernel, selection=methods.selection))
    return _composed_once(words, files)
