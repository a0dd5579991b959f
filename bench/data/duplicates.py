"""Structures that occur more than once: the same atoms at the same places in the same cell, to the last bit."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from bench.data.structures import Structures

NAMED = 3
"""How many of several are named in a message."""


def first_copies(data: Structures) -> Int[np.ndarray, " structures"]:
    """The first structure that each one is a copy of: itself where it occurs for the first time."""
    seen: dict[bytes, int] = {}
    first = np.empty(len(data), dtype=np.int64)
    for structure in range(len(data)):
        rows = slice(data.offsets[structure], data.offsets[structure + 1])
        parts = (data.atomic_numbers[rows], data.positions[rows], data.cells[structure], data.periodic[structure])
        first[structure] = seen.setdefault(b"".join(part.tobytes() for part in parts), structure)
    return first


def contradictions(
    data: Structures, first: Int[np.ndarray, " structures"], tolerance: float = 1e-4
) -> Int[np.ndarray, " contradicting"]:
    """Copies whose energy, or a force, is not that of the first: by more than `tolerance` eV or eV/Å."""
    found = []
    for copy in np.flatnonzero(first != np.arange(len(data))):
        same = abs(data.energies[copy] - data.energies[first[copy]]) <= tolerance
        if same and data.forces is not None:
            one, other = (data.forces[data.offsets[s] : data.offsets[s + 1]] for s in (copy, first[copy]))
            same = bool(np.abs(one - other).max() <= tolerance)
        if not same:
            found.append(copy)
    return np.array(found, dtype=np.int64)


def named(pairs: Sequence[tuple[int, int]], labels: Sequence[str]) -> str:
    """Some copies and what they are copies of, in words."""
    text = ", ".join(f"{labels[copy]} of {labels[original]}" for copy, original in pairs[:NAMED])
    return text + (", …" if len(pairs) > NAMED else "")
