"""Where the project's own files lie, in a checkout or installed from a wheel, and those of the working folder."""

import contextlib
import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
PROJECT = PACKAGE.parent
"""The checkout, or the folder of all packages."""
FROM_WHEEL = (PACKAGE / "conf").is_dir()
CONF = (PACKAGE if FROM_WHEEL else PROJECT) / "conf"


def cache_folder() -> Path:
    """Where what takes long to find out is kept for later processes: $XDG_CACHE_HOME/bmdal-bench or ~/.cache/…"""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "bmdal-bench"


def path_of(given: str | Path) -> Path:
    """A path as it was typed, `~` being the home folder where shells leave it."""
    path = Path(given)
    with contextlib.suppress(RuntimeError):  # the home of nobody
        return path.expanduser()
    return path


def import_from_working_folder() -> None:
    """Let modules of the working folder be imported, after all others: a folder named `bench` there hides nothing."""
    with contextlib.suppress(FileNotFoundError):  # the folder was removed
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)
