"""From records to one tidy table: a row per run and step, errors in columns named with their units."""

from pathlib import Path

import pandas as pd

from bench.errors import UserError
from bench.record import read_records


def collect(results: Path) -> pd.DataFrame:
    """Read every record below results/runs. Raises UserError if there is none or one is damaged."""
    rows = []
    for record in read_records(results):
        identity = record["identity"]
        for step, row in enumerate(record["steps"]):
            rows.append(
                {
                    "run_id": record["run_id"],
                    "status": record["status"],
                    "scenario": identity["scenario"]["name"],
                    "deviations": ", ".join(f"{key}={value}" for key, value in sorted(record["deviations"].items())),
                    "dataset": identity["dataset"]["name"],
                    "algorithm": f"{identity['selection']['name']} + {identity['kernel']['name']}",
                    "batch_size": identity["batch_size"],
                    "seed": identity["seed"],
                    "final": identity["scenario"]["final"],
                    "step": step,
                    "n_train": row["n_train"],
                    **row["metrics"],
                    **{key: row.get(key) for key in row if key.startswith("seconds_") or key.startswith("peak_")},
                }
            )
    if not rows:
        raise UserError(f"no finished step below {results / 'runs'}: run something first, e.g. make run")
    return pd.DataFrame(rows)
