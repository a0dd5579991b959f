"""Learning curves as in Figs. 3, 6 and 10: MAE, RMSE and MAXE against the size of the training set."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from analysis import style
from analysis.stats import MEASURES, over_seeds


def learning_curves(table: pd.DataFrame, quantity: str) -> Figure:
    """Draw the curves of one scenario and batch size; bands are the standard error of the mean over seeds."""
    means = over_seeds(table, quantity)
    with style.apply():
        figure = Figure(figsize=(7.0, 2.6), layout="constrained")
        axes = figure.subplots(1, 3)
        for axis, measure in zip(axes, MEASURES, strict=True):
            for algorithm, (colour, marker) in style.ordered(means["algorithm"]).items():
                curve = means[means["algorithm"] == algorithm].sort_values("n_train")
                x, y, band = curve["n_train"], curve[measure], curve[f"{measure}_sem"].fillna(0)
                axis.plot(x, y, color=colour, marker=marker, label=algorithm)
                axis.fill_between(x, y - band, y + band, color=colour, alpha=0.2, linewidth=0)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 1.5, 2, 3, 4, 5, 6, 8)))
            for scale in (axis.xaxis, axis.yaxis):
                scale.set_major_formatter(ScalarFormatter())
                scale.set_minor_formatter(NullFormatter())
            sizes = sorted(means["n_train"].unique())
            axis.set_xticks(sizes if len(sizes) <= 6 else sizes[:: -(-len(sizes) // 6)], minor=False)
            axis.set_xlabel("$N_\\mathrm{train}$")
            axis.set_ylabel(f"{quantity} {measure.upper()} / {style.UNITS[quantity]}")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=min(5, len(labels)))
    return figure
