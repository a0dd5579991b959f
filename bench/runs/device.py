"""The device of a run: threads of the CPU, or a GPU whose sums are the same every time."""

import logging
import os

import torch

import bench
from bench.config.schema import RunConfig
from bench.errors import UserError
from bench.runs.system import cores

log = logging.getLogger(__name__)


def check_device(device: str | torch.device) -> None:
    """Raise UserError if torch has no such device here."""
    try:
        asked = torch.device(device)
    except RuntimeError:
        raise UserError(f"device = {str(device)!r}: say cpu, cuda or, of several GPUs, cuda:1") from None
    if asked.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device = {str(device)!r} but torch sees no GPU here: set device=cpu")


def prepare_device(run: RunConfig) -> None:
    """Set threads, and on a GPU deterministic sums. Raises UserError if there is no such device."""
    check_device(run.device)
    if run.device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    threads = run.threads or len(cores())
    if bench.SPINS and threads > 1 and run.device == "cpu":
        log.warning(
            "torch was imported before bench, so that threads which wait take the cores from other runs: import bench"
            " first, or set OMP_WAIT_POLICY=passive"
        )
    torch.set_num_threads(threads)
