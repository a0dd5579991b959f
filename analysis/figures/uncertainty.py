"""How well uncertainties tell errors: correlation coefficients of the last step, and errors against uncertainties."""

import itertools

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.figures.base import Drawing, legend, log_axis, new_figure, number

LOOKS = [("#000000", "o"), ("#0072B2", "s"), ("#D55E00", "^"), ("#009E73", "D"), ("#CC79A7", "v"), ("#E69F00", "P")]
DOTS = 300
"""Structures shown in a panel at most, evenly spread over seeds and uncertainties."""
TARGETS = {"energy": "$|\\Delta E|$", "force": "$\\Delta F(S)$"}


def correlations(means: pd.DataFrame) -> Drawing:
    """Draw Pearson's coefficient (mean, sem by quantity and uncertainty) of a study and batch size: a row a method."""
    looks = style.looks(means["algorithm"])
    means = means[means["coefficient"] == "pearson"]
    kernels = means["algorithm"].str.split(" + ", n=1, regex=False).str[1]
    told = sorted(set(means["uncertainty"]) - {"own"})
    # a kernel's own uncertainty that every run tells is shown as what it is
    means = means[(means["uncertainty"] != "own") | ~kernels.isin(told)]
    own = sorted(set(kernels[means.index][means["uncertainty"] == "own"]))
    names = {"own": f"the run's own: {', '.join(own)}"} | {name: name for name in told}
    kinds = {kind: (name, *look) for (kind, name), look in zip(names.items(), itertools.cycle(LOOKS), strict=False)}
    shifts = 0.22 * (np.arange(len(kinds)) - (len(kinds) - 1) / 2)
    targets = [t for t in TARGETS if (means["quantity"] == t).any()]
    with style.apply():
        figure = new_figure(len(targets), 0.9 + 0.17 * len(looks))
        drawing = Drawing(figure, "Pearson correlation of uncertainty and error in the last step, test set. ")
        drawing.caption += "Bars: standard error of the mean over seeds."
        for panel, (axis, target) in enumerate(zip(figure.axes, targets, strict=True)):
            for shift, (kind, (name, colour, marker)) in zip(shifts, kinds.items(), strict=True):
                chosen = (means["quantity"] == target) & (means["uncertainty"] == kind)
                part = means[chosen].set_index("algorithm")
                rows = [i + shift for i, algorithm in enumerate(looks) if algorithm in part.index]
                part = part.loc[[algorithm for algorithm in looks if algorithm in part.index]]
                spread = part["sem"].fillna(0)
                axis.errorbar(
                    part["mean"], rows, xerr=spread, fmt=marker, color=colour, elinewidth=0.8, label=style.plain(name)
                )
                for row, (algorithm, mean, sem) in zip(
                    rows, zip(part.index, part["mean"], part["sem"], strict=True), strict=True
                ):
                    drawing.points.append((panel, mean, row, f"{algorithm}, {name}: {number(mean, sem)}"))
            axis.set_yticks(range(len(looks)), [*map(style.plain, looks)] if panel == 0 else [])
            axis.tick_params(axis="y", length=0)
            axis.set_ylim(len(looks) - 0.5, -0.5)
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.set_xlabel(f"Pearson correlation with {TARGETS[target]}")
        # a kind that nothing is drawn of has no place in the legend
        shown = set(means["uncertainty"])
        entries = [
            Line2D([], [], color=c, marker=m, linestyle="", label=style.plain(n))
            for k, (n, c, m) in kinds.items()
            if k in shown
        ]
        legend(figure, entries)
    return drawing


def calibration(table: pd.DataFrame, target: str) -> Drawing:
    """Draw error against uncertainty of one study: structures as dots, bins of the uncertainty as a line."""
    table = table[(table["target"] == target) & (table["predicted"] > 0) & (table["error"] > 0)]
    groups = list(dict(list(table.groupby(["algorithm", "uncertainty"]))).items())
    looks = style.looks(table["algorithm"])
    groups.sort(key=lambda group: (list(looks).index(group[0][0]), group[0][1]))
    columns = min(3, max(1, len(groups)))
    rows = -(-len(groups) // columns)
    with style.apply({"lines.markersize": 2}):
        figure = new_figure(columns, 0.3 + 1.8 * rows, rows)
        caption = "Error of single test structures (dots) and root-mean-square error in bins of equally many (line, all"
        drawing = Drawing(
            figure, f"{caption} seeds) against the predicted uncertainty; dashed: equality, where both have one unit."
        )
        for panel, axis in enumerate(figure.axes):
            if panel >= len(groups):
                axis.set_axis_off()
                continue
            (algorithm, uncertainty), part = groups[panel]
            points = part[part["kind"] == "point"]
            points = points.iloc[:: -(-len(points) // DOTS)] if len(points) > DOTS else points
            axis.plot(points["predicted"], points["error"], "o", color=looks[algorithm].colour, alpha=0.4, mec="none")
            bins = part[part["kind"] == "bin"]
            bins = bins.assign(bin=bins.groupby("run_id").cumcount()).groupby("bin")[["predicted", "error"]].mean()
            axis.plot(bins["predicted"], bins["error"], "o-", color="#000000", markersize=3)
            for predicted, error in zip(bins["predicted"], bins["error"], strict=True):
                drawing.points.append((panel, predicted, error, f"uncertainty {predicted:.3g}: RMS error {error:.3g}"))
            for which in "xy":
                log_axis(axis, which)
            if part["of"].iloc[0] == target:
                limits = axis.get_xlim(), axis.get_ylim()
                both = [min(limits[0][0], limits[1][0]), max(limits[0][1], limits[1][1])]
                axis.plot(both, both, "--", color="#888888", linewidth=0.7)
                axis.set(xlim=limits[0], ylim=limits[1])
            own = algorithm.endswith(uncertainty)
            axis.set_title(style.plain(algorithm if own else f"{algorithm}: {uncertainty}"), fontsize=7)
            if panel >= len(groups) - columns:
                unit = style.UNITS[part["of"].iloc[0]]
                axis.set_xlabel(f"Uncertainty ({unit})")
            if panel % columns == 0:
                axis.set_ylabel(f"{TARGETS[target]} ({style.UNITS[target]})")
    return drawing
