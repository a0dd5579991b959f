"""SevenNet-0 (11July2024), whose weights are in the package sevenn (MIT): trained on Materials Project trajectories.

Y. Park et al., J. Chem. Theory Comput. 2024, 20, 4857. Molecules need no box.
"""

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from ase import Atoms
from torch import Tensor, nn

from bench.data.structures import Structures
from bench.potentials.describer import check_elements, check_installed
from bench.potentials.modules.features import Owners, Total, linear_layers
from bench.potentials.pretrained.network import NetworkSource

NAME, WEIGHTS = "SevenNet-0", "7net-0_11July2024"


@dataclass(frozen=True)
class SevenNet0(NetworkSource):
    """SevenNet-0; the networks of its filters are no linear layers that `layers: all` looks at."""

    def content(self) -> str:
        """See `bench.potentials.describer.Describer`."""
        return f"{self} of {WEIGHTS}, sevenn {version('sevenn')}"

    def check(self, data: Structures) -> None:
        """See `bench.potentials.describer.Describer`."""
        check_installed("sevenn", NAME, "sevennet")
        check_elements(data, sorted(self.network().elements), NAME)

    def network(self) -> "SevenNetNetwork":
        """See `NetworkSource`."""
        return _loaded()


@functools.cache
def _loaded() -> "SevenNetNetwork":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sevenn import atom_graph_data, util  # noqa: F401, PLC0415 - optional, seconds
        from sevenn.train import dataload  # noqa: F401, PLC0415

        checkpoint = util.load_checkpoint(util.pretrained_name_to_path(WEIGHTS))
        model = checkpoint.build_model()
    return SevenNetNetwork(model.eval(), checkpoint.config["_type_map"], float(checkpoint.config["cutoff"]))


class SevenNetNetwork:
    """See `bench.potentials.pretrained.network.Network`."""

    def __init__(self, model: Any, elements: dict[int, int], cutoff: float) -> None:
        self.model, self.elements, self.cutoff = model, elements, cutoff
        model.set_is_batch_data(True)
        del model._modules["force_output"]  # energies alone are asked for

    @property
    def layers(self) -> list[nn.Module]:
        """All linear layers."""
        return linear_layers(self.model)

    def batch(self, structures: Sequence[Atoms]) -> tuple[Total, Owners]:
        """Atoms and directed pairs."""
        from sevenn.atom_graph_data import AtomGraphData  # noqa: PLC0415
        from sevenn.train.dataload import unlabeled_atoms_to_graph  # noqa: PLC0415
        from torch_geometric.data import Batch  # noqa: PLC0415

        dtype = next(self.model.parameters()).dtype

        def graph_of(one: Atoms) -> Any:
            graph = AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(one, self.cutoff, with_shift=False))
            return graph.apply(lambda values: values.to(dtype) if values.is_floating_point() else values)

        graphs = [graph_of(one) for one in structures]
        every = torch.arange(len(graphs))
        n_atoms = torch.tensor([len(one) for one in structures])
        n_pairs = torch.tensor([graph["edge_index"].shape[1] for graph in graphs])
        owners = {
            "atoms": torch.repeat_interleave(every, n_atoms),
            "pairs": torch.repeat_interleave(every, n_pairs),
            "structures": every,
        }

        def total() -> Tensor:
            return self.model(Batch.from_data_list(graphs))["inferred_total_energy"].sum()

        return total, owners
