"""FEAT of a model that others trained, or of a fixed descriptor: a kernel that needs neither training nor a label."""

from dataclasses import dataclass
from typing import Any

from bench.config.plugins import Plugin, offers, plugin
from bench.data.structures import Structures
from bench.kernels.base import KernelFacts, KernelInputs
from bench.kernels.features import PreparedFeatures
from bench.kernels.kept import KeptFeatures
from bench.potentials.describer import Describer


@dataclass(frozen=True)
class Pretrained(KernelFacts):
    """`source` is the yaml of a `bench.potentials.describer.Describer`: what describes the structures."""

    source: Plugin
    has_features = True
    needs_model = False

    def check_data(self, data: Structures) -> None:
        """Refuse data that the source cannot describe, before anything is trained. Raises UserError."""
        self._made().check(data)

    def prepare(self, inputs: KernelInputs) -> PreparedFeatures:
        """The features of the training set; nothing of the potential is used."""
        self.check_data(inputs.view.data)
        features = KeptFeatures(self._made(), inputs.view.data, inputs.view.device)
        return PreparedFeatures(features, features(inputs.labelled), None)

    def _made(self) -> Any:
        return offers(plugin(self.source, "kernel.source"), Describer, "kernel.source")
