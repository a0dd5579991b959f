"""A torch module on one dataset: graphs of its structures, fresh modules, potentials with given parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int

from bench.data.neighbours import Neighbours, NeighboursOnDemand
from bench.data.structures import Structures
from bench.potentials.base import Draw, Parameters
from bench.potentials.modules.architecture import ModuleArchitecture
from bench.potentials.modules.graph import PreparedGraphs
from bench.potentials.modules.potential import SHIFT, ModulePotential, built, parameters_of
from bench.potentials.scaling import EnergyScaling


@dataclass(frozen=True)
class ModuleView:
    """See `bench.potentials.base.View`. Models are trained one after another: a module is no batch of modules."""

    architecture: ModuleArchitecture
    data: Structures
    neighbours: Neighbours | NeighboursOnDemand
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default=torch.device("cpu"))
    lockstep: ClassVar[bool] = False

    @property
    def atoms_per_chunk(self) -> int:
        """See `ModuleArchitecture`."""
        return self.architecture.atoms_per_chunk

    def prepare(self, structures: Int[np.ndarray, " n"], *, forces: bool) -> PreparedGraphs:
        """Atoms and pairs of some structures; vectors are computed in float64."""
        data, lists, picked = self.neighbours.of(self.data, structures)
        centres, neighbours, vectors = lists.pairs_of(data, picked)
        n_atoms, n_pairs = data.n_atoms[picked], np.diff(lists.offsets)[picked]
        first = np.repeat(np.cumsum(n_atoms) - n_atoms, n_pairs)
        atoms = data.atoms_of(picked)
        return PreparedGraphs(
            numbers=data.atomic_numbers[atoms].astype(np.int64),
            species=data.species_index[atoms],
            n_atoms=n_atoms,
            centres=centres - first,
            neighbours=neighbours - first,
            vectors=vectors,
            n_pairs=n_pairs,
            dtype=self.dtype,
            device=self.device,
        )

    def draw(self, draws: Sequence[Draw]) -> ModulePotential:
        """Fresh modules, each drawn by torch from a seed of its own; μ of Eq. (4)."""
        species = self.data.species
        fresh = []
        for draw in draws:
            seed = int(draw.generator("weights").integers(2**63))
            module = built(self.architecture, species, torch.float64, torch.device("cpu"), seed)
            fresh.append(parameters_of(module) | {SHIFT: torch.from_numpy(draw.scaling.shift)})
        parameters = {
            name: torch.stack([one[name].detach() for one in fresh]).to(self.device, self.dtype) for name in fresh[0]
        }
        return self.potential(parameters, [draw.scaling for draw in draws])

    def potential(self, parameters: Parameters, scalings: Sequence[EnergyScaling]) -> ModulePotential:
        """Models with these parameters; c of Eq. (4) is no parameter."""
        scales = torch.tensor([scaling.scale for scaling in scalings], dtype=self.dtype, device=self.device)
        return ModulePotential(self.architecture, self.data.species, parameters, scales)

    def make_ready(self, force_weight: float) -> None:
        """Nothing takes longer the first time."""
