"""What claims are tested on: values per run and learning curves; and a part of a claim, one number a seed."""

import functools
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.paper.statements import Statement
from analysis.statistics.rules import FEWEST_SEEDS
from analysis.statistics.values import NUMBER, column

RUN_VALUES = ["seed", "value", "run_id"]


@dataclass(frozen=True)
class Part:
    """One part of a claim: what it is about, a number per seed, the runs behind them.

    `at_most`: the truth may be lower than some value; `at_least`: it may be higher. `told`: why runs that are there
    decide nothing. `judged`: an outcome that does not come from numbers of seeds.
    """

    label: str
    values: pd.Series = field(default_factory=lambda: pd.Series(dtype=float))
    runs: frozenset[str] = frozenset()
    at_most: bool = False
    at_least: bool = False
    told: str = ""
    judged: int | None = None

    @property
    def enough(self) -> bool:
        """Whether it can be judged."""
        return len(self.values) >= FEWEST_SEEDS or self.judged is not None


@dataclass(frozen=True)
class Measured:
    """What claims are tested on: values per run (`stats.run_values`) and steps, of full scenarios or one reduction."""

    values: pd.DataFrame
    steps: pd.DataFrame
    deviations: str = ""

    @functools.cached_property
    def _groups(self) -> dict[tuple[str, ...], pd.DataFrame]:
        ours = self.values[self.values["deviations"] == self.deviations]
        return dict(list(ours.groupby(["scenario", *NUMBER])))

    @functools.cached_property
    def _cells(self) -> dict[tuple[str, ...], dict[tuple[str, int], pd.DataFrame]]:
        return {}

    @functools.cached_property
    def _curves(self) -> dict[tuple[str, int, str], pd.DataFrame]:
        ours = self.steps[self.steps["deviations"] == self.deviations]
        return dict(list(ours.groupby(["scenario", "batch_size", "algorithm"])))

    def of(self, statement: Statement, measure: str) -> pd.DataFrame:
        """All values that a claim speaks of, of every algorithm and batch size."""
        key = (statement.scenario, statement.statistic, statement.quantity, measure)
        return self._groups.get(key, self.values.head(0))

    def by_seed(
        self, statement: Statement, algorithm: str, measure: str, batch_size: int | None = None
    ) -> pd.DataFrame:
        """`value` and `run_id` of an algorithm, by seed."""
        size = batch_size or statement.batch_size
        if statement.statistic == "early":
            return self._early(statement, algorithm, measure)
        key = (statement.scenario, statement.statistic, statement.quantity, measure)
        if key not in self._cells:
            self._cells[key] = dict(list(self.of(statement, measure).groupby(["algorithm", "batch_size"])))
        return self._cells[key].get((algorithm, size), self.values.head(0))[RUN_VALUES].set_index("seed")

    def curve(self, statement: Statement, algorithm: str, scenario: str = "") -> pd.DataFrame:
        """The steps of an algorithm at the claim's batch size; in another scenario at its largest."""
        if not scenario:
            return self._curves.get((statement.scenario, statement.batch_size, algorithm), self.steps.head(0))
        sizes = [key[1] for key in self._curves if key[0] == scenario]
        return self._curves.get((scenario, max(sizes, default=0), algorithm), self.steps.head(0))

    def _early(self, statement: Statement, algorithm: str, measure: str) -> pd.DataFrame:
        """Geometric means over the steps after the first up to a size, of runs that have got there, all finite."""
        steps, name, last = self.curve(statement, algorithm), column(statement.quantity, measure), int(statement.at[0])
        rows = []
        for (seed, run), part in steps.groupby(["seed", "run_id"]):
            used = part[(part["step"] > 0) & (part["n_train"] <= last)]
            if len(used) and part["n_train"].max() >= last:
                rows.append((seed, float(np.exp(np.log(used[name]).mean(skipna=False))), run))
        return pd.DataFrame(rows, columns=RUN_VALUES).dropna(subset="value").set_index("seed")
