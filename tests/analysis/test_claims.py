"""Each way in which a claim of the paper is tested, and every claim of the file."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis import style
from analysis.paper.claims import NOT_TESTED, VERDICTS, verdicts
from analysis.paper.numbers import REFERENCE, paper_numbers
from analysis.paper.statements import Statement, statements
from analysis.statistics import rules
from tests.analysis import records
from tests.analysis.claimed import CLAIM, curves, judged, measured_of, word

CONF = Path(__file__).resolve().parents[2] / "conf" / "sweep"
REDUCED = {"scenario.pool": 1200, "scenario.test": None}
SHOWN, CONTRADICTED, UNDECIDED = "shown", "contradicted", "undecided"
RND = curves("MaxDiag + RND", [2.0, 2.2, 2.1])
BETTER = curves("LCMD + FEAT(LL)", [1.0, 1.25, 1.1])
LIKE = curves("LCMD + FEAT(LL)", [2.01, 2.19, 2.11])
WORSE = curves("LCMD + FEAT(LL)", [3.0, 3.25, 3.1])
UNCLEAR = curves("LCMD + FEAT(LL)", [1.0, 2.6, 2.0])
OUTCOMES = [SHOWN, CONTRADICTED, UNDECIDED]


@pytest.mark.parametrize(
    ("contents", "lower", "higher", "not_lower", "similar"),
    [
        (BETTER, SHOWN, CONTRADICTED, CONTRADICTED, CONTRADICTED),
        (LIKE, UNDECIDED, UNDECIDED, SHOWN, SHOWN),
        (WORSE, CONTRADICTED, SHOWN, SHOWN, CONTRADICTED),
        (UNCLEAR, UNDECIDED, UNDECIDED, UNDECIDED, UNDECIDED),
    ],
    ids=["better", "like", "worse", "unclear"],
)
def test_paired_relations(contents, lower, higher, not_lower, similar):
    contents = [*RND, *contents]
    assert word(contents, "lower") == lower and word(contents, "higher") == higher
    assert word(contents, "not_lower", margin=0.02) == not_lower
    assert word(contents, "similar", margin=0.02) == similar


def test_a_lack_of_power_shows_nothing():
    """Neither a negation nor likeness; the text says what could have been seen."""
    row = judged([*RND, *UNCLEAR], "not_lower", margin=0.02)
    assert row["verdict"] == UNDECIDED and "detectable" in row["evidence"]
    sem = rules.sem(np.log(np.array([1.0, 2.6, 2.0]) / [2.0, 2.2, 2.1]))
    assert f"{np.expm1(rules.detectable_factor(3) * sem):.1%}" in row["evidence"]
    row = judged([*RND, *UNCLEAR], "lower")
    assert f"detectable {-np.expm1(-rules.detectable_factor(3) * sem):.1%}" in row["evidence"]


def test_both_other_margins_stand_beside():
    row = judged([*RND, *curves("LCMD + FEAT(LL)", [1.95, 2.142, 2.05])], "not_lower", margin=0.02)
    assert (row["at_1%"], row["verdict"], row["at_5%"]) == (CONTRADICTED, CONTRADICTED, SHOWN)
    assert judged([*RND, *BETTER], "lower")["at_1%"] == ""


def test_ratios_of_heavy_tails_tell_what_differences_do_not():
    """The maxima of three runs on TiO2: differences have p = 0.12, logarithms of ratios 0.04."""
    contents = [*curves("MaxDiag + RND", [169.0, 171.0, 98.0]), *curves("LCMD + FEAT(LL)", [40.0, 36.0, 58.0])]
    assert word(contents, "lower") == SHOWN


@pytest.mark.parametrize("relation", ["lower", "not_higher", "similar", "ratio", "saving", "mostly_lower"])
def test_fewer_than_three_seeds_test_nothing(relation):
    changes = {"at": "2.5", "low": 0.1, "margin": 0.02}
    assert word([*RND, *BETTER], relation, **changes) in OUTCOMES
    assert word([*RND, *BETTER[:2]], relation, **changes) == NOT_TESTED
    assert word([*RND[:2], *BETTER[:2]], relation, **changes) == word(RND, relation, **changes) == NOT_TESTED


def test_an_altered_scenario_tests_nothing():
    altered = [
        *curves("MaxDiag + RND", [2.0, 2.2, 2.1], deviations={"a": 1}),
        *curves("LCMD + FEAT(LL)", [1.0, 1.25, 1.1], deviations={"a": 1}),
    ]
    assert word(altered, "lower") == NOT_TESTED


def test_parts_for_each_algorithm_and_measure():
    """What is recorded shows nothing while parts are missing; on average and in every part are told apart."""
    row = judged([*RND, *BETTER], "lower", algorithm="LCMD + FEAT(LL);MaxDet + GP(LL)", measure="mae;rmse")
    assert (row["parts"], row["known"], row["verdict"], row["mean"]) == (4, 2, UNDECIDED, NOT_TESTED)
    assert "2 of 4 parts not recorded" in row["evidence"] and row["runs"] == 6
    gains = curves("MaxDet + GP(LL)", [1.9, 2.3, 2.02])
    row = judged([*RND, *BETTER, *gains], "lower", algorithm="LCMD + FEAT(LL);MaxDet + GP(LL)", combine="mean")
    assert (row["verdict"], row["mean"], row["every"]) == (SHOWN, SHOWN, UNDECIDED)
    row = judged([*RND, *BETTER, *gains], "lower", algorithm="LCMD + FEAT(LL);MaxDet + GP(LL)", combine="every")
    assert row["verdict"] == UNDECIDED


def test_one_bad_part_contradicts_every_part():
    worse = curves("MaxDet + GP(LL)", [4.0, 4.4, 4.2])
    row = judged([*RND, *BETTER, *worse], "lower", algorithm="LCMD + FEAT(LL);MaxDet + GP(LL)")
    assert row["verdict"] == CONTRADICTED and row["evidence"].startswith("MaxDet + GP(LL) / MaxDiag + RND")


def test_batch_size_relations():
    def both(finals):
        return [*curves("LCMD + FEAT(LL)", [1.0, 1.2, 1.1], batch_size=5), *curves("LCMD + FEAT(LL)", finals)]

    for finals, grows, flat in (([1.51, 1.7, 1.62], SHOWN, CONTRADICTED), ([1.001, 1.2, 1.102], UNDECIDED, SHOWN)):
        assert word(both(finals), "grows", other="") == grows
        assert word(both(finals), "flat", other="", margin=0.02) == flat
    assert word(BETTER, "grows", other="") == NOT_TESTED
    two = [c for c in both([1.51, 1.7, 1.62]) if c["identity"]["seed"] < 2]
    assert word(two, "grows", other="") == word(two, "flat", other="", margin=0.02) == NOT_TESTED


def test_ratio_has_an_interval():
    assert word([*RND, *BETTER], "ratio", low=0.4, high=0.7) == SHOWN
    assert word([*RND, *BETTER], "ratio", low=0.7) == CONTRADICTED
    assert word([*RND, *BETTER], "ratio", low=0.52) == UNDECIDED
    assert word(RND, "ratio", low=0.6) == NOT_TESTED


def steep(algorithm, faster, **changes):
    """Curves like (faster N)^-1/2 at N = 10, 20 … 100, a little apart."""
    selection, kernel = algorithm.split(" + ")
    factors, sizes = (1.0, 1.03, 0.98), np.arange(10, 110, 10)
    made = [list(9.0 * f * (faster * sizes) ** -0.5) for f in factors]
    return [records.record(selection, kernel, seed, values, **changes) for seed, values in enumerate(made)]


SAVING = {"statistic": "labels", "low": 1.5}


def test_saving_at_its_own_levels():
    random, better = steep("MaxDiag + RND", 1.0), steep("LCMD + FEAT(LL)", 2.0)
    assert word([*random, *better], "saving", at="end", **SAVING) == SHOWN
    assert "×2.00" in judged([*random, *better], "saving", at="end", **SAVING)["evidence"]
    assert word([*random, *better], "saving", at="1.2", **SAVING) == SHOWN
    assert word([*random, *steep("LCMD + FEAT(LL)", 1.1)], "saving", at="end", **SAVING) == CONTRADICTED
    assert word(random, "saving", at="end", **SAVING) == NOT_TESTED
    both = judged([*random, *better], "saving", at="1.2;1.0", **SAVING, combine="mean")
    assert (both["verdict"], both["every"], both["parts"]) == (SHOWN, SHOWN, 2)


def test_a_level_that_is_never_reached_is_a_bound():
    """Random selection would need more than it has: shown. The algorithm would: contradicted or undecided."""
    random, better = steep("MaxDiag + RND", 1.0), steep("LCMD + FEAT(LL)", 4.0)
    row = judged([*random, *better], "saving", at="0.6", **SAVING)
    assert row["verdict"] == SHOWN and "never reached by 3 of 3 of the other" in row["evidence"]
    swapped = {"algorithm": "MaxDiag + RND", "other": "LCMD + FEAT(LL)"}
    assert word([*random, *better], "saving", at="0.6", **SAVING, **swapped) == CONTRADICTED
    assert word([*random, *better], "saving", at="0.6", statistic="labels", low=0.1, **swapped) == UNDECIDED


def test_a_saving_against_random_selection_needs_its_curve():
    """Of its last point alone nothing is said, and no number of the paper stands in for it."""
    alone = [records.record("MaxDiag", "RND", seed, [1.0], final=10) for seed in range(3)]
    row = judged([*alone, *steep("LCMD + FEAT(LL)", 2.0)], "saving", at="end", **SAVING)
    assert row["verdict"] == UNDECIDED and "its end alone" in row["evidence"] and row["runs"] == 6


def test_lowest_needs_all_rivals_and_beats_each():
    main = list(style.main_methods(style.METHODS, forces=True))
    ours, theirs = [1.0, 1.1, 1.2], [2.0, 2.1, 2.2]
    contents = [c for name in main for c in curves(name, ours if name.startswith("LCMD") else theirs)]
    assert word(contents, "lowest", other="main") == SHOWN
    assert word(contents[:-3], "lowest", other="main", algorithm="MaxDet + GP(LL)") == UNDECIDED
    assert word(contents, "lowest", other="main", algorithm="MaxDiag + RND") == CONTRADICTED
    near = [c for name in main for c in curves(name, [1.0, 1.1, 1.2] if name != "MaxDiag + RND" else [1.01, 1.1, 1.19])]
    assert word(near, "lowest", other="main") == UNDECIDED


def test_mostly_is_one_number_a_seed():
    """Eighteen cases that go together are no eighteen cases: with seeds that disagree nothing is shown."""
    sizes, pair = (2, 5, 10), {"algorithm": "LCMD + FEAT(RP)", "other": "LCMD + FEAT(LL)", "measure": "mae;rmse;maxe"}

    def contents(finals):
        each = [curves("LCMD + FEAT(RP)", finals, batch_size=s) for s in sizes]
        other = [curves("LCMD + FEAT(LL)", [2.0, 2.1, 2.2], batch_size=s) for s in sizes]
        return [c for part in (*each, *other) for c in part]

    assert word(contents([1.0, 1.1, 1.2]), "mostly_lower", **pair) == SHOWN
    assert word(contents([1.0, 1.1, 1.2]), "mostly_higher", **pair) == CONTRADICTED
    row = judged(contents([1.5, 1.6, 2.4]), "mostly_lower", **pair)
    assert row["verdict"] == UNDECIDED and "lower on average in 9" in row["evidence"] and row["parts"] == 1
    assert word([*RND, *BETTER], "mostly_lower", **pair) == NOT_TESTED


def test_correlations_are_compared_by_their_difference():
    def of(kernel, values):
        return [
            records.record("MaxDet", kernel, s, [8.0, 2.0], correlations={kernel: {"force": {"pearson": v}}})
            for s, v in enumerate(values)
        ]

    contents = [*of("GP(RP)", [0.61, 0.65, 0.63]), *of("GP(LL)", [0.41, 0.44, 0.45])]
    pair = {"algorithm": "MaxDet + GP(RP)", "other": "MaxDet + GP(LL)", "statistic": "pcc", "measure": "pearson"}
    row = judged(contents, "higher", **pair)
    assert row["verdict"] == SHOWN and "+0.197" in row["evidence"]
    assert word(contents, "not_higher", margin=0.02, **pair) == CONTRADICTED


def test_gains_of_two_measures():
    """RMSE and MAXE of made-up records are multiples of MAE, so that here both gain alike."""
    row = judged([*RND, *BETTER], "gains_more", measure="maxe;mae")
    assert row["verdict"] == UNDECIDED and "MAXE against MAE: +0.0% [+0.0%, +0.0%]" in row["evidence"].replace(
        "-0", "+0"
    )


def longer(algorithm, factors):
    selection, kernel = algorithm.split(" + ")
    made = [[8.0, *(4.0 * f * (1 + 0.01 * seed * i) for i, f in enumerate(factors))] for seed in range(3)]
    return [records.record(selection, kernel, seed, values) for seed, values in enumerate(made)]


def test_early_steps_and_a_gap_that_closes():
    random, other = longer("MaxDiag + RND", [1.0, 1.0, 1.0, 1.0]), longer("LCMD + FEAT(LL)", [0.5, 0.6, 0.9, 1.1])
    assert word([*random, *other], "lower", statistic="early", at="30") == SHOWN
    lost = [
        other[0]
        | {"steps": [*other[0]["steps"][:2], other[0]["steps"][2] | {"metrics": records.metrics(float("nan"))}]}
    ]
    row = judged([*random, *lost, *other[1:]], "lower", statistic="early", at="30")
    assert row["verdict"] == NOT_TESTED
    row = judged([*random, *other], "lower", statistic="early", at="30")
    assert f"{np.sqrt(0.5 * 0.6) - 1:+.1%}" in row["evidence"]
    assert word([*random, *other], "closes") == SHOWN
    assert word([*random, *longer("LCMD + FEAT(LL)", [1.1, 0.9, 0.6, 0.5])], "closes") == CONTRADICTED
    assert word(random, "closes") == NOT_TESTED


def test_times_are_judged_by_processors_alone():
    """Not by seconds on the wall, nor by steps that waited."""
    claim = {"statistic": "processor", "quantity": "", "measure": "features", "low": 1.5, "high": 2.5}

    def timed(name, wall, processor):
        made = curves(name, [2.0, 2.2, 2.1])
        for content in made:
            for step in content["steps"][:-1]:
                step |= {"seconds_features": wall, "seconds_selection": 0.0}
                if processor:
                    step |= {"processor_seconds_features": processor, "processor_seconds_selection": 0.0}
            content["sessions"] = [SESSION]
        return made

    other = timed("MaxDiag + RND", 5.0, 5.0)
    assert word([*other, *timed("LCMD + FEAT(LL)", 10.0, 10.0)], "ratio", **claim) == SHOWN
    assert word([*other, *timed("LCMD + FEAT(LL)", 3.0, 10.0)], "ratio", **claim) == SHOWN
    assert word([*other, *timed("LCMD + FEAT(LL)", 20.0, 10.0)], "ratio", **claim) == NOT_TESTED
    assert word([*other, *timed("LCMD + FEAT(LL)", 10.0, None)], "ratio", **claim) == NOT_TESTED
    below = claim | {"low": np.nan, "high": 300.0, "other": ""}
    assert word(timed("LCMD + FEAT(LL)", 10.0, 10.0), "below", **below) == SHOWN


SESSION = {"started": "", "host": "h", "cpu": "c", "cores": 1, "threads": 1, "device": "cpu", "python": "3.11"}


def test_data_sets_in_the_order_of_two_quantities():
    """A large RMSE/MAE at the start goes with a large gain: of four data sets the same order is shown."""
    names = ["md17_10_100", "qm9_1000_10000", "tio2_10_250", "lmnto_100_1000"]

    def contents(gains, spreads=(1.0, 1.1, 1.0)):
        made = []
        for scenario, spread, gain in zip(names, (2.0, 3.0, 4.0, 2.5), gains, strict=True):
            for algorithm, factor, of_seeds in (
                ("MaxDiag + RND", 1.0, (1.0, 1.1, 1.0)),
                ("LCMD + FEAT(LL)", gain, spreads),
            ):
                for content in curves(algorithm, [2.0 * factor * one for one in of_seeds], scenario=scenario):
                    for q, unit in (("force", "kcal_mol_A"), ("energy", "kcal_mol")):
                        content["steps"][0]["metrics"][f"{q}_rmse_{unit}"] = 8.0 * spread
                    made.append(content)
        return made

    claim = {"at": ";".join(names), "other": "", "algorithm": "MaxDiag + RND;LCMD + FEAT(LL)", "measure": "rmse"}
    assert word(contents((0.9, 0.7, 0.5, 0.8)), "order", **claim) == SHOWN
    assert word(contents((0.5, 0.8, 0.9, 0.7)), "order", **claim) == CONTRADICTED
    assert word(contents((0.9, 0.5, 0.7, 0.8)), "order", **claim) == CONTRADICTED
    noisy = (1.3, 0.8, 1.0)
    for gains in ((0.9, 0.7, 0.5, 0.8), (0.5, 0.8, 0.9, 0.7)):
        assert word(contents(gains, noisy), "order", **claim) == UNDECIDED
    assert word(contents((0.9, 0.7, 0.5, 0.8))[:-6], "order", **claim) == NOT_TESTED


def test_all_methods_are_those_that_the_paper_draws():
    forces = Statement.of(CLAIM | {"relation": "lower", "algorithm": "main"})
    energies = Statement.of(CLAIM | {"relation": "lower", "algorithm": "main", "quantity": "energy"})
    assert len(forces.algorithms) == len(energies.algorithms) == 7
    assert "MaxDiag + AE(F)" in forces.algorithms and "MaxDiag + AE(E)" in energies.algorithms


def test_every_claim_names_what_exists():
    claims = pd.read_csv(REFERENCE / "claims.csv")
    other = "fig", "paper", "demo", "fidelity", "own", "potentials", "tio2_10_100", "tio2_pretrained"
    sweeps = [yaml.safe_load(path.read_text()) for path in CONF.glob("*.yaml") if not path.stem.startswith(other)]
    params = {s["defaults"][0]["override /scenario"]: s["hydra"]["sweeper"]["params"] for s in sweeps}
    largest = {name: max(map(int, str(param["batch_size"]).split(","))) for name, param in params.items()}
    for table in (claims, paper_numbers()):
        assert (table["batch_size"] == table["scenario"].map(largest)).all()
    named = {name for cell in [*claims["algorithm"], *claims["other"].dropna()] for name in cell.split(";")}
    assert named <= {*style.METHODS, "main"}
    stated = set(paper_numbers()["algorithm"]) - {"not stated + GP(LL)", "not stated + GP(RP)"}
    assert stated <= set(style.METHODS) and len(paper_numbers()) == 55
    assert not claims.duplicated(["claim", "scenario"]).any()


def test_margins_and_rules_are_fixed_in_the_file():
    """2 % for every negation and likeness, which are about every part; each claim of several parts has a rule."""
    for statement in statements():
        needs = statement.relation in ("similar", "flat", "not_lower", "not_higher")
        assert (statement.margin == 0.02) == needs, statement.claim
        assert statement.combine in ("every", "mean") and (statement.combine == "every" or not needs)
    rows = pd.read_csv(REFERENCE / "claims.csv", keep_default_na=False)
    for statement, row in zip(statements(), rows.to_dict("records"), strict=True):
        several = len(statement.algorithms) * len(statement.measures) * max(1, len(statement.at)) > 1
        one_number = statement.relation in ("mostly_lower", "mostly_higher", "order", "gains_more")
        assert not several or one_number or row["combine"], statement.claim


def test_nothing_recorded_is_not_yet_tested():
    table = verdicts(measured_of([*RND, *BETTER]))
    assert len(table) == len(statements()) and set(table["verdict"]) == {NOT_TESTED}
    assert VERDICTS == (SHOWN, CONTRADICTED, UNDECIDED, NOT_TESTED)


def test_claims_on_a_reduced_pool():
    """Told beside the claim itself, which stays untested."""
    settings = {"scenario": "md17_10_100", "deviations": REDUCED}
    contents = [
        *curves("MaxDiag + RND", [2.0, 2.2, 2.1], **settings),
        *curves("MaxDiag + GP(LL)", [1.0, 1.25, 1.1], **settings),
    ]
    table = verdicts(measured_of(contents))
    full, reduced = table[table["deviations"] == ""], table[table["deviations"] != ""]
    assert set(full["verdict"]) == {NOT_TESTED} and len(full) == len(statements())
    worse = reduced[reduced["claim"].str.startswith("MaxDiag with GP(LL), QBC(F) or AE(F) is worse")].iloc[0]
    assert worse["every"] == CONTRADICTED and worse["verdict"] == UNDECIDED and worse["runs"] > 0
