"""The potential as plainly as the equations stand, in float64 with autograd: what the engine is tested against."""

import itertools
import math

import torch
from torch import Tensor

LETTERS = "abcdefgh"


def brute_force_pairs(positions, cell, periodic, r_max):
    """All (i, j, shift vector) with |r_j + shift − r_i| < r_max by trying every image."""
    images = [range(-n, n + 1) for n in _image_counts(cell, periodic, r_max)]
    for shift in itertools.product(*images):
        offset = torch.tensor(shift, dtype=torch.float64) @ cell
        for i in range(len(positions)):
            for j in range(len(positions)):
                if i == j and shift == (0, 0, 0):
                    continue
                if torch.linalg.vector_norm(positions[j].detach() + offset - positions[i].detach()) < r_max:
                    yield i, j, offset


def _image_counts(cell, periodic, r_max):
    if not any(periodic):
        return [0, 0, 0]
    heights = 1 / torch.linalg.vector_norm(torch.linalg.inv(cell), dim=0)
    return [math.ceil(r_max / float(h)) + 1 if p else 0 for h, p in zip(heights, periodic, strict=True)]


def radial_functions(r, beta, r_min, r_max, n_gaussians):
    """R_s(r) of Eq. (2) for one pair of species; beta has shape (s, k)."""
    b = n_gaussians**2 / r_max**2
    total = 0
    for k in range(n_gaussians):
        centre = r_min + k * (r_max - r_min) / n_gaussians
        g = (2 * b / math.pi) ** 0.25 * torch.exp(-b * (r - centre) ** 2)
        total = total + beta[:, k] * g
    return 0.5 * (1 + torch.cos(math.pi * r / r_max)) * total / math.sqrt(n_gaussians)


def energy(positions, species, cell, periodic, parameters, settings, energy_scale) -> Tensor:
    """E of Eqs. (1)-(4) for one structure and one model; parameters without the axis of models."""
    n_radial, n_gaussians = settings.n_radial, settings.n_gaussians
    beta = parameters["beta"].reshape(len(parameters["scale"]), n_radial, -1, n_gaussians)
    psi = [[torch.zeros(n_radial, *[3] * degree, dtype=torch.float64) for degree in range(4)] for _ in positions]
    for i, j, offset in brute_force_pairs(positions, cell, periodic, settings.r_max):
        vector = positions[j] + offset - positions[i]
        r = torch.linalg.vector_norm(vector)
        unit = vector / r
        radial = radial_functions(r, beta[species[i], :, species[j]], settings.r_min, settings.r_max, n_gaussians)
        tensor = torch.ones((), dtype=torch.float64)
        for degree in range(4):
            psi[i][degree] = psi[i][degree] + radial.reshape(-1, *[1] * degree) * tensor
            tensor = tensor[..., None] * unit
    total = torch.zeros((), dtype=torch.float64)
    for i, z in enumerate(species):
        inputs = contractions(psi[i])
        if "invariant_mean" in parameters:
            inputs = 0.4 * (inputs - parameters["invariant_mean"]) / parameters["invariant_variance"].sqrt()
        y = network(inputs, parameters)
        total = total + energy_scale * (parameters["scale"][z] * y + parameters["shift"][z])
    return total


def contractions(psi) -> Tensor:
    """The 360 invariants of one atom, each contraction as it is defined, symmetric duplicates kept once."""
    p0, p1, p2, p3 = psi
    n = len(p0)
    pairs = list(itertools.combinations_with_replacement(range(n), 2))
    triples = list(itertools.combinations_with_replacement(range(n), 3))
    everything = list(itertools.product(range(n), repeat=3))
    mixed = [(s, t, u) for s, t in pairs for u in range(n)]

    def over(indices, formula, *tensors):
        return [
            torch.einsum(formula, *[tensor[index] for tensor, index in zip(tensors, chosen, strict=True)])
            for chosen in indices
        ]

    blocks = {
        "0": list(p0),
        "11": over(pairs, "a,a", p1, p1),
        "22": over(pairs, "ab,ab", p2, p2),
        "33": over(pairs, "abc,abc", p3, p3),
        "222": over(triples, "ab,bc,ca", p2, p2, p2),
        "112": over(mixed, "a,b,ab", p1, p1, p2),
        "332": over(mixed, "abc,abd,cd", p3, p3, p2),
        "321": over(everything, "abc,ab,c", p3, p2, p1),
    }
    return torch.stack(sum(_engine_order(blocks, n), []))


def _engine_order(blocks, n):
    """The engine interleaves: for each pair s ≤ t of Ψ1, Ψ3, Ψ2 the products with Ψ2_u and then the trace."""
    order = [blocks["0"]]
    pairs = list(itertools.combinations_with_replacement(range(n), 2))
    for cubic, quadratic in (("112", "11"), ("332", "33")):
        for position in range(len(pairs)):
            order.append([*blocks[cubic][position * n : (position + 1) * n], blocks[quadratic][position]])
    triples = list(itertools.combinations_with_replacement(range(n), 3))
    for position, pair in enumerate(pairs):
        of_pair = [value for value, triple in zip(blocks["222"], triples, strict=True) if triple[:2] == pair]
        order.append([*of_pair, blocks["22"][position]])
    return [*order, blocks["321"]]


def network(x, parameters) -> Tensor:
    """Eq. (3) for one atom."""
    layers = sum(name.startswith("weight") for name in parameters)
    for layer in range(layers):
        weight, bias = parameters[f"weight{layer}"], parameters[f"bias{layer}"]
        z = 0.1 * bias + weight.T @ x / math.sqrt(len(x))
        x = 1.6765 * z / (1 + torch.exp(-z)) if layer < layers - 1 else z
    return x[0]
