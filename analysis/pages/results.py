"""What the committed results say of a scenario or an algorithm: errors, ratios to random selection, hours, figures."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from analysis.paper.numbers import paper_numbers
from analysis.records.found import read_records
from analysis.statistics.rules import FEWEST_SEEDS
from analysis.statistics.values import BASELINE
from analysis.style import PLAIN_UNITS, SCENARIOS
from analysis.tables.sheet import with_error
from bench.errors import UserError

PAPER = [name for name in SCENARIOS if name != "demo"]
"""The paper's scenarios; the demo shows what the output looks like and ranks nothing."""

ROW = ["study", "batch_size", "algorithm", "statistic", "quantity", "measure"]
"""What a row of a table is of."""


@dataclass
class Results:
    """The tables of every folder that holds records and tables, each row with its `folder`, and what runs cost."""

    reference: Path
    finals: pd.DataFrame
    ratios: pd.DataFrame
    seconds: pd.DataFrame
    costs: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    """Core hours, hours of a GPU and steps by run."""

    @classmethod
    def read(cls, reference: Path) -> "Results":
        """Read `reference`. Raises UserError where it holds no tables."""
        folders = sorted(path.parent for path in reference.glob("*/tables") if (path.parent / "runs").is_dir())
        if not folders:
            raise UserError(f"{reference} holds no results: give a folder like results/reference")
        finals, ratios, seconds = (_tables(folders, name) for name in ("errors_final", "comparisons", "seconds"))
        return cls(reference, finals, ratios, seconds, dict(cost for folder in folders for cost in _costs(folder)))

    def studies(self, scenario: str) -> list[str]:
        """The forms of a scenario that have results, the full one first."""
        found = self.finals[self.finals["scenario"] == scenario]
        return sorted(found["study"].unique(), key=lambda study: (study != scenario, study))

    def figures(self, study: str) -> list[Path]:
        """Learning curves of a study, forces first."""
        names = (f"learning_curves_{study}_{quantity}.png" for quantity in ("force", "energy"))
        return [path for name in names for path in sorted(self.reference.glob(f"*/figures/{name}"))]

    def is_curve(self, run: str) -> bool:
        """Whether a run is a learning curve, not the last point alone."""
        return self.costs[run][2] > 1

    def cost_of(self, runs: Iterable[str]) -> tuple[str, str]:
        """The hours of some runs together, and how many steps they have."""
        known = [self.costs[run] for run in runs]
        cores, gpus, steps = zip(*known, strict=True)
        told = f"{sum(cores):.2f}" + (f", and {sum(gpus):.2f} of a GPU" if any(gpus) else "")
        return told, " to ".join(map(str, dict.fromkeys((min(steps), max(steps)))))


def in_words(deviations: str) -> str:
    """Where runs depart from their scenario, as a reader takes it: an open test set is all that is left."""
    return deviations.replace("scenario.test=None", "scenario.test=all others")


def _tables(folders: list[Path], name: str) -> pd.DataFrame:
    paths = [path for folder in folders if (path := folder / "tables" / f"{name}.csv").is_file()]
    if not paths:
        raise UserError(f"{folders[0].parent} holds no table {name}.csv: make it with bmdal-bench build")
    read = [pd.read_csv(path, dtype={"deviations": str}).assign(folder=path.parts[-3]) for path in paths]
    table = pd.concat(read, ignore_index=True)
    table["deviations"] = table["deviations"].fillna("")
    table = table[table["scenario"].isin(PAPER)]
    # what lies in several folders is taken where most seeds are
    most = table.sort_values("pairs" if "pairs" in table else "seeds", ascending=False, kind="stable")
    keys = [key for key in ROW if key in table]
    return table.loc[sorted(most.drop_duplicates(keys).index)].reset_index(drop=True)


def _costs(folder: Path) -> Iterable[tuple[str, tuple[float, float, int]]]:
    """Of every run, in hours: seconds of steps on a CPU, times the threads they had; those on a GPU; and the steps."""
    found, damaged = read_records(folder)
    if damaged:
        raise UserError(damaged[0])
    for one in found:
        record = one.record
        if record:
            cores = gpu = 0.0
            for step in record.steps:
                session = record.sessions[step.session]
                if session.device == "cpu":
                    cores += step.seconds * session.threads / 3600
                else:
                    gpu += step.seconds / 3600
            yield one.run_id, (cores, gpu, len(record.steps))


def quantity_of(rows: pd.DataFrame) -> str:
    """What is compared: forces where there are any."""
    return "force" if "force" in set(rows["quantity"]) else "energy"


def unit(quantity: str) -> str:
    """As in the pages' headings."""
    return PLAIN_UNITS[quantity]


def error(row: pd.Series, measure: str) -> str:
    """Mean ± standard error."""
    return with_error(float(row[measure]), float(row[f"{measure}_sem"]))


def ratio(ratios: pd.DataFrame, row: pd.Series, measure: str) -> str:
    """An error over random selection's at equal seed with its 95 % interval; nothing where there is none.

    Too few seeds have no interval.
    """
    same = ["study", "batch_size", "algorithm", "quantity"]
    chosen = ratios[(ratios["statistic"] == "final") & (ratios["measure"] == measure)]
    for key in same:
        chosen = chosen[chosen[key] == row[key]]
    if row["algorithm"] == BASELINE:
        return "1"
    if not len(chosen):
        return ""
    one = chosen.iloc[0]
    judged = one["pairs"] >= FEWEST_SEEDS and pd.notna(one["low"])
    interval = f" ({one['low']:.2f} to {one['high']:.2f})" if judged else ""
    return f"{one['ratio']:.2f}{interval}"


def of_paper(scenario: str, batch_size: int, algorithm: str, quantity: str, measure: str) -> str:
    """The number that the paper's text gives of the last step; nothing where it gives none."""
    found = paper_numbers()
    found = found[(found["statistic"] == "final") & (found["scenario"] == scenario)]
    found = found[(found["batch_size"] == batch_size) & (found["algorithm"] == algorithm)]
    found = found[(found["quantity"] == quantity) & (found["measure"] == measure)]
    return f"{found['value'].iloc[0]:.2f}" if len(found) else ""


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A pipe table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
