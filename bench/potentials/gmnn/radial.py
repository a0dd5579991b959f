"""Radial basis of Eq. (2): normalised Gaussians times the cosine cutoff, and their derivatives."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def radial_basis(
    distances: Float[Tensor, " pairs"], r_min: float, r_max: float, n_gaussians: int
) -> tuple[Float[Tensor, "pairs gaussians"], Float[Tensor, "pairs gaussians"]]:
    """Return h_k(r) = K^(-1/2) f_cut(r) g_k(r) and dh_k/dr (1/Å) at distances r in Å.

    g_k(r) = (2b/π)^(1/4) exp(−b (r − r_k)²) with b = K²/r_max² and r_k = r_min + k (r_max − r_min)/K, k = 0..K−1;
    f_cut(r) = (1 + cos(πr/r_max))/2, zero from r_max on (docs/method.md, Potential).
    """
    width = n_gaussians**2 / r_max**2
    steps = torch.arange(n_gaussians, dtype=distances.dtype, device=distances.device)
    offset = distances[:, None] - (r_min + steps * (r_max - r_min) / n_gaussians)
    gaussian = (2 * width / math.pi) ** 0.25 * torch.exp(-width * offset**2)
    phase = math.pi * distances / r_max
    inside = distances < r_max
    cutoff = torch.where(inside, 0.5 * (1 + torch.cos(phase)), 0)[:, None]
    cutoff_slope = torch.where(inside, -0.5 * math.pi / r_max * torch.sin(phase), 0)[:, None]
    norm = n_gaussians**-0.5
    return norm * cutoff * gaussian, norm * (cutoff_slope - 2 * width * offset * cutoff) * gaussian
