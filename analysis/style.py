"""How methods look, in one place: order, colour (Okabe-Ito, safe for colour-blind readers) and marker."""

import itertools
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

METHODS: dict[str, tuple[str, str]] = {
    "MaxDiag + RND": ("#000000", "o"),
    "MaxDiag + GP(LL)": ("#E69F00", "v"),
    "MaxDet + GP(LL)": ("#0072B2", "s"),
    "MaxDist + FEAT(LL)": ("#009E73", "^"),
    "LCMD + FEAT(LL)": ("#D55E00", "D"),
}
OTHERS = ["#CC79A7", "#56B4E9", "#F0E442", "#999999"]
UNITS = {"force": "kcal mol$^{-1}$ Å$^{-1}$", "energy": "kcal mol$^{-1}$"}

RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.3,
    "grid.color": "#dddddd",
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "svg.hashsalt": "bmdal-bench",
    "savefig.dpi": 200,
}


def ordered(algorithms: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of the algorithms present: known ones in their order, then the others by name."""
    present = set(algorithms)
    known = {name: look for name, look in METHODS.items() if name in present}
    spare = zip(sorted(present - set(known)), itertools.cycle(OTHERS), strict=False)
    return known | {name: (colour, "P") for name, colour in spare}


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as SVG and PNG, the same bytes for the same data."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("svg", "png")]
    with apply():
        figure.savefig(paths[0], metadata={"Date": None})
        figure.savefig(paths[1])
    return paths


def apply() -> AbstractContextManager[None]:
    """Context in which every figure is drawn."""
    return mpl.rc_context(RC)
