"""CHGNet 0.3.0, whose weights are in the package chgnet (BSD): trained on Materials Project trajectories, 89 elements.

B. Deng et al., Nat. Mach. Intell. 2023, 5, 1031. It knows crystals only: a molecule needs a box.
"""

import contextlib
import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Float
from pydantic import PositiveFloat
from torch import Tensor, nn

from bench.data.structures import Structures
from bench.potentials.describer import check_cells, check_elements, check_installed, in_box
from bench.potentials.modules.features import Owners, Total, linear_layers
from bench.potentials.pretrained.network import NetworkSource

NAME = "CHGNet"


@dataclass(frozen=True)
class Chgnet(NetworkSource):
    """`box`: Å of vacuum between the images of a molecule; without it molecules are refused."""

    box: PositiveFloat | None = None

    def content(self) -> str:
        """See `bench.potentials.describer.Describer`."""
        return f"{self} of chgnet {version('chgnet')}"

    def check(self, data: Structures) -> None:
        """See `bench.potentials.describer.Describer`."""
        check_installed("chgnet", NAME, "chgnet", " (Python 3.11 or 3.12)")
        check_elements(data, range(1, 95), NAME)
        if self.box is None:
            check_cells(data, NAME)

    def network(self) -> "ChgnetNetwork":
        """See `NetworkSource`."""
        return _loaded()

    def describe(
        self, structures: Sequence[Atoms], species: tuple[int, ...]
    ) -> Float[np.ndarray, "structures features"]:
        """See `bench.potentials.describer.Describer`."""
        return super().describe([in_box(one, self.box) if self.box else one for one in structures], species)


@functools.cache
def _loaded() -> "ChgnetNetwork":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from chgnet.model import CHGNet  # noqa: PLC0415 - optional, seconds

        with contextlib.redirect_stdout(None):  # it prints what it is
            return ChgnetNetwork(CHGNet.load(model_name="0.3.0", use_device="cpu").eval())


class ChgnetNetwork:
    """See `bench.potentials.pretrained.network.Network`."""

    def __init__(self, model: Any) -> None:
        from chgnet.graph import CrystalGraphConverter  # noqa: PLC0415
        from pymatgen.io.ase import AseAtomsAdaptor  # noqa: PLC0415

        self.model = model
        cutoffs = {name: getattr(model.graph_converter, name) for name in ("atom_graph_cutoff", "bond_graph_cutoff")}
        self.converter = CrystalGraphConverter(**cutoffs, on_isolated_atoms="ignore")
        self.to_pymatgen = AseAtomsAdaptor.get_structure

    @property
    def layers(self) -> list[nn.Module]:
        """All but the reference energies of elements."""
        references = set(self.model.composition_model.modules())
        return [one for one in linear_layers(self.model) if one not in references]

    def batch(self, structures: Sequence[Atoms]) -> tuple[Total, Owners]:
        """Atoms, directed pairs, bonds (pairs without direction) and angles."""
        graphs = []
        for one in structures:
            periodic = one.copy()
            periodic.pbc = True
            graphs.append(self.converter(self.to_pymatgen(periodic)))
        counts = {
            "atoms": [len(graph.atomic_number) for graph in graphs],
            "pairs": [len(graph.atom_graph) for graph in graphs],
            "bonds": [len(graph.undirected2directed) for graph in graphs],
            "angles": [len(graph.bond_graph) for graph in graphs],
            "structures": [1] * len(graphs),
        }
        every = torch.arange(len(graphs))
        owners = {name: torch.repeat_interleave(every, torch.tensor(of)) for name, of in counts.items()}
        n_atoms = torch.tensor(counts["atoms"])

        def total() -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of volumes, which it makes of tensors that have gradients
                energies = self.model(graphs, task="e")["e"]
            return (energies * n_atoms if self.model.is_intensive else energies).sum()

        return total, owners
