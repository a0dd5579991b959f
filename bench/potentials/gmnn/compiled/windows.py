"""What depends on a pair alone, worked out for a window of pairs at once, in loops over pairs."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from bench.potentials.gmnn.compiled.jit import compiled
from bench.potentials.gmnn.compiled.monomials import N_MONOMIALS
from bench.potentials.gmnn.compiled.vectors import (
    ROW,
    SQUARE,
    TILE,
    WINDOW,
    by_lanes,
    cosine_and_sine,
    exponential,
    transpose_square,
)


class Window(NamedTuple):
    """Tables by pair: (u, r); f_cut and its slope; h_k, beside it h'_k; Y_m; along a displacement Ẏ_m, ṙ and u̇.

    In `by_monomial` what belongs to monomials is worked out, a row each, before it is turned into rows of pairs.
    """

    rays: Float[np.ndarray, "4 window"]
    cutoff: Float[np.ndarray, "2 window"]
    radial: Float[np.ndarray, "gaussians two_windows"]
    angular: Float[np.ndarray, "window 32"]
    angular_tangent: Float[np.ndarray, "window 32"]
    stretch: Float[np.ndarray, " window"]
    steps: Float[np.ndarray, "3 window"]
    by_monomial: Float[np.ndarray, "32 window"]


@compiled
def new_window(real, n_gaussians):
    """Room for the tables in the given floating-point type."""
    return Window(
        np.empty((4, WINDOW), real),
        np.empty((2, WINDOW), real),
        np.empty((n_gaussians, 2 * WINDOW), real),
        np.zeros((WINDOW, ROW), real),
        np.zeros((WINDOW, ROW), real),
        np.zeros(WINDOW, real),
        np.empty((3, WINDOW), real),
        np.zeros((ROW, WINDOW), real),
    )


@compiled
def fill(pairs, first, end, window):
    """Work out the pairs from `first` on, as many as there is room for before `end`; returns where it stopped.

    Rays, the h_k(r) and h'_k(r) of `bench.potentials.gmnn.radial`, and Y_m(u).
    """
    last = min(first + WINDOW, end)
    rays, cutoff, radial, angular = window.rays, window.cutoff, window.radial, window.angular
    vectors = pairs.vectors
    n, n_gaussians = last - first, radial.shape[0]
    real = vectors.dtype.type
    r_min, r_max = pairs.limits[0], pairs.limits[1]
    zero, half, two, quarter_turn = real(0), real(0.5), real(2), real(math.pi / 4)
    turn = two * quarter_turn / r_max
    width = real(n_gaussians * n_gaussians) / (r_max * r_max)
    step = (r_max - r_min) / real(n_gaussians)
    norm = real(math.sqrt(math.sqrt(2 * width / math.pi)) / math.sqrt(n_gaussians))
    xs, ys, zs, lengths = rays[0], rays[1], rays[2], rays[3]
    for p in range(n):
        xs[p], ys[p], zs[p] = vectors[first + p, 0], vectors[first + p, 1], vectors[first + p, 2]
    for p in range(n):
        x, y, z = xs[p], ys[p], zs[p]
        length = math.sqrt(x * x + y * y + z * z)
        xs[p], ys[p], zs[p], lengths[p] = x / length, y / length, z / length, length
    for p in range(n):
        # with πr/2r_max = π/4 + v: f_cut = cos² of it = (cos v − sin v)²/2, f_cut' = −(π/r_max) cos sin of it
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
            radial[k, WINDOW + p] = (cutoff[1, p] - two * width * offset * cutoff[0, p]) * gaussian
    for p in range(0, n, TILE):
        _fill_monomials((rays, window.by_monomial), p)
    transpose(window.by_monomial, angular, n)
    return last


@compiled
def fill_tangent(pairs, first, last, velocities, window):
    """Ẏ_m and ṙ of the pairs first:last, after `fill`."""
    rays, steps = window.rays, window.steps
    for p in range(last - first):
        i, j = pairs.centres[first + p], pairs.neighbours[first + p]
        x, y, z, length = rays[0, p], rays[1, p], rays[2, p], rays[3, p]
        dx = velocities[j, 0] - velocities[i, 0]
        dy = velocities[j, 1] - velocities[i, 1]
        dz = velocities[j, 2] - velocities[i, 2]
        stretch = x * dx + y * dy + z * dz
        window.stretch[p] = stretch
        steps[0, p], steps[1, p], steps[2, p] = (
            (dx - x * stretch) / length,
            (dy - y * stretch) / length,
            (dz - z * stretch) / length,
        )
    for p in range(0, last - first, TILE):
        _fill_monomial_tangents((rays, steps, window.by_monomial), p)
    transpose(window.by_monomial, window.angular_tangent, last - first)


def _monomials(ray):
    """The 20 monomials in the order of MONOMIALS."""
    x, y, z, _ = ray
    xx, xy, xz, yy, yz, zz = x * x, x * y, x * z, y * y, y * z, z * z
    third = x * xx, x * xy, x * xz, x * yy, x * yz, x * zz, y * yy, y * yz, y * zz, z * zz
    return 0 * x + 1, x, y, z, xx, xy, xz, yy, yz, zz, *third


def _monomial_tangents(ray, step):
    """Ẏ_m where (x, y, z) changes by a step."""
    (x, y, z, _), (dx, dy, dz) = ray, step
    xx, xy, xz, yy, yz, zz = x * x, x * y, x * z, y * y, y * z, z * z
    dxx, dyy, dzz = 2 * x * dx, 2 * y * dy, 2 * z * dz
    dxy, dxz, dyz = dx * y + x * dy, dx * z + x * dz, dy * z + y * dz
    second = dxx, dxy, dxz, dyy, dyz, dzz
    with_x = dx * xx + x * dxx, dx * xy + x * dxy, dx * xz + x * dxz, dx * yy + x * dyy, dx * yz + x * dyz
    others = dx * zz + x * dzz, dy * yy + y * dyy, dy * yz + y * dyz, dy * zz + y * dzz, dz * zz + z * dzz
    return 0 * x, dx, dy, dz, *second, *with_x, *others


_fill_monomials = by_lanes(_monomials, (4,))
_fill_monomial_tangents = by_lanes(_monomial_tangents, (4, 3))


@compiled
def monomial_gradient(x, y, z, q):
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
def transpose(by_monomial, by_pair, n):
    """by_pair[p, m] = by_monomial[m, p] of n pairs of a window, of a few more where n is no multiple of SQUARE."""
    for p in range(0, n, SQUARE):
        for m in range(0, N_MONOMIALS, SQUARE):
            transpose_square(by_monomial, m, p, by_pair, p, m)


@compiled
def transpose_back(by_pair, by_monomial, n):
    """The inverse of `transpose`."""
    for p in range(0, n, SQUARE):
        for m in range(0, N_MONOMIALS, SQUARE):
            transpose_square(by_pair, p, m, by_monomial, m, p)
