"""Errors against N_train (Figs. 3, 6, 10), against N_batch (2, 5, 8, 9), last layer against projections (4, 7, 11)."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from analysis import style
from analysis.figures.base import (
    PANEL_HEIGHT,
    Drawing,
    curve,
    handles,
    label,
    legend,
    log_axis,
    new_figure,
    number,
    panel_of,
    tag,
    thinned,
)
from analysis.paper.numbers import paper_numbers
from analysis.statistics.values import MEASURES
from bench.errors import counted

BANDS = "Bands, and bars of single points: standard error of the mean over seeds."


@dataclass(frozen=True)
class Against:
    """What errors are drawn against: a column of the means, what it is called, its axis, and words of the caption."""

    column: str
    called: str
    axis: str
    caption: str


TRAINING = Against("n_train", "N_train", "$N_\\mathrm{train}$", "Learning curves")
COST = Against("hours", "hours", "Labels and computing (h)", "Errors against cost")


def learning_curves(
    means: pd.DataFrame, quantity: str, looks: dict[str, style.Look], paper: pd.DataFrame, remark: str = ""
) -> Drawing:
    """Draw `over_seeds` of one study and batch size on log scales; crosses are the paper's numbers."""
    return _curves(means, quantity, looks, paper, TRAINING, remark)


def cost_curves(
    means: pd.DataFrame,
    quantity: str,
    looks: dict[str, style.Look],
    label_seconds: float,
    untimed: int,
    remark: str = "",
) -> Drawing:
    """Draw `over_seeds` with mean `hours`: the price of all labels bought, and computing until then.

    `untimed` runs were left out for want of seconds.
    """
    drawing = _curves(means, quantity, looks, paper_numbers().head(0), COST, remark)
    drawing.caption += f" Labels of training, validation and pool where it is read, {label_seconds:g} s each;"
    drawing.caption += " computing as recorded, on machines that did other work."
    if untimed:
        drawing.caption += f" Without {counted(untimed, 'run')} whose seconds cannot be compared."
    return drawing


def _curves(
    means: pd.DataFrame, quantity: str, looks: dict[str, style.Look], paper: pd.DataFrame, x: Against, remark: str
) -> Drawing:
    means = thinned(means, looks)
    with style.apply():
        figure = new_figure(3, PANEL_HEIGHT + 0.16 * -(-len(looks) // 4))
        drawing = Drawing(figure, f"{x.caption}, N_batch {means['batch_size'].iloc[0]}. {BANDS}")
        drawing.caption += f" {remark[0].upper()}{remark[1:]}." if remark else ""
        entries = handles(looks)
        for panel, (axis, measure) in enumerate(zip(figure.axes, MEASURES, strict=True)):
            for name, look in looks.items():
                part = means[(means["algorithm"] == name) & means[measure].notna()].sort_values("n_train")
                if part.empty:
                    continue
                curve(axis, look, name, part, x.column, measure, few_markers=True)
                drawing.points += _texts(panel, name, part, x.column, x.called, measure)
            quoted = paper[(paper["measure"] == measure) & paper["algorithm"].isin(list(looks))]
            for row in quoted.itertuples():
                colour = looks[row.algorithm].colour
                drawn = axis.plot(row.n_train, row.value, "x", color=colour, markersize=5, mew=1.2, zorder=5)
                drawn[0].set_label("_paper")
                tag(drawn, row.algorithm, panel_of(axis))
                drawing.points.append((panel, row.n_train, row.value, f"{row.algorithm}, the paper: {row.value:g}"))
            log_axis(axis, "x")
            log_axis(axis, "y")
            axis.set_xlabel(x.axis)
            axis.set_ylabel(label(quantity, measure))
        if len(paper[paper["algorithm"].isin(list(looks))]):
            entries.append(Line2D([], [], color="#666666", marker="x", linestyle="", label="number in the paper"))
            drawing.caption += " Crosses: numbers that the paper quotes."
        if means["fewer"].any():
            drawing.caption += " Dotted: fewer seeds than where most are."
        legend(figure, entries)
    return drawing


def batch_size(means: pd.DataFrame, quantity: str, looks: dict[str, style.Look]) -> Drawing:
    """Draw the last step's errors (`summarise`: mean, sem) of one study against the batch size."""
    means = thinned(means, looks)
    with style.apply():
        figure = new_figure(3, PANEL_HEIGHT + 0.16 * -(-len(looks) // 4))
        drawing = Drawing(figure, f"Errors of the last step against the batch size. {BANDS}")
        sizes = sorted(means["batch_size"].unique())
        for panel, (axis, measure) in enumerate(zip(figure.axes, MEASURES, strict=True)):
            of_measure = means[means["measure"] == measure].rename(columns={"mean": "value", "sem": "value_sem"})
            for name, look in looks.items():
                part = of_measure[of_measure["algorithm"] == name].sort_values("batch_size")
                if part.empty:
                    continue
                curve(axis, look, name, part, "batch_size", "value", few_markers=False)
                drawing.points += _texts(panel, name, part, "batch_size", "N_batch", "value")
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(FixedLocator(sizes))
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_locator(MaxNLocator(5))
            axis.margins(x=0.08)
            axis.set_xlabel("$N_\\mathrm{batch}$")
            axis.set_ylabel(label(quantity, measure))
        legend(figure, handles(looks))
    return drawing


def _texts(
    panel: int, name: str, part: pd.DataFrame, x: str, called: str, y: str
) -> list[tuple[int, float, float, str]]:
    return [
        (panel, float(at), float(value), f"{name}, {called} {at:g}: {number(value, sem)} ({seeds} seeds)")
        for at, value, sem, seeds in zip(part[x], part[y], part[f"{y}_sem"], part["seeds"], strict=True)
    ]
