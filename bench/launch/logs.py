"""What the logs of pools and workers say."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

OWN = re.compile("error: ")
OF_SLURM = re.compile(r"(srun: (error|fatal)|slurmstepd\S*: error): ")
"""How a line begins that tells of an error."""


def errors_in(logs: Sequence[Path], begin: re.Pattern[str] = OWN) -> list[str]:
    """The lines of workers' logs that tell of an error, each once."""
    lines: dict[str, None] = {}
    for log in logs:
        with contextlib.suppress(OSError):
            lines |= dict.fromkeys(log.read_text(encoding="utf-8", errors="replace").splitlines())
    return [line.removeprefix("error: ") for line in lines if begin.match(line)]
