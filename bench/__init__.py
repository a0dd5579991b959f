"""The benchmark. Threads that wait do not spin.

This is set before anything loads OpenMP. Torch and the compiled kernels have a pool of threads each, and a pool that
spins takes the cores from the other one.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
