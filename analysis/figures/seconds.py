"""Seconds of a step, split into training, features (with the posterior) and selection."""

import pandas as pd
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.figures.base import Drawing, new_figure, number

PARTS = {"training": "#999999", "features": "#56B4E9", "selection": "#D55E00"}


def seconds(means: pd.DataFrame) -> Drawing:
    """Draw mean seconds (mean, sem by `name`) of one study and batch size: all, and without training."""
    looks = style.looks(means["algorithm"])
    wide = means.pivot(index="algorithm", columns="name", values="mean").reindex(list(looks)).fillna(0)
    spread = means.pivot(index="algorithm", columns="name", values="sem").reindex(list(looks))
    present = [name for name in PARTS if name in wide]
    with style.apply():
        figure = new_figure(2, 0.85 + 0.16 * len(looks))
        drawing = Drawing(figure, "Seconds of a step, mean over steps and seeds; right: without training.")
        for panel, (axis, parts) in enumerate(zip(figure.axes, (present, present[1:]), strict=True)):
            left = pd.Series(0.0, index=wide.index)
            for name in parts:
                axis.barh(range(len(looks)), wide[name], left=left, color=PARTS[name], height=0.7, linewidth=0)
                for row, algorithm in enumerate(looks):
                    value, sem = float(wide.loc[algorithm, name]), float(spread.loc[algorithm, name])
                    middle = float(left[algorithm]) + value / 2
                    drawing.points.append((panel, middle, row, f"{algorithm}, {name}: {number(value, sem)} s"))
                left = left + wide[name]
            axis.set_yticks(range(len(looks)), [*map(style.plain, looks)] if panel == 0 else [])
            axis.tick_params(axis="y", length=0)
            axis.set_ylim(len(looks) - 0.5, -0.5)
            axis.grid(visible=False, axis="y")
            axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.set_xlabel("Time per step (s)" if panel == 0 else "Features and selection per step (s)")
        patches = [Patch(color=PARTS[name], label=name) for name in present]
        figure.legend(handles=patches, loc="outside upper center", ncols=len(patches))
    return drawing
