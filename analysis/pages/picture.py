"""What an algorithm picks in the plane: the pool shaded by its kernel, the training set, the batch in its order."""

from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from analysis import style

POINTS = Path(__file__).with_name("toy.csv")
"""Points, kernels and batches, computed by `bench` in tests/analysis/toy.py."""
SHADES = LinearSegmentedColormap.from_list("shades", ["#E3E3E3", "#8FB3C9", "#12394F"])
"""From light to dark, in grey as well."""
PICKED = "#D55E00"


def points() -> pd.DataFrame:
    """The committed points."""
    return pd.read_csv(POINTS)


def picture(table: pd.DataFrame, algorithm: str, shading: str) -> Figure:
    """Draw an algorithm's batch; `shading` says what a dark point means."""
    kernel = algorithm.split(" + ")[1]
    pool, training = table[table["part"] == "pool"], table[table["part"] == "training"]
    picked = pool[pool[algorithm] > 0]
    with style.apply({"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure = Figure(figsize=(4.6, 3.4), layout="constrained", dpi=120)
        axis = figure.subplots()
        rest = pool[pool[algorithm] == 0].sort_values(kernel)
        shaded = axis.scatter(rest["x"], rest["y"], c=rest[kernel], s=13, cmap=SHADES, vmin=0, vmax=1, linewidths=0)
        axis.plot(training["x"], training["y"], "s", color="#000000", markersize=7, mec="#FFFFFF", mew=0.8)
        axis.plot(picked["x"], picked["y"], "o", color="#FFFFFF", markersize=10, mec=PICKED, mew=1.3)
        for row in picked.to_dict("records"):
            axis.text(row["x"], row["y"], str(row[algorithm]), ha="center", va="center_baseline", fontsize=7)
        axis.set(xticks=[], yticks=[], xlim=(-2.15, 2.25), ylim=(-1.95, 1.85), aspect="equal")
        bar = figure.colorbar(shaded, ax=axis, ticks=[0, 1], shrink=0.7, pad=0.02)
        bar.ax.set_yticklabels(["0", "largest"])
        bar.set_label(shading, labelpad=-18)
        bar.outline.set_linewidth(0.4)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    with style.apply():
        FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
