"""Every figure that the recorded runs allow, by name: what is drawn from what."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatch
from typing import Any

import pandas as pd

from analysis import style
from analysis.figures.base import Drawing
from analysis.figures.errors import batch_size, cost_curves, learning_curves
from analysis.figures.illustration import POINTS, illustration
from analysis.figures.savings import savings
from analysis.figures.seconds import seconds
from analysis.figures.uncertainty import calibration, correlations
from analysis.paper.numbers import overlay, paper_numbers, remark
from analysis.records.collect import EXPERIMENT, Tables
from analysis.statistics.efficiency import with_cost
from analysis.statistics.values import measured, over_seeds, summarise
from analysis.tables.sheets import Statistics
from bench.errors import UserError

PAIRS = ("MaxDiag + GP", "MaxDet + GP", "MaxDist + FEAT", "LCMD + FEAT")
IN_PAPER = {
    "illustration": "Fig. 1",
    **{f"batch_size_{name}": f"Fig. {n}" for name, n in (("md17_10_100_force", 2), ("qm9_1000_10000_energy", 5))},
    **{f"batch_size_{name}": f"Fig. {n}" for name, n in (("tio2_10_250_force", 8), ("lmnto_100_1000_force", 9))},
    **{f"learning_curves_{name}": f"Fig. {n}" for name, n in (("md17_10_100_force", 3), ("qm9_1000_10000_energy", 6))},
    "learning_curves_tio2_10_250_force": "Fig. 10",
    **{f"projections_{name}": f"Fig. {n}" for name, n in (("md17_10_100_force", 4), ("qm9_1000_10000_energy", 7))},
    "projections_tio2_10_250_force": "Fig. 11",
}


@dataclass(frozen=True)
class Job:
    """One figure: its file's name, the study it belongs to, its heading, and what draws it."""

    name: str
    study: str
    title: str
    draw: Callable[..., Drawing]
    arguments: tuple[Any, ...]

    @property
    def heading(self) -> str:
        """The title and, where it has one, the figure's number in the paper."""
        return self.title + (f" (the paper's {IN_PAPER[self.name]})" if self.name in IN_PAPER else "")


def chosen_jobs(
    collected: Tables, found: Statistics, figures: Sequence[str] = (), algorithms: Sequence[str] = ()
) -> list[Job]:
    """The figures whose names match a pattern, of some algorithms alone. Raises UserError for what does not exist."""
    if algorithms:
        known = sorted(collected.steps["algorithm"].unique())
        for name in algorithms:
            if name not in known:
                raise UserError(f"no run of the algorithm {name!r}: take some of {'; '.join(known)}")
        collected, found = _only(collected, algorithms), _only(found, algorithms)
    made = list(jobs(collected, found))
    for pattern in figures:
        if not any(fnmatch(job.name, pattern) for job in made):
            raise UserError(f"no figure is called {pattern!r}: take some of {', '.join(job.name for job in made)}")
    return [job for job in made if not figures or any(fnmatch(job.name, pattern) for pattern in figures)]


def _only(tables: Any, algorithms: Sequence[str]) -> Any:
    """The same tables with the rows of some algorithms alone, where they have any."""
    held = {field.name: getattr(tables, field.name) for field in fields(tables)}
    rows = {
        name: table[table["algorithm"].isin(algorithms)]
        for name, table in held.items()
        if isinstance(table, pd.DataFrame) and "algorithm" in table and name != "runs"
    }
    return replace(tables, **rows)


def jobs(collected: Tables, found: Statistics) -> Iterator[Job]:
    """Yield every figure; a study is a scenario or one altered form of it."""
    yield Job("illustration", "", "Three criteria in two dimensions", illustration, (pd.read_csv(POINTS),))
    studies = collected.steps[["study", "scenario"]].drop_duplicates()
    for study, scenario in sorted(studies.itertuples(index=False), key=lambda s: (*style.scenario_order(s[1]), s[0])):
        steps = collected.steps[collected.steps["study"] == study]
        for quantity in measured(steps):
            yield from _errors(study, scenario, quantity, steps, found)
        yield from _others(study, steps, collected, found)


def _errors(study: str, scenario: str, quantity: str, steps: pd.DataFrame, found: Statistics) -> Iterator[Job]:
    largest = int(steps["batch_size"].max())
    looks = style.main_methods(steps["algorithm"], forces="force" in measured(steps))
    name, kind = f"{study}_{quantity}", f"{quantity} errors"
    curves = over_seeds(steps[steps["batch_size"] == largest], quantity)
    if curves["algorithm"].isin(list(looks)).any() and curves["n_train"].nunique() > 1:
        numbers = overlay(
            paper_numbers() if study == scenario else paper_numbers().head(0), scenario, largest, quantity
        )
        told = remark(scenario, str(steps["deviations"].iloc[0]))
        drawn = (curves, quantity, looks, numbers, told)
        yield Job(f"learning_curves_{name}", study, f"Learning curves, {kind}", learning_curves, drawn)
        if quantity == measured(steps)[0]:
            yield from _costs(study, quantity, steps, found, told)
    means = found.means[(found.means["study"] == study) & (found.means["statistic"] == "final")]
    means = means[means["quantity"] == quantity]
    if means["batch_size"].nunique() < 2:
        return
    pairs = {n: look for n, look in style.looks(means["algorithm"]).items() if n.rpartition("(")[0] in PAIRS}
    shown = {n: look for n, look in looks.items() if n in set(means["algorithm"])}
    if shown:
        yield Job(f"batch_size_{name}", study, f"Batch size, {kind}", batch_size, (means, quantity, shown))
    if pairs:
        title = f"Last layer and random projections, {kind}"
        yield Job(f"projections_{name}", study, title, batch_size, (means, quantity, pairs))


def _costs(study: str, quantity: str, steps: pd.DataFrame, found: Statistics, told: str) -> Iterator[Job]:
    """Errors against cost, and labels saved, of what is trained on, at the largest batch."""
    largest = int(steps["batch_size"].max())
    looks = style.main_methods(steps["algorithm"], forces="force" in measured(steps))
    table = found.efficiency
    table = table[(table["study"] == study) & (table["batch_size"] == largest) & (table["quantity"] == quantity)]
    table = table[~table["algorithm"].isin(set(steps.loc[steps["baseline"], "algorithm"]))].dropna(subset="saving")
    shown = {name: look for name, look in looks.items() if name in set(table["algorithm"])}
    if shown:
        yield Job(f"savings_{study}", study, f"Labels saved, {quantity} errors", savings, (table, shown))
    of_largest = steps[steps["batch_size"] == largest]
    costs = with_cost(of_largest, found.label_seconds)
    timed = {name: look for name, look in looks.items() if name in set(costs["algorithm"])}
    if not timed:
        return
    untimed = sorted(set(of_largest["run_id"]) - set(costs["run_id"]))
    hours = costs.groupby([*EXPERIMENT, "n_train"])["hours"].mean()
    curves = over_seeds(costs, quantity).merge(hours.reset_index(), on=[*EXPERIMENT, "n_train"])
    drawn = (curves, quantity, timed, found.label_seconds, len(untimed), told)
    yield Job(f"cost_{study}", study, f"Errors against cost, {quantity} errors", cost_curves, drawn)


def _others(study: str, steps: pd.DataFrame, collected: Tables, found: Statistics) -> Iterator[Job]:
    largest = int(steps["batch_size"].max())

    def chosen(table: pd.DataFrame) -> pd.DataFrame:
        return table[(table["study"] == study) & (table["batch_size"] == largest)]

    known = chosen(found.correlations)
    if len(known):
        means = summarise(known, [*EXPERIMENT, "quantity", "uncertainty", "coefficient"])
        yield Job(f"correlations_{study}", study, "Correlation of uncertainty and error", correlations, (means,))
    points = collected.calibration[collected.calibration["study"] == study]
    for target, part in points.groupby("target", sort=True):
        title = f"Uncertainty and {target} error of structures"
        yield Job(f"calibration_{study}_{target}", study, title, calibration, (part, target))
    values = found.values
    spent = chosen(values[(values["statistic"] == "seconds") & (values["measure"] != "features and selection")])
    if len(spent):
        means = summarise(spent.rename(columns={"measure": "name"}), [*EXPERIMENT, "name"])
        yield Job(f"seconds_{study}", study, "Time per step", seconds, (means,))
