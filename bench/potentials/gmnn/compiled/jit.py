"""How kernels are compiled, and on how many threads they run.

A kernel is a plain function over NumPy arrays. Compiled code is kept (see `kept`). Sums run in a
fixed order whatever the number of threads, so results are the same bit for bit.
"""

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import numba
import torch

from bench.potentials.gmnn.compiled.kept import KeptCode

ONE_AT_A_TIME = threading.RLock()
KERNELS: list[Callable[..., Any]] = []
"""What is called from outside; every other compiled function is part of one of these."""


def compiled(function: Callable[..., Any], *, parallel: bool = False) -> Callable[..., Any]:
    """Compile a function when it is first called. Products and sums may be fused; nothing else is reordered.

    A parallel one is called from outside, and runs on as many threads as torch.
    """
    plain = inspect.unwrap(function)
    dispatcher = numba.njit(error_model="numpy", fastmath={"contract"}, parallel=parallel, nogil=True)(plain)
    dispatcher._cache = KeptCode(plain)  # type: ignore[attr-defined] # what njit(cache=True) sets
    if not parallel:
        return dispatcher
    KERNELS.append(dispatcher)
    return _on_torch_threads(dispatcher, plain)


_numba = threading.local()
"""Of each thread of Python, on how many threads its kernels run: to tell numba takes as long as a small kernel."""


def _on_torch_threads(kernel: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """On as many threads as torch; the two may share an OpenMP library, whose number numba sets first.

    One kernel at a time where numba has nothing but its own threads, which end the process otherwise.
    """

    @functools.wraps(plain)
    def run(*arguments: Any) -> None:
        threads = torch.get_num_threads()
        if getattr(_numba, "threads", None) != threads:
            numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
            _numba.threads, _numba.alone = threads, numba.threading_layer() == "workqueue"
        try:
            if _numba.alone:
                with ONE_AT_A_TIME:
                    kernel(*arguments)
            else:
                kernel(*arguments)
        finally:
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)

    return run
