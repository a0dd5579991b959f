"""How large errors are beside predicted standard deviations, learned from held-out structures.

A scale s = sqrt(mean (error/σ)²), the maximum likelihood for errors that are Gaussian with deviations s σ; and
conformal intervals, which assume no distribution: the half-width q σ, q the ⌈(n + 1) c⌉-th smallest |error|/σ of n
structures, holds the error of another one drawn as they were with a probability of at least c (Lei, G'Sell, Rinaldo,
Tibshirani, Wasserman, J. Am. Stat. Assoc. 2018, 113, 1094, Sections 2.2 and 5.2).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from bench.errors import UserError

SMALLEST = 1e-12
"""eV or eV/Å: a smaller deviation is none, and nothing can be scaled by it."""


@dataclass(frozen=True)
class Calibration:
    """`ratios` are |error|/σ of the held-out structures (or atoms), ascending, of deviations as they are predicted."""

    ratios: Float[np.ndarray, " held_out"]

    @cached_property
    def scale(self) -> float:
        """What a predicted deviation is multiplied by."""
        return math.sqrt(float(np.mean(self.ratios**2)))

    def quantile(self, coverage: float) -> float:
        """The conformal half-width in units of σ as predicted. Raises UserError where too few are held out for it."""
        if not 0 < coverage < 1:
            raise UserError(f"coverage = {coverage}: give a fraction between 0 and 1, such as 0.95")
        rank = math.ceil((len(self.ratios) + 1) * coverage - 1e-9)
        if rank > len(self.ratios):
            raise UserError(
                f"coverage = {coverage} from {len(self.ratios)} held-out values: at most"
                f" {len(self.ratios) / (len(self.ratios) + 1):.4g}; validate on more structures"
            )
        return float(self.ratios[rank - 1])

    def half_width(self, deviation: float, coverage: float) -> float:
        """The conformal interval's half-width where `deviation` has been multiplied by the scale."""
        return deviation * self.quantile(coverage) / self.scale if self.scale > 0 else 0.0


def calibrate(error: Float[np.ndarray, " n"], deviation: Float[np.ndarray, " n"], what: str) -> Calibration | None:
    """Learn from held-out errors; None without any. Raises UserError where a deviation is zero or no number."""
    if len(error) == 0:
        return None
    bad = np.flatnonzero(~(deviation > SMALLEST) | ~np.isfinite(error))
    if bad.size:
        raise UserError(
            f"{what}: {bad.size} of {len(error)} held-out deviations are zero or not finite, e.g. {deviation[bad[0]]:g}"
            f" beside an error of {error[bad[0]]:g}: look at the training, which may have diverged"
        )
    return Calibration(np.sort(np.abs(error) / deviation))
