"""The commands as subprocesses, and file systems that fail them."""

import contextlib
import io
import logging
import os
import subprocess
import sys
import warnings
from unittest import mock

import pytest
import torch
from conftest import PROJECT, subprocess_environment

from bench.config.compose import compose_run
from bench.run import execute
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


def here(main, *arguments):
    """A command in this process, which has imported already what the command would; it ends with an exit status."""
    out, err, argv = io.StringIO(), io.StringIO(), [main.__module__, *map(str, arguments)]
    with contextlib.ExitStack() as meanwhile:
        meanwhile.enter_context(mock.patch.dict(os.environ, subprocess_environment()))
        meanwhile.enter_context(mock.patch.object(sys, "argv", argv))
        meanwhile.enter_context(contextlib.chdir(PROJECT))
        meanwhile.enter_context(contextlib.redirect_stdout(out))
        meanwhile.enter_context(contextlib.redirect_stderr(err))
        # what it has started in the background outlives a command
        meanwhile.enter_context(warnings.catch_warnings(action="ignore", category=ResourceWarning))
        try:
            main()
        except SystemExit as end:
            return subprocess.CompletedProcess(argv, end.code or 0, out.getvalue(), err.getvalue())
    raise AssertionError("a command ends with an exit status")


def resume(*arguments):
    """A run in this process, as by `bench.run` in one of its own; gives what it logs."""
    told, root = io.StringIO(), logging.getLogger()
    handler, level, threads = logging.StreamHandler(told), root.level, torch.get_num_threads()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        execute(compose_run(list(map(str, arguments))))
    finally:
        torch.set_num_threads(threads)
        root.removeHandler(handler)
        root.setLevel(level)
    return told.getvalue()


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
        subprocess.run(["umount", "--lazy", path], check=True)  # arrays may still be mapped
