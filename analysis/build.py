"""Everything that can be made from what is recorded: python -m analysis.build [--results FOLDER]

Writes data/*.parquet, tables/*.{csv,md,tex}, figures/*.{svg,png} and report.html below FOLDER/analysis. With
--data FOLDER the tables of an earlier build are taken instead of records, e.g. results/reference/demo/data.
"""

import contextlib
import io
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd

from analysis import style
from analysis.figures.catalogue import Job, chosen_jobs
from analysis.plan import current_checksums, states
from analysis.records.collect import Collector, Tables
from analysis.records.found import read_or_describe, record_paths
from analysis.report.drawn import Drawn
from analysis.report.page import page
from analysis.statistics.efficiency import LABEL_SECONDS
from analysis.tables.sheet import Sheet
from analysis.tables.sheets import Statistics, sheets
from bench.commands import called
from bench.commands.frame import framed, named
from bench.config.command_line import PlainParser
from bench.config.sweep import Cell, expand
from bench.errors import UserError
from bench.runs.progress import progress
from bench.runs.record import make_folder, write_atomically
from bench.runs.system import cores


@framed
def main() -> None:
    """Entry point; exits with 2 when there is nothing to analyse."""
    parser = PlainParser(prog=called("build"), description=(__doc__ or "").splitlines()[0])
    results = "folder given to the runs as results=; several are taken together, and then --output is needed"
    parser.add_argument("--results", type=named, nargs="+", default=[Path("results")], help=results)
    parser.add_argument("--output", type=named, help="where to write (RESULTS/analysis)")
    parser.add_argument("--data", type=named, help="folder of tables of an earlier build, instead of records")
    parser.add_argument("--sweep", default="paper", help="the sweep whose completeness is told (paper)")
    parser.add_argument("--label-seconds", type=float, default=LABEL_SECONDS, help="price of a label in seconds")
    parser.add_argument("--workers", type=int, default=len(cores()), help="processes that draw")
    parser.add_argument("--page", action="store_true", help="write report.html alone")
    chosen = parser.add_argument_group("figures for a paper of your own")
    chosen.add_argument(
        "--figures", type=_names(","), default=[], help="names or patterns, e.g. 'learning_curves_*,cost_*'"
    )
    chosen.add_argument("--algorithms", type=_names(";"), default=[], help="e.g. 'MaxDiag + RND;LCMD + FEAT(LL)'")
    chosen.add_argument("--width", type=float, default=style.WIDTH, help=f"inches ({style.WIDTH:g}: two columns)")
    chosen.add_argument("--format", type=_names(","), default=list(style.FORMATS), help="svg, png, pdf (svg,png)")
    chosen.add_argument("--style", type=named, help="a matplotlib style file, over this project's settings")
    arguments = parser.parse_args()
    if len(arguments.results) > 1 and not arguments.output:
        raise UserError("--results names several folders: say with --output where to write")
    if not 0 <= arguments.label_seconds < math.inf:
        raise UserError(f"--label-seconds {arguments.label_seconds:g}: give the price of a label, zero seconds or more")
    output = arguments.output or arguments.results[0] / "analysis"
    wanted = Wanted(
        arguments.label_seconds,
        arguments.workers,
        arguments.page,
        tuple(arguments.figures),
        tuple(arguments.algorithms),
        choice(arguments.width, arguments.format, arguments.style),
    )
    collected = Tables.load(arguments.data) if arguments.data else collect(arguments.results, arguments.sweep)
    build(collected, output, wanted)


def _names(separator: str) -> Callable[[str], list[str]]:
    return lambda text: [name.strip() for name in text.split(separator) if name.strip()]


@dataclass(frozen=True)
class Wanted:
    """What is to be written and how: `page` is the report alone; `figures` are patterns, none of them means all."""

    label_seconds: float = LABEL_SECONDS
    workers: int = 1
    page: bool = False
    figures: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()
    choice: style.Choice = style.USUAL


def choice(width: float, formats: Sequence[str], sheet: Path | None) -> style.Choice:
    """How figures are written. Raises UserError."""
    for name in formats:
        if name not in ("svg", "png", "pdf"):
            raise UserError(f"--format {name!r} is not known: take svg, png, pdf or several of them, as svg,pdf")
    if not 1 <= width <= 40:
        raise UserError(f"--width {width:g}: give inches between 1 and 40; two columns of a journal are 7")
    if sheet is None:
        return style.Choice(width, tuple(formats))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            settings = mpl.rc_params_from_file(str(sheet), use_default_template=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--style {sheet} cannot be read ({error}): give a matplotlib style file") from None
    return style.Choice(width, tuple(formats), tuple(settings.items()))


def collect(results: Path | Sequence[Path], sweep: str = "paper") -> Tables:
    """Read every record below `results`, one folder or several, and compare with a sweep's cells. Raises UserError."""
    folders = [results] if isinstance(results, Path) else list(results)
    collector = Collector()
    # a run that lies in several folders counts once
    paths = {path.parent.name: path for folder in reversed(folders) for path in record_paths(folder)}
    for path in progress(sorted(paths.values()), "records", unit="record"):
        collector.add(read_or_describe(path))
    if not collector.slim:
        below = ", ".join(str(folder / "runs") for folder in folders)
        damaged = collector.damage()
        if damaged:
            raise UserError(f"no sound record below {below}: {'; '.join(damaged)}")
        raise UserError(f"no finished step below {below}: run something first, e.g. make run")
    cells = expand([f"sweep={sweep}"])
    recorded = {one.record.identity["scenario"]["name"] for one in collector.slim if one.record}
    for scenario in sorted(recorded - {cell.run.scenario.name for cell in cells}):
        cells += _cells_of(scenario)
    return collector.tables(folders, pd.DataFrame(states(cells, collector.slim)), current_checksums(cells))


def _cells_of(scenario: str) -> list[Cell]:
    """The cells of the sweep that is called like a scenario, if there is one."""
    try:
        return expand([f"sweep={scenario}"])
    except UserError:
        return []


def build(collected: Tables, output: Path, wanted: Wanted | None = None) -> None:
    """Write everything below `output`, replacing what an earlier build wrote, and print the last errors."""
    wanted = wanted or Wanted()
    found = Statistics.of(collected, wanted.label_seconds)
    made = sheets(found, collected)
    chosen = chosen_jobs(collected, found, wanted.figures, wanted.algorithms)
    make_folder(output)
    if wanted.page:
        with tempfile.TemporaryDirectory() as beside:
            drawn = draw(chosen, Path(beside), wanted.workers, wanted.choice)
    else:
        folders = {name: output / name for name in ("data", "tables", "figures")}
        for folder in folders.values():
            make_folder(folder)
        drawn = draw(chosen, folders["figures"], wanted.workers, wanted.choice)
        collected.save(folders["data"])
        for sheet in made:
            sheet.save(folders["tables"])
    files = () if wanted.page else tuple(dict.fromkeys(("svg", *wanted.choice.formats)))
    write_atomically(output / "report.html", page(collected, found, made, drawn, files).encode())
    print(last_errors(made))
    told = collected.runs[(collected.runs["failure"] != "") & collected.runs["state"].isin(["done", "damaged"])]
    for failure in told["failure"]:
        print(f"left out: {failure}", file=sys.stderr)
    written = "" if wanted.page else f"{len(made)} tables, {len(drawn)} figures and "
    print(f"wrote {written}{output / 'report.html'}")


def draw(wanted: Sequence[Job], folder: Path, workers: int, chosen: style.Choice = style.USUAL) -> list[Drawn]:
    """Draw all figures, in several processes where there are many."""
    if workers < 2 or len(wanted) < 8:
        return [_draw(job, folder, chosen) for job in progress(wanted, "figures", unit="figure")]
    with ProcessPoolExecutor(workers) as pool:
        done = pool.map(_draw, wanted, [folder] * len(wanted), [chosen] * len(wanted), chunksize=2)
        return list(progress(done, "figures", unit="figure", total=len(wanted)))


def _draw(job: Job, folder: Path, chosen: style.Choice) -> Drawn:
    token = style.chosen.set(chosen)
    try:
        drawing = job.draw(*job.arguments)
        svg, *_ = style.save(drawing.figure, folder / job.name)
    finally:
        style.chosen.reset(token)
    return Drawn(
        job.name, job.study, job.heading, drawing.caption, svg.read_text(encoding="utf-8"), drawing.positions()
    )


def last_errors(made: Sequence[Sheet], most: int = 40) -> str:
    """The errors of the last step in lines, unless they are too many for a terminal."""
    sheet = next((sheet for sheet in made if sheet.name == "errors_final"), None)
    if sheet is None or len(sheet.data) > most:
        return ""
    rows = [[column.heading for column in sheet.columns], *sheet.cells()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{sheet.title}. {sheet.note}", *lines, ""])


if __name__ == "__main__":
    main()
