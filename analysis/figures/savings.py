"""Labels saved against random selection at several error levels, with their intervals."""

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis import style
from analysis.figures.base import Drawing, log_ticks, new_figure, panel_of, tag
from analysis.statistics.values import MEASURES

LEVELS = {"end": ("o", "at its end"), "half": ("s", "at a half"), "quarter": ("^", "at a quarter")}
SHIFTS = dict(zip(LEVELS, (-0.22, 0.0, 0.22), strict=True))


def savings(table: pd.DataFrame, looks: dict[str, style.Look]) -> Drawing:
    """Draw `efficiency` of one study, batch size and quantity: a row a method, a marker a level."""
    with style.apply():
        figure = new_figure(3, 0.95 + 0.2 * len(looks))
        drawing = Drawing(
            figure, "Labels saved: random selection's N_train over the method's, where both reach an error."
        )
        drawing.caption += " Levels are errors of random selection of the same seed. Bars: 90 % intervals over seeds;"
        drawing.caption += " nothing is drawn where a seed does not get there."
        for panel, (axis, measure) in enumerate(zip(figure.axes, MEASURES, strict=True)):
            axis.set_xscale("log")
            for row, (name, look) in enumerate(looks.items()):
                part = table[(table["measure"] == measure) & (table["algorithm"] == name)].dropna(subset="saving")
                for found in part.itertuples():
                    marker, told = LEVELS[found.level]
                    at, before = row + SHIFTS[found.level], set(axis.get_children())
                    axis.plot([found.saving], [at], **(look.line | {"marker": marker, "linestyle": ""}))
                    interval = ""
                    if np.isfinite(found.low):
                        axis.plot([found.low, found.high], [at, at], color=look.colour, linewidth=0.8)
                        interval = f" [{found.low:.2f}, {found.high:.2f}]"
                    tag([artist for artist in axis.get_children() if artist not in before], name, panel_of(axis))
                    text = f"{name}, {measure.upper()} {told}: {found.saving:.2f} times{interval} ({found.seeds} seeds)"
                    drawing.points.append((panel, found.saving, at, text))
            axis.axvline(1, color="#888888", linewidth=0.7, linestyle="--")
            axis.set_yticks(range(len(looks)), [*map(style.plain, looks)] if panel == 0 else [])
            axis.tick_params(axis="y", length=0)
            axis.set_ylim(len(looks) - 0.5, -0.5)
            low, high = axis.get_xlim()
            axis.set_xlim(min(low, 0.8), max(high, 1.25))
            axis.xaxis.set_major_locator(FixedLocator(log_ticks(*axis.get_xlim(), 0.17)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xlabel(f"Labels saved, {measure.upper()} (times)")
        entries = [
            Line2D([], [], color="#666666", marker=marker, linestyle="", label=f"error of RND {told}")
            for marker, told in LEVELS.values()
        ]
        figure.legend(handles=entries, loc="outside upper center", ncols=len(entries))
    return drawing
