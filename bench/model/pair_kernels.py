"""The moments of Eq. (2) and their derivatives straight from pair vectors, compiled: nothing else is kept of a pair.

For the pairs p = (i, j) of an atom i, with r and u the length and direction of p, the radial functions
R_s = Σ_k β_sk h_k(r), the monomials Y_m(u), and E = E(Ψ):

    moments        Ψ_sm = Σ_p R_s Y_m
    tangent        Ψ̇_sm = Σ_p R_s Ẏ_m + R'_s ṙ Y_m    along displacements v of the pair: ṙ = u·v, u̇ = (v − u ṙ)/r
    pull_back      ∂E/∂p = Σ_sm Ψ̄_sm (R'_s Y_m u + R_s (∂Y_m − u (u·∂Y_m))/r)    with Ψ̄ = ∂E/∂Ψ
    beta_gradient  Σ_p h_k Σ_m (a_sm Y_m + Ψ̄_sm Ẏ_m) + h'_k ṙ Σ_m Ψ̄_sm Y_m    which is ∂/∂β_sk of Σ_sm a_sm Ψ_sm + Ψ̄_sm Ψ̇_sm

Pairs lie sorted by their centre i, pairs[i]:pairs[i + 1]. What depends on a pair alone is worked out for a window of
pairs at once, in loops over pairs. `limits` is (r_min, r_max), `rows` the row of β of each atom (its model and
species), the columns of β are (species of the neighbour, k).
"""

import math

import numpy as np
from jaxtyping import Float
from numba import prange

from bench.model.compiled import ROW, SHORT_ROW, add_rows, add_short_rows, compiled, cosine_and_sine, exponential

WINDOW = 64
ATOMS_PER_TASK = 32
N_MONOMIALS = 20


@compiled
def _window(vectors, n_gaussians):
    """Tables of a window: (u, r) by row; f_cut and its slope; h_k and h'_k; Y_m; Ẏ_m and ṙ."""
    real = vectors.dtype
    rays, cutoff = np.empty((4, WINDOW), real), np.empty((2, WINDOW), real)
    radial, slope = np.empty((n_gaussians, WINDOW), real), np.empty((n_gaussians, WINDOW), real)
    return rays, cutoff, radial, slope, np.zeros((WINDOW, ROW), real)


@compiled
def _fill(vectors, first, last, limits, window):
    """The pairs first:last: rays, the h_k(r) and h'_k(r) of `bench.model.radial`, and Y_m(u)."""
    rays, cutoff, radial, slope, angular = window
    n, n_gaussians = last - first, radial.shape[0]
    real = vectors.dtype.type
    r_min, r_max = limits[0], limits[1]
    zero, half, two, quarter_turn = real(0), real(0.5), real(2), real(math.pi / 4)
    turn = two * quarter_turn / r_max
    width = real(n_gaussians * n_gaussians) / (r_max * r_max)
    step = (r_max - r_min) / real(n_gaussians)
    norm = real(math.sqrt(math.sqrt(2 * width / math.pi)) / math.sqrt(n_gaussians))
    for p in range(n):
        x, y, z = vectors[first + p, 0], vectors[first + p, 1], vectors[first + p, 2]
        length = math.sqrt(x * x + y * y + z * z)
        rays[0, p], rays[1, p], rays[2, p], rays[3, p] = x / length, y / length, z / length, length
    for p in range(n):
        # cos(πr/2r_max) and sin of it, whose argument is π/4 + v: f_cut = cos², f_cut' = −(π/r_max) cos sin
        cosine, sine = cosine_and_sine(turn * rays[3, p] - quarter_turn)
        inside = norm if rays[3, p] < r_max else zero
        cutoff[0, p] = inside * half * (cosine - sine) * (cosine - sine)
        cutoff[1, p] = -inside * turn * (cosine - sine) * (cosine + sine)
    for k in range(n_gaussians):
        centre = r_min + real(k) * step
        for p in range(n):
            offset = rays[3, p] - centre
            gaussian = exponential(-width * offset * offset)
            radial[k, p] = cutoff[0, p] * gaussian
            slope[k, p] = (cutoff[1, p] - two * width * offset * cutoff[0, p]) * gaussian
    for p in range(n):
        x, y, z = rays[0, p], rays[1, p], rays[2, p]
        _monomials(x, y, z, angular[p])


@compiled
def _monomials(x, y, z, row):
    """The 20 monomials in the order of `bench.model.moments.MONOMIALS`."""
    xx, xy, xz, yy, yz, zz = x * x, x * y, x * z, y * y, y * z, z * z
    row[0], row[1], row[2], row[3] = 1, x, y, z
    row[4], row[5], row[6], row[7], row[8], row[9] = xx, xy, xz, yy, yz, zz
    row[10], row[11], row[12], row[13], row[14], row[15] = x * xx, x * xy, x * xz, x * yy, x * yz, x * zz
    row[16], row[17], row[18], row[19] = y * yy, y * yz, y * zz, z * zz


@compiled
def _fill_tangent(velocities, centres, neighbours, first, last, window, angular_tangent, stretch):
    """Ẏ_m and ṙ of the pairs first:last."""
    rays = window[0]
    for p in range(last - first):
        i, j = centres[first + p], neighbours[first + p]
        x, y, z, length = rays[0, p], rays[1, p], rays[2, p], rays[3, p]
        dx = velocities[j, 0] - velocities[i, 0]
        dy = velocities[j, 1] - velocities[i, 1]
        dz = velocities[j, 2] - velocities[i, 2]
        along = x * dx + y * dy + z * dz
        stretch[p] = along
        dx, dy, dz = (dx - x * along) / length, (dy - y * along) / length, (dz - z * along) / length
        _monomial_tangents(x, y, z, dx, dy, dz, angular_tangent[p])


@compiled
def _monomial_tangents(x, y, z, dx, dy, dz, row):
    """Ẏ_m where (x, y, z) changes by (dx, dy, dz)."""
    xx, xy, xz, yy, yz, zz = x * x, x * y, x * z, y * y, y * z, z * z
    dxx, dyy, dzz = 2 * x * dx, 2 * y * dy, 2 * z * dz
    dxy, dxz, dyz = dx * y + x * dy, dx * z + x * dz, dy * z + y * dz
    row[0], row[1], row[2], row[3] = 0, dx, dy, dz
    row[4], row[5], row[6], row[7], row[8], row[9] = dxx, dxy, dxz, dyy, dyz, dzz
    row[10], row[11], row[12] = dx * xx + x * dxx, dx * xy + x * dxy, dx * xz + x * dxz
    row[13], row[14], row[15] = dx * yy + x * dyy, dx * yz + x * dyz, dx * zz + x * dzz
    row[16], row[17], row[18], row[19] = dy * yy + y * dyy, dy * yz + y * dyz, dy * zz + y * dzz, dz * zz + z * dzz


@compiled
def _radial_functions(beta, channels, row, channel, table, p, values):
    """R_s of pair p from the table of h_k (or R'_s from that of h'_k), in short rows; those of β are (row, part, channel)."""
    for part in range(len(values)):
        for s in range(SHORT_ROW):
            values[part, s] = 0
        add_short_rows(values, part, table, 0, p, table.shape[0], beta, (row * len(values) + part) * channels + channel)


@compiled
def _moments_of(first_atom, last_atom, vectors, neighbours, pairs, species, rows, beta, n_channels, limits, n_gaussians, moments):
    n_radial = moments.shape[1]
    window = _window(vectors, n_gaussians)
    radial, angular = window[2], window[4]
    values = np.empty(((n_radial + SHORT_ROW - 1) // SHORT_ROW, SHORT_ROW), vectors.dtype)
    of_value = values.reshape(1, -1)
    total = np.empty((n_radial, ROW), vectors.dtype)
    start = stop = pairs[first_atom]
    for i in range(first_atom, last_atom):
        total[:] = 0
        for pair in range(pairs[i], pairs[i + 1]):
            if pair == stop:
                start, stop = pair, min(pair + WINDOW, pairs[last_atom])
                _fill(vectors, start, stop, limits, window)
            p = pair - start
            _radial_functions(beta, n_channels, rows[i], species[neighbours[pair]] * n_gaussians, radial, p, values)
            for s in range(n_radial):
                add_rows(total, s, of_value, 0, s, 1, angular, p)
        for s in range(n_radial):
            for m in range(N_MONOMIALS):
                moments[i, s, m] = total[s, m]


@compiled
def _tangent_of(
    first_atom, last_atom, vectors, centres, neighbours, pairs, species, rows, beta, n_channels, limits, n_gaussians, velocities,
    tangent,
):
    n_radial = tangent.shape[1]
    window = _window(vectors, n_gaussians)
    radial, slope, angular = window[2], window[3], window[4]
    angular_tangent, stretch = np.zeros_like(angular), np.empty(WINDOW, vectors.dtype)
    values = np.empty(((n_radial + SHORT_ROW - 1) // SHORT_ROW, SHORT_ROW), vectors.dtype)
    slopes = np.empty_like(values)
    of_value, of_slope = values.reshape(1, -1), slopes.reshape(1, -1)
    total = np.empty((n_radial, ROW), vectors.dtype)
    start = stop = pairs[first_atom]
    for i in range(first_atom, last_atom):
        total[:] = 0
        for pair in range(pairs[i], pairs[i + 1]):
            if pair == stop:
                start, stop = pair, min(pair + WINDOW, pairs[last_atom])
                _fill(vectors, start, stop, limits, window)
                _fill_tangent(velocities, centres, neighbours, start, stop, window, angular_tangent, stretch)
            p, channel = pair - start, species[neighbours[pair]] * n_gaussians
            _radial_functions(beta, n_channels, rows[i], channel, radial, p, values)
            _radial_functions(beta, n_channels, rows[i], channel, slope, p, slopes)
            slopes *= stretch[p]
            for s in range(n_radial):
                add_rows(total, s, of_value, 0, s, 1, angular_tangent, p)
                add_rows(total, s, of_slope, 0, s, 1, angular, p)
        for s in range(n_radial):
            for m in range(N_MONOMIALS):
                tangent[i, s, m] = total[s, m]


@compiled
def _pull_back_of(
    first_atom, last_atom, vectors, neighbours, pairs, species, rows, beta, n_channels, limits, n_gaussians, moment_gradient,
    gradient,
):
    n_radial = moment_gradient.shape[1]
    window = _window(vectors, n_gaussians)
    rays, _, radial, slope, angular = window
    values = np.empty(((n_radial + SHORT_ROW - 1) // SHORT_ROW, SHORT_ROW), vectors.dtype)
    of_value = values.reshape(-1, 1)
    own = np.zeros((n_radial, ROW), vectors.dtype)
    along, across = np.zeros((1, ROW), vectors.dtype), np.zeros((1, ROW), vectors.dtype)
    for i in range(first_atom, last_atom):
        for axis in range(3):
            gradient[i, axis] = 0
    start = stop = pairs[first_atom]
    for i in range(first_atom, last_atom):
        for s in range(n_radial):
            for m in range(N_MONOMIALS):
                own[s, m] = moment_gradient[i, s, m]
        for pair in range(pairs[i], pairs[i + 1]):
            if pair == stop:
                start, stop = pair, min(pair + WINDOW, pairs[last_atom])
                _fill(vectors, start, stop, limits, window)
            p, j = pair - start, neighbours[pair]
            channel = species[j] * n_gaussians
            along[:], across[:] = 0, 0
            _radial_functions(beta, n_channels, rows[i], channel, slope, p, values)
            add_rows(along, 0, of_value, 0, 0, n_radial, own, 0)
            _radial_functions(beta, n_channels, rows[i], channel, radial, p, values)
            add_rows(across, 0, of_value, 0, 0, n_radial, own, 0)
            x, y, z, length = rays[0, p], rays[1, p], rays[2, p], rays[3, p]
            stretch = vectors.dtype.type(0)
            for m in range(N_MONOMIALS):
                stretch += along[0, m] * angular[p, m]
            dx, dy, dz = _monomial_gradient(x, y, z, across[0])
            radial_part = x * dx + y * dy + z * dz
            force = (
                (dx - x * radial_part) / length + x * stretch,
                (dy - y * radial_part) / length + y * stretch,
                (dz - z * radial_part) / length + z * stretch,
            )
            for axis in range(3):
                gradient[j, axis] += force[axis]
                gradient[i, axis] -= force[axis]


@compiled
def _monomial_gradient(x, y, z, q):
    """Σ_m q_m ∂Y_m/∂(x, y, z)."""
    xx, xy, xz, yy, yz, zz = x * x, x * y, x * z, y * y, y * z, z * z
    dx = q[1] + 2 * x * q[4] + y * q[5] + z * q[6]
    dy = q[2] + x * q[5] + 2 * y * q[7] + z * q[8]
    dz = q[3] + x * q[6] + y * q[8] + 2 * z * q[9]
    dx += 3 * xx * q[10] + 2 * (xy * q[11] + xz * q[12]) + yy * q[13] + yz * q[14] + zz * q[15]
    dy += xx * q[11] + 2 * xy * q[13] + xz * q[14] + 3 * yy * q[16] + 2 * yz * q[17] + zz * q[18]
    dz += xx * q[12] + xy * q[14] + 2 * xz * q[15] + yy * q[17] + 2 * yz * q[18] + 3 * zz * q[19]
    return dx, dy, dz


@compiled
def _beta_gradient_of(
    first_atom, last_atom, vectors, centres, neighbours, pairs, species, limits, n_gaussians, velocities, adjoint,
    moment_gradient, total,
):
    """Adds to total[species of the centre, part, channel, s]; without forces `velocities` has no rows."""
    n_radial, n_parts, n_channels = adjoint.shape[1], total.shape[1], total.shape[2]
    forces = len(velocities) > 0
    window = _window(vectors, n_gaussians)
    radial, slope, angular = window[2], window[3], window[4]
    angular_tangent, stretch = np.zeros_like(angular), np.zeros(WINDOW, vectors.dtype)
    of_adjoint = np.zeros((n_parts * N_MONOMIALS, SHORT_ROW), vectors.dtype)
    of_gradient = np.zeros_like(of_adjoint)
    values, slopes = np.zeros((n_parts, SHORT_ROW), vectors.dtype), np.zeros((n_parts, SHORT_ROW), vectors.dtype)
    rows, by_monomial, by_monomial_tangent = total.reshape(-1, SHORT_ROW), angular.T, angular_tangent.T
    start = stop = pairs[first_atom]
    for i in range(first_atom, last_atom):
        for s in range(n_radial):
            for m in range(N_MONOMIALS):
                row, column = s // SHORT_ROW * N_MONOMIALS + m, s % SHORT_ROW
                of_adjoint[row, column] = adjoint[i, s, m]
                if forces:
                    of_gradient[row, column] = moment_gradient[i, s, m]
        for pair in range(pairs[i], pairs[i + 1]):
            if pair == stop:
                start, stop = pair, min(pair + WINDOW, pairs[last_atom])
                _fill(vectors, start, stop, limits, window)
                if forces:
                    _fill_tangent(velocities, centres, neighbours, start, stop, window, angular_tangent, stretch)
            p = pair - start
            values[:], slopes[:] = 0, 0
            for part in range(n_parts):
                row = (species[i] * n_parts + part) * n_channels + species[neighbours[pair]] * n_gaussians
                add_short_rows(values, part, by_monomial, 0, p, N_MONOMIALS, of_adjoint, part * N_MONOMIALS)
                if forces:
                    add_short_rows(values, part, by_monomial_tangent, 0, p, N_MONOMIALS, of_gradient, part * N_MONOMIALS)
                    add_short_rows(slopes, part, by_monomial, 0, p, N_MONOMIALS, of_gradient, part * N_MONOMIALS)
                    for s in range(SHORT_ROW):
                        slopes[part, s] *= stretch[p]
                for k in range(n_gaussians):
                    add_short_rows(rows, row + k, radial, k, p, 1, values, part)
                    if forces:
                        add_short_rows(rows, row + k, slope, k, p, 1, slopes, part)


def _moments(vectors, neighbours, pairs, species, rows, beta, n_channels, limits, n_gaussians, moments):
    for task in prange((len(moments) + ATOMS_PER_TASK - 1) // ATOMS_PER_TASK):
        first, last = task * ATOMS_PER_TASK, min((task + 1) * ATOMS_PER_TASK, len(moments))
        _moments_of(first, last, vectors, neighbours, pairs, species, rows, beta, n_channels, limits, n_gaussians, moments)


def _tangent(
    vectors, centres, neighbours, pairs, species, rows, beta, n_channels, limits, n_gaussians, velocities, tangent
):
    for task in prange((len(tangent) + ATOMS_PER_TASK - 1) // ATOMS_PER_TASK):
        first, last = task * ATOMS_PER_TASK, min((task + 1) * ATOMS_PER_TASK, len(tangent))
        _tangent_of(
            first, last, vectors, centres, neighbours, pairs, species, rows, beta, n_channels, limits, n_gaussians, velocities,
            tangent,
        )


def _pull_back(
    structures, vectors, neighbours, pairs, species, rows, beta, n_channels, limits, n_gaussians, moment_gradient, gradient
):
    for structure in prange(len(structures) - 1):
        _pull_back_of(
            structures[structure], structures[structure + 1], vectors, neighbours, pairs, species, rows, beta, n_channels, limits,
            n_gaussians, moment_gradient, gradient,
        )


def _beta_gradient(
    structures, vectors, centres, neighbours, pairs, species, limits, n_gaussians, velocities, adjoint,
    moment_gradient, total,
):
    for structure in prange(len(structures) - 1):
        _beta_gradient_of(
            structures[structure], structures[structure + 1], vectors, centres, neighbours, pairs, species, limits,
            n_gaussians, velocities, adjoint, moment_gradient, total[structure],
        )


moments = compiled(_moments, parallel=True)
tangent = compiled(_tangent, parallel=True)
pull_back = compiled(_pull_back, parallel=True)
beta_gradient = compiled(_beta_gradient, parallel=True)


def short_rows(beta: Float[np.ndarray, "rows radial channels"]) -> Float[np.ndarray, "short_rows 8"]:
    """β with the radial functions last, in parts of SHORT_ROW: the short rows (row, part, channel)."""
    rows, n_radial, channels = beta.shape
    n_parts = -(-n_radial // SHORT_ROW)
    padded = np.zeros((rows, n_parts * SHORT_ROW, channels), beta.dtype)
    padded[:, :n_radial] = beta
    parts = padded.reshape(rows, n_parts, SHORT_ROW, channels).swapaxes(2, 3)
    return np.ascontiguousarray(parts).reshape(-1, SHORT_ROW)
