"""Sweeps: the runs that a yaml of conf/sweep and further words of a command line stand for."""

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.types import Override

from bench.config.compose import bind_chosen, compose_run, composed, composed_once
from bench.config.files import PROJECT_FILES, ConfigFiles, parse, refuse_interval, root, values_of, with_search_path
from bench.config.plain_files import choices_of_file, parts_of_file, sweep_of_file, values_of_file
from bench.config.schema import RunConfig
from bench.errors import UserError

PLAIN = re.compile(r"batch_size=[1-9]\d*|seed=\d+")
"""Words that are set without composing anew, unless something in the configuration refers to their keys."""
METHODS = ("kernel", "selection")
"""What an algorithm chooses."""


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
    parts, params = _read(name, files)
    if parts:
        return list(itertools.chain.from_iterable(_grid(part, own, files) for part in parts))
    replaced = {key.lstrip("+~") for key in own}
    swept = [
        _listed(o)
        for o in parse([f"{key}={value}" for key, value in params.items()], files)
        if o.get_key_element().lstrip("+~") not in replaced
    ]
    return [(f"+sweep={name}", *combination) for combination in itertools.product(*swept, *own.values())]


def _read(name: str, files: ConfigFiles) -> tuple[list[str], dict[str, Any]]:
    """The sweeps that make up a sweep, or the values that its sweeper takes."""
    parts, alone = parts_of_file(files, name), sweep_of_file(files, name)
    if parts is not None:
        return parts, {}
    if alone is not None:
        return [], alone[1]
    config = composed([f"+sweep={name}"], files)
    return list(config.get("sweeps") or []), dict(config.hydra.sweeper.get("params") or {})


@dataclass(frozen=True)
class _Composed:
    """A run, the files chosen for it, and the keys from whose values others are made."""

    run: RunConfig
    chosen: dict[str, str]
    referred: frozenset[str]


@functools.cache
def _composed_once(words: tuple[str, ...], files: ConfigFiles) -> _Composed:
    one = composed_once(files, words)
    return _Composed(bind_chosen(one.values, one.runtime), one.chosen, one.referred)


def _compose(words: tuple[str, ...], files: ConfigFiles) -> _Composed:
    """What `_composed_once` gives, composed once for all algorithms that only choose a kernel and a selection."""
    words = _with_scenario(words, files)
    roots = {word: _root(word, files) for word in words}
    algorithm = [word.partition("=")[2] for word in words if word.startswith("algorithm=")]
    choice = choices_of_file(files, "algorithm", algorithm[0]) if len(algorithm) == 1 else None
    if choice is None or set(choice) != {*METHODS} or set(roots.values()) & {*METHODS}:
        return _composed_once(words, files)
    base = _composed_once(tuple(word for word in words if roots[word] != "algorithm"), files)
    kernel, selection = (values_of_file(files, group, choice[group]) for group in METHODS)
    untouched = all(getattr(base.run, group) == values_of_file(files, group, base.chosen[group]) for group in METHODS)
    if not untouched or kernel is None or selection is None or base.referred & {*METHODS, "algorithm"}:
        return _composed_once(words, files)
    return replace(base, run=replace(base.run, kernel=kernel, selection=selection))


def _with_scenario(words: tuple[str, ...], files: ConfigFiles) -> tuple[str, ...]:
    """The same with `scenario=…` for a sweep that says no more of a run."""
    alone = sweep_of_file(files, words[0].removeprefix("+sweep="))
    if alone is None or any(re.match(r"[+~]*scenario\b(?!\.)", word) for word in words):
        return words
    return (f"scenario={alone[0]}", *words[1:])


@functools.cache
def _root(word: str, files: ConfigFiles) -> str:
    return root(*parse([word], files))
