"""The network for features: layers with their factors folded in, φ with its slope, sums over a structure's atoms.

With y_l = x_l/α, α of φ, layer l is z = y W̃ + b̃, W̃ = α W/√d (without α in the first) and b̃ = 0.1 b: nothing is left
to do but products and logistic functions.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from bench.potentials.gmnn.compiled import elementwise
from bench.potentials.gmnn.network import BIAS_FACTOR, SILU_FACTOR, Biases, Weights

_ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
"""oneDNN's product is 1.3 times as fast as F.linear's on some processors; torch calls it where it compiles models."""


@dataclass(frozen=True)
class Dense:
    """z = y `weight`ᵀ + `bias`."""

    weight: Float[Tensor, "outputs inputs"]
    bias: Float[Tensor, " outputs"] | None

    def __call__(self, inputs: Float[Tensor, "atoms inputs"], *, silu: bool = False) -> Float[Tensor, "atoms outputs"]:
        """The layer, with z/(1 + e^(−z)) if asked."""
        if _ONEDNN_LINEAR is not None and inputs.device.type == "cpu" and inputs.dtype == torch.float32:
            return _ONEDNN_LINEAR(inputs, self.weight, self.bias, "swish" if silu else "none", [], "")
        z = functional.linear(inputs, self.weight, self.bias)
        return functional.silu(z, inplace=True) if silu else z


def hidden_layers(weights: Weights, biases: Biases) -> list[Dense]:
    """The hidden layers of a single model."""
    return [
        Dense(
            (weight[0].T * (weight.shape[1] ** -0.5 * (SILU_FACTOR if layer else 1.0))).contiguous(),
            BIAS_FACTOR * bias[0],
        )
        for layer, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True))
    ]


def silu_and_slope(
    z: Float[Tensor, "atoms width"],
) -> tuple[Float[Tensor, "atoms width"], Float[Tensor, "atoms width"]]:
    """Y = z/(1 + e^(−z)), which overwrites z, and dy/dz."""
    if z.device.type == "cpu":
        slope = torch.empty_like(z)
        elementwise.silu_and_slope(z.numpy(), slope.numpy())
        return z, slope
    logistic = torch.sigmoid(z)
    y = z * logistic
    return y, logistic + y * (1 - logistic)


def sum_atoms(
    first_atom: Int[Tensor, " structures_and_1"],
    weights: Float[Tensor, " atoms"],
    left: Float[Tensor, "atoms width"],
    right: Float[Tensor, "atoms width"] | None,
    total: Float[Tensor, "structures width"],
) -> None:
    """Add Σ_i w_i l_i ⊙ r_i (r_i = 1 without `right`) over the atoms of each structure to `total`, in float64."""
    if left.device.type == "cpu":
        if right is None:
            elementwise.sum_rows(first_atom.numpy(), weights.numpy(), left.numpy(), total.numpy())
        else:
            elementwise.sum_products(first_atom.numpy(), weights.numpy(), left.numpy(), right.numpy(), total.numpy())
        return
    product = left if right is None else left * right
    counts = first_atom[1:] - first_atom[:-1]
    every = torch.arange(len(total), device=total.device)
    structure = torch.repeat_interleave(every, counts, output_size=len(left))
    total.index_add_(0, structure, product.double() * weights[:, None])
