"""The commands as subprocesses, and file systems that fail them."""

import contextlib
import subprocess
import sys

import pytest
from conftest import PROJECT, subprocess_environment

from bench.runs.record import RECORD, read_record


def command(*arguments, module="bench.run"):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def record_at(folder):
    """A record as plain values."""
    return read_record(folder / RECORD).model_dump(exclude_none=True)


def records(results):
    return [record_at(path.parent) for path in sorted(results.glob(f"runs/*/{RECORD}"))]


@contextlib.contextmanager
def file_system(path, size="64M"):
    """A file system of its own mounted at `path`; yields a function that remounts it with other options."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.decode().strip()}")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)
    finally:
        subprocess.run(["umount", path], check=True)
