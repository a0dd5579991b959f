"""What words of a run or a sweep can follow: groups, the files of a group, keys, read from the yaml files.

In the time of a TAB there is no room for Hydra: a test holds the keys found here beside those that it composes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.config.places import CONF

OF_HYDRA = ("hydra/launcher=", "hydra/sweeper=", "hydra.searchpath=[file://")


class Words:
    """The groups, files and keys that the words of a run or a sweep can name."""

    def __init__(self, words: Sequence[str], *, sweeping: bool) -> None:
        self.sweeping = sweeping
        self.folders, self.primary = folders_of(words)
        found = {path.name for folder in self.folders for path in _subfolders(folder)}
        self.groups = sorted(found if sweeping else found - {"cluster"})
        self.chosen: dict[str, str] = {"cluster": "local"} if sweeping else {}
        self.of_files: list[tuple[str, dict[str, Any]]] = []
        self._read(words)

    def complete(self, word: str) -> list[str]:
        """What may stand in the place of a word."""
        prefix = re.match(r"[+~]*", word)
        sign = prefix[0] if prefix else ""
        name, equals, value = word[len(sign) :].partition("=")
        if equals and name in self.groups:
            first, comma, last = value.rpartition(",")
            options = stems(self.folders, name)
            return [f"{sign}{name}={first}{comma}{option}" for option in options if option.startswith(last)]
        if equals:
            return self._values(sign, name, value)
        found = list(self._keys(name))
        for group in self.groups:
            added = group not in self.chosen and not (self.sweeping and group == "sweep")
            if not added or sign or not name:
                found.append(f"{'+' if added and not sign else ''}{group}=")
        found += OF_HYDRA
        ends = re.compile(r"=.*|$")
        known = sorted({ends.sub("", one) if sign == "~" else f"{sign}{one}" for one in found})
        return starting(word, [f"~{one}" for one in known] if sign == "~" else known)

    def _values(self, sign: str, name: str, value: str) -> list[str]:
        """The value that a key has, both of a switch, or a path where one begins."""
        tree: Any = self._tree()
        for part in name.split("."):
            tree = tree.get(part) if isinstance(tree, Mapping) else None
        if value[:1] in ("/", ".", "~") or name in ("results", "dataset.path"):
            return [f"{sign}{name}={path}" for path in paths(value)]
        if isinstance(tree, bool):
            return starting(f"{sign}{name}={value}", [f"{sign}{name}=true", f"{sign}{name}=false"])
        if tree is None or isinstance(tree, Mapping | list) or "${" in str(tree):
            return []
        return starting(f"{sign}{name}={value}", [f"{sign}{name}={tree}"])

    def _keys(self, name: str) -> Iterator[str]:
        """The keys on the level of the last dot of a name, `.` after those that hold others."""
        *parents, _ = name.split(".")
        tree: Any = self._tree()
        for parent in parents:
            tree = tree.get(parent) if isinstance(tree, Mapping) else None
        for key, value in (tree if isinstance(tree, Mapping) else {}).items():
            yield ".".join([*parents, f"{key}{'.' if isinstance(value, Mapping) else '='}"])

    def _tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for package, values in self.of_files:
            node = tree
            for part in package.split(".") if package else []:
                node = node.setdefault(part, {})
            _merge(node, values)
        tree.pop("hydra", None)
        return tree

    def _read(self, words: Sequence[str]) -> None:
        """Find the files that are chosen: by the primary file, by the words, and by files that are chosen so."""
        by_words = dict(re.findall(r"^\+?([\w/]+)=([\w/]+)", "\n".join(words), re.MULTILINE))
        _, primary = _load(self.folders, self.primary)
        defaults = primary.pop("defaults", [])
        self.chosen |= {str(k): str(name) for item in defaults if isinstance(item, dict) for k, name in item.items()}
        beside = [_load(self.folders, item) for item in defaults if isinstance(item, str) and item != "_self_"]
        beside = [(package, {k: v for k, v in values.items() if k != "defaults"}) for package, values in beside]
        given = {group: name for group, name in by_words.items() if group in self.groups}
        self.chosen |= given
        for group, name in list(self.chosen.items()):
            overrides = _load(self.folders, f"{group}/{name}")[1].get("defaults", [])
            for item in overrides if isinstance(overrides, list) else []:
                for key, other in item.items() if isinstance(item, dict) else []:
                    chosen = str(key).removeprefix("override ").lstrip("/")
                    if chosen not in given:
                        self.chosen[chosen] = str(other)
        self.of_files = [*beside, ("", primary)]
        for group, name in self.chosen.items():
            package, values = _load(self.folders, f"{group}/{name}")
            for base in values.pop("defaults", []):
                if isinstance(base, str) and base != "_self_":
                    self.of_files.append((package, _load(self.folders, f"{group}/{base}")[1]))
            self.of_files.append((package, values))


def folders_of(words: Sequence[str]) -> tuple[list[Path], str]:
    """The folders of configuration that a line names, and its primary file."""
    main, primary, others = CONF, "config", []
    for position, word in enumerate(words):
        flag, equals, value = word.partition("=")
        value = value if equals else "".join(words[position + 1 : position + 2])
        if flag in ("--config-dir", "-cd"):
            others.append(value)
        elif flag in ("--config-path", "-cp"):
            main = Path(value).expanduser()
        elif flag in ("--config-name", "-cn"):
            primary = value.removesuffix(".yaml")
        elif flag == "hydra.searchpath":
            others += [folder.strip(" '\"").removeprefix("file://") for folder in value.strip("[]").split(",")]
    return [main, *(Path(folder).expanduser() for folder in others)], primary


def _load(folders: Iterable[Path], name: str) -> tuple[str, dict[str, Any]]:
    """A file of the first folder that has it: the package of its keys, and these; nothing where it cannot be read."""
    for folder in folders:
        try:
            text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
            content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (OSError, yaml.YAMLError):
            continue
        header = re.search(r"^#\s*@package\s+(\S+)", text, re.MULTILINE)
        package = header[1] if header else name.rpartition("/")[0].replace("/", ".")
        return "" if package == "_global_" else package, content if isinstance(content, dict) else {}
    return "", {}


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and path.name != "hydra"] if folder.is_dir() else []


def stems(folders: Iterable[Path], group: str) -> list[str]:
    """The files of a group."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def paths(start: str) -> list[str]:
    """Files and folders whose names begin so, `/` after folders."""
    written, _, name = start.rpartition("/")
    folder = Path(f"{written}/" if written or start.startswith("/") else ".").expanduser()
    if not folder.is_dir():
        return []
    found = sorted(path for path in folder.iterdir() if path.name.startswith(name) and (name or path.name[0] != "."))
    lead = start[: len(start) - len(name)]
    return [f"{lead}{path.name}{'/' if path.is_dir() else ''}" for path in found]


def starting(word: str, known: Iterable[str]) -> list[str]:
    """Those that begin with a word."""
    return [one for one in known if one.startswith(word)]
