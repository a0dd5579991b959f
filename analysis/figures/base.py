"""What all figures share: a drawing with its values, three panels of one measure each, bands, ticks, the legend."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from analysis import style

PANEL_HEIGHT = 2.1
MARKERS = 9
"""At most so many markers on a curve; lines use all steps."""


@dataclass
class Drawing:
    """A figure, what it shows in words, and its values where a reader may point: panel, x, y, text."""

    figure: Figure
    caption: str
    points: list[tuple[int, float, float, str]] = field(default_factory=list)

    def positions(self) -> list[tuple[float, float, str]]:
        """Values with their places in the SVG, in points from the top left corner, once the figure is saved."""
        scale = 72 / self.figure.dpi
        height = float(self.figure.get_figheight() * 72)
        places = []
        for panel, x, y, text in self.points:
            at = self.figure.axes[panel].transData.transform((x, y)) * scale
            if np.isfinite(at).all():
                places.append((round(float(at[0]), 1), round(height - float(at[1]), 1), text))
        return places


def new_figure(panels: int, height: float, rows: int = 1) -> Figure:
    """A figure of the chosen width with panels side by side, to be drawn within style.apply()."""
    figure = Figure(figsize=(style.chosen.get().width, height), layout="constrained")
    figure.subplots(rows, panels)
    return figure


def curve(axis: Axes, look: style.Look, label: str, part: pd.DataFrame, x: str, y: str, *, few_markers: bool) -> None:
    """A line over all rows with a band of one standard error (a bar at one row); dotted where seeds are missing."""
    xs, ys = part[x].to_numpy(dtype=float), part[y].to_numpy(dtype=float)
    band = part[f"{y}_sem"].fillna(0).to_numpy(dtype=float)
    line = look.line | {"markevery": spread(xs) if few_markers else None}
    fewer = part["fewer"].to_numpy(dtype=bool) if "fewer" in part else np.zeros(len(part), dtype=bool)
    whole = int(np.argmax(fewer)) if fewer.any() else len(part)
    label, name = style.plain(label), label
    before = set(axis.get_children())
    axis.plot(xs, ys, label=label, **(line | ({"linestyle": ":"} if not whole else {})))
    if 0 < whole < len(part):
        axis.lines[-1].set_data(xs[:whole], ys[:whole])
        axis.lines[-1].set_markevery(spread(xs[:whole]))
        axis.plot(xs[whole - 1 :], ys[whole - 1 :], color=look.colour, linestyle=":", label=f"_{label}, fewer seeds")
    if len(part) == 1:
        axis.errorbar(xs, ys, yerr=band, fmt="none", ecolor=look.colour, elinewidth=0.8)
    axis.fill_between(xs, ys - band, ys + band, color=look.colour, alpha=0.18, linewidth=0)
    tag([artist for artist in axis.get_children() if artist not in before], name, panel_of(axis))


def tag(artists: Iterable[Artist], name: str, place: str) -> None:
    """Mark what is drawn of a method, so that a page can hide it: `report.drawn` reads the name from the id."""
    for number, artist in enumerate(artists):
        artist.set_gid(f"method-{name.encode().hex()}-{place}-{number}")


def panel_of(axis: Axes) -> str:
    """A place in a figure that no other artist has: the panel, and how many are drawn on it."""
    figure = axis.get_figure()
    return f"{figure.axes.index(axis) if figure else 0}-{len(axis.get_children())}"


def spread(x: np.ndarray) -> list[int]:
    """Indices of markers, evenly spread on a log scale, first and last among them."""
    wanted = np.geomspace(x[0], x[-1], MARKERS) if len(x) > MARKERS else x
    return sorted({int(np.abs(x - size).argmin()) for size in wanted})


def log_axis(axis: Axes, which: str) -> None:
    """A log scale with two to five plain numbers as ticks, whatever the range."""
    (axis.set_xscale if which == "x" else axis.set_yscale)("log")
    scale = axis.xaxis if which == "x" else axis.yaxis
    low, high = axis.get_xlim() if which == "x" else axis.get_ylim()
    # numbers stand side by side on one axis, above each other on the other
    scale.set_major_locator(FixedLocator(log_ticks(low, high, 0.17 if which == "x" else 0.08)))
    scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if 1e-3 <= value < 1e5 else f"{value:.0e}"))
    scale.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float, room: float) -> list[float]:
    """Round numbers within the limits, two to five, no two nearer than the fraction `room` of the axis."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    finest: tuple[float, ...] = (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    for subs in (finest, (1, 1.5, 2, 3, 4, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [round(sub * 10.0**decade, 12) for decade in decades for sub in subs]
        inside = [tick for tick in ticks if low <= tick <= high]
        near = np.diff(np.log(inside)).min(initial=np.inf) < room * np.log(high / low)
        if 2 <= len(inside) <= 5 and not near:
            return inside
    if high / low > 100:
        inside = [10.0**decade for decade in decades if low <= 10.0**decade <= high]
        return inside[:: -(-len(inside) // 4)]
    return [t for t in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= t <= high]


def legend(figure: Figure, handles: Sequence[Line2D], columns: int = 4) -> None:
    """One legend above the panels."""
    made = figure.legend(
        handles=handles, loc="outside upper center", ncols=min(columns, len(handles)), handlelength=2.6
    )
    for number, (handle, text, entry) in enumerate(zip(made.legend_handles, made.get_texts(), handles, strict=True)):
        if (name := entry.get_gid()) and handle is not None:
            tag((handle, text), name, f"legend-{number}")


def handles(looks: dict[str, style.Look]) -> list[Line2D]:
    """Legend entries of methods."""
    return [Line2D([], [], label=style.plain(name), gid=name, **look.line) for name, look in looks.items()]


def number(value: float, sem: float = float("nan")) -> str:
    """Value ± standard error to four digits."""
    return f"{value:.4g}" + ("" if not np.isfinite(sem) else f" ± {sem:.2g}")


def label(quantity: str, measure: str) -> str:
    """An axis label with its unit."""
    return f"{quantity.capitalize()} {measure.upper()} ({style.UNITS[quantity]})"


def thinned(table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """The rows of some algorithms."""
    return table[table["algorithm"].isin(list(names))]
