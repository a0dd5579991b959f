"""Everything that can be made from what is recorded: python -m analysis.build [--results FOLDER]"""

import argparse
import sys
from pathlib import Path

import pandas as pd

from analysis import style
from analysis.collect import collect
from analysis.figures.learning_curves import learning_curves
from analysis.stats import MEASURES, QUANTITIES, measured, over_seeds
from bench.errors import UserError
from bench.record import make_folder
from bench.schema import hash_of


def main() -> None:
    """Entry point; exits with 2 when there is nothing to analyse."""
    parser = argparse.ArgumentParser(prog="python -m analysis.build", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder given to the runs as results=")
    arguments = parser.parse_args()
    try:
        build(arguments.results)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def build(results: Path) -> None:
    """Write the table and the figures to results/analysis and print the errors of the last steps."""
    table = collect(results)
    folder = results / "analysis"
    make_folder(folder)
    table.to_csv(folder / "learning_curves.csv", index=False)
    written = [folder / "learning_curves.csv"]
    for (scenario, deviations, batch_size), part in table.groupby(["scenario", "deviations", "batch_size"]):
        # altered runs, e.g. on a reduced pool, are never drawn with the scenario's own
        name = f"{scenario}_altered_{hash_of({'deviations': deviations})[:6]}" if deviations else scenario
        for quantity in measured(part):
            print(last_step(part, quantity))
            stem = folder / f"learning_curves_{name}_b{batch_size}_{quantity}"
            written += style.save(learning_curves(part, quantity), stem)
    print("\n".join(f"wrote {path}" for path in written))


def last_step(table: pd.DataFrame, quantity: str) -> str:
    """The errors at the largest training set of one scenario and batch size, mean ± standard error over seeds."""
    means = over_seeds(table, quantity)
    last = means[means["n_train"] == means["n_train"].max()].sort_values("mae")
    unit = QUANTITIES[quantity].replace("kcal_mol", "kcal/mol").replace("_A", "/Å")
    altered = table["deviations"].iloc[0]
    scenario = last["scenario"].iloc[0] + (f" with {altered}" if altered else "")
    head = f"{scenario}, N_batch {last['batch_size'].iloc[0]}: {quantity} errors in {unit}"
    lines = [head, f"{'algorithm':24} {'N_train':>7} {'seeds':>5} " + " ".join(f"{m.upper():>15}" for m in MEASURES)]
    for row in last.to_dict("records"):
        cells = []
        for measure in MEASURES:
            spread = row[f"{measure}_sem"]
            cells.append(f"{row[measure]:.2f}" + ("" if pd.isna(spread) else f" ± {spread:.2f}"))
        lines.append(
            f"{row['algorithm']:24} {row['n_train']:7d} {row['seeds']:5d} " + " ".join(f"{c:>15}" for c in cells)
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
