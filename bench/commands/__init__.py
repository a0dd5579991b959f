"""The subcommands of the console command `bmdal-bench`: where each lives and what it does.

Nothing is imported here but what Python holds itself, so that help and completion answer at once.
"""

import sys
from typing import NamedTuple

PROGRAM = "bmdal-bench"


class Command(NamedTuple):
    """A subcommand: the module whose `main` it is, its name after `python -m`, and what it does."""

    module: str
    python_m: str
    does: str


COMMANDS = {
    "run": Command("bench.run", "bench.run", "one run, or with -m a Hydra multirun"),
    "select": Command("bench.select", "bench.select", "structures to label, from a pool without labels"),
    "launch": Command("bench.launch.__main__", "bench.launch", "a whole sweep on many workers, here or on SLURM"),
    "data": Command("bench.data.__main__", "bench.data", "datasets: list, prepare, verify"),
    "merge": Command("bench.merge", "bench.merge", "results of several machines in one folder"),
    "migrate": Command(
        "bench.migrate", "bench.migrate", "records of an earlier schema brought over to the present one"
    ),
    "plan": Command("analysis.plan", "analysis.plan", "the state and the cost of every run of a sweep"),
    "build": Command("analysis.build", "analysis.build", "figures, tables and a report of all that is recorded"),
    "completion": Command("bench.completion", "bench.completion", "completion of all this in bash, zsh or fish"),
}


def called(name: str) -> str:
    """How the subcommand `name` was called: `bmdal-bench run`, say, or `python -m bench.run`."""
    by_console = f"{PROGRAM} {name}"
    return by_console if sys.argv[0] == by_console else f"python -m {COMMANDS[name].python_m}"


def help_text() -> str:
    """What `bmdal-bench --help` says."""
    listed = "\n".join(f"  {name:12}{command.does}" for name, command in COMMANDS.items())
    return f"usage: {PROGRAM} COMMAND …      ({PROGRAM} COMMAND --help tells more)\n\n{listed}"
