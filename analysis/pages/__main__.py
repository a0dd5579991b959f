"""Write the documentation's pages of algorithms and results anew: python -m analysis.pages

Takes results/reference of the working folder and writes docs/algorithms and docs/benchmark; `make pages` calls it.
"""

import argparse
from pathlib import Path

from analysis.pages import algorithms, benchmark, picture
from analysis.pages.results import Results
from bench.commands.frame import framed, named
from bench.runs.record import make_folder, write_atomically


@framed
def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m analysis.pages", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", type=named, default=Path("results/reference"), help="committed results")
    parser.add_argument("--docs", type=named, default=Path("docs"), help="where algorithms/ and benchmark/ are written")
    arguments = parser.parse_args()
    texts = pages(arguments.reference)
    for name, text in texts.items():
        make_folder((arguments.docs / name).parent)
        write_atomically(arguments.docs / name, text.encode())
    pictures = arguments.docs / "algorithms" / "pictures"
    make_folder(pictures)
    drawn = algorithms.pictures()
    for name, figure in drawn.items():
        picture.save(figure, pictures / name)
    print(f"wrote {len(texts)} pages and {len(drawn)} pictures to {arguments.docs}")


def pages(reference: Path) -> dict[str, str]:
    """Every page by its path below docs/."""
    found = Results.read(reference)
    written = {"algorithms": algorithms.pages(found), "benchmark": benchmark.pages(found)}
    return {f"{folder}/{name}": text for folder, texts in written.items() for name, text in texts.items()}


if __name__ == "__main__":
    main()
