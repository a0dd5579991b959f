"""φ with its slope, and sums over the atoms of each structure in float64."""

import numpy as np
from numba import prange

from bench.potentials.gmnn.compiled.jit import compiled
from bench.potentials.gmnn.compiled.vectors import exponential


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


@compiled
def _value_of_row(factor, z, x):
    one = z.dtype.type(1)
    for n in range(len(z)):
        x[n] = factor * (z[n] * (one / (one + exponential(-z[n]))))


@compiled
def _slope_of_row(factor, z, x, slope):
    one = z.dtype.type(1)
    for n in range(len(z)):
        logistic = one / (one + exponential(-z[n]))
        y = z[n] * logistic
        x[n] = factor * y
        slope[n] = factor * (logistic + y * (one - logistic))


@compiled
def _curvature_of_row(factor, z, x, slope, curvature):
    one = z.dtype.type(1)
    two = one + one
    for n in range(len(z)):
        logistic = one / (one + exponential(-z[n]))
        y = z[n] * logistic
        x[n] = factor * y
        slope[n] = factor * (logistic + y * (one - logistic))
        curvature[n] = factor * logistic * (one - logistic) * (two + z[n] * (one - two * logistic))


def _activate(factor, z, x, slope, curvature):
    """Slopes and curvatures where there is room for them."""
    for row in prange(len(z)):
        if len(curvature) > 0:
            _curvature_of_row(factor, z[row], x[row], slope[row], curvature[row])
        elif len(slope) > 0:
            _slope_of_row(factor, z[row], x[row], slope[row])
        else:
            _value_of_row(factor, z[row], x[row])


@compiled
def _carry_row(adjoint, slope, curvature, tangent, hidden):
    for n in range(len(adjoint)):
        adjoint[n] = adjoint[n] * slope[n] + curvature[n] * tangent[n] * hidden[n]


def _carry(adjoint, slope, curvature, tangent, hidden):
    for row in prange(len(adjoint)):
        _carry_row(adjoint[row], slope[row], curvature[row], tangent[row], hidden[row])


@compiled
def _last_adjoint_row(e, last, slope, out):
    for n in range(len(out)):
        out[n] = slope[n] * (e * last[n])


def _last_adjoint(e, last, slope, out):
    for row in prange(len(out)):
        _last_adjoint_row(e[row], last[row * len(last) // len(out)], slope[row], out[row])


@compiled
def _last_adjoint_with_tangent_row(e, last, slope, a, curvature, tangent, out):
    for n in range(len(out)):
        out[n] = slope[n] * (e * last[n]) + curvature[n] * tangent[n] * (a * last[n])


def _last_adjoint_with_tangent(e, last, slope, a, curvature, tangent, out):
    for row in prange(len(out)):
        of_model = last[row * len(last) // len(out)]
        _last_adjoint_with_tangent_row(e[row], of_model, slope[row], a[row], curvature[row], tangent[row], out[row])


last_adjoint = compiled(_last_adjoint, parallel=True)
last_adjoint_with_tangent = compiled(_last_adjoint_with_tangent, parallel=True)
activate = compiled(_activate, parallel=True)
carry = compiled(_carry, parallel=True)
silu_and_slope = compiled(_silu_and_slope, parallel=True)
sum_rows = compiled(_sum_rows, parallel=True)
sum_products = compiled(_sum_products, parallel=True)
