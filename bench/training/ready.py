"""Before anything is timed: what takes long the first time is done."""

import torch

from bench.config.schema import TrainingSettings
from bench.potentials.base import View


def make_ready(view: View, settings: TrainingSettings) -> None:
    """Compile what the potential compiles, and have torch import what an optimiser's first step imports: seconds."""
    view.make_ready(settings.force_weight)
    if view.device.type == "cpu":
        parameter = torch.zeros(1)
        parameter.grad = torch.zeros(1)
        torch.optim.Adam([parameter], fused=True).step()
