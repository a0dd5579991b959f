"""Everything that can be made from what is recorded: python -m analysis.build [--results FOLDER]

Writes data/*.parquet, tables/*.{csv,md,tex}, figures/*.{svg,png} and report.html below FOLDER/analysis. With
--data FOLDER the tables of an earlier build are taken instead of records, e.g. results/reference/demo/data.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd

from analysis import style
from analysis.collect import Collector, Tables
from analysis.efficiency import LABEL_SECONDS
from analysis.figures.catalogue import Job, jobs
from analysis.plan import current_checksums, states
from analysis.records import read_or_describe, record_paths
from analysis.report.drawn import Drawn
from analysis.report.page import page
from analysis.sheets import Statistics, sheets
from analysis.tables import Sheet
from bench.commands import called
from bench.errors import UserError
from bench.frame import framed
from bench.progress import progress
from bench.record import make_folder, write_atomically
from bench.sweep import Cell, expand
from bench.system import cores


@framed
def main() -> None:
    """Entry point; exits with 2 when there is nothing to analyse."""
    parser = argparse.ArgumentParser(prog=called("build"), description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder given to the runs as results=")
    parser.add_argument("--output", type=Path, help="where to write (RESULTS/analysis)")
    parser.add_argument("--data", type=Path, help="folder of tables of an earlier build, instead of records")
    parser.add_argument("--sweep", default="paper", help="the sweep whose completeness is told (paper)")
    parser.add_argument("--label-seconds", type=float, default=LABEL_SECONDS, help="price of a label in seconds")
    parser.add_argument("--workers", type=int, default=len(cores()), help="processes that draw")
    arguments = parser.parse_args()
    output = arguments.output or arguments.results / "analysis"
    try:
        collected = Tables.load(arguments.data) if arguments.data else collect(arguments.results, arguments.sweep)
        build(collected, output, arguments.label_seconds, arguments.workers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def collect(results: Path, sweep: str = "paper") -> Tables:
    """Read every record below `results` and compare with a sweep's cells. Raises UserError if there is no record."""
    collector = Collector()
    for path in progress(record_paths(results), "records", unit="record"):
        collector.add(read_or_describe(path))
    if not collector.slim:
        raise UserError(f"no finished step below {results / 'runs'}: run something first, e.g. make run")
    cells = expand([f"sweep={sweep}"])
    recorded = {one.record.identity["scenario"]["name"] for one in collector.slim if one.record}
    for scenario in sorted(recorded - {cell.run.scenario.name for cell in cells}):
        cells += _cells_of(scenario)
    return collector.tables(results, pd.DataFrame(states(cells, collector.slim)), current_checksums(cells))


def _cells_of(scenario: str) -> list[Cell]:
    """The cells of the sweep that is called like a scenario, if there is one."""
    try:
        return expand([f"sweep={scenario}"])
    except UserError:
        return []


def build(collected: Tables, output: Path, label_seconds: float = LABEL_SECONDS, workers: int = 1) -> None:
    """Write everything below `output`, replacing what an earlier build wrote, and print the last errors."""
    folders = {name: output / name for name in ("data", "tables", "figures")}
    for folder in folders.values():
        make_folder(folder)
    found = Statistics.of(collected, label_seconds)
    made = sheets(found, collected)
    drawn = draw(list(jobs(collected, found)), folders["figures"], workers)
    collected.save(folders["data"])
    for sheet in made:
        sheet.save(folders["tables"])
    write_atomically(output / "report.html", page(collected, made, drawn).encode())
    print(last_errors(made))
    told = collected.runs[(collected.runs["failure"] != "") & collected.runs["state"].isin(["done", "damaged"])]
    for failure in told["failure"]:
        print(f"left out: {failure}", file=sys.stderr)
    print(f"wrote {len(made)} tables, {len(drawn)} figures and {output / 'report.html'}")


def draw(wanted: Sequence[Job], folder: Path, workers: int) -> list[Drawn]:
    """Draw all figures, in several processes where there are many."""
    if workers < 2 or len(wanted) < 8:
        return [_draw(job, folder) for job in progress(wanted, "figures", unit="figure")]
    with ProcessPoolExecutor(workers) as pool:
        done = pool.map(_draw, wanted, [folder] * len(wanted), chunksize=2)
        return list(progress(done, "figures", unit="figure", total=len(wanted)))


def _draw(job: Job, folder: Path) -> Drawn:
    drawing = job.draw(*job.arguments)
    svg, _ = style.save(drawing.figure, folder / job.name)
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
