"""What systems do differently: the cores of a process, its memory, and locks."""

import os
import sys
from typing import Any

from bench.errors import UserError

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None  # type: ignore[assignment]


def cores() -> list[int]:
    """The cores that this process may use, by number: all of them where a process is not bound to some (macOS)."""
    bound: Any = getattr(os, "sched_getaffinity", None)
    return sorted(bound(0)) if bound else list(range(os.cpu_count() or 1))


def bind_to(chosen: list[int]) -> None:
    """Have this process, and those that it starts, use these cores alone, where the system knows of that."""
    bind: Any = getattr(os, "sched_setaffinity", None)
    if bind:
        bind(0, chosen)


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MB; NaN where the system does not tell."""
    if resource is None:
        return float("nan")
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def require_unix() -> None:
    """Raise UserError on a system where nothing can be computed: Windows."""
    if fcntl is None:
        raise UserError(
            "this system cannot lock files (Windows): run, launch, merge and data prepare need Linux, macOS or WSL;"
            " plan, build and data list work here"
        )
