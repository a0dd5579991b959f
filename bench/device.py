"""The device of a run: threads of the CPU, or a GPU whose sums are the same every time."""

import os

import torch

from bench.errors import UserError
from bench.schema import RunConfig
from bench.system import cores


def prepare_device(run: RunConfig) -> None:
    """Set threads, and on a GPU deterministic sums. Raises UserError if there is no such device."""
    if run.device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError(f"device = {run.device!r} but torch sees no GPU here: set device=cpu")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(run.threads or len(cores()))
