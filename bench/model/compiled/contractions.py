"""The invariants of `bench.model.invariants` and their derivatives in closed form, compiled.

Every invariant is cubic at most, so all of them are two bilinear maps, one after the other, with Ψ extended by a 1:

    Q_q = Σ f Ψ_i Ψ_j    the symmetrised matrices Ψ1_s Ψ1_t, Ψ3_s:Ψ3_t, Ψ2_s Ψ2_t and the vectors Ψ3_s:Ψ2_t
    G_g = Σ f Q_q Ψ_j    each matrix with Ψ2_u and its trace (Q_q · 1), each vector with Ψ1_u, and Ψ0 itself

`terms` lists (target, left, right, f) of both; the derivatives are the same lists with the roles exchanged. Each sum is
taken for LANES atoms at once, in a fixed order.
"""

import itertools
from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import prange

from bench.model.compiled.jit import compiled, torch_threads
from bench.model.invariants import n_invariants
from bench.model.moments import MONOMIALS, N_MONOMIALS

LANES = 64


class Terms(NamedTuple):
    """target[at] += factor · left[i] · right[j], one row a term."""

    at: Int[np.ndarray, " terms"]
    i: Int[np.ndarray, " terms"]
    j: Int[np.ndarray, " terms"]
    factor: Float[np.ndarray, " terms"]


@cache
def terms(n_radial: int, single: bool) -> tuple[Terms, Terms]:
    """The terms of Q and of G, in the order of `bench.model.invariants.invariants`."""
    pairs = list(itertools.combinations_with_replacement(range(n_radial), 2))
    one = n_radial * N_MONOMIALS
    axes = range(3)
    products: list[Counter[tuple[int, int]]] = []
    contracted: list[Counter[tuple[int, int]]] = []

    def moment(s: int, *axes: int) -> int:
        return s * N_MONOMIALS + MONOMIALS.index(tuple(axes.count(axis) for axis in range(3)))

    def product(factors: list[tuple[int, int]]) -> int:
        products.append(Counter((min(pair), max(pair)) for pair in factors))
        return len(products) - 1

    def matrix(s: int, t: int, degree: int) -> dict[tuple[int, int], int]:
        """The components c ≤ d of the matrix plus its transpose (its diagonal once) of Ψ_s and Ψ_t."""
        inner = list(itertools.product(axes, repeat=degree - 1))
        return {
            (c, d): product([(moment(s, c, *i), moment(t, *i, d)) for c, d in {(c, d), (d, c)} for i in inner])
            for c, d in itertools.combinations_with_replacement(axes, 2)
        }

    unit = product([(one, one)])
    contracted += [Counter({(unit, moment(s)): 1}) for s in range(n_radial)]
    for degree in (1, 3, 2):
        for s, t in pairs:
            of_pair = matrix(s, t, degree)
            contracted += [
                Counter({(q, moment(u, *component)): 1 for component, q in of_pair.items()})
                for u in range(t if degree == 2 else 0, n_radial)
            ]
            contracted.append(Counter({(of_pair[c, c], one): 1 for c in axes}))
    for s, t in itertools.product(range(n_radial), repeat=2):
        vector = [
            product([(moment(s, a, b, c), moment(t, a, b)) for a, b in itertools.product(axes, axes)]) for c in axes
        ]
        contracted += [Counter({(vector[c], moment(u, c)): 1 for c in axes}) for u in range(n_radial)]
    return _listed(products, single), _listed(contracted, single)


def _listed(sums: list[Counter[tuple[int, int]]], single: bool) -> Terms:
    rows = [(at, i, j, factor) for at, sum_ in enumerate(sums) for (i, j), factor in sum_.items()]
    at, i, j, factor = (np.array(column) for column in zip(*rows, strict=True))
    return Terms(at, i, j, factor.astype(np.float32 if single else np.float64))


@compiled
def _add(target, at, left, i, right, j, factor):
    for term in range(len(at)):
        a, b, c, f = at[term], i[term], j[term], factor[term]
        for lane in range(LANES):
            target[a, lane] += f * left[b, lane] * right[c, lane]


@compiled
def _load(rows, first, block, constant):
    """The atoms first : first + LANES, one a column, with a last row of `constant`; missing atoms are zero."""
    n = min(LANES, rows.shape[0] - first)
    block[:] = 0
    for lane in range(n):
        for column in range(rows.shape[1]):
            block[column, lane] = rows[first + lane, column]
    for lane in range(LANES):
        block[rows.shape[1], lane] = constant


@compiled
def _store(block, rows, first):
    for lane in range(min(LANES, rows.shape[0] - first)):
        for column in range(rows.shape[1]):
            rows[first + lane, column] = block[column, lane]


@compiled
def _value_of(first, moments, values, p, g):
    n_products = p.at[-1] + 1
    psi = np.empty((moments.shape[1] + 1, LANES), moments.dtype)
    products = np.zeros((n_products, LANES), moments.dtype)
    total = np.zeros((values.shape[1], LANES), moments.dtype)
    _load(moments, first, psi, 1)
    _add(products, p.at, psi, p.i, psi, p.j, p.factor)
    _add(total, g.at, products, g.i, psi, g.j, g.factor)
    _store(total, values, first)


@compiled
def _pull_back_of(first, moments, gradient, moment_gradient, p, g):
    psi = np.empty((moments.shape[1] + 1, LANES), moments.dtype)
    psi_bar = np.zeros_like(psi)
    g_bar = np.empty((gradient.shape[1] + 1, LANES), moments.dtype)
    products = np.zeros((p.at[-1] + 1, LANES), moments.dtype)
    products_bar = np.zeros_like(products)
    _load(moments, first, psi, 1)
    _load(gradient, first, g_bar, 0)
    _add(products, p.at, psi, p.i, psi, p.j, p.factor)
    _add(products_bar, g.i, g_bar, g.at, psi, g.j, g.factor)
    _add(psi_bar, g.j, g_bar, g.at, products, g.i, g.factor)
    _add(psi_bar, p.i, products_bar, p.at, psi, p.j, p.factor)
    _add(psi_bar, p.j, products_bar, p.at, psi, p.i, p.factor)
    _store(psi_bar, moment_gradient, first)


@compiled
def _tangent_of(first, moments, moment_tangent, gradient, tangent, adjoint, p, g):
    psi = np.empty((moments.shape[1] + 1, LANES), moments.dtype)
    psi_dot, psi_bar_dot = np.empty_like(psi), np.zeros_like(psi)
    g_bar = np.empty((gradient.shape[1] + 1, LANES), moments.dtype)
    g_dot = np.zeros_like(g_bar)
    products = np.zeros((p.at[-1] + 1, LANES), moments.dtype)
    products_dot, products_bar, products_bar_dot = (
        np.zeros_like(products),
        np.zeros_like(products),
        np.zeros_like(products),
    )
    _load(moments, first, psi, 1)
    _load(moment_tangent, first, psi_dot, 0)
    _load(gradient, first, g_bar, 0)
    _add(products, p.at, psi, p.i, psi, p.j, p.factor)
    _add(products_dot, p.at, psi_dot, p.i, psi, p.j, p.factor)
    _add(products_dot, p.at, psi, p.i, psi_dot, p.j, p.factor)
    _add(g_dot, g.at, products_dot, g.i, psi, g.j, g.factor)
    _add(g_dot, g.at, products, g.i, psi_dot, g.j, g.factor)
    _add(products_bar, g.i, g_bar, g.at, psi, g.j, g.factor)
    _add(products_bar_dot, g.i, g_bar, g.at, psi_dot, g.j, g.factor)
    _add(psi_bar_dot, g.j, g_bar, g.at, products_dot, g.i, g.factor)
    _add(psi_bar_dot, p.i, products_bar_dot, p.at, psi, p.j, p.factor)
    _add(psi_bar_dot, p.j, products_bar_dot, p.at, psi, p.i, p.factor)
    _add(psi_bar_dot, p.i, products_bar, p.at, psi_dot, p.j, p.factor)
    _add(psi_bar_dot, p.j, products_bar, p.at, psi_dot, p.i, p.factor)
    _store(g_dot, tangent, first)
    _store(psi_bar_dot, adjoint, first)


def _value(moments, values, p, g):
    for block in prange((len(moments) + LANES - 1) // LANES):
        _value_of(block * LANES, moments, values, p, g)


def _pull_back(moments, gradient, moment_gradient, p, g):
    for block in prange((len(moments) + LANES - 1) // LANES):
        _pull_back_of(block * LANES, moments, gradient, moment_gradient, p, g)


def _tangent(moments, moment_tangent, gradient, tangent, adjoint, p, g):
    for block in prange((len(moments) + LANES - 1) // LANES):
        _tangent_of(block * LANES, moments, moment_tangent, gradient, tangent, adjoint, p, g)


_compiled_value = compiled(_value, parallel=True)
_compiled_pull_back = compiled(_pull_back, parallel=True)
_compiled_tangent = compiled(_tangent, parallel=True)


def value(moments: Float[np.ndarray, "atoms radial 20"]) -> Float[np.ndarray, "atoms invariants"]:
    """G(Ψ)."""
    n, n_radial = len(moments), moments.shape[1]
    result = np.empty((n, n_invariants(n_radial)), moments.dtype)
    with torch_threads():
        _compiled_value(moments.reshape(n, -1), result, *terms(n_radial, moments.dtype == np.float32))
    return result


def pull_back(
    moments: Float[np.ndarray, "atoms radial 20"], gradient: Float[np.ndarray, "atoms invariants"]
) -> Float[np.ndarray, "atoms radial 20"]:
    """∂E/∂Ψ from ∂E/∂G."""
    n, result = len(moments), np.empty_like(moments)
    both = terms(moments.shape[1], moments.dtype == np.float32)
    with torch_threads():
        _compiled_pull_back(moments.reshape(n, -1), gradient, result.reshape(n, -1), *both)
    return result


def tangent(
    moments: Float[np.ndarray, "atoms radial 20"],
    moment_tangent: Float[np.ndarray, "atoms radial 20"],
    gradient: Float[np.ndarray, "atoms invariants"],
) -> tuple[Float[np.ndarray, "atoms invariants"], Float[np.ndarray, "atoms radial 20"]]:
    """Ġ along Ψ̇, and ∂(Σ_g `gradient`_g Ġ_g)/∂Ψ."""
    n, along, adjoint = len(moments), np.empty_like(gradient), np.empty_like(moments)
    both = terms(moments.shape[1], moments.dtype == np.float32)
    with torch_threads():
        _compiled_tangent(
            moments.reshape(n, -1), moment_tangent.reshape(n, -1), gradient, along, adjoint.reshape(n, -1), *both
        )
    return along, adjoint
