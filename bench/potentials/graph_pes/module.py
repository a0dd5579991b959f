"""A model of graph-pes as a module of the project: from a graph of ours to one of theirs."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor, nn

from bench.errors import UserError, nearest
from bench.potentials.modules.graph import Graph

with warnings.catch_warnings():
    # e3nn 0.4 and graph-pes compile with what torch calls deprecated
    warnings.simplefilter("ignore")
    from graph_pes import models
    from graph_pes.atomic_graph import AtomicGraph
    from graph_pes.models.components.distances import CosineEnvelope
    from graph_pes.utils.nn import AtomicOneHot, HaddamardProduct


class GraphPesModule(nn.Module):
    """The energies of atoms that a model of graph-pes gives."""

    def __init__(self, name: str, r_max: float, arguments: Mapping[str, Any], species: tuple[int, ...]) -> None:
        super().__init__()
        made = getattr(models, name)
        given = {"cutoff": r_max, **arguments}
        known = inspect.signature(made).parameters
        for key in arguments:
            if key not in known or key in ("cutoff", "elements", "direct_force_predictions"):
                raise UserError(f"unknown configuration key model.arguments.{key}: {nearest(key, list(known))}")
        if "elements" in known:
            given["elements"] = [chemical_symbols[z] for z in species]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.model = made(**given)
            except (TypeError, ValueError, AssertionError, KeyError) as error:
                told = " ".join(str(error).split())
                raise UserError(
                    f"model.arguments = {dict(arguments)}: {name} of graph-pes refuses them: {told}"
                ) from None
        if name == "SchNet":
            _fade(self.model, r_max)
        for one in self.modules():
            if isinstance(one, AtomicOneHot):
                # it gives single precision whatever the model's
                one.register_forward_hook(lambda _module, _inputs, given: given.to(torch.get_default_dtype()))

    def forward(self, graph: Graph) -> Float[Tensor, " atoms"]:
        """Their graph without positions: a pair's vector is its neighbour's shift, in a cell of 1 Å."""
        dtype, device = graph.vectors.dtype, graph.vectors.device
        n_atoms, n_structures = len(graph.numbers), graph.n_structures
        theirs = AtomicGraph(
            Z=graph.numbers,
            R=torch.zeros(n_atoms, 3, dtype=dtype, device=device),
            cell=torch.eye(3, dtype=dtype, device=device).expand(n_structures, 3, 3),
            neighbour_list=torch.stack([graph.centres, graph.neighbours]),
            neighbour_cell_offsets=graph.vectors,
            properties={},
            other={},
            cutoff=float(self.model.cutoff),
            batch=graph.structure,
            ptr=None,
        )
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # their models make some tensors of the default type
        try:
            return self.model(theirs)["local_energies"].reshape(-1)
        finally:
            torch.set_default_dtype(default)


def _fade(model: Any, r_max: float) -> None:
    """Multiply the filters of SchNet by a cosine cutoff, as SchNetPack does: without it energies jump at the cutoff."""
    for interaction in model.interactions:
        convolution = interaction.cfconv
        convolution.filter_generator = HaddamardProduct(
            convolution.filter_generator, CosineEnvelope(r_max), left_aligned=True
        )
