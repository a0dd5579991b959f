"""Hydra's own flags, read before anything runs, so that a mistake among them ends in one line too."""

import argparse
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from bench.config.files import ConfigFiles, is_pattern, parse, with_search_path, written_out
from bench.config.places import CONF
from bench.errors import UserError, nearest

SHELLS = ("bash", "fish", "zsh")
ONE_OF = ("run", "multirun", "cfg", "info", "shell_completion")


class OneLineParser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    remark = " (values are given as key=value)"

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        if unknown:
            known = [option for option in self._option_string_actions if option.startswith("--")]
            hint = nearest(unknown[0].partition("=")[0], known, cutoff=0.7)
            message = f"unknown option {unknown[0]!r}: {hint}{self.remark}"
        raise UserError(message)


class PlainParser(OneLineParser):
    """Of a command that takes no key=value."""

    remark = ""


class HydraLine:
    """A command line of Hydra: its flags, its overrides, and the configuration files that they name.

    Raises UserError for flags that do not exist, contradict each other, or name what is not there.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        parser = OneLineParser(parents=[get_args_parser()], add_help=False)
        self._actions = parser._actions
        self.flags = parser.parse_intermixed_args(list(arguments))
        self.overrides: list[str] = self.flags.overrides
        self._check()
        self.files, self.words = files_of(self.flags, [] if self.flags.shell_completion else self.overrides)
        if not self.flags.shell_completion:
            overrides = parse(self.overrides, self.files)
            self.overrides = [written_out(o) if is_pattern(o) else o.input_line or "" for o in overrides]
        if self.flags.config_path is not None:
            self.flags.config_path = self.files.folders[0]

    @property
    def only_shows(self) -> bool:
        """Whether nothing is to be run."""
        flags = self.flags
        return bool(flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion)

    def arguments(self) -> list[str]:
        """The line as Hydra reads it whatever the order in which it was typed: overrides first."""
        told: list[str] = []
        for action in self._actions:
            value: Any = getattr(self.flags, action.dest, None)
            if action.option_strings and value not in (None, False):
                told += [action.option_strings[0], *([] if value is True else [str(value)])]
        return [*([] if self.flags.hydra_help else self.overrides), *told]  # its help takes no file but its own

    def _check(self) -> None:
        flags = self.flags
        asked = [name for name in ONE_OF if getattr(flags, name)]
        if len(asked) > 1:
            raise UserError(" and ".join(f"--{name.replace('_', '-')}" for name in asked) + " exclude each other")
        if flags.resolve and not (flags.cfg or flags.help):
            raise UserError("--resolve goes with --cfg or --help: add --cfg job")
        if flags.experimental_rerun is not None:
            _check_job(Path(flags.experimental_rerun))
        if flags.shell_completion:
            given = [word.partition("=") for word in self.overrides]
            if len(given) != 1 or given[0][0] not in ("install", "uninstall", "query") or given[0][2] not in SHELLS:
                raise UserError(f"--shell-completion: say install=SHELL or uninstall=SHELL, one of {', '.join(SHELLS)}")
            if given[0][0] == "query" and "COMP_LINE" not in os.environ:
                raise UserError("--shell-completion query=…: a shell sets COMP_LINE for it; say install=SHELL")


def _check_job(path: Path) -> None:
    """Raise UserError for what is no job as Hydra's callback pickles it."""
    if not path.is_file():
        raise UserError(f"--experimental-rerun: there is no file {path}")
    try:
        job = pickle.loads(path.read_bytes())  # as Hydra itself will
        known = isinstance(job, DictConfig) and "hydra" in job
    except Exception:  # whatever the bytes mean to pickle
        known = False
    if not known:
        raise UserError(
            f"--experimental-rerun: {path} is no job of Hydra: give the config.pickle of its PickleJobInfoCallback"
        )


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Give a command that is not Hydra's own the flags by which Hydra finds configuration."""
    group = parser.add_argument_group("configuration, as in Hydra (also hydra.searchpath=[file://FOLDER])")
    group.add_argument("--config-dir", "-cd", metavar="FOLDER", help="a folder of files beside the project's own")
    group.add_argument("--config-path", "-cp", metavar="FOLDER", help="a folder in place of the project's own")
    group.add_argument("--config-name", "-cn", metavar="NAME", help="another primary file than config")


def files_of(flags: argparse.Namespace, words: Sequence[str]) -> tuple[ConfigFiles, list[str]]:
    """The files that a command line names, and its overrides but for the search path. Raises UserError.

    Relative folders are relative to the working folder.
    """
    folders = [str(CONF)]
    if flags.config_path is not None:
        folders = [flags.config_path if "://" in flags.config_path else _folder("--config-path", flags.config_path)]
    if flags.config_dir is not None:
        folders.append(_folder("--config-dir", flags.config_dir))
    name = (flags.config_name or "config").removesuffix(".yaml")
    return with_search_path(ConfigFiles(name, tuple(folders)), words)


def _folder(flag: str, given: str) -> str:
    if not given:
        raise UserError(f"{flag}: an empty name (is a variable of the shell not set?): name a folder")
    path = Path(given).absolute()
    if not path.is_dir():
        raise UserError(f"{flag}: there is no folder {path}")
    return str(path)
