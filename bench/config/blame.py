"""Errors told in one line, as mistakes in the input: those of a plugin, which is the user's, with where they arose."""

import os
import traceback
from pathlib import Path

from bench.config.plugins import is_outside

TRACEBACK = "BMDAL_BENCH_TRACEBACK"
"""Environment variable: if it is set, errors in plugins are told with their traceback, too."""
NO_MEMORY = "DefaultCPUAllocator: "
"""How torch tells of it, in an error that has no class of its own."""


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
    """What to tell of an error in a plugin, a training that diverged, too little memory, or what is closed.

    Empty for any other error, or if the traceback is wanted.
    """
    if os.environ.get(TRACEBACK):
        return ""
    said = " ".join(str(error).split())
    if where := blamed(error):
        return f"{type(error).__name__} in the plugin {where}: {said} (traceback: {TRACEBACK}=1)"
    if isinstance(error, FloatingPointError):
        return said
    _, of_torch, reason = said.partition(NO_MEMORY)
    if of_torch or isinstance(error, MemoryError):
        return (
            f"there is too little memory ({reason or said or 'none is left'}): end what else uses it, or ask for"
            " less: lower training.minibatch or the sizes of the model (model.…), or take fewer structures"
        )
    if isinstance(error, PermissionError) and error.filename:
        return f"cannot open {error.filename} ({error.strerror}): ask its owner to let you, or name another"
    return ""
