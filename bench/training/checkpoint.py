"""A training in the middle: what is needed to go on with the same numbers after a kill, in one file."""

import hashlib
import io
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from bench.runs.record import write_atomically
from bench.training.store import loaded

log = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """Where a training keeps its state, and after how many seconds it does so anew.

    The file belongs to one training: the folder or name says which run, `key` which training set and how many members.
    """

    path: Path
    seconds: float
    last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self.last > self.seconds

    def save(self, key: str, state: dict[str, Any]) -> None:
        """Replace the file. Raises WriteError."""
        buffer = io.BytesIO()
        torch.save({"key": key, "state": state}, buffer)
        write_atomically(self.path, buffer.getvalue())
        self.last = time.monotonic()

    def load(self, key: str, device: torch.device) -> dict[str, Any] | None:
        """The state saved for this training, or None; a file that cannot be read costs the time it would have saved."""
        try:
            content = loaded(self.path.read_bytes(), device)
            return content["state"] if content["key"] == key else None
        except FileNotFoundError:
            return None
        except Exception as error:
            log.warning("%s is damaged (%s): this training starts anew", self.path, type(error).__name__)
            return None

    def remove(self) -> None:
        """Forget the training: its result is recorded."""
        self.path.unlink(missing_ok=True)


def key_of(training: Int[np.ndarray, " train"], members: int) -> str:
    """What tells the trainings of one run apart."""
    return hashlib.sha256(np.ascontiguousarray(training, dtype=np.int64).tobytes()).hexdigest() + f" {members} models"
