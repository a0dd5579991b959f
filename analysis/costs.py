"""What runs will cost: from the steps recorded so far, or from the benchmarks of a machine."""

import statistics
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from analysis.records.found import algorithm_of
from bench.config.schema import RunConfig
from bench.errors import UserError
from bench.runs.record_schema import Record

BENCHMARKS = {
    "md17_aspirin": "aspirin",
    "rmd17_aspirin_4019": "aspirin",
    "rmd17_aspirin_full": "aspirin",
    "tio2": "TiO2",
    "lmnto": "LMNTO",
    "qm9": "QM9",
}
"""The name of each dataset in the tables of the benchmarks."""
MODEL = "GM-NN"
"""The potential that they measure."""


Curve = dict[float, float]
"""Values by size, in ascending order of size."""


@runtime_checkable
class Costs(Protocol):
    """Predicts seconds."""

    def to_come(self, run: RunConfig, steps_done: int) -> float:
        """Seconds that the rest of a run will take, NaN where nothing like it has been measured."""


@dataclass(frozen=True)
class RecordedCosts:
    """Median seconds of a step, by scenario and training set size: training of one model, and all else by algorithm."""

    training: dict[str, Curve]
    other: dict[tuple[str, str], float]

    def to_come(self, run: RunConfig, steps_done: int) -> float:
        """Seconds that the rest of a run will take: interpolated in N_train, in proportion to it beyond the largest."""
        scenario = _scenario_key(run.scenario.name, run.deviations)
        if scenario not in self.training:
            return float("nan")
        sizes = run.training_set_sizes()[steps_done:]
        training = sum(_at(self.training[scenario], size) for size in sizes)
        of_scenario = [value for (name, _), value in self.other.items() if name == scenario]
        other = self.other.get((scenario, algorithm_of(run.configuration())), statistics.median(of_scenario))
        members = run.kernel.get("members", 1)
        return float(members * training + other * len(sizes))


def recorded(records: Sequence[Record]) -> RecordedCosts:
    """Costs of the steps recorded; altered runs count for themselves only."""
    training: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    other: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in records:
        scenario = _scenario_key(record.identity["scenario"]["name"], record.deviations)
        algorithm = algorithm_of(record.identity)
        for step in record.steps:
            if step.timing == "":
                training[scenario][float(step.n_train)].append(step.seconds_training / len(step.best_epochs))
                other[scenario, algorithm].append(step.seconds - step.seconds_training)
    return RecordedCosts(
        training={scenario: _curve(by_size) for scenario, by_size in training.items()},
        other={key: statistics.median(seconds) for key, seconds in other.items()},
    )


def _curve(by_size: Mapping[float, Iterable[float]]) -> Curve:
    """The median at each size."""
    return {float(size): statistics.median(by_size[size]) for size in sorted(by_size)}


def _at(curve: Curve, size: int) -> float:
    """Interpolated; that of the smallest size below it, in proportion to the size beyond the largest."""
    sizes, values = list(curve), list(curve.values())
    above = bisect_right(sizes, size)
    if above == 0:
        return values[0]
    if above == len(sizes):
        return values[-1] * (size / sizes[-1])
    share = (size - sizes[above - 1]) / (sizes[above] - sizes[above - 1])
    return values[above - 1] + share * (values[above] - values[above - 1])


@dataclass(frozen=True)
class BenchmarkedCosts:
    """Milliseconds on one thread: of a training step by minibatch, and of a structure by what is asked of it."""

    steps: Mapping[str, Curve]
    structures: Mapping[str, Mapping[str, float]]

    def to_come(self, run: RunConfig, steps_done: int) -> float:
        """See `Costs`: trainings, validation, evaluation of the test set, features of pool and test set; no selections.

        NaN too where the size of the test set is not said, and for another potential.
        """
        name = BENCHMARKS.get(run.dataset["name"], "")
        sizes, settings, n_test = run.training_set_sizes(), run.training, run.scenario.test
        if name not in self.steps or name not in self.structures or n_test is None or run.model["name"] != MODEL:
            return float("nan")
        known, each = self.steps[name], self.structures[name]
        members, kernel = int(run.kernel.get("members", 1)), str(run.kernel["name"])
        of_kernel = next((each[f"{key}_ms"] for key in ("LL", "RP") if f"({key})" in kernel), 0.0)
        if kernel.startswith(("AE", "QBC")):
            of_kernel = members * each["evaluation_ms"]
        total = 0.0
        for n_train in sizes[steps_done:]:
            step = _at(known, min(n_train, settings.minibatch))
            trained = settings.minibatches(n_train, settings.epochs) * step
            trained += settings.validation_checks * run.scenario.validation * each["validation_ms"]
            total += members * (trained + n_test * each["evaluation_ms"])
            total += of_kernel * run.scenario.pool if n_train < sizes[-1] else n_test * (each["LL_ms"] + each["RP_ms"])
            total += of_kernel * n_test if kernel.startswith("GP") and n_train < sizes[-1] else 0.0
        return total / 1000


def benchmarked(folder: Path) -> BenchmarkedCosts:
    """Read what `make perf` wrote into a folder. Raises UserError."""
    import pandas as pd  # noqa: PLC0415 - takes as long as all else that a plan without benchmarks does

    try:
        steps, structures = pd.read_csv(folder / "training.csv"), pd.read_csv(folder / "per_structure.csv")
        steps = steps[(steps["models"] == 1) & (steps["threads"] == 1)]
        structures = structures[structures["threads"] == 1].set_index("data")
        structures = structures.reindex(columns=structures.columns.union(["forces_ms", "energies_ms"]))
        evaluation = structures["forces_ms"].fillna(structures["energies_ms"])
        by_data = {str(name): part.sort_values("minibatch") for name, part in steps.groupby("data")}
        return BenchmarkedCosts(
            steps={
                name: {float(size): float(ms) for size, ms in zip(part["minibatch"], part["step_ms"], strict=True)}
                for name, part in by_data.items()
            },
            structures={
                name: {
                    "validation_ms": float(part["validation_ms"].median()),
                    "evaluation_ms": float(evaluation[name]),
                    "LL_ms": float(structures.loc[name, "LL_ms"]),
                    "RP_ms": float(structures.loc[name, "RP_ms"]),
                }
                for name, part in by_data.items()
                if name in structures.index
            },
        )
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"no benchmarks of one thread in {folder} ({error}): run make perf on that machine") from None


def _scenario_key(scenario: str, deviations: Mapping[str, Any]) -> str:
    """What costs alike: a scenario or a variant of it, whatever its final size."""
    return f"{scenario} {sorted((key, str(value)) for key, value in deviations.items() if key != 'scenario.final')}"
