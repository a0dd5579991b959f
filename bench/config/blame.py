"""Which plugin an error came from: told in one line, as a mistake in the input, for the plugin is the user's."""

import os
import traceback
from pathlib import Path

from bench.config.plugins import is_outside

TRACEBACK = "BMDAL_BENCH_TRACEBACK"
"""Environment variable: if it is set, errors in plugins are told with their traceback, too."""


def blamed(error: BaseException) -> str:
    """Where in a plugin an error arose: the function that the project called, file and line. Empty if in none."""
    frames = [
        (frame.f_globals["__name__"], frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if is_outside(frame.f_globals.get("__name__", ""))
    ]
    if not frames:
        return ""
    module, called, _ = frames[0]
    _, innermost, line = frames[-1]
    return f"{module}.{called.co_qualname}, {Path(innermost.co_filename).name}:{line}"


def in_one_line(error: BaseException) -> str:
    """What to tell of an error in a plugin; empty if it is in none, or if the traceback is wanted."""
    where = "" if os.environ.get(TRACEBACK) else blamed(error)
    said = " ".join(str(error).split())
    return where and f"{type(error).__name__} in the plugin {where}: {said} (traceback: {TRACEBACK}=1)"
