"""What runs say of a claim: for each of its parts one number a seed."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from analysis.paper import evidence_of_curves
from analysis.paper.measured import Measured, Part
from analysis.paper.statements import Statement
from analysis.statistics.compare import seed_slopes


def parts(statement: Statement, measured: Measured) -> list[Part]:
    """Every part of a claim."""
    kinds: dict[str, Callable[[Statement, Measured], Iterable[Part]]] = {
        "grows": _slopes, "flat": _slopes, "mostly_lower": _mostly, "mostly_higher": _mostly, "gains_more": _gains,
        "closes": evidence_of_curves.closes, "saving": evidence_of_curves.savings, "below": _alone,
        "order": evidence_of_curves.order,
    }  # fmt: skip
    return list(kinds.get(statement.relation, _paired)(statement, measured))


def _paired(statement: Statement, measured: Measured) -> Iterable[Part]:
    for measure in statement.measures:
        for algorithm in statement.algorithms:
            for other in statement.others:
                if algorithm != other:
                    yield _against(statement, measured, algorithm, other, measure)


def _against(
    statement: Statement, measured: Measured, algorithm: str, other: str, measure: str, batch_size: int | None = None
) -> Part:
    """Two algorithms at equal seed: difference, or logarithm of the ratio."""
    ours, theirs = (measured.by_seed(statement, name, measure, batch_size) for name in (algorithm, other))
    both = ours.merge(theirs, left_index=True, right_index=True, suffixes=("", "_other"))
    if statement.by_difference:
        values = both["value"] - both["value_other"]
    else:
        both = both[(both["value"] > 0) & (both["value_other"] > 0)]
        values = np.log(both["value"] / both["value_other"])
    sign = "−" if statement.by_difference else "/"
    runs = frozenset([*both["run_id"], *both["run_id_other"]])
    return Part(f"{algorithm} {sign} {other}, {_called(measure)}", values, runs)


def _called(measure: str) -> str:
    return measure.upper() if measure in ("mae", "rmse", "maxe") else measure


def _alone(statement: Statement, measured: Measured) -> Iterable[Part]:
    for measure in statement.measures:
        for algorithm in statement.algorithms:
            found = measured.by_seed(statement, algorithm, measure)
            found = found[found["value"] > 0]
            yield Part(f"{algorithm}, {measure} (s)", np.log(found["value"]), frozenset(found["run_id"]))


def _slopes(statement: Statement, measured: Measured) -> Iterable[Part]:
    for measure in statement.measures:
        of_measure = measured.of(statement, measure)
        for algorithm in statement.algorithms:
            values = of_measure[of_measure["algorithm"] == algorithm]
            slopes = seed_slopes(values).set_index("seed")
            sizes = ", ".join(str(size) for size in sorted(values["batch_size"].unique()))
            label = f"{algorithm}, {_called(measure)}, per doubling of N_batch ({sizes})"
            yield Part(label, slopes["value"], frozenset(values.loc[values["seed"].isin(slopes.index), "run_id"]))


def _mostly(statement: Statement, measured: Measured) -> Iterable[Part]:
    """One part: per seed the median over pairs, measures and batch sizes; none while a pair has no runs."""
    cases: list[Part] = []
    for measure in statement.measures:
        sizes = sorted(measured.of(statement, measure)["batch_size"].unique())
        for algorithm, other in zip(statement.algorithms, statement.others, strict=True):
            pairs = [_against(statement, measured, algorithm, other, measure, int(size)) for size in sizes]
            known = [pair for pair in pairs if pair.enough]
            if not known:
                yield Part(f"{algorithm} / {other}")
                return
            cases += known
    wide = pd.concat([case.values for case in cases], axis=1, join="inner")
    lower = int((wide.mean() < 0).sum())
    label = f"median over {wide.shape[1]} cases (pairs, measures, batch sizes; lower on average in {lower})"
    yield Part(label, wide.median(axis=1), frozenset().union(*(case.runs for case in cases)))


def _gains(statement: Statement, measured: Measured) -> Iterable[Part]:
    """How much more the first measure changes than the second."""
    first, second = statement.measures
    for algorithm in statement.algorithms:
        one, two = (_against(statement, measured, algorithm, statement.others[0], m) for m in (first, second))
        values = (one.values - two.values).dropna()
        label = f"{algorithm} / {statement.others[0]}, {_called(first)} against {_called(second)}"
        yield Part(label, values, one.runs | two.runs)
