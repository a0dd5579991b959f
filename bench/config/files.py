"""Where configuration comes from: the project's conf/, and the folders that a command line adds to it.

Hydra's own search path in Hydra's order: the folder of the primary file, `--config-dir`, `hydra.searchpath`.
"""

import copy
import functools
import pickle
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, ValueType
from hydra.errors import HydraException, OverrideParseException
from hydra.plugins.config_source import ConfigResult

from bench.config.places import CONF
from bench.errors import UserError, nearest

VERSION_BASE = "1.3"
SEARCH_PATH = "hydra.searchpath"
BESIDE = "command-line"
"""What Hydra calls the provider of the folders beside the primary file's."""


@dataclass(frozen=True)
class ConfigFiles:
    """The primary file `name` and the folders that are searched: paths, or `file://` and `pkg://` addresses."""

    name: str = "config"
    folders: tuple[str, ...] = (str(CONF),)

    @property
    def hydra(self) -> Hydra:
        """Hydra's composition on these files, whatever its application does meanwhile."""
        return _hydra(self.folders)

    def groups(self) -> list[str]:
        """The names of the configuration groups, Hydra's own aside."""
        found = self.hydra.config_loader.get_group_options("", ObjectType.GROUP)
        return [name for name in found if name != "hydra"]

    def options(self, group: str) -> list[str]:
        """The files of a group in all folders."""
        return list(self.hydra.config_loader.get_group_options(group, ObjectType.CONFIG))

    def beside_project(self) -> "ConfigFiles":
        """The project's own primary file and folder, with the other folders behind it."""
        return ConfigFiles(folders=(str(CONF), *(folder for folder in self.folders if folder_of(folder) != CONF)))

    def words(self) -> tuple[str, ...]:
        """What a command line says to use these files."""
        main, *others = self.folders
        return (
            *([f"--config-path={main}"] if main != str(CONF) else []),
            *([f"--config-name={self.name}"] if self.name != "config" else []),
            *([f"{SEARCH_PATH}=[{','.join(others)}]"] if others else []),
        )


PROJECT_FILES = ConfigFiles()


class _Repository(ConfigRepository):
    """Hydra's files; each is parsed once, and again when it has changed: half of the time of a composition."""

    def __init__(self, search_path: ConfigSearchPath) -> None:
        self.parsed: dict[tuple[object, ...], bytes] = {}
        super().__init__(search_path)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Repository":
        """Hydra copies it for every composition, only to give the copy other sources."""
        return copy.copy(self)

    def load_config(self, config_path: str) -> ConfigResult | None:
        """What a file says: the caller's own to alter."""
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        scheme = source.scheme() if source else None
        if source and scheme == "file":
            of_file = Path(source.path, source._normalize_file_name(config_path)).stat()
            state: tuple[int, ...] = (of_file.st_ino, of_file.st_mtime_ns, of_file.st_size)
        elif source and scheme == "pkg":  # in an installed package
            state = ()
        else:
            return super().load_config(config_path)
        key = (source.provider, source.path, config_path, state)
        if key not in self.parsed:
            self.parsed[key] = pickle.dumps(super().load_config(config_path))
        found: ConfigResult | None = pickle.loads(self.parsed[key])  # six times as fast as a deep copy
        return found


@functools.cache
def _hydra(folders: tuple[str, ...]) -> Hydra:
    version.setbase(VERSION_BASE)
    search_path = create_config_search_path(folders[0])
    for folder in folders[1:]:
        search_path.prepend(provider=BESIDE, path=folder, anchor=SearchPathQuery(provider="schema"))
    loader = ConfigLoaderImpl(search_path)
    loader.repository = _Repository(search_path)
    return Hydra(task_name="run", config_loader=loader)


def folder_of(folder: str) -> Path | None:
    """Where a folder lies, None if it is inside a Python package."""
    scheme, separator, rest = folder.partition("://")
    return Path(rest if separator else folder).absolute() if scheme != "pkg" else None


def parse(words: Iterable[str], files: ConfigFiles = PROJECT_FILES) -> list[Override]:
    """Read overrides in Hydra's grammar. Raises UserError."""
    try:
        return OverridesParser.create(config_loader=files.hydra.config_loader).parse_overrides(list(words))
    except OverrideParseException as error:
        key, equals, value = str(error.override).partition("=")
        plain = equals and value and not set(value) & set("\"'[]{},")
        remedy = f"""fix it, or quote its value: '{key}="{value}"'""" if plain else "quote it or fix it"
        raise UserError(f"cannot read {error.override!r} on the command line: {remedy}") from None


def values_of(override: Override) -> list[str]:
    """The words that an override stands for; of an interval, which only some sweepers know, its two ends.

    Raises UserError if there are none.
    """
    if not override.is_sweep_override():
        return [override.input_line or ""]
    key, interval = override.get_key_element(), override.value()
    if isinstance(interval, IntervalSweep):
        return [f"{key}={end}" for end in (interval.start, interval.end)]
    try:
        values = list(override.sweep_string_iterator())
    except HydraException as error:
        raise UserError(f"cannot read {override.input_line!r} on the command line: {error}") from None
    if not values:
        loader = override.config_loader
        known = loader.get_group_options(override.key_or_group, ObjectType.CONFIG) if loader else []
        hint = nearest("", known) if known else "give at least one"
        raise UserError(f"{override.input_line!r} stands for no value at all: {hint}")
    return [f"{key}={value}" for value in values]


def is_pattern(override: Override) -> bool:
    """Whether an override is a `glob()`; Hydra's own looks for files into some of the folders only."""
    return override.value_type == ValueType.GLOB_CHOICE_SWEEP


def refuse_interval(override: Override) -> None:
    """Raise UserError for an `interval()`, which is no list of values."""
    if override.is_interval_sweep():
        raise UserError(f"{override.input_line}: an interval needs a sweeper that draws from it (hydra/sweeper=…)")


def written_out(override: Override) -> str:
    """The same override with all its values named."""
    return f"{override.get_key_element()}={','.join(value.partition('=')[2] for value in values_of(override))}"


def root(override: Override) -> str:
    """The first part of an override's key: `cluster` of `cluster=…`, `+cluster.x=…` and `cluster/…`."""
    return re.split(r"[./@]", override.key_or_group)[0]


def with_search_path(files: ConfigFiles, words: Sequence[str]) -> tuple[ConfigFiles, list[str]]:
    """Take `hydra.searchpath=[…]` out of the words and add its folders.

    Raises UserError if one is not there, or holds a file that the project's own would hide.
    """
    overrides = parse(words, files)
    given = [override for override in overrides if override.get_key_element() == SEARCH_PATH]
    if not given:
        _check_names(files)
        return files, list(words)
    folders: Any = given[0].value()
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise UserError(f"{given[0].input_line}: give a list of folders, {SEARCH_PATH}=[file://FOLDER]")
    found = ConfigFiles(files.name, (*files.folders, *(str(folder_of(folder) or folder) for folder in folders)))
    for source in found.hydra.config_loader.get_sources():
        if not source.available():
            raise UserError(
                f"{SEARCH_PATH}: there is no {'package' if source.scheme() == 'pkg' else 'folder'} {source.path}"
            )
    _check_names(found)
    return found, [override.input_line or "" for override in overrides if override not in given]


def _check_names(files: ConfigFiles) -> None:
    """Refuse a file beside the project's that has the name of one of these, which Hydra finds first."""
    if folder_of(files.folders[0]) != CONF:
        return
    beside = [
        one for one in files.hydra.config_loader.get_sources() if one.provider == BESIDE and folder_of(one.path) != CONF
    ]
    for path in CONF.glob("*/*.yaml") if beside else ():
        name = f"{path.parent.name}/{path.name}"
        for source in beside:
            if source.is_config(name):
                raise UserError(
                    f"{source.path}/{name} has the name of one of the project's files, which hides it: rename it"
                )
