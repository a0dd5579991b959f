"""The moments of Eq. (2) and their derivatives straight from pair vectors, compiled.

For the pairs p = (i, j) of an atom i, with r and u the length and direction of p, the radial functions
R_s = Σ_k β_sk h_k(r), the monomials Y_m(u), and E = E(Ψ):

    moments        Ψ_sm = Σ_p R_s Y_m
    pull_back      ∂E/∂p = Σ_sm Ψ̄_sm (R'_s Y_m u + R_s (∂Y_m − u (u·∂Y_m))/r)    with Ψ̄ = ∂E/∂Ψ

Training goes through the sums over pairs that β does not enter, one for each species Z of neighbours:

    basis          A_Zkm = Σ_p h_k Y_m, once for structures that are trained on, and with velocities
                   Ȧ_Zkm = Σ_p h_k Ẏ_m + h'_k ṙ Y_m    along displacements v of the pairs: ṙ = u·v, u̇ = (v − u ṙ)/r
    contract       Ψ_sm = Σ_Zk β_sZk A_Zkm, and likewise Ψ̇; A of atom i is row `places[i]`
    beta_gradient  ∂/∂β_sZk Σ_sm (a_sm Ψ_sm + Ψ̄_sm Ψ̇_sm) = Σ_m a_sm A_Zkm + Ψ̄_sm Ȧ_Zkm

The radial functions fill rows of SHORT_ROW columns, the monomials rows of ROW columns (see `vectors`).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numba import prange

from bench.potentials.gmnn.compiled.jit import compiled
from bench.potentials.gmnn.compiled.monomials import N_MONOMIALS
from bench.potentials.gmnn.compiled.vectors import (
    CHANNEL_TILE,
    OUTER_TILE,
    RADIAL_TILE,
    ROW,
    SHORT_ROW,
    TILE,
    add_outer,
    add_outer_tile,
    add_rows,
    add_rows_twice,
    add_short_rows,
    add_short_tile,
    by_lanes,
    dot_rows,
    sum_monomial_rows,
    sum_monomial_tile,
    sum_rows_twice,
    sum_short_rows,
    sum_short_rows_twice,
)
from bench.potentials.gmnn.compiled.windows import (
    WINDOW,
    fill,
    fill_tangent,
    monomial_gradient,
    new_window,
    transpose_back,
)

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
def _row_of_beta(pairs, of, pair, part):
    """Where β of a pair's two species begins, for a part of the radial functions."""
    channel = pairs.species[pairs.neighbours[pair]] * pairs.n_gaussians
    return (of.rows[pairs.centres[pair]] * of.n_parts + part) * of.n_channels + channel


@compiled
def _radial_functions(pairs, of, pair, table, p, values):
    """R_s of a pair from the table of h_k."""
    for part in range(of.n_parts):
        sum_short_rows(values, part, table, 0, p, pairs.n_gaussians, of.beta, _row_of_beta(pairs, of, pair, part))


@compiled
def _radial_functions_and_slopes(pairs, of, pair, table, p, values):
    """R_s and R'_s of a pair, a part of each in turn, from the table of h_k and h'_k."""
    for part in range(of.n_parts):
        first = _row_of_beta(pairs, of, pair, part)
        sum_short_rows_twice(values, 2 * part, table, 0, p, pairs.n_gaussians, of.beta, first)


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
def _basis_of(first_atom, last_atom, pairs, velocities, sums):
    """A, or Ȧ where there are velocities."""
    window, moving = new_window(sums.dtype, pairs.n_gaussians), len(velocities) > 0
    tables = window.radial, window.angular, np.zeros_like(window.angular)
    if moving:
        tables = window.radial, window.angular_tangent, window.angular
    rows = sums.reshape(-1, N_MONOMIALS)
    counts = np.empty(sums.shape[1] // pairs.n_gaussians, np.int64)
    by_species = np.empty((len(counts), WINDOW), np.int64)
    start = stop = pairs.first[first_atom]
    for i in range(first_atom, last_atom):
        sums[i] = 0
        pair, end = pairs.first[i], pairs.first[i + 1]
        while pair < end:
            if pair == stop:
                start, stop = pair, fill(pairs, pair, pairs.first[last_atom], window)
                if moving:
                    fill_tangent(pairs, start, stop, velocities, window)
                    for k in range(pairs.n_gaussians):
                        for p in range(stop - start):
                            window.radial[k, WINDOW + p] *= window.stretch[p]
            last = min(end, stop)
            _add_pairs(rows, i * sums.shape[1], pairs, pair, last, start, tables, by_species, counts)
            pair = last


@compiled
def _add_pairs(rows, row, pairs, first, last, start, tables, by_species, counts):
    """Add what the pairs first:last of one atom give to the rows from `row`, a row for each channel.

    One species of neighbours after another, whose sums stay in registers.
    """
    counts[:] = 0
    for pair in range(first, last):
        species = pairs.species[pairs.neighbours[pair]]
        by_species[species, counts[species]] = pair - start
        counts[species] += 1
    for species in range(len(counts)):
        count, of_species, channel = counts[species], row + species * pairs.n_gaussians, 0
        if count == 0:
            continue
        while channel + OUTER_TILE <= pairs.n_gaussians:
            add_outer_tile(rows, of_species, channel, tables, by_species, species, count)
            channel += OUTER_TILE
        while channel < pairs.n_gaussians:
            add_outer(rows, of_species, channel, tables, by_species, species, count)
            channel += 1


@compiled
def _contract_of(first_atom, last_atom, sums, places, of, moments):
    rows, targets = sums.reshape(-1, N_MONOMIALS), moments.reshape(-1, N_MONOMIALS)
    n_channels = of.n_channels
    for i in range(first_atom, last_atom):
        for part in range(of.n_parts):
            start, first = (of.rows[i] * of.n_parts + part) * n_channels, places[i] * n_channels
            n, s = min(SHORT_ROW, of.n_radial - part * SHORT_ROW), 0
            target = i * of.n_radial + part * SHORT_ROW
            while s + RADIAL_TILE <= n:
                sum_monomial_tile(targets, target + s, of.beta, start, s, n_channels, rows, first)
                s += RADIAL_TILE
            while s < n:
                sum_monomial_rows(targets, target + s, of.beta, start, s, n_channels, rows, first)
                s += 1


@compiled
def _pull_back_of(first_atom, last_atom, pairs, of, moment_gradient, gradient):
    window = new_window(gradient.dtype, pairs.n_gaussians)
    values = np.empty((2 * of.n_parts, SHORT_ROW), gradient.dtype)
    by_function = values.reshape(-1, 1)
    own = np.zeros((of.n_radial, ROW), gradient.dtype)
    # that of a pair, and for a moment, in the next row, the sum with the slopes
    across = np.zeros((WINDOW + 1, ROW), gradient.dtype)
    by_monomial = np.empty((ROW, WINDOW), gradient.dtype)
    stretch, of_pair = np.empty((1, WINDOW), gradient.dtype), np.empty((3, WINDOW), gradient.dtype)
    gradient[first_atom:last_atom] = 0
    i, end = first_atom, pairs.first[last_atom]
    new = True
    start = pairs.first[first_atom]
    while start < end:
        stop = fill(pairs, start, end, window)
        for pair in range(start, stop):
            while pair >= pairs.first[i + 1]:
                i += 1
                new = True
            if new:
                new = False
                for s in range(of.n_radial):
                    for m in range(N_MONOMIALS):
                        own[s, m] = moment_gradient[i, s, m]
            p = pair - start
            _radial_functions_and_slopes(pairs, of, pair, window.radial, p, values)
            sum_rows_twice(across, p, by_function, 0, 0, min(of.n_radial, SHORT_ROW), own, 0)
            for part in range(1, of.n_parts):
                s, count = part * SHORT_ROW, min(of.n_radial - part * SHORT_ROW, SHORT_ROW)
                add_rows_twice(across, p, by_function, 2 * s, 0, count, own, s)
            stretch[0, p] = dot_rows(across, p + 1, window.angular, p)
        transpose_back(across, by_monomial, stop - start)
        for p in range(0, stop - start, TILE):
            _pair_gradients((window.rays, by_monomial, stretch, of_pair), p)
        for pair in range(start, stop):
            centre, other, p = pairs.centres[pair], pairs.neighbours[pair], pair - start
            for axis in range(3):
                gradient[other, axis] += of_pair[axis, p]
                gradient[centre, axis] -= of_pair[axis, p]
        start = stop


def _pair_gradient(ray, across, stretch):
    """From Σ_s Ψ̄_sm R_s and Σ_sm Ψ̄_sm R'_s Y_m of a pair to its ∂E/∂p."""
    (x, y, z, length), (along,) = ray, stretch
    dx, dy, dz = monomial_gradient.py_func(x, y, z, across)
    radial_part = x * dx + y * dy + z * dz
    return (
        (dx - x * radial_part) / length + x * along,
        (dy - y * radial_part) / length + y * along,
        (dz - z * radial_part) / length + z * along,
    )


_pair_gradients = by_lanes(_pair_gradient, (4, N_MONOMIALS, 1))


@compiled
def _beta_gradient_of(first_atom, last_atom, species, sums, places, tangent_sums, adjoint, moment_gradient, total):
    """Add to total[species of the centre, part, channel, s]; where `tangent_sums` has no rows, a alone counts."""
    n_radial, n_parts, n_channels = adjoint.shape[1], total.shape[1], total.shape[2]
    # as (m, atom and channel), and the atom's as short rows (part, m)
    columns, tangent_columns = sums.reshape(-1, N_MONOMIALS).T, tangent_sums.reshape(-1, N_MONOMIALS).T
    of_adjoint = np.zeros((n_parts * N_MONOMIALS, SHORT_ROW), adjoint.dtype)
    of_gradient = np.zeros_like(of_adjoint)
    rows = total.reshape(-1, SHORT_ROW)
    for i in range(first_atom, last_atom):
        for s in range(n_radial):
            for m in range(N_MONOMIALS):
                row, column = s // SHORT_ROW * N_MONOMIALS + m, s % SHORT_ROW
                of_adjoint[row, column] = adjoint[i, s, m]
                if len(tangent_sums) > 0:
                    of_gradient[row, column] = moment_gradient[i, s, m]
        for part in range(n_parts):
            row, first = (species[i] * n_parts + part) * n_channels, part * N_MONOMIALS
            _add_products(rows, row, columns, places[i] * n_channels, n_channels, of_adjoint, first)
            if len(tangent_sums) > 0:
                _add_products(rows, row, tangent_columns, i * n_channels, n_channels, of_gradient, first)


@compiled
def _add_products(rows, row, columns, column, n_channels, source, first):
    """rows[row + channel, :] += Σ_m columns[m, column + channel] · source[first + m, :]."""
    channel = 0
    while channel + CHANNEL_TILE <= n_channels:
        add_short_tile(rows, row + channel, columns, 0, column + channel, N_MONOMIALS, source, first)
        channel += CHANNEL_TILE
    while channel < n_channels:
        add_short_rows(rows, row + channel, columns, 0, column + channel, N_MONOMIALS, source, first)
        channel += 1


def _moments(pairs, of, moments):
    for task in prange((len(moments) + ATOMS_PER_TASK - 1) // ATOMS_PER_TASK):
        _moments_of(task * ATOMS_PER_TASK, min((task + 1) * ATOMS_PER_TASK, len(moments)), pairs, of, moments)


def _basis(pairs, velocities, sums):
    for task in prange((len(sums) + ATOMS_PER_TASK - 1) // ATOMS_PER_TASK):
        first, last = task * ATOMS_PER_TASK, min((task + 1) * ATOMS_PER_TASK, len(sums))
        _basis_of(first, last, pairs, velocities, sums)


def _contract(sums, places, of, moments):
    for task in prange((len(places) + ATOMS_PER_TASK - 1) // ATOMS_PER_TASK):
        _contract_of(task * ATOMS_PER_TASK, min((task + 1) * ATOMS_PER_TASK, len(places)), sums, places, of, moments)


def _pull_back(order, first_atom, pairs, of, moment_gradient, gradient):
    for n in prange(len(order)):
        structure = order[n]
        _pull_back_of(first_atom[structure], first_atom[structure + 1], pairs, of, moment_gradient, gradient)


def _beta_gradient(first_atom, species, sums, places, tangent_sums, adjoint, moment_gradient, total):
    for structure in prange(len(first_atom) - 1):
        first, last = first_atom[structure], first_atom[structure + 1]
        _beta_gradient_of(first, last, species, sums, places, tangent_sums, adjoint, moment_gradient, total[structure])


def dealt(work: Int[np.ndarray, " structures"], threads: int) -> Int[np.ndarray, " structures"]:
    """An order of structures in which so many equal parts, one for each thread, hold about as much work."""
    if threads == 1 or len(work) < 2 or (work == work[0]).all():
        return np.arange(len(work))
    turn = np.arange(len(work)) % (2 * threads)
    return np.argsort(work)[np.argsort(np.minimum(turn, 2 * threads - 1 - turn), kind="stable")]


moments = compiled(_moments, parallel=True)
basis = compiled(_basis, parallel=True)
contract = compiled(_contract, parallel=True)
pull_back = compiled(_pull_back, parallel=True)
beta_gradient = compiled(_beta_gradient, parallel=True)
