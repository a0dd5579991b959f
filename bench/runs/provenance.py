"""Where numbers come from: versions, hardware, threads and git commit, recorded with every session of a run."""

import importlib.metadata
import platform
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from bench.config.places import FROM_WHEEL, PACKAGE
from bench.config.versions import ENGINE
from bench.runs.record import now
from bench.runs.system import cores, peak_memory

PACKAGES = ("torch", "numpy", "vesin", "ase", "hydra-core")


def provenance(device: str) -> dict[str, Any]:
    """Describe this session as plain values."""
    return {
        "started": now(),
        "host": socket.gethostname(),
        "cores": len(cores()),
        **what_rounds(device),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "engine": ENGINE,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        **_git(),
    }


def what_rounds(device: str) -> dict[str, Any]:
    """What the last digits of sums depend on: threads, the kind of processor and of device."""
    return {
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
    }


def peak_memory_mb(device: str) -> dict[str, float]:
    """Largest resident memory of this process so far, and of the GPU where there is one, in MB."""
    peak = {"peak_memory_mb": peak_memory()}
    if device.startswith("cuda"):
        peak["peak_gpu_memory_mb"] = max(_peaks_before, torch.cuda.max_memory_allocated()) / 1024**2
    return peak


_peaks_before = 0
"""Bytes: the largest memory on the GPU before it was last counted anew."""


Result = TypeVar("Result")


def gpu_memory_of(work: Callable[[], Result], device: torch.device) -> tuple[Result, int]:
    """What `work` returns, and the bytes it took at most on a GPU, beside what was there."""
    global _peaks_before  # noqa: PLW0603 - the device has one count for the process
    _peaks_before = max(_peaks_before, torch.cuda.max_memory_allocated(device))
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = work()
    return result, torch.cuda.max_memory_allocated(device) - before


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git() -> dict[str, Any]:
    if FROM_WHEEL:  # a repository around it is another project's
        return {"git_commit": None, "git_dirty": None}

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": None if changes is None else bool(changes)}
