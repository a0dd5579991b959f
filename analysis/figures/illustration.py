"""Fig. 1: what (1) informativeness, (1)+(2) diversity and (1)-(3) representativeness pick in two dimensions."""

from pathlib import Path

import pandas as pd

from analysis import style
from analysis.figures.base import Drawing, new_figure

POINTS = Path(__file__).with_name("illustration.csv")
"""Points and the order in which bench.selection picks them; written by tests/analysis/illustration.py."""
PANELS = {
    "MaxDiag": "(1): MaxDiag",
    "MaxDist": "(1) + (2): MaxDist",
    "LCMD": "(1) – (3): LCMD",
}


def illustration(points: pd.DataFrame) -> Drawing:
    """Draw pool, training set and the batch that each method picks, numbered in its order."""
    with style.apply({"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure = new_figure(3, 2.0)
        drawing = Drawing(figure, "Batches picked from a pool in two dimensions by this project's own selections.")
        pool, training = points[points["part"] == "pool"], points[points["part"] == "training"]
        for panel, (axis, (method, title)) in enumerate(zip(figure.axes, PANELS.items(), strict=True)):
            axis.plot(pool["x"], pool["y"], "o", color="#AAAAAA", markersize=1.8, mec="none", label="pool")
            axis.plot(
                training["x"],
                training["y"],
                "s",
                color="#0072B2",
                markersize=4.5,
                mec="#ffffff",
                mew=0.5,
                label="training set",
            )
            picked = pool[pool[method] > 0]
            axis.plot(
                picked["x"],
                picked["y"],
                "o",
                color="#D55E00",
                markersize=4.5,
                mec="#ffffff",
                mew=0.5,
                label="picked batch",
            )
            for row in picked.to_dict("records"):
                drawing.points.append((panel, row["x"], row["y"], f"{method}: pick {row[method]}"))
            axis.set_title(title, fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_aspect("equal")
        entries, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(entries, names, loc="outside lower center", ncols=3)
    return drawing
