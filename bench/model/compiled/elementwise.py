"""φ with its slope, and sums over the atoms of each structure in float64."""

import numpy as np
from numba import prange

from bench.model.compiled.jit import compiled
from bench.model.compiled.vectors import exponential


@compiled
def _silu_and_slope_of(z, slope):
    one = z.dtype.type(1)
    for n in range(len(z)):
        logistic = one / (one + exponential(-z[n]))
        y = z[n] * logistic
        z[n] = y
        slope[n] = logistic + y * (one - logistic)


def _silu_and_slope(z, slope):
    for row in prange(len(z)):
        _silu_and_slope_of(z[row], slope[row])


@compiled
def _add_scaled(weight, left, total):
    for column in range(len(total)):
        total[column] += weight * np.float64(left[column])


@compiled
def _add_scaled_product(weight, left, right, total):
    for column in range(len(total)):
        total[column] += weight * np.float64(left[column] * right[column])


def _sum_rows(first_atom, weights, left, total):
    for structure in prange(len(total)):
        for atom in range(first_atom[structure], first_atom[structure + 1]):
            _add_scaled(weights[atom], left[atom], total[structure])


def _sum_products(first_atom, weights, left, right, total):
    for structure in prange(len(total)):
        for atom in range(first_atom[structure], first_atom[structure + 1]):
            _add_scaled_product(weights[atom], left[atom], right[atom], total[structure])


silu_and_slope = compiled(_silu_and_slope, parallel=True)
sum_rows = compiled(_sum_rows, parallel=True)
sum_products = compiled(_sum_products, parallel=True)
