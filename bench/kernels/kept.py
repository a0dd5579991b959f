"""Features that depend on a structure alone, computed once and kept in the user's cache folder by content."""

import contextlib
import hashlib
import io
import logging
import uuid
import zipfile
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
"""Structures that are described at once and kept in a file: a kill costs no more than these."""


@dataclass
class KeptFeatures:
    """Features of a dataset's structures: from files where they are there, else computed and added to these."""

    source: Describer
    data: Structures
    device: torch.device
    known: dict[bytes, Float[np.ndarray, " features"]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    @property
    def folder(self) -> Path:
        """Where the features by this source for these elements are kept."""
        content = f"{self.source.content()}, elements {self.data.species}"
        return cache_folder() / "features" / hashlib.sha256(content.encode()).hexdigest()[:16]

    def __call__(self, structures: Int[np.ndarray, " n"]) -> Float[Tensor, "n features"]:
        """A row for each structure, in float64. Raises Stopped after a signal; what is done by then is kept."""
        # of none the first structure says how many features there are
        parts = [self.data.part(np.array([one])) for one in (structures.tolist() or [0])]
        keys = [_digest(part) for part in parts]
        self._read()
        missing = {key: part for key, part in zip(keys, parts, strict=True) if key not in self.known}
        for start in progress(range(0, len(missing), BLOCK), "features", unit="block"):
            self._add(dict(list(missing.items())[start : start + BLOCK]))
            raise_if_asked()
        rows = np.stack([self.known[key] for key in keys])[: len(structures)]
        return torch.from_numpy(rows).to(self.device)

    def _add(self, missing: dict[bytes, Structures]) -> None:
        """Describe some structures and keep them; what another process has added meanwhile is taken."""
        try:
            make_folder(self.folder)
            with locked(self.folder / "features.lock", wait=True):
                self._read()
                left = {key: part for key, part in missing.items() if key not in self.known}
                self._describe(left)
                if left:
                    self._write(list(left))
        except (OSError, WriteError) as error:
            log.info("note: features are not kept (%s)", error)
            self._describe({key: part for key, part in missing.items() if key not in self.known})

    def _describe(self, missing: dict[bytes, Structures]) -> None:
        if missing:
            atoms = [
                Atoms(one.atomic_numbers, positions=one.positions, cell=one.cells[0], pbc=one.periodic[0])
                for one in missing.values()
            ]
            self.known |= zip(missing, self.source.describe(atoms, self.data.species), strict=True)

    def _write(self, keys: list[bytes]) -> None:
        buffer = io.BytesIO()
        found = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1)
        np.savez(buffer, keys=found, rows=np.stack([self.known[key] for key in keys]))
        path = self.folder / f"{uuid.uuid4().hex}.npz"
        write_atomically(path, buffer.getvalue())
        self.read.add(path.name)

    def _read(self) -> None:
        """Take in the files that were not there before; one that is damaged is as good as none."""
        for path in sorted(self.folder.glob("*.npz")):
            if path.name not in self.read:
                self.read.add(path.name)
                try:
                    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
                        self.known |= zip((key.tobytes() for key in held["keys"]), held["rows"], strict=True)
                except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                    log.warning("%s is damaged: its features are computed again", path)
                    with contextlib.suppress(OSError):
                        path.unlink()


def _digest(part: Structures) -> bytes:
    """SHA-256 of a structure without its labels."""
    digest = hashlib.sha256()
    for array, dtype in (
        (part.atomic_numbers, "<u1"),
        (part.positions, "<f8"),
        (part.cells, "<f8"),
        (part.periodic, "<u1"),
    ):
        digest.update(np.ascontiguousarray(array, dtype=dtype).data)
    return digest.digest()
