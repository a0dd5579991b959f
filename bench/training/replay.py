"""Steps on a GPU as CUDA graphs: what a step asks of the device is recorded once and then replayed at once.

Asking for a step's hundreds of kernels one by one takes the host longer than a GPU needs for the kernels of a few
models. Minibatches are padded to a few shapes (`bench.potentials.base.Padded`), and there is a graph for each. What is
replayed are the same kernels on the same shapes: the numbers are those of the same steps asked for one by one.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from bench.potentials.base import Parameters, to_device
from bench.runs.provenance import gpu_memory_of
from bench.training.minibatches import Minibatch, Minibatches

MOST_ATOMS = 32768
"""Of all models of a minibatch that is padded: with more, a GPU would work longer on padding than it saves."""

Step = Callable[[Minibatch, float | Tensor], Parameters]
"""The gradient on a minibatch, which first moves running means by a fraction."""


def serves(minibatches: Minibatches, n_models: int, device: torch.device) -> bool:
    """Whether the steps of a training are replayed: on a GPU, of a potential whose minibatches can be padded.

    Not those of so many models that padding would cost more.
    """
    if device.type != "cuda":
        return False
    n_atoms = minibatches.data.n_atoms
    if n_atoms.min() != n_atoms.max() and n_models * minibatches.size * n_atoms.mean() > MOST_ATOMS:
        return False
    return minibatches.data.pad()


class Replay:
    """The gradients of a training on a GPU, minibatch by minibatch, which are padded (`serves`).

    The first minibatch of a shape is computed as it comes; with the second its graph is recorded, if there is memory
    for what a graph keeps to itself, and for steps without one beside it.
    """

    def __init__(self, minibatches: Minibatches, device: torch.device, dtype: torch.dtype) -> None:
        self.minibatches = minibatches
        if minibatches.whole is not None:
            places, atoms = minibatches.data.places(minibatches.rows(0))
            minibatches.whole = minibatches.data.gather_padded(to_device(places, device), atoms)
        self.rate = torch.zeros((), device=device, dtype=dtype)
        self._places: dict[Hashable, Tensor] = {}
        self._bytes: dict[Hashable, int] = {}
        self._graphs: dict[Hashable, Callable[[], Parameters] | None] = {}
        self._recorder = Recorder(self.rate.device)

    def gradient(self, minibatch: int, rate: float, step: Step) -> Parameters:
        """The gradient on a minibatch, counted from 0: good until the next is asked for."""
        if self.minibatches.whole is not None:
            whole = self.minibatches.whole
            return self._replayed("whole", rate, lambda: step(whole, self.rate))
        data = self.minibatches.data
        places, atoms = data.places(self.minibatches.rows(minibatch))
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
            result, self._bytes[key] = gpu_memory_of(work, self.rate.device)
            return result
        if key not in self._graphs:
            room = self._bytes[key] + max(self._bytes.values()) < self._recorder.free_bytes()
            self._graphs[key] = self._recorder.record(work) if room else None
        return (self._graphs[key] or work)()


class Recorder:
    """Graphs of one training. They share their memory: no two are replayed at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = None
        self._pool: Any = None

    def free_bytes(self) -> int:
        """Memory that no one holds, nine tenths of it: fragments are not to be had."""
        torch.cuda.empty_cache()
        return int(0.9 * torch.cuda.mem_get_info(self.device)[0])

    def record(self, work: Callable[[], Parameters]) -> Callable[[], Parameters] | None:
        """A graph that does `work`; None if the device has not enough memory.

        On a stream of its own: torch's stream for graphs belongs to the first device that a process uses.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            self._stream = self._stream or torch.cuda.Stream(self.device)
            current = torch.cuda.current_stream()
            try:
                with torch.cuda.graph(graph, self._pool, self._stream, "thread_local"):
                    result = work()
            except RuntimeError as error:
                torch.cuda.set_stream(current)
                if isinstance(error, torch.OutOfMemoryError) or isinstance(error.__context__, torch.OutOfMemoryError):
                    return None
                raise
        self._pool = graph.pool()

        def replay() -> Parameters:
            graph.replay()
            return result

        return replay
