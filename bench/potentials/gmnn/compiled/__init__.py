"""The engine on the CPU: kernels over NumPy arrays, compiled by numba on first use."""
