"""What results/reference/README.md says in words, computed again from the committed records without analysis."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from bench.config.places import PROJECT

REFERENCE = PROJECT / "results" / "reference"
TEXT = " ".join((REFERENCE / "README.md").read_text(encoding="utf-8").split())


def _records(folder):
    return [
        json.loads(path.read_text(encoding="utf-8")) for path in (REFERENCE / folder / "runs").glob("*/record.json")
    ]


def _runs(folder, deviations, algorithm=("MaxDiag", "RND")):
    """By seed, those that depart from their scenario in nothing else."""
    return {
        record["identity"]["seed"]: record
        for record in sorted(_records(folder), key=lambda record: record["identity"]["seed"])
        if record["deviations"] == deviations
        and tuple(record["identity"][group]["name"] for group in ("selection", "kernel")) == algorithm
    }


def _last(runs, measure):
    return np.array([run["steps"][-1]["metrics"][f"force_{measure}_kcal_mol_A"] for run in runs.values()])


def _mean_and_range(values):
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"


def _change(runs, base):
    """The mean change at equal seed in per cent with its 95 % interval."""
    seeds = runs.keys() & base.keys()
    logs = np.log([_last({0: runs[seed]}, "mae")[0] / _last({0: base[seed]}, "mae")[0] for seed in seeds])
    half = stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs)
    return 100 * np.expm1([logs.mean(), logs.mean() - half, logs.mean() + half])


ASPIRIN = {"dataset.name": "md17_aspirin"}
TENS = {**ASPIRIN, "training.minibatch": 10}


@pytest.mark.parametrize(
    ("told", "more"),
    [
        ("minibatch 10", TENS),
        ("minibatch 10, K = 7 Gaussians instead of 9", {**TENS, "model.n_gaussians": 7}),
        ("minibatch 16", {**ASPIRIN, "training.minibatch": 16}),
        ("minibatch 32, an epoch's incomplete last one dropped", ASPIRIN),
        ("minibatch 32, filled from the next epoch", {**ASPIRIN, "training.last_minibatch": "carry"}),
        ("minibatch 32, K = 12", {**ASPIRIN, "model.n_gaussians": 12}),
    ],
)
def test_single_trainings(told, more):
    runs = _runs("fidelity", more)
    errors = " | ".join(_mean_and_range(_last(runs, measure)) for measure in ("mae", "rmse"))
    assert f"| {told} | {len(runs)} | {errors} |" in TEXT


def test_changes_of_single_trainings():
    dropped, tens = _runs("fidelity", ASPIRIN), _runs("fidelity", TENS)
    _, low, high = _change(tens, dropped)
    assert f"({-high:.0f} to {-low:.0f} %, three seeds)" in TEXT
    mean, low, high = _change(_runs("fidelity", {**ASPIRIN, "training.last_minibatch": "carry"}), dropped)
    assert f"{mean:.0f} % ({low:.0f} to {high:+.0f} %, two seeds)" in TEXT
    mean, low, high = _change(_runs("fidelity", {**TENS, "model.n_gaussians": 7}), tens)
    assert f"{mean:.0f} % higher ({low:.0f} to {high:+.0f} %)" in TEXT


def test_correlations_of_random_selection_on_tio2():
    runs = _runs("tio2", {"scenario.initial": 250, "scenario.pool": 5760})
    found = np.array(
        [
            [run["steps"][-1]["correlations"][kernel]["force"]["pearson"] for run in runs.values()]
            for kernel in ("GP(LL)", "GP(RP)")
        ]
    )
    last_layer, projected = found.mean(1)
    spreads = {f"{spread:.2f}" for spread in stats.sem(found, axis=1)}
    assert spreads == {"0.04"}
    assert f"by {last_layer:.2f} and {projected:.2f} ± 0.04 (Pearson, twelve seeds from {found.min():.2f} to" in TEXT
    assert len(runs) == 12
    assert f"to {found.max():.2f};" in TEXT


def _ratio(logs):
    """In per cent with the 95 % interval, from logarithms of ratios at equal seed."""
    half = stats.t.ppf(0.975, len(logs) - 1) * stats.sem(logs)
    low, high = 100 * np.expm1([logs.mean() - half, logs.mean() + half])
    return f"{100 * np.expm1(logs.mean()):.0f} % ({low:.0f} to {high:.0f})"


def test_minibatches_of_active_learning_on_tio2():
    """MaxDiag + GP(LL): the points that the paper quotes, and the ratio of 32 to 10 at equal seed."""
    algorithm, errors = ("MaxDiag", "GP(LL)"), {}
    for minibatch, deviations in ((10, {}), (32, {"training.minibatch": 32})):
        runs = _runs("tio2", deviations, algorithm)
        assert list(runs) == [0, 1, 2]
        for measure in ("mae", "rmse"):
            errors[minibatch, measure] = [
                {step["n_train"]: step["metrics"][f"force_{measure}_kcal_mol_A"] for step in run["steps"]}
                for run in runs.values()
            ]
    quoted = {40: "21.51", 60: "17.71", 100: "", 250: "6.16"}
    for n_train, paper in quoted.items():
        values = sorted(of_run[n_train] for of_run in errors[32, "rmse"] if n_train in of_run)
        told = ", ".join(f"{value:.1f}" for value in values)
        ratio = f"{np.mean(values) / float(paper):.2f}" if paper else ""
        row = f"| MaxDiag + GP(LL) at {n_train}, minibatch 32 | {len(values)} | {np.mean(values):.1f} | {told} |"
        assert " ".join(f"{row} {paper} | {ratio} |".split()) in TEXT
    at_250 = {minibatch: np.array([of_run[250] for of_run in errors[minibatch, "rmse"]]) for minibatch in (10, 32)}
    told = {minibatch: ", ".join(f"{value:.1f}" for value in values) for minibatch, values in at_250.items()}
    assert f"At 250 the three seeds have {told[32]}, with 10 {told[10]}" in TEXT
    more = _ratio(np.log(at_250[32] / at_250[10])).replace(" (", " higher with 32 at equal seed, ")
    assert f"({more}: all three lie above 6.16, which lies within the range with 10" in TEXT
    assert at_250[32].min() > 6.16 > at_250[10].min() and at_250[10].max() > 6.16
    ratios = {}
    for measure in ("rmse", "mae"):
        pairs = list(zip(errors[32, measure], errors[10, measure], strict=True))
        ratios[measure, 60] = _ratio(np.log([one[60] / other[60] for one, other in pairs]))
        sizes = range(10, 251, 10)
        logs = np.log([sum(one[n] for n in sizes) / sum(other[n] for n in sizes) for one, other in pairs])
        ratios[measure, "curve"] = _ratio(logs)
    curve, at_60 = ([ratios[measure, where] for measure in ("rmse", "mae")] for where in ("curve", 60))
    assert f"an RMSE {curve[0]} and a MAE {curve[1]} higher at equal seed" in TEXT
    assert f"at 60 an RMSE {at_60[0]} and a MAE {at_60[1]}." in TEXT


def test_whole_curve_of_random_selection_on_tio2():
    curves, single = _runs("tio2", {}), _runs("tio2", {"scenario.initial": 250, "scenario.pool": 5760})
    ends, alone = _last(curves, "rmse"), _last(single, "rmse")
    assert list(curves) == [0, 1, 2] and [len(run["steps"]) for run in curves.values()] == [25, 25, 25]
    told = ", ".join(f"{value:.1f}" for value in sorted(ends))
    row = f"| RND at 250, whole curve | 3 | {ends.mean():.1f} | {told} | 24.68 | {ends.mean() / 24.68:.2f} |"
    assert row in TEXT
    here, there = ("{:.1f}, {:.1f} and {:.1f}".format(*values[:3]) for values in (ends, alone))
    assert f"end at {here} where those had {there};" in TEXT
    means = np.array([np.mean(five) for five in itertools.combinations([*ends, *alone], 5)])
    assert f"{100 * (means >= 24.68).mean():.1f} % reach 24.68." in TEXT
    counted = np.array([*ends, *alone[3:]])
    means = np.array([np.mean(five) for five in itertools.combinations(counted, 5)])
    told = (
        f"{counted.mean():.1f} (ratio {counted.mean() / 24.68:.2f}) for the same twelve seeds; of their means of five"
    )
    assert f"{told} {100 * (means >= 24.68).mean():.1f} % reach 24.68." in " ".join(TEXT.split())


def test_maxdet_on_tio2():
    """Against random selection at equal seed: changes with 90 % intervals, the errors of the seeds, correlations."""
    runs, random = _runs("tio2", {}, ("MaxDet", "GP(LL)")), _runs("tio2", {})
    assert [len(run["steps"]) for run in runs.values()] == [25, 25, 25] and list(random) == list(runs) == [0, 1, 2]
    told = []
    for measure in ("rmse", "maxe", "mae"):
        logs = np.log(_last(runs, measure) / _last(random, measure))
        half = stats.t.ppf(0.95, 2) * stats.sem(logs)
        told.append(-100 * np.expm1([logs.mean(), logs.mean() + half, logs.mean() - half]))
    text = " ".join(TEXT.split())
    (rmse, maxe, mae), errors = told, [", ".join(f"{e:.2f}" for e in _last(one, "mae")) for one in (runs, random)]
    assert "{:.0f} % below random selection's RMSE (90 % interval {:.0f} to {:.0f} %), ".format(*rmse) in text
    assert "{:.0f} % below its MAXE ({:.0f} to {:.0f} %), and ".format(*maxe) in text
    assert "{:.0f} % below its MAE ({:.0f} to {:.0f} %): ".format(*mae) + errors[0] in text
    assert f"where random selection has {errors[1]}." in text
    last = [run["steps"][-1]["correlations"] for run in runs.values()]
    found = np.array([[one[kernel]["force"]["pearson"] for one in last] for kernel in ("GP(LL)", "GP(RP)")])
    means = " and ".join(f"{mean:.2f}" for mean in found.mean(1))
    assert f"by {means} ± {(found.std(1, ddof=1) / 3**0.5).max():.2f} (three seeds from" in text
    assert f"from {found.min():.2f} to {found.max():.2f})." in text


def _curves(folder, scenario, algorithm):
    """Force errors by seed, measure and N_train."""
    return {
        record["identity"]["seed"]: {
            (measure, step["n_train"]): step["metrics"][f"force_{measure}_kcal_mol_A"]
            for step in record["steps"]
            for measure in ("mae", "rmse")
        }
        for record in _records(folder)
        if record["identity"]["scenario"]["name"] == scenario
        and record["deviations"] == {}
        and tuple(record["identity"][group]["name"] for group in ("selection", "kernel")) == algorithm
    }


BUDGETS = {1000: ("tio2", "tio2_10_250"), 200: ("potentials", "tio2_10_100")}
BY_BUDGET = {
    ("MaxDiag", "GP(LL)"): (1000, 200),
    ("MaxDet", "GP(LL)"): (1000, 200),
    ("LCMD", "FEAT(LL)"): (200,),
    ("MaxDist", "FEAT(LL)"): (200,),
    ("MaxDist", "GP(LL)"): (200,),
}


def test_a_declared_budget_on_tio2():
    """Random selection's errors, and how many times as large others' are at equal seed: over the curve and at 100."""
    random = {epochs: _curves(*where, ("MaxDiag", "RND")) for epochs, where in BUDGETS.items()}
    assert all(sorted(of_seeds) == [0, 1, 2] for of_seeds in random.values())
    own = {
        epochs: [np.mean([one[measure, 100] for one in of_seeds.values()]) for measure in ("mae", "rmse")]
        for epochs, of_seeds in random.items()
    }
    cells = f"{own[1000][0]:.2f} | {own[200][0]:.2f} | | | {own[1000][1]:.1f} | {own[200][1]:.1f} | | |"
    assert f"| random selection, kcal/mol/Å | {cells}" in TEXT
    for algorithm, known in BY_BUDGET.items():
        cells = []
        for measure, sizes in itertools.product(("mae", "rmse"), ([100], range(20, 101, 10))):
            for epochs, where in BUDGETS.items():
                if epochs not in known:
                    cells.append("")
                    continue
                curves = _curves(*where, algorithm)
                assert sorted(curves) == [0, 1, 2], algorithm
                logs = np.log(
                    [
                        sum(curves[seed][measure, n] for n in sizes)
                        / sum(random[epochs][seed][measure, n] for n in sizes)
                        for seed in range(3)
                    ]
                )
                each = [np.exp(logs.mean()), np.exp(logs.min()), np.exp(logs.max())]
                cells.append("×{:.2f} ({:.2f} to {:.2f})".format(*each))
        row = f"| {' + '.join(algorithm)} | {' | '.join(cells)} |"
        assert " ".join(row.split()) in TEXT, row


def test_random_selection_on_qm9():
    runs = _runs("qm9", {"scenario.initial": 10000, "scenario.pool": 91000})
    assert len(runs) == 3
    last = [run["steps"][-1] for run in runs.values()]
    told = []
    for measure, digits in (("mae", 2), ("rmse", 2), ("maxe", 1)):
        values = np.array([step["metrics"][f"energy_{measure}_kcal_mol"] for step in last])
        told.append(f"{values.mean():.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})")
    for kernel in ("GP(LL)", "GP(RP)"):
        values = np.array([step["correlations"][kernel]["energy"]["pearson"] for step in last])
        told.append(f"{values.mean():.3f} ± {values.std(ddof=1) / 3**0.5:.3f}")
    assert f"| RND | 3 | {' | '.join(told)} |" in TEXT
    (run,) = _runs("qm9", {"scenario.initial": 25000, "scenario.pool": 80000}).values()
    step = run["steps"][-1]
    numbers = [step["metrics"][f"energy_{measure}_kcal_mol"] for measure in ("mae", "rmse", "maxe")]
    pearson = [step["correlations"][kernel]["energy"]["pearson"] for kernel in ("GP(LL)", "GP(RP)")]
    told = "| RND | 1 | {:.2f} | {:.2f} | {:.1f} | {:.3f} | {:.3f} |".format(*numbers, *pearson)
    ratios = [number / paper for number, paper in zip(numbers, (0.43, 0.92, 38.61), strict=True)]
    assert told in TEXT and "| ratio | | {:.2f} | {:.2f} | {:.2f} |".format(*ratios) in TEXT
    hours = step["processor_seconds_training"] / 3600
    assert f"It took {hours:.1f} processor hours" in TEXT


def test_epochs_and_counts():
    runs = {folder: _records(folder) for folder in ("aspirin", "fidelity", "tio2")}
    epochs = [epoch for run in runs["tio2"] for step in run["steps"] for epoch in step["best_epochs"]]
    assert f"took one of the epochs from {min(epochs)} to {max(epochs)}." in TEXT
    counted = [len(run["steps"]) for folder in runs.values() for run in folder]
    assert f"there are {len(counted)} runs with {sum(counted)} steps" in TEXT
