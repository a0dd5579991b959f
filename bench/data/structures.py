"""Labelled atomistic structures as flat arrays: atoms of structure i are the rows offsets[i]:offsets[i+1]."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from bench.errors import UserError

SMALLEST_VOLUME = 1e-6
"""Å, Å² or Å³; periodic cell vectors that span less are no cell."""
HIGHEST_ELEMENT = 118
SPAN = {1: "no length", 2: "no area", 3: "no volume"}


class Origin(NamedTuple):
    """The folder of a store and the checksum written with it."""

    folder: Path
    checksum: str


@dataclass(frozen=True)
class Structures:
    """A dataset in eV and Å; positions and forces may be float32 or float64, as published.

    `reference_energies` (eV per atomic number) are constants of the dataset; `residual_energies` is what is learned.
    `forces` is None for a dataset of energies alone; `like_forces` are then entries of the file that look like forces.
    Nothing is checked here: who reads foreign data calls `check_structures`. `origin` is the store the arrays are
    mapped from, if any; a copy made by `replace` forgets it. Of structures that are `passing`, such as a pool without
    labels, neighbour lists are made when they are asked for, and not kept. `isolated` are the elements whose reference
    energies are those of isolated atoms of the same data: they are labelled, though no structures any more.
    """

    name: str
    atomic_numbers: Integer[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    offsets: Int[np.ndarray, " structures_and_1"]
    cells: Float[np.ndarray, "structures 3 3"]
    periodic: Bool[np.ndarray, "structures 3"]
    energies: Float[np.ndarray, " structures"]
    forces: Float[np.ndarray, "atoms 3"] | None
    reference_energies: dict[int, float]
    like_forces: tuple[str, ...] = ()
    origin: Origin | None = field(default=None, init=False, compare=False)
    passing: bool = field(default=False, compare=False)
    isolated: tuple[int, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.energies)

    @cached_property
    def n_atoms(self) -> Int[np.ndarray, " structures"]:
        """Atoms per structure."""
        return np.diff(self.offsets)

    @cached_property
    def species(self) -> tuple[int, ...]:
        """The atomic numbers that may occur, ascending: those with a reference energy."""
        return tuple(sorted(self.reference_energies))

    @cached_property
    def species_index(self) -> Int[np.ndarray, " atoms"]:
        """Each atom's position in `species`."""
        position = np.zeros(max(self.species) + 1, dtype=np.int64)
        position[list(self.species)] = np.arange(len(self.species))
        return position[self.atomic_numbers]

    @cached_property
    def residual_energies(self) -> Float[np.ndarray, " structures"]:
        """Energies minus the sum of the atoms' reference energies, float64, eV (docs/method.md, Potential)."""
        reference = np.zeros(max(self.species) + 1)
        reference[list(self.species)] = [self.reference_energies[z] for z in self.species]
        return self.energies - np.add.reduceat(reference[self.atomic_numbers], self.offsets[:-1])

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of everything that enters a number, independent of the file it came from."""
        digest = hashlib.sha256(repr(sorted(self.reference_energies.items())).encode())
        forces = np.zeros((0, 3)) if self.forces is None else self.forces
        for array, dtype in (
            (self.atomic_numbers, "<u1"),
            (self.positions, "<f8"),
            (self.offsets, "<i8"),
            (self.cells, "<f8"),
            (self.periodic, "<u1"),
            (self.energies, "<f8"),
            (forces, "<f8"),
        ):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype=dtype).data)
        return digest.hexdigest()

    @property
    def published_checksum(self) -> str:
        """The checksum in single precision, which sources in single and in double precision share."""
        forces = None if self.forces is None else self.forces.astype(np.float32)
        return replace(self, positions=self.positions.astype(np.float32), forces=forces).checksum

    def atoms_of(self, structures: Int[np.ndarray, " picked"]) -> Int[np.ndarray, " picked_atoms"]:
        """The atom rows of some structures, in their order."""
        return ragged_rows(self.offsets[structures], self.n_atoms[structures])

    def part(self, structures: Int[np.ndarray, " picked"]) -> "Structures":
        """Some structures, in the order given."""
        atoms = self.atoms_of(structures)
        return replace(
            self,
            atomic_numbers=self.atomic_numbers[atoms],
            positions=self.positions[atoms],
            offsets=np.concatenate([[0], np.cumsum(self.n_atoms[structures])]),
            cells=self.cells[structures],
            periodic=self.periodic[structures],
            energies=self.energies[structures],
            forces=None if self.forces is None else self.forces[atoms],
        )

    def remember(self, origin: Origin, *, same_references: bool) -> None:
        """Say where these arrays lie. The store's checksum is theirs, too, if it has the same reference energies."""
        object.__setattr__(self, "origin", origin)
        if same_references:
            vars(self)["checksum"] = origin.checksum


def check_elements(numbers: np.ndarray, name: str) -> None:
    """Refuse what is no atomic number and would not fit its byte; 0, ASE's dummy atom, is one. Raises UserError."""
    strange = numbers[(numbers < 0) | (numbers > HIGHEST_ELEMENT)]
    if strange.size:
        raise UserError(f"{name}: {strange[0]} is no atomic number: correct it")


def check_structures(data: Structures, labels: Sequence[str] | None = None) -> None:
    """Refuse what no potential can learn from. `labels` name the structures in messages. Raises UserError."""
    where = f"dataset {data.name}"

    def named(structure: int) -> str:
        return f"structure {structure}" + (f" ({labels[structure]})" if labels is not None else "")

    _check_shapes(data)
    if len(data) == 0:
        raise UserError(f"{where}: 0 structures: nothing to learn from")
    empty = np.flatnonzero(data.n_atoms < 1)
    if empty.size:
        first = int(empty[0])
        raise UserError(f"{where}: {named(first)} holds {data.n_atoms[first]} atoms: remove or fix that structure")
    if data.offsets[-1] != len(data.positions):
        raise UserError(f"{where}: the atom counts do not add up to the {len(data.positions)} positions given")
    present = np.unique(data.atomic_numbers).tolist()
    if present[0] < 1:
        raise UserError(f"{where}: Z = {present[0]} is no element: remove the dummy atoms")
    missing = sorted(set(present) - set(data.reference_energies))
    if missing:
        raise UserError(f"{where}: no reference energy for Z = {missing}: add it to dataset.reference_energies")
    per_atom = {"positions": data.positions} | ({} if data.forces is None else {"forces": data.forces})
    for key, array in per_atom.items():
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if bad.size:
            structure = int(np.searchsorted(data.offsets, bad[0], side="right") - 1)
            value = array[bad[0]].tolist()
            raise UserError(f"{where}: {key} of {named(structure)} hold {value}: remove or fix that structure")
    bad = np.flatnonzero(~np.isfinite(data.energies))
    if bad.size:
        value = data.energies[bad[0]]
        raise UserError(f"{where}: energy of {named(int(bad[0]))} is {value}: remove or fix that structure")
    bad = np.flatnonzero(data.periodic.any(axis=1) & ~np.isfinite(data.cells).all(axis=(1, 2)))
    if bad.size:
        values = data.cells[bad[0]].tolist()
        raise UserError(f"{where}: the cell of {named(int(bad[0]))} holds {values}: remove or fix that structure")
    flat = np.flatnonzero(~(spanned(data.cells, data.periodic) > SMALLEST_VOLUME))
    if flat.size:
        along = data.periodic[flat[0]]
        axes = ", ".join(name for name, is_periodic in zip("abc", along, strict=True) if is_periodic)
        raise UserError(
            f"{where}: {named(int(flat[0]))} is periodic along {axes} but its cell has {SPAN[int(along.sum())]}:"
            " give a real cell, or set pbc to F along a missing vector"
        )


def check_forces(data: Structures) -> None:
    """Refuse to train forces where there are none. Raises UserError."""
    if data.forces is None:
        found = f"give dataset.forces_key={data.like_forces[0]}, or " if data.like_forces else ""
        raise UserError(
            f"dataset {data.name} has no forces, but training.force_weight > 0: {found}choose training=energies"
        )


def _check_shapes(data: Structures) -> None:
    """Refuse fields that are no arrays of numbers, or do not fit each other. Raises UserError."""
    n, n_atoms = np.shape(data.energies)[:1], np.shape(data.atomic_numbers)[:1]
    shapes = {"energies": n, "offsets": (*(length + 1 for length in n),), "cells": (*n, 3, 3), "periodic": (*n, 3)}
    shapes |= {"atomic_numbers": n_atoms, "positions": (*n_atoms, 3)}
    for key, shape in (shapes if data.forces is None else shapes | {"forces": (*n_atoms, 3)}).items():
        value = getattr(data, key)
        found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub" or value.shape != shape or not shape:
            raise UserError(f"dataset {data.name}: {key} is {found}, expected an array of numbers of shape {shape}")


def spanned(
    cells: Float[np.ndarray, "structures 3 3"], periodic: Bool[np.ndarray, "structures 3"]
) -> Float[np.ndarray, " structures"]:
    """What the periodic cell vectors span: a length, an area or a volume in Å, Å² or Å³; 1 without any.

    The other vectors do not matter: a slab's may be zero.
    """
    result = np.ones(len(cells))
    for kind in np.unique(periodic, axis=0):
        rows = (periodic == kind).all(axis=1)
        if kind.any():
            vectors = cells[rows][:, kind]
            result[rows] = np.prod(np.linalg.svd(vectors, compute_uv=False), axis=1)
    return result


def ragged_rows(
    starts: Int[np.ndarray, " picked"], lengths: Int[np.ndarray, " picked"]
) -> Int[np.ndarray, " picked_rows"]:
    """Concatenate the ranges starts[i] : starts[i] + lengths[i]."""
    shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return np.arange(lengths.sum(), dtype=np.int64) + shift
