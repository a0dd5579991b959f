"""Completion of `bmdal-bench` in a shell: bmdal-bench completion bash|zsh|fish prints what to load there.

A TAB starts this module anew, so it imports little and reads the yaml files itself, without Hydra: the groups, the
files of a group, and the keys of the files that are chosen, in conf/ and in the folders that the line names.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from bench.commands import COMMANDS, called
from bench.commands.completion_words import Words, paths, starting, stems
from bench.config.places import CONF, PACKAGE

SHELLS = ("bash", "zsh", "fish")
OF_CONFIG = ("--config-dir", "--config-path", "--config-name")
FLAGS = {
    "run": (
        *(*OF_CONFIG, "--cfg", "--package", "--resolve", "--multirun", "--run", "--info", "--shell-completion"),
        *("--experimental-rerun", "--help", "--hydra-help", "--version"),
    ),
    "launch": (*OF_CONFIG, "--wait", "--dry-run", "--status", "--cancel", "--retry-failed", "--json", "--help"),
    "select": (*OF_CONFIG, "--help"),
    "plan": (*OF_CONFIG, "--results", "--costs", "--workers", "--csv", "--json", "--help"),
    "build": (
        *("--results", "--output", "--data", "--sweep", "--workers", "--label-seconds", "--figures", "--algorithms"),
        *("--width", "--format", "--style", "--page", "--help"),
    ),
    "merge": ("--without-models", "--help"),
    "migrate": ("--help",),
    "data": ("--from", "--rows", "--config-dir", "--help"),
    "completion": ("--help",),
}
CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "-c": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "-i": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--shell-completion": ("install=bash", "install=fish", "install=zsh"),
    "-sc": ("install=bash", "install=fish", "install=zsh"),
}
TAKES_PATH = (
    *("--config-dir", "-cd", "--config-path", "-cp", "--results", "--output", "--data", "--costs", "--csv"),
    *("--from", "--experimental-rerun"),
)
SWEEPING = ("launch", "plan")
OF_FILES = ("pool=", "labelled=", "model=", "pending=", "exclude=", "output=", "repeat=")
OF_SELECT = (
    *(*OF_FILES, "n=", "shards="),
    *(f"guards.{name}=" for name in ("min_distance", "max_force", "max_uncertainty", "tolerance")),
    *("guards.per_file=", "guards.per_composition="),
)
"""The words that are `bench.select`'s own."""


def main() -> int:
    """Print the script of a shell, or (called by such a script) what may follow on a line."""
    if sys.argv[1:2] == ["--query"]:
        shell, line, *breaks = sys.argv[2:]
        print("\n".join(for_shell(shell, line, "".join(breaks))))
        return 0
    parser = argparse.ArgumentParser(prog=called("completion"), description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shell", choices=SHELLS)
    print(
        (PACKAGE / "commands" / "shells" / f"completion.{parser.parse_args().shell}").read_text(encoding="utf-8"),
        end="",
    )
    return 0


def for_shell(shell: str, line: str, breaks: str) -> list[str]:
    """What a shell is to insert: bash after the last of its word breaks, fish with spaces of its own."""
    *before, word = _split(line)
    found = candidates(before[1:], word)
    if shell == "fish":
        return found
    broken = max((word.rfind(character) for character in breaks if character not in " \t\n\"'"), default=-1)
    return [f"{one[broken + 1 :]}{'' if one[-1] in '=./' or one.endswith('//') else ' '}" for one in found]


def _split(line: str) -> list[str]:
    """The words of a line, the one at the cursor last, without quotes."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(line + closing)
        except ValueError:
            continue
        return [*words, ""] if not closing and (not words or line[-1:].isspace()) else words
    return [*line.split(), ""] if line[-1:].isspace() else line.split()


def candidates(before: Sequence[str], word: str) -> list[str]:
    """The words that may stand in the place of `word` after these words of `bmdal-bench`."""
    if not before:
        return starting(word, [*COMMANDS, "--help"])
    command, *rest = before
    if command not in COMMANDS:
        return []
    of_flag = _of_flag(rest[-1] if rest else "", word)
    if of_flag is not None:
        return of_flag
    if word.startswith("-"):
        return starting(word, FLAGS[command])
    if command in ("run", "select", *SWEEPING):
        own = _of_select(word) if command == "select" else []
        return [*own, *Words(rest, sweeping=command in SWEEPING).complete(word)]
    return _of_others(command, rest, word)


def _of_select(word: str) -> list[str]:
    """Those of `select` alone, and the files that follow them."""
    name, equals, value = word.partition("=")
    files = [f"{name}={path}" for path in paths(value)] if equals and f"{name}=" in OF_FILES else []
    return [*starting(word, OF_SELECT), *files]


def _of_flag(previous: str, word: str) -> list[str] | None:
    """The value of a flag, which stands before it or in the same word; None where there is none."""
    flag, equals, value = word.partition("=")
    same = bool(equals) and flag in (*TAKES_PATH, *CHOICES)
    lead = f"{flag}=" if same else ""
    flag, value = (flag, value) if same else (previous, word)
    if flag in TAKES_PATH:
        return [f"{lead}{path}" for path in paths(value)]
    return [f"{lead}{choice}" for choice in starting(value, CHOICES[flag])] if flag in CHOICES else None


def _of_others(command: str, rest: Sequence[str], word: str) -> list[str]:
    if command == "completion":
        return starting(word, SHELLS) if not rest else []
    if command == "data":
        names = ("list", "prepare", "verify") if not rest else stems([CONF], "dataset")
        return starting(word, names) if rest[:1] != ["list"] else []
    return paths(word) if command in ("merge", "migrate") else []


if __name__ == "__main__":
    sys.exit(main())
