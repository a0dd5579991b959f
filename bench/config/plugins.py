"""Classes that a yaml names by `_target_`: imported, checked and built; and what stands for them in an identity."""

import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from bench.config import versions
from bench.config.places import CONF, import_from_working_folder
from bench.errors import UserError, nearest

PROJECT = "bench."
"""What the import path of a class of the project begins with."""
ENTRY_POINTS = "bmdal_bench.plugins"
"""The group of entry points by which an installed package offers modules with classes for a yaml."""
MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_named: set[str] = set()
"""Modules that the user named (`plugins`): a yaml may name what they hold, and nothing else from outside."""

Plugin = dict[str, Any]
"""A yaml with `_target_`, the dotted name of a dataclass, and its fields."""


def plugin(config: Plugin, where: str) -> Any:
    """Import and build what a yaml of the group `where` configures. Raises UserError naming the key."""
    cls = class_of(config, where)
    if config.keys() - {"_target_"} - {field.name for field in fields(cls)} == {"name"}:
        raise UserError(f"{where} {cls.__module__}.{cls.__qualname__} has no field name: give the class one, name: str")
    return build(cls, {key: value for key, value in config.items() if key != "_target_"}, where + ".")


def name_plugins(given: Any) -> None:
    """From now on a yaml may name classes of this module or list of modules, and of modules in them.

    Raises UserError if these are no names of modules.
    """
    for module in given if isinstance(given, list | tuple) else [given]:
        if not (isinstance(module, str) and MODULE.fullmatch(module)) or module.endswith(".py"):
            raise UserError(f"plugins = {module!r}: give a module's name, as import does: my_kernel for my_kernel.py")
        _named.add(module)


def is_outside(module: str) -> bool:
    """Whether a module was named by the user, or is offered by an installed package."""

    def holds(other: str) -> bool:
        return module == other or module.startswith(f"{other}.")

    if module.startswith(PROJECT):
        return False
    return any(map(holds, _named)) or any(
        holds(one.module) for one in importlib.metadata.entry_points(group=ENTRY_POINTS)
    )


def class_of(config: Plugin, where: str) -> type:
    """Import the class that a yaml names, which may be in a file of the working folder.

    Raises UserError, and imports nothing, if it lies neither in the project nor in a module that the user named.
    """
    target = str(config.get("_target_") or "")
    if not target:
        raise UserError(f"{where} has no _target_: give its yaml one, the dotted name of a class")
    cannot = f"{where}._target_ = {target!r} cannot be imported"
    module, _, name = target.rpartition(".")
    if not module:
        raise UserError(f"{cannot}: give a dotted class name")
    if not module.startswith(PROJECT) and not is_outside(module):
        raise UserError(
            f"{where}._target_ = {target!r} is no part of the project: nothing of it is run unless you name its module,"
            f" plugins={module.partition('.')[0]}"
        )
    import_from_working_folder()
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        of_target = f"{module}.".startswith(f"{error.name}.")
        others = f"install {error.name}, or mend {module}" if error.name else f"mend {module}"
        remedy = "give a dotted class name" if of_target else others
        if error.name == module.partition(".")[0]:
            remedy = f"put {error.name}.py into the working folder or on PYTHONPATH, or mend the name"
        raise UserError(f"{cannot} ({error}): {remedy}") from None
    except Exception as error:
        raise UserError(f"{cannot} ({type(error).__name__}: {error}): mend {module}") from error
    if not hasattr(found, name):
        raise UserError(f"{cannot} (module {module!r} has no {name!r}): give a dotted class name")
    cls = getattr(found, name)
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise UserError(f"{where}._target_ = {target!r} is no dataclass: its fields are the keys of the yaml")
    return cls


def offers(made: Any, contract: type, group: str) -> Any:
    """Return what a yaml of a group has made if it offers all that the contract asks for. Raises UserError."""
    named = f"{group} {type(made).__module__}.{type(made).__qualname__}"
    asked = {name: one for name, one in vars(contract).items() if not name.startswith("_")}
    missing = [name for name in asked if not hasattr(made, name)]
    if missing:
        raise UserError(
            f"{named} has no {', '.join(missing)}: give the class"
            f" what {contract.__module__}.{contract.__qualname__} asks for"
        )
    for name, one in asked.items():
        if inspect.isfunction(one):
            _check_taken(getattr(made, name), list(inspect.signature(one).parameters)[1:], f"{named}: {name}")
    return made


def _check_taken(method: Any, arguments: Sequence[str], named: str) -> None:
    """Refuse a method that cannot be called with these arguments, one after the other. Raises UserError."""
    try:
        inspect.signature(method).bind(*arguments)
    except TypeError as error:
        raise UserError(f"{named} is called with ({', '.join(arguments)}), but {error}: have it take these") from None


def load_dataset(config: Plugin) -> Any:
    """The structures of a dataset that a yaml configures. Raises UserError, also if its class gives none."""
    made = plugin(config, "dataset")
    named = f"dataset {type(made).__module__}.{type(made).__qualname__}"
    if not callable(getattr(made, "load", None)):
        raise UserError(f"{named} has no load: give it one that returns bench.data.structures.Structures")
    _check_taken(made.load, [], f"{named}: load")
    data = made.load()
    if not hasattr(type(data), "checksum"):
        raise UserError(f"{named}: load gives {type(data).__name__}, not bench.data.structures.Structures")
    return data


@functools.cache
def filed(group: str) -> dict[str, Plugin]:
    """What the project's own files of a group say, by the name of the method."""
    read = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CONF / group).glob("*.yaml"))]
    return {config["name"]: config for config in read if "name" in config}


def identity_of(group: str, config: Plugin) -> dict[str, Any]:
    """What stands for a kernel or selection in an identity: its name, and values that are not the defaults.

    For the project's own nothing is imported: {"name": N} and what departs from its file. One of the project's classes
    under another name says which method it is `like`. A class from outside says its `version` (1 unless it has one).
    Never where the code lives. Raises UserError.
    """
    name, target = config["name"], config.get("_target_", "")
    own = {known: of_file for known, of_file in filed(group).items() if known in versions.METHODS[group]}
    given = {key: value for key, value in config.items() if key not in ("_target_", "name")}
    if name in own and own[name]["_target_"] == target:
        return _versioned(group, {"name": name} | _departing(given, own[name]))
    relatives = [known for known in own if own[known]["_target_"] == target]
    if relatives:
        like = min(relatives, key=lambda known: len(_departing(given, own[known])))
        return _versioned(group, {"name": name, "like": like} | _departing(given, own[like]))
    cls = class_of(config, group)
    return {"name": name} | _own_version(cls) | _not_default(cls, given)


def identity_of_model(config: Plugin) -> dict[str, Any]:
    """What stands for a potential in an identity: its name, its version, and values that are not its defaults."""
    cls = class_of(config, "model")
    version = versions.MODELS.get(config["name"]) if config["_target_"].startswith(PROJECT) else None
    given = {key: value for key, value in config.items() if key not in ("_target_", "name")}
    named = (
        _with_version({"name": config["name"]}, version) if version else {"name": config["name"]} | _own_version(cls)
    )
    return named | _not_default(cls, given)


def _own_version(cls: type) -> dict[str, int]:
    """The version that a class from outside says. Raises UserError if it is none."""
    version = getattr(cls, "version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(
            f"{cls.__module__}.{cls.__qualname__}: version = {version!r}, expected a whole number from 1 on"
        )
    return {"version": version}


def _not_default(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != "version" and value != _default(cls, key)}


def _departing(given: Mapping[str, Any], of_file: Plugin) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value != of_file.get(key)}


def _versioned(group: str, part: dict[str, Any]) -> dict[str, Any]:
    return _with_version(part, versions.of_method(group, part))


def _with_version(part: dict[str, Any], version: int | None) -> dict[str, Any]:
    """A version of 1 is not named."""
    return part if version in (None, 1) else part | {"version": version}


def _default(cls: type, name: str) -> Any:
    """The default of a dataclass's field, as plain values; MISSING where it has none."""
    for one in fields(cls):
        if one.name == name:
            return default_of(one)
    return MISSING


def default_of(one: "Field[Any]") -> Any:
    """The default of a field in plain values (lists for tuples), MISSING where there is none."""
    value = one.default_factory() if one.default_factory is not MISSING else one.default
    return list(value) if isinstance(value, tuple) else value


def check_name(group: str, config: Plugin) -> None:
    """Refuse a name that is none, or belongs to another class of the project. Raises UserError."""
    name = config.get("name")
    if isinstance(name, str) and not (name.strip() and name.isprintable()):
        raise UserError(f"{group}.name = {name!r}: give a name of one line, for tables and figures")
    owner = filed(group).get(str(name))
    if owner is None or owner["_target_"] == config.get("_target_"):
        return
    if class_of(owner, group) is not class_of(config, group):
        raise UserError(
            f"{group}.name = {name!r} belongs to {owner['_target_']}: give {config.get('_target_')} a name of its own"
        )


def outside_source(config: Plugin, where: str) -> dict[str, Any] | None:
    """Class, version and SHA-256 of the source of a class from outside the project; None for one of its own."""
    if str(config.get("_target_", "")).startswith(PROJECT):
        return None
    cls = class_of(config, where)
    file = getattr(importlib.import_module(cls.__module__), "__file__", None)
    source = Path(file).read_bytes() if file else b""
    return {
        "name": str(config.get("name", "")),
        "class": f"{cls.__module__}.{cls.__qualname__}",
        **_own_version(cls),
        "sha256": hashlib.sha256(source).hexdigest(),
    }


def as_config(made: Any) -> Plugin:
    """What a yaml would say to configure an object again."""
    cls = type(made)
    return {"_target_": f"{cls.__module__}.{cls.__qualname__}"} | as_plain(cls, made)


@functools.cache
def _adapter(cls: type) -> Any:
    return TypeAdapter(cls)


def as_plain(cls: type, value: Any, **options: Any) -> dict[str, Any]:
    """A typed configuration as plain values."""
    plain: dict[str, Any] = _adapter(cls).dump_python(value, mode="json", **options)
    return plain


def build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """Check values against a dataclass and build it. Raises UserError naming the key."""
    _check_keys(cls, values, where)
    try:
        return _adapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        # what pydantic adds for validators and unions is no key
        key = where + ".".join(str(part) for part in first["loc"] if not re.search(r"[(\[]", str(part)))
        given = "" if first["type"] == "missing" else f" = {first['input']!r}"
        # a shell makes several words of braces that stand without quotes
        braces = first["type"] == "dict_type" and isinstance(first["input"], str)
        remedy = f' (in a shell within quotes: "{key}={{…}}")' if braces else ""
        raise UserError(f"configuration key {key}{given}: {first['msg']}{remedy}") from None


def _check_keys(cls: type, values: Mapping[str, Any], where: str) -> None:
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    for key, value in values.items():
        if key not in known:
            raise UserError(f"unknown configuration key {where}{key}: {nearest(str(key), known)}")
        kinds = get_args(hints[key]) or (hints[key],)
        if isinstance(value, bool) and {int, float} & {*kinds} and bool not in kinds:  # pydantic takes true for 1
            raise UserError(f"configuration key {where}{key} = {str(value).lower()}: give a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"configuration key {where}{key} = {value}: give a finite number")
        if is_dataclass(hints[key]) and isinstance(value, Mapping):
            _check_keys(hints[key], value, f"{where}{key}.")
