"""The invariants of `bench.potentials.gmnn.invariants` and their derivatives in closed form, compiled.

Every invariant is cubic at most, so all of them are two bilinear maps, one after the other, with Ψ extended by a 1:

    Q_q = Σ f Ψ_i Ψ_j    the symmetrised matrices Ψ1_s Ψ1_t, Ψ3_s:Ψ3_t, Ψ2_s Ψ2_t and the vectors Ψ3_s:Ψ2_t
    G_g = Σ f Q_q Ψ_j    each matrix with Ψ2_u and its trace (Q_q · 1), each vector with Ψ1_u, and Ψ0 itself

`terms` lists (target, left, right, f) of both; the derivatives are the same lists with the roles exchanged. Each sum is
taken for LANES atoms at once, in a fixed order.
"""

import itertools
from collections import Counter
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import prange

from bench.potentials.gmnn.compiled.jit import compiled
from bench.potentials.gmnn.compiled.monomials import MONOMIALS, N_MONOMIALS
from bench.potentials.gmnn.compiled.vectors import LANES, SQUARE, add_terms, transpose_square
from bench.potentials.gmnn.invariants import n_invariants


class Terms(NamedTuple):
    """Six lists of sums end to end: list m holds the sums n from part[m] to part[m + 1].

    Each is target[at[n]] += Σ_k factor[k] · left[l[k]] · right[r[k]], k from first[n] to first[n + 1].
    """

    at: Int[np.ndarray, " sums"]
    first: Int[np.ndarray, " sums_and_1"]
    left: Int[np.ndarray, " terms"]
    right: Int[np.ndarray, " terms"]
    factor: Float[np.ndarray, " terms"]
    part: Int[np.ndarray, " 7"]


Q, Q_LEFT, Q_RIGHT, G, G_LEFT, G_RIGHT = range(6)
"""The lists by what is their target: Q = Σ f i j; its left factor = Σ f Q j; its right one = Σ f Q i; so for G."""


@cache
def terms(n_radial: int, single: bool) -> Terms:
    """The terms of Q and of G, in the order of `bench.potentials.gmnn.invariants.invariants`."""
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
    lists = [*_by_target(products), *_by_target(contracted)]
    columns = [np.concatenate(column) for column in zip(*lists, strict=True)]
    at, first, left, right, factor = columns
    part = np.cumsum([0, *(len(one[0]) for one in lists)])
    sizes = np.cumsum([0, *(len(one[2]) for one in lists)])
    first = np.append(first + np.repeat(sizes[:-1], np.diff(part)), sizes[-1])
    return Terms(at, first, left, right, factor.astype(np.float32 if single else np.float64), part)


def _by_target(sums: list[Counter[tuple[int, int]]]) -> list[tuple[np.ndarray, ...]]:
    """(at, first, left, right, factor) of sums of products, and of the two lists with the roles exchanged."""
    rows = [(at, i, j, factor) for at, sum_ in enumerate(sums) for (i, j), factor in sum_.items()]
    at, i, j, factor = (np.array(column) for column in zip(*rows, strict=True))

    def by(target: Int[np.ndarray, " n"], left: Int[np.ndarray, " n"], right: Int[np.ndarray, " n"]) -> tuple[Any, ...]:
        order = np.argsort(target, kind="stable")
        targets, first = np.unique(target[order], return_index=True)
        return targets, first, left[order], right[order], factor[order]

    return [by(at, i, j), by(i, at, j), by(j, at, i)]


@compiled
def _add(target, of, which, left, right):
    for n in range(of.part[which], of.part[which + 1]):
        add_terms(target, of.at[n], of.factor, left, of.left, right, of.right, of.first[n], of.first[n + 1])


@compiled
def _room_for_products(of, moments):
    return np.zeros((of.at[of.part[Q + 1] - 1] + 1, LANES), moments.dtype)


@compiled
def _load(rows, first, block, constant):
    """The atoms first : first + LANES, one a column, with a last row of `constant`; missing atoms are zero."""
    n, n_columns = min(LANES, rows.shape[0] - first), rows.shape[1]
    tiled = n_columns // SQUARE * SQUARE if n == LANES else 0
    if n < LANES:
        block[:] = 0
    for column in range(0, tiled, SQUARE):
        for lane in range(0, LANES, SQUARE):
            transpose_square(rows, first + lane, column, block, column, lane)
    for lane in range(n):
        for column in range(tiled, n_columns):
            block[column, lane] = rows[first + lane, column]
    for lane in range(LANES):
        block[n_columns, lane] = constant


@compiled
def _store(block, rows, first):
    n, n_columns = min(LANES, rows.shape[0] - first), rows.shape[1]
    tiled = n_columns // SQUARE * SQUARE if n == LANES else 0
    for lane in range(0, LANES, SQUARE):
        for column in range(0, tiled, SQUARE):
            transpose_square(block, column, lane, rows, first + lane, column)
    for lane in range(n):
        for column in range(tiled, n_columns):
            rows[first + lane, column] = block[column, lane]


@compiled
def _value_of(first, moments, values, of):
    psi = np.empty((moments.shape[1] + 1, LANES), moments.dtype)
    products = _room_for_products(of, moments)
    total = np.zeros((values.shape[1], LANES), moments.dtype)
    _load(moments, first, psi, 1)
    _add(products, of, Q, psi, psi)
    _add(total, of, G, products, psi)
    _store(total, values, first)


@compiled
def _pull_back_of(first, moments, gradient, moment_gradient, of):
    psi = np.empty((moments.shape[1] + 1, LANES), moments.dtype)
    psi_bar = np.zeros_like(psi)
    g_bar = np.empty((gradient.shape[1] + 1, LANES), moments.dtype)
    products = _room_for_products(of, moments)
    products_bar = np.zeros_like(products)
    _load(moments, first, psi, 1)
    _load(gradient, first, g_bar, 0)
    _add(products, of, Q, psi, psi)
    _add(products_bar, of, G_LEFT, g_bar, psi)
    _add(psi_bar, of, G_RIGHT, g_bar, products)
    _add(psi_bar, of, Q_LEFT, products_bar, psi)
    _add(psi_bar, of, Q_RIGHT, products_bar, psi)
    _store(psi_bar, moment_gradient, first)


@compiled
def _tangent_of(first, moments, moment_tangent, gradient, tangent, adjoint, of):
    psi = np.empty((moments.shape[1] + 1, LANES), moments.dtype)
    psi_dot, psi_bar_dot = np.empty_like(psi), np.zeros_like(psi)
    g_bar = np.empty((gradient.shape[1] + 1, LANES), moments.dtype)
    g_dot = np.zeros_like(g_bar)
    products = _room_for_products(of, moments)
    products_dot, products_bar, products_bar_dot = (
        np.zeros_like(products),
        np.zeros_like(products),
        np.zeros_like(products),
    )
    _load(moments, first, psi, 1)
    _load(moment_tangent, first, psi_dot, 0)
    _load(gradient, first, g_bar, 0)
    _add(products, of, Q, psi, psi)
    _add(products_dot, of, Q, psi_dot, psi)
    _add(products_dot, of, Q, psi, psi_dot)
    _add(g_dot, of, G, products_dot, psi)
    _add(g_dot, of, G, products, psi_dot)
    _add(products_bar, of, G_LEFT, g_bar, psi)
    _add(products_bar_dot, of, G_LEFT, g_bar, psi_dot)
    _add(psi_bar_dot, of, G_RIGHT, g_bar, products_dot)
    _add(psi_bar_dot, of, Q_LEFT, products_bar_dot, psi)
    _add(psi_bar_dot, of, Q_RIGHT, products_bar_dot, psi)
    _add(psi_bar_dot, of, Q_LEFT, products_bar, psi_dot)
    _add(psi_bar_dot, of, Q_RIGHT, products_bar, psi_dot)
    _store(g_dot, tangent, first)
    _store(psi_bar_dot, adjoint, first)


def _value(moments, values, of):
    for block in prange((len(moments) + LANES - 1) // LANES):
        _value_of(block * LANES, moments, values, of)


def _pull_back(moments, gradient, moment_gradient, of):
    for block in prange((len(moments) + LANES - 1) // LANES):
        _pull_back_of(block * LANES, moments, gradient, moment_gradient, of)


def _tangent(moments, moment_tangent, gradient, tangent, adjoint, of):
    for block in prange((len(moments) + LANES - 1) // LANES):
        _tangent_of(block * LANES, moments, moment_tangent, gradient, tangent, adjoint, of)


_compiled_value = compiled(_value, parallel=True)
_compiled_pull_back = compiled(_pull_back, parallel=True)
_compiled_tangent = compiled(_tangent, parallel=True)


def value(moments: Float[np.ndarray, "atoms radial 20"]) -> Float[np.ndarray, "atoms invariants"]:
    """G(Ψ)."""
    n, n_radial = len(moments), moments.shape[1]
    result = np.empty((n, n_invariants(n_radial)), moments.dtype)
    of = terms(n_radial, moments.dtype == np.float32)
    _compiled_value(moments.reshape(n, -1), result, of)
    return result


def pull_back(
    moments: Float[np.ndarray, "atoms radial 20"], gradient: Float[np.ndarray, "atoms invariants"]
) -> Float[np.ndarray, "atoms radial 20"]:
    """∂E/∂Ψ from ∂E/∂G."""
    n, result = len(moments), np.empty_like(moments)
    of = terms(moments.shape[1], moments.dtype == np.float32)
    _compiled_pull_back(moments.reshape(n, -1), gradient, result.reshape(n, -1), of)
    return result


def tangent(
    moments: Float[np.ndarray, "atoms radial 20"],
    moment_tangent: Float[np.ndarray, "atoms radial 20"],
    gradient: Float[np.ndarray, "atoms invariants"],
) -> tuple[Float[np.ndarray, "atoms invariants"], Float[np.ndarray, "atoms radial 20"]]:
    """Ġ along Ψ̇, and ∂(Σ_g `gradient`_g Ġ_g)/∂Ψ."""
    n, along, adjoint = len(moments), np.empty_like(gradient), np.empty_like(moments)
    of = terms(moments.shape[1], moments.dtype == np.float32)
    _compiled_tangent(
        moments.reshape(n, -1), moment_tangent.reshape(n, -1), gradient, along, adjoint.reshape(n, -1), of
    )
    return along, adjoint
