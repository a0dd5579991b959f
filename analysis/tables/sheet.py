"""Tables as they are printed: which columns, headings and digits; CSV keeps the plain numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.records.collect import EXPERIMENT
from analysis.statistics.values import MEASURES, STATISTICS, summarise
from bench.runs.record import write_atomically


@dataclass(frozen=True)
class Column:
    """A printed column: heading, the data's column, that of its standard error, and how a number is written."""

    heading: str
    value: str
    sem: str = ""
    digits: str = ".4g"


@dataclass(frozen=True)
class Sheet:
    """A table with its title, a note on how it was made, its plain data, and the columns that are printed."""

    name: str
    title: str
    note: str
    data: pd.DataFrame
    columns: Sequence[Column]

    def cells(self) -> list[list[str]]:
        """The printed text, row by row."""
        columns = [self._texts(column) for column in self.columns]
        return [list(row) for row in zip(*columns, strict=True)]

    def _texts(self, column: Column) -> list[str]:
        values = self.data[column.value].tolist()
        if not column.sem:
            return [plain(value, column.digits) for value in values]
        return [with_error(v, s) for v, s in zip(values, self.data[column.sem].tolist(), strict=True)]

    def save(self, folder: Path) -> list[Path]:
        """Write CSV, Markdown and LaTeX, the same bytes for the same data."""
        texts = {"csv": self.data.to_csv(index=False, float_format="%.6g"), "md": markdown(self), "tex": latex(self)}
        paths = []
        for suffix, text in texts.items():
            paths.append(folder / f"{self.name}.{suffix}")
            write_atomically(paths[-1], text.encode())
        return paths


def plain(value: object, digits: str = ".4g") -> str:
    """A value as text; nothing for what is missing."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:{digits}}"
    return "" if value is None or value is pd.NA else str(value)


def with_error(value: float, sem: float) -> str:
    """Value ± standard error, both to the second digit of the error; four digits where there is no error."""
    if not math.isfinite(value):
        return ""
    if not (math.isfinite(sem) and sem > 0):
        return f"{value:.4g}"
    decimals = min(6, max(0, 1 - math.floor(math.log10(sem))))
    return f"{value:.{decimals}f} ± {sem:.{decimals}f}"


def markdown(sheet: Sheet) -> str:
    """A pipe table under its title."""
    rows = [[column.heading for column in sheet.columns], ["---"] * len(sheet.columns), *sheet.cells()]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"# {sheet.title}", "", sheet.note, "", *lines]) + "\n"


LATEX = {
    **{sign: f"\\{sign}" for sign in "&%#_{}$"},
    "\\": "\\textbackslash{}",
    **{"±": "$\\pm$", "−": "$-$", "→": "$\\to$", "₂": "$_2$", "Å": "\\AA{}", "Δ": "$\\Delta$", "σ": "$\\sigma$"},
    **{"≤": "$\\le$", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "…": "\\ldots{}", "<": "$<$", ">": "$>$"},
}


def latex(sheet: Sheet) -> str:
    """A longtable with booktabs rules; packages longtable and booktabs."""

    def row(cells: Sequence[str]) -> str:
        return " & ".join("".join(LATEX.get(sign, sign) for sign in cell) for cell in cells) + r" \\"

    numbers = [c.sem or c.value in sheet.data.select_dtypes("number") for c in sheet.columns]
    layout = "".join("r" if number else "l" for number in numbers)
    head = [r"\begin{longtable}{" + layout + "}", r"\caption{" + row([sheet.title])[:-3] + r"}\\", r"\toprule"]
    head += [row([column.heading for column in sheet.columns]), r"\midrule", r"\endhead"]
    return "\n".join([*head, *map(row, sheet.cells()), r"\bottomrule", r"\end{longtable}"]) + "\n"


EXPERIMENT_COLUMNS = [Column("Scenario", "study"), Column("N_batch", "batch_size"), Column("Algorithm", "algorithm")]
RUNS = Column("Seeds", "seeds")


def errors(values: pd.DataFrame, statistic: str) -> Sheet:
    """MAE, RMSE and MAXE of every experiment, forces and energies, of one statistic."""
    chosen = values[values["statistic"] == statistic]
    means = summarise(chosen, [*EXPERIMENT, "quantity", "measure"])
    keys = [*EXPERIMENT, "quantity"]
    wide = means.pivot(index=keys, columns="measure", values=["mean", "sem"])
    wide.columns = pd.Index([m if kind == "mean" else f"{m}_sem" for kind, m in wide.columns])
    seeds = means.groupby(keys).agg(seeds=("seeds", "min"), runs=("runs", "first"))
    rmse = chosen[chosen["measure"] == "rmse"].groupby(keys)["value"].agg(rmse_median="median", rmse_trimmed=trimmed)
    data = wide.reindex(columns=[name for m in MEASURES for name in (m, f"{m}_sem")]).join([rmse, seeds]).reset_index()
    columns = [*EXPERIMENT_COLUMNS, Column("Of", "quantity")]
    columns += [*(Column(m.upper(), m, f"{m}_sem") for m in MEASURES)]
    columns += [Column("RMSE, median", "rmse_median"), Column("RMSE, trimmed", "rmse_trimmed"), RUNS]
    note = "Mean ± standard error over seeds; forces in kcal/mol/Å, energies in kcal/mol. MAXE of forces is the largest"
    note += " mean absolute component error of a structure; it grows with the test set. Trimmed: the mean without the"
    note += " largest and the smallest of all seeds, from three on."
    return Sheet(f"errors_{statistic}", f"Errors: {STATISTICS[statistic]}", note, data, columns)


def trimmed(values: pd.Series) -> float:
    """The mean without the largest and the smallest value; NaN for fewer than three."""
    return float(values.sort_values().iloc[1:-1].mean()) if len(values) > 2 else math.nan


def correlations(last: pd.DataFrame) -> Sheet:
    """Pearson and Spearman coefficients of the last step."""
    means = summarise(last, [*EXPERIMENT, "quantity", "uncertainty", "coefficient"])
    keys = [*EXPERIMENT, "quantity", "uncertainty"]
    wide = means.pivot(index=keys, columns="coefficient", values=["mean", "sem"])
    wide.columns = pd.Index([c if kind == "mean" else f"{c}_sem" for kind, c in wide.columns])
    names = [name for c in ("pearson", "spearman") for name in (c, f"{c}_sem")]
    seeds = means.groupby(keys).agg(seeds=("seeds", "min"), runs=("runs", "first"))
    data = wide.reindex(columns=names).join(seeds).reset_index()
    columns = [*EXPERIMENT_COLUMNS, Column("Error of", "quantity"), Column("Uncertainty", "uncertainty")]
    columns += [Column("Pearson", "pearson", "pearson_sem"), Column("Spearman", "spearman", "spearman_sem"), RUNS]
    note = "Correlation of uncertainty and error over the test set in the last step; own: that of the run's own kernel."
    return Sheet("correlations", "Correlation of uncertainty and error", note, data, columns)


def seconds(values: pd.DataFrame) -> Sheet:
    """Seconds of a step."""
    means = summarise(values[values["statistic"] == "seconds"], [*EXPERIMENT, "measure"])
    keys = EXPERIMENT
    wide = means.pivot(index=keys, columns="measure", values=["mean", "sem"])
    wide.columns = pd.Index([m if kind == "mean" else f"{m}_sem" for kind, m in wide.columns])
    parts = ("training", "features", "selection")
    seeds = means.groupby(keys).agg(seeds=("seeds", "min"), runs=("runs", "first"))
    data = wide.reindex(columns=[n for p in parts for n in (p, f"{p}_sem")]).join(seeds).reset_index()
    columns = [*EXPERIMENT_COLUMNS, *(Column(f"{p.capitalize()} (s)", p, f"{p}_sem") for p in parts), RUNS]
    note = (
        "Seconds of a step, mean over the steps that select, then over seeds; training of all members of a committee;"
        " features with the posterior. Runs that were computed on several devices are left out."
    )
    return Sheet("seconds", "Time per step", note, data, columns)


def comparisons(table: pd.DataFrame) -> Sheet:
    """Ratios to random selection at equal seed."""
    p = table["p_adjusted"]
    data = with_interval(table).assign(significant=np.where(p.isna(), "", np.where(p < 0.05, "yes", "no")))
    columns = [*EXPERIMENT_COLUMNS, Column("Statistic", "statistic"), Column("Of", "quantity")]
    columns += [Column("Measure", "measure"), Column("Change", "relative", digits="+.1%")]
    columns += [Column("95 % interval", "interval"), Column("p adjusted", "p_adjusted", digits=".2g")]
    columns += [Column("Significant", "significant"), Column("Detectable decrease", "detectable", digits=".1%")]
    note = (
        "Error over random selection's at equal seed, minus one: geometric mean. Intervals and p are of paired t-tests"
        " on logarithms, two-sided, adjusted (Benjamini, Hochberg) among all of a scenario; detectable: the smallest"
        " decrease found with 80 % power at this spread and number of seeds."
    )
    columns += [Column("Pairs", "pairs")]
    return Sheet("comparisons", "Compared with random selection", note, data.reset_index(drop=True), columns)


def slopes(table: pd.DataFrame) -> Sheet:
    """Batch-size dependence."""
    columns = [Column("Scenario", "study"), Column("Algorithm", "algorithm"), Column("Statistic", "statistic")]
    columns += [Column("Of", "quantity"), Column("Measure", "measure"), Column("N_batch", "batch_sizes")]
    columns += [Column("Change per doubling", "relative", digits="+.1%"), Column("95 % interval", "interval")]
    columns += [Column("p", "p", digits=".2g"), Column("Seeds", "seeds")]
    note = "Slope of the logarithm of the error over log2 N_batch, fitted for every seed; mean over seeds, t interval."
    return Sheet("batch_slopes", "Dependence on the batch size", note, with_interval(table), columns)


def with_interval(table: pd.DataFrame) -> pd.DataFrame:
    """The table with intervals of changes (`low` and `high` are factors, or changes for slopes) as text."""
    if not len(table):
        return table
    shift = 1.0 if "ratio" in table else 0.0
    pairs = zip(table["low"] - shift, table["high"] - shift, strict=True)
    return table.assign(interval=["" if math.isnan(low) else f"[{low:+.1%}, {high:+.1%}]" for low, high in pairs])
