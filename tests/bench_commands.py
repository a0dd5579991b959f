"""The commands as subprocesses."""

import subprocess
import sys

from conftest import PROJECT, subprocess_environment

from bench.record import read_record


def command(*arguments, module="bench.run"):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT,
        env=subprocess_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def records(results):
    return [read_record(path) for path in sorted(results.glob("runs/*/record.json"))]
