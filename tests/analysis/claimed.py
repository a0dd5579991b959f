"""Claims for tests: a row as in claims.csv, judged on small records."""

import math

from analysis.paper.claims import verdict
from analysis.paper.measured import Measured
from analysis.paper.statements import Statement
from analysis.statistics.values import run_values
from tests.analysis import records
from tests.analysis.records import tables_of

CLAIM = {
    "claim": "a claim", "place": "4.1", "scenario": "demo", "batch_size": 10, "statistic": "final", "quantity": "force",
    "measure": "mae", "at": "", "algorithm": "LCMD + FEAT(LL)", "other": "MaxDiag + RND", "low": math.nan,
    "high": math.nan, "margin": math.nan, "combine": "",
}  # fmt: skip


def curves(algorithm, finals, start=8.0, **changes):
    selection, kernel = algorithm.split(" + ")
    return [records.record(selection, kernel, seed, [start, final], **changes) for seed, final in enumerate(finals)]


def measured_of(contents):
    steps = tables_of(contents).steps
    return Measured(run_values(steps), steps)


def judged(contents, relation, **changes):
    """The row of one claim."""
    return verdict(Statement.of(CLAIM | {"relation": relation} | changes), measured_of(contents))


def word(contents, relation, **changes):
    return judged(contents, relation, **changes)["verdict"]
