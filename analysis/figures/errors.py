"""Errors against N_train (Figs. 3, 6, 10), against N_batch (2, 5, 8, 9), last layer against projections (4, 7, 11)."""

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
    thinned,
)
from analysis.stats import MEASURES

BANDS = "Bands, and bars of single points: standard error of the mean over seeds."


def learning_curves(means: pd.DataFrame, quantity: str, looks: dict[str, style.Look], paper: pd.DataFrame) -> Drawing:
    """Draw `over_seeds` of one study and batch size on log scales; crosses are the paper's numbers."""
    means = thinned(means, looks)
    with style.apply():
        figure = new_figure(3, PANEL_HEIGHT + 0.16 * -(-len(looks) // 4))
        drawing = Drawing(figure, f"Learning curves, N_batch {means['batch_size'].iloc[0]}. {BANDS}")
        entries = handles(looks)
        for panel, (axis, measure) in enumerate(zip(figure.axes, MEASURES, strict=True)):
            for name, look in looks.items():
                part = means[(means["algorithm"] == name) & means[measure].notna()].sort_values("n_train")
                if part.empty:
                    continue
                curve(axis, look, name, part, "n_train", measure, few_markers=True)
                drawing.points += _texts(panel, name, part, "n_train", "N_train", measure)
            quoted = paper[(paper["measure"] == measure) & paper["algorithm"].isin(list(looks))]
            for row in quoted.itertuples():
                look = looks[row.algorithm]
                axis.plot(
                    row.n_train, row.value, "x", color=look.colour, markersize=5, mew=1.2, label="_paper", zorder=5
                )
                drawing.points.append((panel, row.n_train, row.value, f"{row.algorithm}, the paper: {row.value:g}"))
            log_axis(axis, "x")
            log_axis(axis, "y")
            axis.set_xlabel("$N_\\mathrm{train}$")
            axis.set_ylabel(label(quantity, measure))
        if len(paper[paper["algorithm"].isin(list(looks))]):
            entries.append(Line2D([], [], color="#666666", marker="x", linestyle="", label="number in the paper"))
            drawing.caption += " Crosses: numbers that the paper quotes."
        if means["fewer"].any():
            drawing.caption += " Dotted: not all seeds have got there."
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
