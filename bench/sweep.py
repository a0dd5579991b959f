"""Sweeps: the runs that a yaml of conf/sweep and further words of a command line stand for."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.compose import compose_run, composed, parse, values_of
from bench.errors import UserError
from bench.schema import RunConfig

PLAIN_KEYS = ("batch_size", "seed")
"""Set without composing anew: nothing else in the configuration refers to them."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: the words after `python -m bench.run` that stand for it, and what they bind to."""

    words: tuple[str, ...]
    run: RunConfig


def expand(words: Sequence[str]) -> list[Cell]:
    """All runs of `sweep=NAME[,NAME…]` and further overrides, which replace the sweep's own values of a key.

    Nothing is read but conf/. A run that several sweeps name appears once. Raises UserError.
    """
    overrides = parse(words)
    named = [o for o in overrides if o.key_or_group == "sweep"]
    if len(named) != 1:
        raise UserError("say which sweep: sweep=NAME, a file of conf/sweep, e.g. sweep=demo or sweep=paper")
    own = {o.key_or_group: values_of(o) for o in overrides if o is not named[0]}
    names = [value.split("=", 1)[1] for value in values_of(named[0])]
    wanted = dict.fromkeys(itertools.chain.from_iterable(_grid(name, own) for name in names))
    by_composition: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for combination in wanted:
        words_by_key = {word.partition("=")[0]: word for word in combination}
        plain = {key: words_by_key[key].partition("=")[2] for key in PLAIN_KEYS if key in words_by_key}
        rest = tuple(word for key, word in words_by_key.items() if key not in PLAIN_KEYS)
        by_composition.setdefault(rest, []).append(plain)
    cells: dict[str, Cell] = {}
    for rest, variants in by_composition.items():
        run = _compose(rest)
        for plain in variants:
            values: dict[str, Any] = {key: _integer(key, value) for key, value in plain.items()}
            cell = Cell((*rest, *(f"{key}={value}" for key, value in plain.items())), replace(run, **values))
            cells.setdefault(repr(cell.run), cell)
    return list(cells.values())


def _grid(name: str, own: dict[str, list[str]]) -> list[tuple[str, ...]]:
    """The words of every run of one sweep."""
    config = composed([f"+sweep={name}"])
    parts = config.get("sweeps")
    if parts is not None:
        return list(itertools.chain.from_iterable(_grid(part, own) for part in parts))
    params = config.hydra.sweeper.params or {}
    swept = {o.key_or_group: values_of(o) for o in parse([f"{key}={value}" for key, value in params.items()])}
    return [(f"+sweep={name}", *combination) for combination in itertools.product(*(swept | own).values())]


def _compose(words: Sequence[str]) -> RunConfig:
    """What `compose_run` gives. An algorithm that sets nothing but kernel and selection is composed once for all."""
    algorithm = tuple(word for word in words if word.startswith("algorithm="))
    default, methods = _compose_once(()), _compose_once(algorithm)
    only_methods = replace(methods, kernel=default.kernel, selection=default.selection) == default
    if only_methods and not any(word.lstrip("+~").startswith(("kernel", "selection")) for word in words):
        base = _compose_once(tuple(word for word in words if word not in algorithm))
        if (base.kernel, base.selection) == (default.kernel, default.selection):
            return replace(base, kernel=methods.kernel, selection=methods.selection)
    return compose_run(words)


@functools.cache
def _compose_once(words: tuple[str, ...]) -> RunConfig:
    return compose_run(words)


def _integer(key: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UserError(f"{key} = {value!r}: must be a whole number") from None
