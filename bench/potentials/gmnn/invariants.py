"""Rotational invariants of the Gaussian moments: the eight contractions of J. Chem. Theory Comput. 2020, 16, 5410.

Ψ0; Ψ1·Ψ1; Ψ2:Ψ2; Ψ3⋮Ψ3; Ψ2Ψ2Ψ2 (cyclic); Ψ1Ψ1Ψ2; Ψ3Ψ3Ψ2; Ψ3Ψ2Ψ1, each symmetric duplicate kept once. With five radial
functions: 5 + 15 + 15 + 15 + 35 + 75 + 75 + 125 = 360.
"""

import itertools
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bench.potentials.gmnn.compiled.monomials import MAX_DEGREE, MONOMIALS, N_MONOMIALS


def invariants(moments: Float[Tensor, "atoms radial 20"]) -> Float[Tensor, "atoms invariants"]:
    """Contract the moments Ψ[i, s, m] of each atom to invariants G[i].

    The quadratic and most cubic contractions are products of a matrix of pairs (s ≤ t) with Ψ2 or with the unit matrix:
    Ψ1_s Ψ1_t, Ψ3_s Ψ3_t and Ψ2_s Ψ2_t each leave a 3 × 3 matrix, whose trace is the quadratic invariant.

    Columns are chosen by products with matrices of zeros and ones: that is exact, and so is its derivative, while the
    derivative of indexing would be a scatter, for which a GPU has to sort.
    """
    n, n_radial = moments.shape[0], moments.shape[1]
    choose = _choices(n_radial, moments.dtype, moments.device)
    n_pairs = n_radial * (n_radial + 1) // 2
    full = moments @ _expansion(moments.dtype, moments.device)
    # split, not sliced: its derivative is one operation, where that of every slice begins with zeros
    scalars, vectors, matrices, cubes = full.split([1, 3, 9, 27], dim=2)
    # rows (s, c), columns (a, b): Ψ3 is symmetric, so any index may stand first
    cubes = cubes.reshape(n, 3 * n_radial, 9)
    matrix_rows = matrices.reshape(n, 3 * n_radial, 3)
    matrix_columns = matrices.reshape(n, n_radial, 3, 3).transpose(1, 2).reshape(n, 3, 3 * n_radial)

    with_cubes = torch.bmm(cubes, torch.cat([cubes, matrices], dim=1).transpose(1, 2))
    first, second = ((vectors.flatten(1) @ one).reshape(n, n_pairs, 3) for one in (choose.first, choose.second))
    pairs_of_vectors = first[:, :, :, None] * second[:, :, None, :]
    pairs_of_cubes = with_cubes.flatten(1) @ choose.cube_pairs
    pairs_of_matrices = torch.bmm(matrix_rows, matrix_columns).flatten(1) @ choose.matrix_pairs
    pairs = torch.cat([p.reshape(n, n_pairs, 9) for p in (pairs_of_vectors, pairs_of_cubes, pairs_of_matrices)], dim=1)
    unit = torch.eye(3, dtype=moments.dtype, device=moments.device).reshape(1, 9, 1).expand(n, 9, 1)
    contracted = torch.bmm(pairs, torch.cat([matrices.transpose(1, 2), unit], dim=2))

    cube_matrix = with_cubes[:, :, 3 * n_radial :].reshape(n, n_radial, 3, n_radial).transpose(2, 3)
    cube_matrix_vector = torch.bmm(cube_matrix.reshape(n, n_radial**2, 3), vectors.transpose(1, 2))
    distinct = contracted.flatten(1) @ choose.distinct
    return torch.cat([scalars.flatten(1), distinct, cube_matrix_vector.flatten(1)], dim=1)


def n_invariants(n_radial: int) -> int:
    """The length of G for n radial functions: 360 for five."""
    pairs = n_radial * (n_radial + 1) // 2
    triples = pairs * (n_radial + 2) // 3
    return n_radial + 3 * pairs + triples + 2 * pairs * n_radial + n_radial**3


class _Choices:
    """Matrices by which columns are chosen: one in each column, where the row is that of the column chosen."""

    def __init__(self, n_radial: int, dtype: torch.dtype, device: torch.device) -> None:
        pairs = list(itertools.combinations_with_replacement(range(n_radial), 2))

        def choice(n_columns: int, chosen: list[int]) -> Float[Tensor, "columns chosen"]:
            matrix = np.zeros((n_columns, len(chosen)))
            matrix[chosen, np.arange(len(chosen))] = 1
            return torch.from_numpy(matrix).to(device, dtype)

        def components(columns: int) -> Float[Tensor, "columns chosen"]:
            chosen = [(3 * s + c) * columns + 3 * t + d for s, t in pairs for c in range(3) for d in range(3)]
            return choice(3 * n_radial * columns, chosen)

        self.first = choice(3 * n_radial, [3 * s + c for s, _ in pairs for c in range(3)])
        self.second = choice(3 * n_radial, [3 * t + c for _, t in pairs for c in range(3)])
        self.cube_pairs = components(4 * n_radial)
        self.matrix_pairs = components(3 * n_radial)
        # the last column is the trace; of Ψ2Ψ2Ψ2 only s ≤ t ≤ u is distinct
        self.distinct = choice(
            3 * len(pairs) * (n_radial + 1),
            [
                (block * len(pairs) + pair) * (n_radial + 1) + u
                for block in range(3)
                for pair, (_, t) in enumerate(pairs)
                for u in range(n_radial + 1)
                if block < 2 or u >= t
            ],
        )


@cache
def _choices(n_radial: int, dtype: torch.dtype, device: torch.device) -> _Choices:
    return _Choices(n_radial, dtype, device)


@cache
def _expansion(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "20 40"]:
    """The map from distinct monomials to full Cartesian tensors of degree 0, 1, 2, 3."""
    components = [c for degree in range(MAX_DEGREE + 1) for c in itertools.product(range(3), repeat=degree)]
    matrix = torch.zeros(N_MONOMIALS, len(components), dtype=dtype, device=device)
    for column, component in enumerate(components):
        exponents = tuple(component.count(axis) for axis in range(3))
        matrix[MONOMIALS.index(exponents), column] = 1
    return matrix
