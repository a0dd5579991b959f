"""Potentials on disk: parameters, architecture and reference energies in one file that needs no code to be trusted."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from bench.config.plugins import as_config, plugin
from bench.errors import UserError
from bench.potentials.architecture import Architecture
from bench.potentials.base import Potential, View
from bench.runs.device import check_device
from bench.runs.record import read_file, write_atomically

FIRST = "bench.potentials.gmnn.architecture.GaussianMoments"
"""The architecture of files that name none: there was no other."""


def as_file(potential: Potential, reference_energies: dict[int, float], extra: dict[str, Any]) -> bytes:
    """All members of a potential as the content of a file."""
    buffer = io.BytesIO()
    torch.save(
        {
            "architecture": as_config(potential.architecture),
            "state": potential.state(),
            "reference_energies": reference_energies,
            "extra": extra,
        },
        buffer,
    )
    return buffer.getvalue()


def save_potential(
    path: Path, potential: Potential, reference_energies: dict[int, float], extra: dict[str, Any]
) -> None:
    """Write all members of a potential atomically."""
    write_atomically(path, as_file(potential, reference_energies, extra))


def trained_on(view: View, labelled: Int[np.ndarray, " labelled"]) -> dict[str, Any]:
    """The elements, and the pairs of elements within the cutoff, of the training structures: what a model has seen."""
    numbers = view.data.atomic_numbers[view.data.atoms_of(labelled)].astype(np.int64)
    centres, neighbours, _ = view.neighbours.pairs_of(view.data, labelled)
    pairs = np.sort(np.stack([numbers[centres], numbers[neighbours]], axis=1), axis=1)
    return {"elements": np.unique(numbers).tolist(), "pairs": np.unique(pairs, axis=0).tolist()}


def loaded(content: bytes, device: str | torch.device) -> Any:
    """What torch.save wrote. Raises some exception if it is damaged: torch itself does not look at its checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} is damaged")
    return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def load_potential(
    path: Path, device: str = "cpu", checksums: Mapping[str, str] | None = None
) -> tuple[Potential, dict[int, float], dict[str, Any]]:
    """Read a potential, its reference energies (eV per atomic number) and what was saved beside it.

    Raises UserError if the file is not there, is no model, or has not the SHA-256 that `checksums` has for its name, or
    if there is no such device.
    """
    check_device(device)
    read = read_file(path, checksums or {})
    if read is None:
        raise UserError(f"no model file {path}: a finished run keeps one as {path.name}")
    try:
        content = loaded(read, device)
        if "architecture" not in content:
            content |= {"architecture": {"_target_": FIRST} | content["settings"], "state": content}
        architecture: Architecture = plugin(content["architecture"], "model")
        return architecture.load(content["state"], device), content["reference_energies"], content["extra"]
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} is no model of this project ({type(error).__name__}): give a finished run's model.pt; if it is"
            " one, it is damaged: remove it, run again"
        ) from None
