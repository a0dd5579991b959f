"""A selection on one page: coverage against the number of picks, a map, uncertainties, and a table of the picks."""

import base64
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from bench.pools.selecting import Batch

MAPPED = 5000
"""Structures of the pool, evenly spaced, that the map shows."""
COLUMNS = {
    "uncertainty_eV": ("uncertainty (eV)", "the predicted standard deviation of the energy"),
    "distance": ("distance", "in the features of the kernel, from the nearest structure labelled or picked before"),
    "cluster": ("cluster", "how many structures of the pool are nearest to this pick in the end"),
}
"""What is known of picks, where it is known of any, and what it is."""
PANELS = {
    "coverage": "how far the pool is from what is labelled or picked, after each pick",
    "map": "pool and picks in the two directions in which the features differ most",
    "uncertainty": "how many structures of the pool and of the picks have which uncertainty",
}
GREY, BLUE, ORANGE = "#9a9a9a", "#0072B2", "#D55E00"
PAGE = Path(__file__).with_suffix(".html")


def page_of(batch: Batch, record: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The figure as PNG, and the page as HTML, which holds it."""
    import jinja2  # noqa: PLC0415 - with matplotlib half a second, after the work

    picture, panels = draw(batch)
    counts = record["structures"]
    validating = f", {counts['validating']} more validate the model" if counts["validating"] else ""
    summary = (
        f"{record['selection']} + {record['kernel']}: {len(batch.rows)} of {counts['could_be_chosen']} structures"
        f" that can be chosen, of {counts['pool']} in the pool; {counts['known']} were labelled or pending{validating}."
    )
    known = {key: told for key, told in COLUMNS.items() if any(key in one for one in record["picks"])}
    rows = [
        [one["order"], f"{one['pool_file']}:{one['pool_index']}", *(_cell(one.get(key)) for key in known)]
        for one in record["picks"]
    ]
    template = jinja2.Environment(autoescape=True).from_string(PAGE.read_text(encoding="utf-8"))
    text = template.render(
        title=f"{len(batch.rows)} structures to label",
        summary=summary,
        picture=base64.b64encode(picture).decode(),
        alt=", ".join(panels) + " of the selection",
        panels=_sentence((name, PANELS[name]) for name in panels),
        rejected=counts["rejected"],
        heads=["#", "file:frame", *(head for head, _ in known.values())],
        columns=_sentence(known.values()),
        rows=rows,
    )
    return picture, text.encode()


def _sentence(told: Iterable[tuple[str, str]]) -> str:
    """What each name means: `Name: what it is; name: what it is.`"""
    text = "; ".join(f"{name}: {what}" for name, what in told)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def draw(batch: Batch) -> tuple[bytes, list[str]]:
    """The figure as PNG, and the names of its panels."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    panels = [name for name, there in _panels(batch) if there]
    figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        {"coverage": _coverage, "map": _map, "uncertainty": _histogram}[name](axes, batch)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue(), panels


def _panels(batch: Batch) -> list[tuple[str, bool]]:
    features = batch.chosen.embedding.pool is not None
    values = batch.uncertainty is not None or not features
    return [("coverage", features), ("map", features), ("uncertainty", values)]


def _coverage(axes: Any, batch: Batch) -> None:
    covers = batch.next_coverage or batch.coverage
    if covers is None:
        return
    picks, n = np.arange(len(covers.largest)), len(batch.rows)
    for values, label, colour in (
        (np.array(covers.largest), "largest distance", BLUE),
        (np.sqrt(covers.mean_squared), "root mean squared distance", ORANGE),
        (np.array(covers.uncertainty), "mean uncertainty", GREY),
    ):
        start = next((value for value in values if np.isfinite(value)), None)
        if start:
            axes.plot(picks[: n + 1], values[: n + 1] / start, label=label, color=colour)
            axes.plot(picks[n:], values[n:] / start, color=colour, linestyle=":")
    axes.set_xlabel("structures picked" + (" (dotted: the next batch)" if batch.next_coverage else ""))
    axes.set_ylabel("of the pool, relative to the start")
    axes.set_ylim(0, None)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _map(axes: Any, batch: Batch) -> None:
    embedding = batch.chosen.embedding
    if embedding.pool is None or embedding.training is None:
        return
    shown = np.unique(np.linspace(0, len(embedding.pool) - 1, MAPPED).astype(np.int64))
    pool = embedding.pool[shown].cpu().numpy()
    mean = pool.mean(0)
    _, vectors = np.linalg.eigh((pool - mean).T @ (pool - mean))
    plane = np.zeros((len(mean), 2))  # the second direction stays zero where there is one feature alone
    plane[:, : len(mean)] = vectors[:, :-3:-1]

    def on_plane(features: Any) -> Float[np.ndarray, "n 2"]:
        return (features.cpu().numpy() - mean) @ plane

    picked = on_plane(embedding.pool[batch.chosen.places.tolist()])
    axes.scatter(*((pool - mean) @ plane).T, s=4, color=GREY, alpha=0.5, linewidth=0, label="pool")
    if len(embedding.training):
        axes.scatter(*on_plane(embedding.training).T, s=14, color=BLUE, marker="s", linewidth=0, label="labelled")
    axes.scatter(*picked.T, s=18, color=ORANGE, marker="^", linewidth=0, label="picked")
    axes.locator_params(nbins=5)
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second principal component")
    axes.legend(frameon=False, fontsize=8)


def _histogram(axes: Any, batch: Batch) -> None:
    values = batch.uncertainty
    label = "uncertainty of the energy (eV)"
    if values is None:
        values, label = batch.chosen.embedding.diagonal.cpu().numpy(), "k(S, S)"
    edges = np.histogram_bin_edges(values, bins=40)
    axes.hist(values, bins=edges, color=GREY, label="pool")
    axes.hist(values[batch.chosen.places], bins=edges, color=ORANGE, label="picked")
    axes.locator_params(axis="x", nbins=5)
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("structures")
    axes.legend(frameon=False, fontsize=8)
