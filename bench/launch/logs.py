"""What the logs of pools and workers say."""

import contextlib
from collections.abc import Sequence
from pathlib import Path


def errors_in(logs: Sequence[Path]) -> list[str]:
    """The lines of workers' logs that tell of an error, each once."""
    lines: dict[str, None] = {}
    for log in logs:
        with contextlib.suppress(OSError):
            lines |= dict.fromkeys(log.read_text(encoding="utf-8", errors="replace").splitlines())
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
