"""The moments of Eq. (2) and their derivatives straight from pair vectors, compiled: nothing else is kept of a pair.

For the pairs p = (i, j) of an atom i, with r and u the length and direction of p, the radial functions
R_s = Σ_k β_sk h_k(r), the monomials Y_m(u), and E = E(Ψ):

    moments        Ψ_sm = Σ_p R_s Y_m
    tangent        Ψ̇_sm = Σ_p R_s Ẏ_m + R'_s ṙ Y_m    along displacements v of the pairs: ṙ = u·v, u̇ = (v − u ṙ)/r
    pull_back      ∂E/∂p = Σ_sm Ψ̄_sm (R'_s Y_m u + R_s (∂Y_m − u (u·∂Y_m))/r)    with Ψ̄ = ∂E/∂Ψ
    beta_gradient  ∂/∂β_sk Σ_sm (a_sm Ψ_sm + Ψ̄_sm Ψ̇_sm) = Σ_p h_k Σ_m (a_sm Y_m + Ψ̄_sm Ẏ_m) + h'_k ṙ Σ_m Ψ̄_sm Y_m

The radial functions fill rows of SHORT_ROW columns, the monomials rows of ROW columns (see `vectors`).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import prange

from bench.potentials.gmnn.compiled.jit import compiled
from bench.potentials.gmnn.compiled.monomials import N_MONOMIALS
from bench.potentials.gmnn.compiled.vectors import ROW, SHORT_ROW, add_rows, add_short_rows
from bench.potentials.gmnn.compiled.windows import fill, fill_tangent, monomial_gradient, new_window

ATOMS_PER_TASK = 32


class Pairs(NamedTuple):
    """Pairs by centre, those of atom i at first[i]:first[i + 1]; species of the atoms; (r_min, r_max) in Å; K."""

    vectors: Float[np.ndarray, "pairs 3"]
    centres: Int[np.ndarray, " pairs"]
    neighbours: Int[np.ndarray, " pairs"]
    first: Int[np.ndarray, " atoms_and_1"]
    species: Int[np.ndarray, " atoms"]
    limits: Float[np.ndarray, " 2"]
    n_gaussians: int


class Coefficients(NamedTuple):
    """β as short rows (row, part, channel), channel = (species of the neighbour, k), and the row of each atom."""

    beta: Float[np.ndarray, "short_rows 8"]
    rows: Int[np.ndarray, " atoms"]
    n_radial: int
    n_parts: int
    n_channels: int


def coefficients(beta: Float[np.ndarray, "rows radial channels"], rows: Int[np.ndarray, " atoms"]) -> Coefficients:
    """Lay out β: the radial functions last, in parts of SHORT_ROW."""
    n_rows, n_radial, n_channels = beta.shape
    n_parts = -(-n_radial // SHORT_ROW)
    padded = np.zeros((n_rows, n_parts * SHORT_ROW, n_channels), beta.dtype)
    padded[:, :n_radial] = beta
    parts = padded.reshape(n_rows, n_parts, SHORT_ROW, n_channels).swapaxes(2, 3)
    return Coefficients(np.ascontiguousarray(parts).reshape(-1, SHORT_ROW), rows, n_radial, n_parts, n_channels)


@compiled
def _radial_functions(pairs, of, pair, table, p, values):
    """R_s of a pair from the table of h_k, or R'_s from that of h'_k."""
    channel = pairs.species[pairs.neighbours[pair]] * pairs.n_gaussians
    row = of.rows[pairs.centres[pair]] * of.n_parts
    for part in range(of.n_parts):
        for s in range(SHORT_ROW):
            values[part, s] = 0
        add_short_rows(values, part, table, 0, p, pairs.n_gaussians, of.beta, (row + part) * of.n_channels + channel)


@compiled
def _moments_of(first_atom, last_atom, pairs, of, moments):
    window = new_window(moments.dtype, pairs.n_gaussians)
    values = np.empty((of.n_parts, SHORT_ROW), moments.dtype)
    by_function = values.reshape(1, -1)
    total = np.empty((of.n_radial, ROW), moments.dtype)
    start = stop = pairs.first[first_atom]
    for i in range(first_atom, last_atom):
        total[:] = 0
        for pair in range(pairs.first[i], pairs.first[i + 1]):
            if pair == stop:
                start, stop = pair, fill(pairs, pair, pairs.first[last_atom], window)
            p = pair - start
            _radial_functions(pairs, of, pair, window.radial, p, values)
            for s in range(of.n_radial):
                add_rows(total, s, by_function, 0, s, 1, window.angular, p)
        for s in range(of.n_radial):
            for m in range(N_MONOMIALS):
                moments[i, s, m] = total[s, m]


@compiled
def _tangent_of(first_atom, last_atom, pairs, of, velocities, tangent):
    window = new_window(tangent.dtype, pairs.n_gaussians)
    values = np.empty((of.n_parts, SHORT_ROW), tangent.dtype)
    slopes = np.empty_like(values)
    by_function, slope_by_function = values.reshape(1, -1), slopes.reshape(1, -1)
    total = np.empty((of.n_radial, ROW), tangent.dtype)
    start = stop = pairs.first[first_atom]
    for i in range(first_atom, last_atom):
        total[:] = 0
        for pair in range(pairs.first[i], pairs.first[i + 1]):
            if pair == stop:
                start, stop = pair, fill(pairs, pair, pairs.first[last_atom], window)
                fill_tangent(pairs, start, stop, velocities, window)
            p = pair - start
            _radial_functions(pairs, of, pair, window.radial, p, values)
            _radial_functions(pairs, of, pair, window.slope, p, slopes)
            for s in range(of.n_radial):
                slope_by_function[0, s] *= window.stretch[p]
                add_rows(total, s, by_function, 0, s, 1, window.angular_tangent, p)
                add_rows(total, s, slope_by_function, 0, s, 1, window.angular, p)
        for s in range(of.n_radial):
            for m in range(N_MONOMIALS):
                tangent[i, s, m] = total[s, m]


@compiled
def _pull_back_of(first_atom, last_atom, pairs, of, moment_gradient, gradient):
    window = new_window(gradient.dtype, pairs.n_gaussians)
    rays = window.rays
    values = np.empty((of.n_parts, SHORT_ROW), gradient.dtype)
    by_function = values.reshape(-1, 1)
    own = np.zeros((of.n_radial, ROW), gradient.dtype)
    along, across = np.empty((1, ROW), gradient.dtype), np.empty((1, ROW), gradient.dtype)
    for i in range(first_atom, last_atom):
        for axis in range(3):
            gradient[i, axis] = 0
    start = stop = pairs.first[first_atom]
    for i in range(first_atom, last_atom):
        for s in range(of.n_radial):
            for m in range(N_MONOMIALS):
                own[s, m] = moment_gradient[i, s, m]
        for pair in range(pairs.first[i], pairs.first[i + 1]):
            if pair == stop:
                start, stop = pair, fill(pairs, pair, pairs.first[last_atom], window)
            p, j = pair - start, pairs.neighbours[pair]
            along[:], across[:] = 0, 0
            _radial_functions(pairs, of, pair, window.slope, p, values)
            add_rows(along, 0, by_function, 0, 0, of.n_radial, own, 0)
            _radial_functions(pairs, of, pair, window.radial, p, values)
            add_rows(across, 0, by_function, 0, 0, of.n_radial, own, 0)
            x, y, z, length = rays[0, p], rays[1, p], rays[2, p], rays[3, p]
            stretch = gradient.dtype.type(0)
            for m in range(N_MONOMIALS):
                stretch += along[0, m] * window.angular[p, m]
            dx, dy, dz = monomial_gradient(x, y, z, across[0])
            radial_part = x * dx + y * dy + z * dz
            of_pair = (
                (dx - x * radial_part) / length + x * stretch,
                (dy - y * radial_part) / length + y * stretch,
                (dz - z * radial_part) / length + z * stretch,
            )
            for axis in range(3):
                gradient[j, axis] += of_pair[axis]
                gradient[i, axis] -= of_pair[axis]


@compiled
def _beta_gradient_of(first_atom, last_atom, pairs, velocities, adjoint, moment_gradient, total):
    """Add to total[species of the centre, part, channel, s]; where `velocities` has no rows, a alone counts."""
    n_radial, n_parts, n_channels = adjoint.shape[1], total.shape[1], total.shape[2]
    forces = len(velocities) > 0
    window = new_window(adjoint.dtype, pairs.n_gaussians)
    # the pairs' tables as (m, pair), and the atom's as short rows (part, m)
    angular, angular_tangent = window.angular.T, window.angular_tangent.T
    of_adjoint = np.zeros((n_parts * N_MONOMIALS, SHORT_ROW), adjoint.dtype)
    of_gradient = np.zeros_like(of_adjoint)
    values, slopes = np.zeros((n_parts, SHORT_ROW), adjoint.dtype), np.zeros((n_parts, SHORT_ROW), adjoint.dtype)
    rows = total.reshape(-1, SHORT_ROW)
    start = stop = pairs.first[first_atom]
    for i in range(first_atom, last_atom):
        for s in range(n_radial):
            for m in range(N_MONOMIALS):
                row, column = s // SHORT_ROW * N_MONOMIALS + m, s % SHORT_ROW
                of_adjoint[row, column] = adjoint[i, s, m]
                if forces:
                    of_gradient[row, column] = moment_gradient[i, s, m]
        for pair in range(pairs.first[i], pairs.first[i + 1]):
            if pair == stop:
                start, stop = pair, fill(pairs, pair, pairs.first[last_atom], window)
                if forces:
                    fill_tangent(pairs, start, stop, velocities, window)
            p, channel = pair - start, pairs.species[pairs.neighbours[pair]] * pairs.n_gaussians
            values[:], slopes[:] = 0, 0
            for part in range(n_parts):
                row, first = (pairs.species[i] * n_parts + part) * n_channels + channel, part * N_MONOMIALS
                add_short_rows(values, part, angular, 0, p, N_MONOMIALS, of_adjoint, first)
                if forces:
                    add_short_rows(values, part, angular_tangent, 0, p, N_MONOMIALS, of_gradient, first)
                    add_short_rows(slopes, part, angular, 0, p, N_MONOMIALS, of_gradient, first)
                    for s in range(SHORT_ROW):
                        slopes[part, s] *= window.stretch[p]
                for k in range(pairs.n_gaussians):
                    add_short_rows(rows, row + k, window.radial, k, p, 1, values, part)
                    if forces:
                        add_short_rows(rows, row + k, window.slope, k, p, 1, slopes, part)


def _moments(pairs, of, moments):
    for task in prange((len(moments) + ATOMS_PER_TASK - 1) // ATOMS_PER_TASK):
        _moments_of(task * ATOMS_PER_TASK, min((task + 1) * ATOMS_PER_TASK, len(moments)), pairs, of, moments)


def _tangent(pairs, of, velocities, tangent):
    for task in prange((len(tangent) + ATOMS_PER_TASK - 1) // ATOMS_PER_TASK):
        first, last = task * ATOMS_PER_TASK, min((task + 1) * ATOMS_PER_TASK, len(tangent))
        _tangent_of(first, last, pairs, of, velocities, tangent)


def _pull_back(first_atom, pairs, of, moment_gradient, gradient):
    for structure in prange(len(first_atom) - 1):
        _pull_back_of(first_atom[structure], first_atom[structure + 1], pairs, of, moment_gradient, gradient)


def _beta_gradient(first_atom, pairs, velocities, adjoint, moment_gradient, total):
    for structure in prange(len(first_atom) - 1):
        first, last = first_atom[structure], first_atom[structure + 1]
        _beta_gradient_of(first, last, pairs, velocities, adjoint, moment_gradient, total[structure])


moments = compiled(_moments, parallel=True)
tangent = compiled(_tangent, parallel=True)
pull_back = compiled(_pull_back, parallel=True)
beta_gradient = compiled(_beta_gradient, parallel=True)
