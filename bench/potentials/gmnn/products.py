"""The matrix products of the network in a declared precision (`precision` of a run, which is part of its identity).

`float32` and `float64` are exact to the type of the parameters. `tf32` rounds the factors to 10 bits of mantissa and
sums in single precision: what tensor cores do; where there are none, the factors are rounded by hand. `bfloat16`
rounds factors and results to 7 bits and sums in single precision: twice as fast on processors that have it. Everything
else stays as it is in single precision: the descriptor, the last layer, φ, sums over atoms, Adam, and all features.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDED = ("tf32", "bfloat16")
"""Precisions whose parameters are in single precision all the same."""
LOST_BITS = 13
"""Of the 23 bits of a single-precision mantissa, those that TF32 has not."""


def parameter_type(precision: str) -> torch.dtype:
    """The floating-point type of parameters and of everything but products."""
    dtype: torch.dtype = torch.float32 if precision in ROUNDED else getattr(torch, precision)
    return dtype


@dataclass(frozen=True)
class Products:
    """How the network multiplies; `rounded` is one of ROUNDED, or empty."""

    rounded: str = ""

    @staticmethod
    def of(precision: str) -> "Products":
        """Those of a run's precision."""
        return Products(precision if precision in ROUNDED else "")

    def scaled(
        self, left: Float[Tensor, "models _ inner"], right: Float[Tensor, "models inner _"], factor: float
    ) -> Float[Tensor, "models _ _"]:
        """The product times a factor, in one pass."""
        result = left.new_empty(left.shape[0], left.shape[1], right.shape[2])
        return self._into(result, result, left, right, 0.0, factor)

    def affine(
        self,
        inputs: Float[Tensor, "models atoms inputs"],
        weight: Float[Tensor, "models inputs outputs"],
        bias: Float[Tensor, "models outputs"],
        bias_factor: float,
        factor: float,
    ) -> Float[Tensor, "models atoms outputs"]:
        """`factor` x W + `bias_factor` b."""
        result = inputs.new_empty(inputs.shape[0], inputs.shape[1], weight.shape[2])
        return self._into(result, bias[:, None, :], inputs, weight, bias_factor, factor)

    def add(
        self,
        total: Float[Tensor, "models rows columns"],
        left: Float[Tensor, "models rows inner"],
        right: Float[Tensor, "models inner columns"],
        factor: float,
    ) -> None:
        """Add the product times a factor to `total`."""
        self._into(total, total, left, right, 1.0, factor)

    def _into(self, out: Tensor, start: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float) -> Tensor:
        """`beta` start + `alpha` left·right, written to `out`."""
        if self.rounded == "bfloat16":
            product = torch.bmm(left.bfloat16(), right.bfloat16()).float()
            if not beta:
                return torch.mul(product, alpha, out=out)
            return torch.add(start if beta == 1 else beta * start, product, alpha=alpha, out=out)
        if self.rounded == "tf32":
            if not left.is_cuda:
                left, right = _to_tf32(left), _to_tf32(right)
            with tensor_cores(left.is_cuda):
                return torch.baddbmm(start, left, right, beta=beta, alpha=alpha, out=out)
        return torch.baddbmm(start, left, right, beta=beta, alpha=alpha, out=out)


def _to_tf32(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Round to the nearest number that TF32 has, halves to even."""
    bits = values.contiguous().view(torch.int32)
    half = (1 << (LOST_BITS - 1)) - 1 + ((bits >> LOST_BITS) & 1)
    return ((bits + half) & -(1 << LOST_BITS)).view(torch.float32)


@contextlib.contextmanager
def tensor_cores(wanted: bool) -> Iterator[None]:
    """Let products use TF32 for a moment: torch knows one setting for all of them, and selections must not see it."""
    matmul = torch.backends.cuda.matmul
    before = getattr(matmul, "fp32_precision", None)  # torch 2.9 and later; "none" where no one has said anything
    if not wanted or before == "tf32" or (before is None and matmul.allow_tf32):
        yield
        return
    matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = False
        if before is not None:
            matmul.fp32_precision = before
