"""The monomials x^a y^b z^c of degree up to 3: the distinct components of r̂^⊗L in Eq. (2)."""

import itertools

MAX_DEGREE = 3
MONOMIALS = [
    tuple(c.count(axis) for axis in range(3))
    for degree in range(MAX_DEGREE + 1)
    for c in itertools.combinations_with_replacement(range(3), degree)
]
"""Exponents (a, b, c) of the 20 monomials, by degree."""
N_MONOMIALS = len(MONOMIALS)
