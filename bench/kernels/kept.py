"""Features that depend on a structure alone, computed once and kept in the user's cache folder by content."""

import hashlib
import io
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float, Int
from torch import Tensor

from bench.config.places import cache_folder
from bench.data.structures import Structures
from bench.errors import WriteError
from bench.potentials.describer import Describer
from bench.runs.locks import locked
from bench.runs.progress import progress
from bench.runs.record import make_folder, write_atomically
from bench.runs.stopping import raise_if_asked

log = logging.getLogger(__name__)
BLOCK = 16
"""Structures of a file: a kill costs no more than these."""


@dataclass
class KeptFeatures:
    """Features of a dataset's structures, a file for each block of them that is asked for."""

    source: Describer
    data: Structures
    device: torch.device
    blocks: dict[int, Float[np.ndarray, "block features"]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the features of this source for these elements are kept."""
        content = f"{self.source.content()}, elements {self.data.species}"
        return cache_folder() / "features" / hashlib.sha256(content.encode()).hexdigest()[:16]

    def __call__(self, structures: Int[np.ndarray, " n"]) -> Float[Tensor, "n features"]:
        """A row for each structure, in float64. Raises Stopped after a signal; what is done by then is kept."""
        wanted = np.unique(structures // BLOCK) if len(structures) else np.zeros(1, dtype=np.int64)
        for block in progress(wanted.tolist(), "features", unit="block"):
            if block not in self.blocks:
                self.blocks[block] = self._block(block)
                raise_if_asked()
        first = next(iter(self.blocks.values()))
        rows = np.empty((len(structures), first.shape[1]))
        for row, structure in enumerate(structures.tolist()):
            rows[row] = self.blocks[structure // BLOCK][structure % BLOCK]
        return torch.from_numpy(rows).to(self.device)

    def _block(self, block: int) -> Float[np.ndarray, "block features"]:
        part = self.data.part(np.arange(block * BLOCK, min((block + 1) * BLOCK, len(self.data))))
        path = self.folder / f"{_digest(part)}.npy"
        found = _read(path, len(part))
        if found is not None:
            return found
        try:
            make_folder(self.folder)
            with locked(self.folder / "features.lock", wait=True):
                found = _read(path, len(part))
                if found is None:
                    found = self._described(part)
                    buffer = io.BytesIO()
                    np.save(buffer, found, allow_pickle=False)
                    write_atomically(path, buffer.getvalue())
        except (OSError, WriteError) as error:
            log.info("note: features are not kept (%s)", error)
        return self._described(part) if found is None else found

    def _described(self, part: Structures) -> Float[np.ndarray, "block features"]:
        atoms = [
            Atoms(part.atomic_numbers[rows], positions=part.positions[rows], cell=part.cells[i], pbc=part.periodic[i])
            for i in range(len(part))
            for rows in [slice(part.offsets[i], part.offsets[i + 1])]
        ]
        return self.source.describe(atoms, self.data.species)


def _digest(part: Structures) -> str:
    """SHA-256 of structures without their labels."""
    digest = hashlib.sha256()
    for array, dtype in (
        (part.atomic_numbers, "<u1"),
        (part.positions, "<f8"),
        (part.offsets, "<i8"),
        (part.cells, "<f8"),
        (part.periodic, "<u1"),
    ):
        digest.update(np.ascontiguousarray(array, dtype=dtype).data)
    return digest.hexdigest()


def _read(path: Path, n: int) -> Float[np.ndarray, "block features"] | None:
    """The features in a file; None if it is not there or damaged."""
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and len(found) == n else None
