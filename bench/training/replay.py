"""Steps on a GPU as CUDA graphs: what a step asks of the device is recorded once and then replayed at once.

Asking for a step's hundreds of kernels one by one takes the host longer than a GPU needs for the kernels of a few
models. Minibatches are padded to a few shapes (`bench.potentials.base.Padded`), and there is a graph for each. What is
replayed are the same kernels on the same shapes: the numbers are those of the same steps asked for one by one.
"""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from bench.potentials.base import Parameters, to_device
from bench.training.minibatches import Minibatch, Minibatches

MOST_ATOMS = 32768
"""Of all models of a minibatch that is padded: with more, a GPU would work longer on padding than it saves."""

Step = Callable[[Minibatch, float | Tensor], Parameters]
"""The gradient on a minibatch, which first moves running means by a fraction."""


class Replay:
    """The gradients of a training on a GPU, minibatch by minibatch.

    The first minibatch of a shape is computed as it comes; with the second its graph is recorded, if there is memory
    for what a graph keeps to itself.
    """

    def __init__(self, minibatches: Minibatches, device: torch.device, dtype: torch.dtype) -> None:
        self.minibatches = minibatches
        if minibatches.whole is not None:
            places, atoms = minibatches.data.places(minibatches.rows(0))
            if not _too_large(places, atoms):
                minibatches.whole = minibatches.data.gather_padded(to_device(places, device), atoms)
        self.rate = torch.zeros((), device=device, dtype=dtype)
        self._places: dict[Hashable, Tensor] = {}
        self._bytes: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, Callable[[], Parameters] | None] = {}
        self._pool: Any = None

    def gradient(self, minibatch: int, rate: float, step: Step) -> Parameters:
        """The gradient on a minibatch, counted from 0: good until the next is asked for."""
        if self.minibatches.whole is not None:
            whole = self.minibatches.whole
            return self._replayed("whole", rate, lambda: step(whole, self.rate))
        data, rows = self.minibatches.data, self.minibatches.rows(minibatch)
        places, atoms = data.places(rows)
        if _too_large(places, atoms):
            return step(data.gather(rows), rate)
        key = (places.shape, atoms)
        if key not in self._places:
            self._places[key] = torch.empty(places.shape, dtype=torch.int64, device=self.rate.device)
        here = self._places[key]
        here.copy_(torch.from_numpy(places), non_blocking=True)
        return self._replayed(key, rate, lambda: step(data.gather_padded(here, atoms), self.rate))

    def _replayed(self, key: Hashable, rate: float, work: Callable[[], Parameters]) -> Parameters:
        """What `work` returns, whose inputs stand where they stood when it was first asked for."""
        self.rate.fill_(rate)
        if key not in self._bytes:
            result, self._bytes[key] = measured(work, self.rate.device)
            return result
        if key not in self._graphs:
            self._graphs[key] = None
            if self._bytes[key] < free_bytes(self.rate.device):
                self._graphs[key], self._pool = recorded(work, self._pool, self.rate.device)
        return (self._graphs[key] or work)()


def _too_large(places: Int[np.ndarray, "2 models structures_and_1"], atoms: int) -> bool:
    """Whether a minibatch is not padded."""
    return bool(places[1, :, -1].any()) and places.shape[1] * atoms > MOST_ATOMS


def measured(work: Callable[[], Parameters], device: torch.device) -> tuple[Parameters, int]:
    """What `work` returns, and a bound on the memory it took: the peak may be of something before it."""
    before = torch.cuda.memory_allocated(device)
    result = work()
    return result, torch.cuda.max_memory_allocated(device) - before


def free_bytes(device: torch.device) -> int:
    """Memory that no one holds, nine tenths of it: fragments are not to be had."""
    torch.cuda.empty_cache()
    return int(0.9 * torch.cuda.mem_get_info(device)[0])


def recorded(work: Callable[[], Parameters], pool: Any, device: torch.device) -> tuple[Callable[[], Parameters], Any]:
    """A graph that does `work`, and the memory that all graphs of a training share: no two are replayed at a time."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        result = work()

    def replay() -> Parameters:
        graph.replay()
        return result

    return replay, graph.pool()
