"""The rules of verdicts: on numbers by hand, and on experiments whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import rules
from analysis.statistics.rules import ABOVE, BELOW, CONTRADICTED, SHOWN, UNDECIDED, Region
from tests.analysis import simulation
from tests.analysis.simulation import BEGIN, BETWEEN, CASES, DOCUMENT, END, SEEDS, Case, biases

TRIALS = 2000
BROKEN = "skewed"
"""The one kind of noise that is known to break the level, and told."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}: {case.truth}")
def test_errors_and_power_are_those_of_the_document(case: Case):
    """At most 5 % are wrong (and what chance adds), and shares are those printed."""
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text[text.index(BEGIN) : text.index(END)].splitlines()[3:]]
    printed = next(row[3:] for row in rows if row[0][2:] == case.rule and row[1] == case.truth)
    trials = TRIALS if "saves" not in case.rule else 2 * TRIALS
    spread = 4 * np.sqrt(0.05 * 0.95 / (trials / 10 if "saves" in case.rule else trials))
    for place, seeds in enumerate(SEEDS):
        shown, contradicted = case.rates(seeds, trials)
        if BROKEN not in case.truth:
            assert shown <= 0.05 + spread or case.claim in ("true", "—")
            assert contradicted <= 0.05 + spread or case.claim == "false"
        for rate, told in zip((shown, contradicted), printed[place].strip(" |").split(BETWEEN), strict=True):
            expected = float(told) / 100
            assert rate == pytest.approx(expected, abs=2 * spread * max(1.0, np.sqrt(expected * (1 - expected) * 21)))


def test_every_case_is_printed():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text[text.index(BEGIN) : text.index(END)].count("\n| ") == len(CASES) + 1


def test_a_first_crossing_is_early_a_last_one_late_a_monotone_curve_s_neither():
    found = biases(500)
    assert found["first"] < 0.9 and found["last"] > 1.3 and found["monotone"] == pytest.approx(1, abs=0.04)


def test_interval_is_student_s():
    values = np.array([0.1, -0.2, 0.05, 0.3])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert rules.interval(values) == pytest.approx((expected.low, expected.high))
    assert rules.interval(np.stack([values, 2 * values]))[1][1] == pytest.approx(2 * expected.high)


@pytest.mark.parametrize(
    ("mean", "region", "outcome"),
    [
        (-1.0, BELOW, SHOWN),
        (1.0, BELOW, CONTRADICTED),
        (0.0, BELOW, UNDECIDED),
        (0.0, ABOVE, UNDECIDED),
        (0.0, Region(low=-0.02), SHOWN),
        (0.0, Region(-0.02, 0.02), SHOWN),
        (0.5, Region(-0.02, 0.02), CONTRADICTED),
    ],
)
def test_no_spread_is_the_limit_of_ever_smaller_spread(mean, region, outcome):
    assert rules.judge(np.full(3, mean), region) == outcome
    near = mean + 1e-9 * np.array([-1.0, 0.0, 1.0])
    assert rules.judge(near, region) == outcome


def test_every_part_and_on_average():
    better, unclear, worse = np.array([-0.3, -0.31, -0.29]), np.array([-0.3, 0.3, 0.1]), np.array([0.3, 0.31, 0.29])
    assert rules.every([better, better], BELOW) == SHOWN
    assert rules.every([better, better], BELOW, of=3) == UNDECIDED
    assert rules.every([better, unclear], BELOW) == UNDECIDED
    assert rules.every([better, worse], BELOW) == CONTRADICTED
    # at 5 % / 1000 three seeds are too few to contradict
    assert rules.every([better, worse], BELOW, of=100_000) == UNDECIDED
    # seeds that no two parts share do not matter to each by itself
    assert rules.every([better, np.array([-0.2, -0.21])], BELOW) == SHOWN
    assert rules.on_average(np.stack([better, better, worse]), BELOW) == SHOWN
    assert rules.on_average(np.stack([better, worse]), BELOW) == UNDECIDED


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
def test_detectable_effect_is_found_in_four_of_five_cases(seeds):
    rng = np.random.default_rng(seeds)
    shift = rules.detectable_factor(seeds) / np.sqrt(seeds)
    found = rules.judge(rng.standard_normal((20_000, seeds)) + shift, ABOVE)
    assert (found == SHOWN).mean() == pytest.approx(0.8, abs=0.015)
    assert np.isnan(rules.detectable_factor(1))


def test_the_simulation_s_noise_is_what_it_says():
    rng = np.random.default_rng(0)
    for noise, expected in ((simulation.normal, 1.0), (simulation.skewed, 1.0), (simulation.tailed, np.sqrt(3))):
        drawn = noise(rng, 400_000, 1.0)
        assert abs(drawn.mean()) < 0.02 and drawn.std() == pytest.approx(expected, rel=0.2)
