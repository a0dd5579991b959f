"""How kernels are compiled, and on how many threads they run.

A kernel is a plain function over NumPy arrays. Compiled code is kept in __pycache__ or, where that is not writable, in
the user's cache folder, or else in memory only. Sums run in a fixed order whatever the number of threads, so results
are the same bit for bit.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import torch

SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
"""Part of every kernel's name: numba does not notice when what a kernel calls has changed in another file."""


def compiled(function: Callable[..., Any], *, parallel: bool = False) -> Callable[..., Any]:
    """Compile a function. Products and sums may be fused; nothing else is reordered."""
    plain = inspect.unwrap(function)
    plain.__qualname__ += "_" + SOURCES.hexdigest()[:8]
    options: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}, "parallel": parallel, "nogil": True}
    try:
        return numba.njit(cache=True, **options)(plain)
    except RuntimeError:  # no folder to keep compiled code in
        return numba.njit(**options)(plain)


@contextmanager
def torch_threads() -> Iterator[None]:
    """Run kernels on as many threads as torch; the two may share an OpenMP library, whose number numba sets first."""
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
