"""The rules of verdicts, on arrays: intervals over seeds, regions, and claims of several parts (docs/statistics.md).

Seeds are the last axis; all axes before it are free, so that a simulation judges thousands of made-up experiments with
the code that judges the real one. A quantity with a chance of at most LEVEL is wrongly shown, or wrongly contradicted.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, stats

LEVEL = 0.05
"""Of each one-sided test; a 90 % interval is two of them."""
FEWEST_SEEDS = 3
POWER = 0.8
SHOWN, UNDECIDED, CONTRADICTED = 1, 0, -1


@dataclass(frozen=True)
class Region:
    """Where a quantity lies if a claim is true."""

    low: float = -np.inf
    high: float = np.inf


BELOW, ABOVE = Region(high=0.0), Region(low=0.0)


def interval(
    values: Float[np.ndarray, "*free seeds"], level: float = LEVEL
) -> tuple[Float[np.ndarray, "*free"], Float[np.ndarray, "*free"]]:
    """Limits of the mean, each a one-sided bound of Student's t at `level`; without spread both are the mean."""
    mean, half = values.mean(-1), critical(values.shape[-1], level) * sem(values)
    return np.asarray(mean - half), np.asarray(mean + half)


def sem(values: Float[np.ndarray, "*free seeds"]) -> Float[np.ndarray, "*free"]:
    """Standard error of the mean over seeds."""
    return np.asarray(values.std(-1, ddof=1) / np.sqrt(values.shape[-1]))


def in_one_order(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> int:
    """Do two quantities, of each thing the numbers of its seeds, put things in the same order?

    SHOWN if every pair stands in the same order by both, CONTRADICTED if any pair stands in opposite orders: by Welch's
    t, each quantity at LEVEL / 2, since either may be the wrong one; for CONTRADICTED divided by the number of pairs.
    """
    pairs = list(combinations(range(len(first)), 2))

    def agreements(level: float) -> list[int]:
        return [_above(first[i], first[j], level) * _above(second[i], second[j], level) for i, j in pairs]

    if min(agreements(LEVEL / 2)) > 0:
        return SHOWN
    return CONTRADICTED if min(agreements(LEVEL / 2 / len(pairs))) < 0 else UNDECIDED


def _above(one: np.ndarray, other: np.ndarray, level: float) -> int:
    """1 or -1 where the mean is above or below the other's, each with a chance of `level` if it is not; else 0."""
    difference, parts = one.mean() - other.mean(), [float(sem(values)) ** 2 for values in (one, other)]
    half = 0.0
    if sum(parts) > 0:
        freedom = sum(parts) ** 2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (one, other), strict=True))
        half = float(stats.t.ppf(1 - level, freedom)) * sum(parts) ** 0.5
    return int(np.sign(difference)) if abs(difference) > half else 0


@functools.cache
def critical(seeds: int, level: float = LEVEL) -> float:
    """Student's t that is passed with a chance of `level`."""
    return float(stats.t.ppf(1 - level, seeds - 1))


def judge(
    values: Float[np.ndarray, "*free seeds"], region: Region, *, shown: float = LEVEL, contradicted: float = LEVEL
) -> Int[np.ndarray, "*free"]:
    """SHOWN where the interval lies within the region, CONTRADICTED where it lies outside on one side."""
    low, high = interval(values, shown)
    within = (low > region.low) & (high < region.high)
    low, high = interval(values, contradicted)
    outside = (high < region.low) | (low > region.high)
    return np.where(within, SHOWN, np.where(outside, CONTRADICTED, UNDECIDED))


def every(
    parts: Sequence[Float[np.ndarray, "*free _"]], region: Region, of: int | None = None
) -> Int[np.ndarray, "*free"]:
    """Is each part true? `of` is the number of parts of the claim, where some have no evidence."""
    number = of or len(parts)
    return combined(np.stack([judge(part, region, contradicted=LEVEL / number) for part in parts]), number)


def combined(outcomes: Int[np.ndarray, "parts *free"], of: int) -> Int[np.ndarray, "*free"]:
    """Of the outcomes of parts, CONTRADICTED at LEVEL / of: intersection-union for SHOWN, Bonferroni for CONTRADICTED.

    While parts are without evidence, nothing is shown.
    """
    shown = (outcomes == SHOWN).all(0) & (len(outcomes) == of)
    return np.where((outcomes == CONTRADICTED).any(0), CONTRADICTED, np.where(shown, SHOWN, UNDECIDED))


def on_average(parts: Float[np.ndarray, "parts *free seeds"], region: Region) -> Int[np.ndarray, "*free"]:
    """Is the mean over the parts true? One number a seed, one test over seeds."""
    return judge(parts.mean(0), region)


def mostly(cases: Float[np.ndarray, "cases *free seeds"], region: Region) -> Int[np.ndarray, "*free"]:
    """Are most cases true? The median over cases of each seed, one test over seeds."""
    return judge(np.median(cases, 0), region)


@functools.cache
def detectable_factor(seeds: int, level: float = LEVEL, power: float = POWER) -> float:
    """How far from a region's edge, in standard errors, a truth lies that a one-sided t-test finds with this power.

    NaN below two seeds. Solved from the noncentral t distribution.
    """
    if seeds < 2:
        return float("nan")

    def missing(shift: float) -> float:
        return float(stats.nct.sf(critical(seeds, level), seeds - 1, shift)) - power

    upper = 1.0
    while missing(upper) < 0:
        upper *= 2
    return float(optimize.brentq(missing, 0.0, upper))
