"""The benchmark. Set before anything loads OpenMP: torch and the compiled kernels have a pool of threads each, and a pool
that spins while it waits takes the cores from the other one."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
