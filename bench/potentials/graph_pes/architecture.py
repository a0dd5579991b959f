"""SchNet, PaiNN, TensorNet, NequIP and MACE of graph-pes (MIT), as files of conf/model configure them."""

import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bench.errors import UserError
from bench.potentials.modules.architecture import ModuleArchitecture

EXTRA = "graph-pes"


@dataclass(frozen=True)
class GraphPes(ModuleArchitecture):
    """A model of graph-pes: its class and what that takes, beside the cutoff and the elements."""

    model: Literal["SchNet", "PaiNN", "TensorNet", "NequIP", "MACE"]
    arguments: dict[str, Any]

    version: ClassVar[int] = 1

    def check_data(self, data: Any) -> None:
        """Raise UserError where graph-pes is missing, before a run begins."""
        if importlib.util.find_spec("graph_pes") is None:
            raise UserError(
                f"model {self.name} needs graph-pes, which is not installed: pip install 'bmdal-bench[{EXTRA}]'"
            )

    def module(self, species: tuple[int, ...]) -> Any:
        """See `ModuleArchitecture`. Raises UserError where graph-pes is missing or refuses the arguments."""
        self.check_data(None)
        from bench.potentials.graph_pes.module import GraphPesModule  # noqa: PLC0415 - torch, seconds

        return GraphPesModule(self.model, self.r_max, self.arguments, species)
