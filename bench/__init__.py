"""The benchmark. Threads that wait spin for a moment only, then sleep; freed memory is kept for the next step.

This is set before anything loads OpenMP. Torch and the compiled kernels have a pool of threads each, and a pool that
spins takes the cores from the other one, and from other runs. A training step of 32 aspirin structures on two cores
(AMD EPYC), alone and with another run beside it, in ms: spinning as long as OpenMP would 34 and 130 to 490; not at all
43 and 53; GOMP_SPINCOUNT=1000, as here, 39 and 55; 10 000 35 and 62.

Of its own accord the GNU library gives the arrays of a step back to the system, which must clear them for the next one:
up to a tenth of the time.
"""

import contextlib
import ctypes
import os
import sys

_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")

SPINS = "torch" in sys.modules and not any(name in os.environ for name in _CHOICES)
"""Whether OpenMP was loaded before this could be set."""

if not any(name in os.environ for name in _CHOICES):
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
    _libc = ctypes.CDLL(None)
    if not any(name.startswith("MALLOC_") for name in os.environ):
        _libc.mallopt(_TRIM_THRESHOLD, 256 << 20)
        _libc.mallopt(_MMAP_THRESHOLD, 32 << 20)
