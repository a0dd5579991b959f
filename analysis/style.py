"""How methods and scenarios look and are called, in one place; those not named here are drawn all the same.

Hues are Okabe and Ito's (safe for colour-blind readers) and a brown. The two kernels of a pair share the hue: the
paper's main one is filled and solid, the other hollow and dashed, so that no two methods differ by colour alone.
"""

import io
import itertools
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bench.runs.record import write_atomically


@dataclass(frozen=True)
class Look:
    """A method's colour, marker and line; `main` methods are drawn in the paper's main panels.

    `main` may name the quantity that must be trained on: AE(F), QBC(F) for forces, AE(E), QBC(E) for energies.
    """

    colour: str
    marker: str
    hollow: bool = False
    main: bool | str = False

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of a line with markers."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": (0, (4, 1.5)) if self.hollow else "-",
            "markerfacecolor": "white" if self.hollow else self.colour,
            "markeredgecolor": self.colour,
            "markeredgewidth": 0.8,
        }


METHODS: dict[str, Look] = {
    "MaxDiag + RND": Look("#000000", "o", main=True),
    "MaxDiag + AE(E)": Look("#CC79A7", "X", hollow=True, main="energy"),
    "MaxDiag + AE(F)": Look("#CC79A7", "X", main="force"),
    "MaxDiag + QBC(E)": Look("#56B4E9", "P", hollow=True, main="energy"),
    "MaxDiag + QBC(F)": Look("#56B4E9", "P", main="force"),
    "MaxDiag + GP(LL)": Look("#E69F00", "v", main=True),
    "MaxDiag + GP(RP)": Look("#E69F00", "v", hollow=True),
    "MaxDet + GP(LL)": Look("#0072B2", "s", main=True),
    "MaxDet + GP(RP)": Look("#0072B2", "s", hollow=True),
    "MaxDist + GP(LL)": Look("#8C564B", "h"),
    "MaxDist + GP(RP)": Look("#8C564B", "h", hollow=True),
    "MaxDist + FEAT(LL)": Look("#009E73", "^", main=True),
    "MaxDist + FEAT(RP)": Look("#009E73", "^", hollow=True),
    "LCMD + FEAT(LL)": Look("#D55E00", "D", main=True),
    "LCMD + FEAT(RP)": Look("#D55E00", "D", hollow=True),
}
OTHERS = [Look(c, m, main=True) for m, c in itertools.product("<>dp", ("#7A5195", "#666666", "#B8A400", "#4B0082"))]

SCENARIOS: dict[str, str] = {
    "md17_10_100": "Aspirin, 10 → 100",
    "md17_100_1000": "Aspirin, 100 → 1000",
    "qm9_1000_10000": "QM9, 1000 → 10 000",
    "qm9_5000_25000": "QM9, 5000 → 25 000",
    "tio2_10_250": "TiO₂, 10 → 250",
    "tio2_500_2500": "TiO₂, 500 → 2500",
    "lmnto_100_1000": "LMNTO, 100 → 1000",
    "demo": "Demo: aspirin (revised MD17), 10 → 40",
}
BROUGHT = (*SCENARIOS, "single_training")
"""The paper's scenarios and what stands beside them; all others count as studies of the user's own."""
UNITS = {"force": "kcal mol$^{-1}$ Å$^{-1}$", "energy": "kcal mol$^{-1}$"}
PLAIN_UNITS = {"force": "kcal/mol/Å", "energy": "kcal/mol"}
WIDTH = 7.0
"""Inches: two columns of the journal."""
FORMATS = ("svg", "png")


@dataclass(frozen=True)
class Choice:
    """How figures are written: width in inches, formats beside SVG, a style sheet over this project's settings."""

    width: float = WIDTH
    formats: tuple[str, ...] = FORMATS
    settings: tuple[tuple[str, Any], ...] = ()


USUAL = Choice()
chosen: ContextVar[Choice] = ContextVar("chosen", default=USUAL)

RC: dict[Any, Any] = {
    "font.size": 7.5,
    "font.family": "DejaVu Sans",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "lines.linewidth": 1.1,
    "lines.markersize": 3.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "bmdal-bench",
    "figure.dpi": 200,
    "savefig.dpi": 200,
}


MOST_LETTERS = 48
"""Of a name in a figure."""


def looks(algorithms: Iterable[str]) -> dict[str, Look]:
    """Looks of the algorithms present: known ones in their order, then the others by name."""
    present = set(algorithms)
    known = {name: look for name, look in METHODS.items() if name in present}
    return known | dict(zip(sorted(present - set(known)), itertools.cycle(OTHERS), strict=False))


def main_methods(algorithms: Iterable[str], *, forces: bool) -> dict[str, Look]:
    """Those of the paper's main panels, and every method the paper does not know."""
    trained = "force" if forces else "energy"
    return {name: look for name, look in looks(algorithms).items() if look.main in (True, trained)}


def scenario_title(scenario: str, deviations: str) -> str:
    """What a scenario is called in a heading; an altered one says so, one of another name has its own."""
    return SCENARIOS.get(scenario, scenario) + (" (altered)" if deviations and scenario in BROUGHT else "")


def study_title(scenario: str, deviations: str) -> str:
    """What a study is called in a sentence: its scenario, and where it departs from it."""
    return scenario_title(scenario, deviations) + (f" ({deviations})" if deviations else "")


def scenario_order(scenario: str) -> tuple[int, str]:
    """Sorts scenarios: the user's own come first, the project's follow as the paper has them."""
    return (BROUGHT.index(scenario) if scenario in BROUGHT else -1, scenario)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as SVG and in the other formats chosen, the same bytes for the same data. Raises WriteError."""
    formats = dict.fromkeys(("svg", *chosen.get().formats))
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in formats]
    with apply():
        # laid out once, and drawn once for each file
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        resolution = figure.dpi
        for path in paths:
            # the canvas of a vector format changes it
            figure.dpi = resolution
            content = io.BytesIO()
            if path.suffix == ".svg":
                FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None})
            elif path.suffix == ".png":
                FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})
            else:
                FigureCanvasPdf(figure).print_pdf(content, metadata={"CreationDate": None})
            write_atomically(path, content.getvalue())
        figure.dpi = resolution
    return paths


def apply(changes: Mapping[Any, Any] | None = None) -> AbstractContextManager[None]:
    """Context in which every figure is drawn."""
    return mpl.rc_context(RC | dict(changes or {}) | dict(chosen.get().settings))


def plain(name: str) -> str:
    """A name from outside as matplotlib writes it letter by letter: a dollar begins no formula.

    A long one is cut in its middle, for beside it nothing would be left to draw on; the page's own text has it whole.
    """
    if len(name) > MOST_LETTERS:
        name = f"{name[: MOST_LETTERS // 2]}…{name[-MOST_LETTERS // 2 + 1 :]}"
    return name.replace("$", r"\$")
