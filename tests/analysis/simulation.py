"""Made-up experiments whose truth is known, judged by analysis.statistics.rules: how often a verdict is wrong.

python -m tests.analysis.simulation prints the table of docs/statistics.md; make simulation writes it there.
"""

import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from analysis.statistics import rules
from analysis.statistics.efficiency import Curve
from analysis.statistics.rules import ABOVE, BELOW, CONTRADICTED, SHOWN, Region

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "statistics.md"
BEGIN, END = "<!-- simulation -->\n", "<!-- end of simulation -->\n"
BETWEEN = "\u00a0/\u00a0"
"""Between two numbers of a cell, which stay in one line."""
SEEDS = (3, 5, 10)
PARTS = 14
EDGE = float(np.log1p(0.02))
WITHIN = Region(-EDGE, EDGE)
NOT_LOWER = Region(low=-EDGE)


@dataclass(frozen=True)
class Case:
    """A made-up experiment: what is true, whether the claim is then true, and the outcomes for a number of seeds."""

    rule: str
    truth: str
    claim: str
    outcomes: object

    def rates(self, seeds, trials):
        """Shares of SHOWN and CONTRADICTED."""
        rng = np.random.default_rng([zlib.crc32(f"{self.rule} {self.truth}".encode()), seeds])
        found = self.outcomes(rng, trials, seeds)
        return float((found == SHOWN).mean()), float((found == CONTRADICTED).mean())


def normal(rng, shape, size):
    return size * rng.standard_normal(shape)


def tailed(rng, shape, size):
    """Student's t with three degrees of freedom: its standard deviation is √3 times `size`."""
    return size * rng.standard_t(3, shape)


def outlying(rng, shape, size):
    """One seed in five has twice or half the error."""
    return size * rng.standard_normal(shape) + np.log(2) * rng.choice([-1, 0, 1], shape, p=[0.1, 0.8, 0.1])


def skewed(rng, shape, size):
    """Exponential, with mean zero: most seeds a little below it, few far above, as no log ratio of like runs is."""
    return size * (rng.exponential(size=shape) - 1)


def one(change, region, noise=normal, size=0.05):
    """Log ratios of one comparison around a true change."""
    return lambda rng, trials, seeds: rules.judge(np.log1p(change) + noise(rng, (trials, seeds), size), region)


def many(changes, noise, combine, region):
    """Log ratios of many algorithms to one random selection, whose noise they share; `noise` is of the ratio."""

    def outcomes(rng, trials, seeds):
        each = normal(rng, (len(changes), trials, seeds), noise / np.sqrt(2))
        values = np.log1p(np.array(changes))[:, None, None] + each - normal(rng, (trials, seeds), noise / np.sqrt(2))
        return combine(values, region)

    return outcomes


def every(values, region):
    return rules.every(list(values), region)


def dependent(change, cases=36, shared=0.8, noise=0.05):
    """Many cases (pairs, measures, batch sizes) of one seed that go up and down together."""

    def outcomes(rng, trials, seeds):
        common = np.sqrt(shared) * rng.standard_normal((trials, seeds))
        own = np.sqrt(1 - shared) * rng.standard_normal((cases, trials, seeds))
        return rules.mostly(np.log1p(change) + noise * (common + own), BELOW)

    return outcomes


SIZES = np.arange(10.0, 251.0, 10.0)


def noisy_curves(rng, count, faster, noise=0.2):
    """Errors that fall as N^-0.5, or as those of so many times as many structures, with noise at every step."""
    return (faster * SIZES) ** -0.5 * np.exp(noise * rng.standard_normal((count, len(SIZES))))


def crossing(errors, level):
    return Curve.of(SIZES, errors, done=True).reaches(level)


def first_below(errors, level):
    return SIZES[np.argmax(errors <= level)] if (errors <= level).any() else np.inf


def last_above(errors, level):
    above = np.flatnonzero(errors > level)
    return SIZES[0] if not len(above) else SIZES[above[-1] + 1] if above[-1] + 1 < len(SIZES) else np.inf


def savings(rng, seeds, faster, reach=crossing):
    """Log savings at the error that random selection has, on the average, with 100 structures."""
    level = 100**-0.5
    both = [[reach(c, level) for c in noisy_curves(rng, seeds, f)] for f in (1.0, faster)]
    return np.log(np.minimum(both[0], SIZES[-1])) - np.log(np.minimum(both[1], SIZES[-1]))


def saved(faster, region):
    """Judged for a tenth of the trials, since a curve is fitted by itself."""

    def outcomes(rng, trials, seeds):
        count = trials // 10
        values = savings(rng, count * seeds, faster).reshape(count, seeds)
        return rules.judge(values, region)

    return outcomes


def five_more(noise):
    """Whether the mean of five more runs lies in the interval of analysis.paper.numbers ("shown")."""

    def outcomes(rng, trials, seeds):
        logs, paper = noise(rng, (trials, seeds), 0.2), np.exp(noise(rng, (trials, 5), 0.2)).mean(-1)
        half = stats.t.ppf(0.975, seeds - 1) * logs.std(-1, ddof=1) * np.sqrt(1 / seeds + 1 / 5)
        inside = np.abs(np.log(paper) - np.log(np.exp(logs).mean(-1))) < half
        return np.where(inside, SHOWN, rules.UNDECIDED)

    return outcomes


ALL = [-0.1] * PARTS
SIX = [-0.05] * 6
CASES = [
    Case("better", "equal", "false", one(0, BELOW)),
    Case("better", "equal, tailed noise", "false", one(0, BELOW, tailed)),
    Case("better", "equal, outlying seeds", "false", one(0, BELOW, outlying)),
    Case("better", "equal, skewed noise", "false", one(0, BELOW, skewed)),
    Case("better", "5 % better", "true", one(-0.05, BELOW)),
    Case("better", "10 % better", "true", one(-0.1, BELOW)),
    Case("better", "10 % worse", "false", one(0.1, BELOW)),
    Case("not better, margin 2 %", "2 % better", "edge", one(-0.02, NOT_LOWER)),
    Case("not better, margin 2 %", "equal, noise 2 %", "true", one(0, NOT_LOWER, size=0.02)),
    Case("not better, margin 2 %", "equal", "true", one(0, NOT_LOWER)),
    Case("not better, margin 2 %", "10 % better", "false", one(-0.1, NOT_LOWER)),
    Case("alike within 2 %", "2 % worse", "edge", one(0.02, WITHIN)),
    Case("alike within 2 %", "equal, noise 1 %", "true", one(0, WITHIN, size=0.01)),
    Case("alike within 2 %", "equal", "true", one(0, WITHIN)),
    Case("alike within 2 %", "10 % worse", "false", one(0.1, WITHIN)),
    Case("every of 14 better", "all 10 % better", "true", many(ALL, 0.05, every, BELOW)),
    Case("every of 14 better", "all but one, which is equal", "false", many([*ALL[1:], 0.0], 0.05, every, BELOW)),
    Case("every of 14 better", "all but one, 10 % worse", "false", many([*ALL[1:], 0.1], 0.05, every, BELOW)),
    Case("14 better on average", "all equal", "false", many([0.0] * PARTS, 0.05, rules.on_average, BELOW)),
    Case("14 better on average", "all 10 % better", "true", many(ALL, 0.05, rules.on_average, BELOW)),
    Case("none of 14 better, margin 2 %", "all equal", "true", many([0.0] * PARTS, 0.05, every, NOT_LOWER)),
    Case("none of 14 better, margin 2 %", "all equal, noise 1 %", "true", many([0.0] * PARTS, 0.01, every, NOT_LOWER)),
    Case("none of 14 better, margin 2 %", "all 2 % better", "edge", many([-0.02] * PARTS, 0.05, every, NOT_LOWER)),
    Case("none of 14 better, margin 2 %", "one 2 % better", "edge", many([-0.02] + [0] * 13, 0.01, every, NOT_LOWER)),
    Case("best of 7", "5 % better than each", "true", many(SIX, 0.05, every, BELOW)),
    Case("best of 7", "one rival is equal", "false", many([*SIX[1:], 0.0], 0.05, every, BELOW)),
    Case("better in most cases", "equal, 36 dependent cases", "false", dependent(0.0)),
    Case("better in most cases", "5 % better", "true", dependent(-0.05)),
    Case("ratio at least 3", "3", "edge", one(2.0, Region(low=np.log(3)), outlying)),
    Case("ratio at least 3", "4, noise 20 %", "true", one(3.0, Region(low=np.log(3)), size=0.2)),
    Case("ratio at least 3", "2, noise 20 %", "false", one(1.0, Region(low=np.log(3)), size=0.2)),
    Case("saves half of the labels (1.5 counts)", "1.5", "edge", saved(1.5, Region(low=np.log(1.5)))),
    Case("saves half of the labels (1.5 counts)", "2", "true", saved(2.0, Region(low=np.log(1.5)))),
    Case("saves half of the labels (1.5 counts)", "1", "false", saved(1.0, Region(low=np.log(1.5)))),
    Case("grows with the batch", "slope 0, tailed noise", "false", one(0, ABOVE, tailed)),
    Case("the paper's number within ours", "drawn alike", "—", five_more(normal)),
    Case("the paper's number within ours", "drawn alike, tailed noise", "—", five_more(tailed)),
]


def table(trials):
    """Markdown: a row per case, shares in percent of shown / contradicted."""
    heads = [f"{n} seeds" for n in SEEDS]
    lines = ["| rule | truth | the claim is | " + " | ".join(heads) + " |", "|---|---|---|" + "---|" * len(heads)]
    for case in CASES:
        rates = [BETWEEN.join(f"{100 * rate:.1f}" for rate in case.rates(n, trials)) for n in SEEDS]
        lines.append(f"| {case.rule} | {case.truth} | {case.claim} | " + " | ".join(rates) + " |")
    return "\n".join(lines) + "\n"


def biases(count=4000):
    """Means of log N at a level over the truth, as factors, for three ways to find it on a noisy curve."""
    rng = np.random.default_rng(1)
    curves, level = noisy_curves(rng, count, 1.0), 100**-0.5
    ways = {"first": first_below, "monotone": crossing, "last": last_above}
    return {n: float(np.exp(np.mean([np.log(min(f(c, level), 250) / 100) for c in curves]))) for n, f in ways.items()}


if __name__ == "__main__":
    made = table(20_000)
    if sys.argv[1:] == ["--write"]:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(text[: text.index(BEGIN) + len(BEGIN)] + made + text[text.index(END) :], encoding="utf-8")
    print(made, biases(), sep="\n")
