"""A verdict on each of the paper's claims: shown, contradicted, undecided, or not yet tested (docs/statistics.md)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.paper.evidence import parts
from analysis.paper.measured import Measured, Part
from analysis.paper.numbers import is_reduced
from analysis.paper.statements import MARGINS, Statement, statements
from analysis.statistics import rules
from analysis.statistics.rules import CONTRADICTED, FEWEST_SEEDS, LEVEL, SHOWN, UNDECIDED, Region

NOT_TESTED = "not yet tested"
WORDS = {SHOWN: "shown", CONTRADICTED: "contradicted", UNDECIDED: "undecided"}
VERDICTS = (*WORDS.values(), NOT_TESTED)
FACTORS = ("ratio", "saving")
"""Relations whose numbers are printed as factors; the others as changes."""


def verdicts(measured: Measured) -> pd.DataFrame:
    """A row for every claim: verdict, evidence, runs; and one more, with `deviations`, where a reduced pool tells."""
    rows = [verdict(statement, measured) for statement in statements()]
    for deviations in filter(is_reduced, sorted(measured.values["deviations"].unique())):
        reduced = replace(measured, deviations=deviations)
        rows += [row for row in (verdict(statement, reduced) for statement in statements()) if row["runs"]]
    return pd.DataFrame(rows)


def verdict(statement: Statement, measured: Measured) -> dict[str, Any]:
    """The row of one claim: the outcome for every part and on average, the verdict, and both other margins."""
    found = parts(statement, measured)
    known = [part for part in found if part.enough]
    region = statement.region()
    each, mean = outcomes(found, region)
    word = each if statement.combine == "every" else mean
    if any(part.told for part in found) or (known and word is None):
        word = UNDECIDED if word is None else word
    row: dict[str, Any] = {"claim": statement.claim, "place": statement.place, "scenario": statement.scenario}
    row |= {"batch_size": statement.batch_size, "deviations": measured.deviations}
    row |= {"verdict": _word(word), "rule": statement.combine if len(found) > 1 else ""}
    row |= {"every": _word(each) if len(found) > 1 else "", "mean": _word(mean) if len(found) > 1 else ""}
    for margin in MARGINS:
        other = outcomes(found, statement.region(margin))[0] if np.isfinite(statement.margin) else None
        row[f"at_{margin:.0%}"] = "" if other is None else WORDS[other]
    row |= {"parts": len(found), "known": len(known), "evidence": "; ".join(_told(found, statement))}
    return row | {"runs": len(frozenset().union(*(part.runs for part in found if part.enough or part.told)))}


def outcomes(found: Sequence[Part], region: Region) -> tuple[int | None, int | None]:
    """The outcomes of `every` and `mean`; None where there is no evidence for it."""
    known = [part for part in found if part.enough]
    if not known:
        return None, None
    number = len(found)
    each = int(rules.combined(np.array([outcome(part, region, LEVEL / number) for part in known]), number))
    wide = pd.concat([part.values for part in known], axis=1, join="inner")
    if len(known) < number or len(wide) < FEWEST_SEEDS:
        return each, None
    at_most, at_least = any(part.at_most for part in known), any(part.at_least for part in known)
    return each, outcome(Part("", wide.mean(axis=1), at_most=at_most, at_least=at_least), region)


def outcome(part: Part, region: Region, contradicted: float = LEVEL) -> int:
    """That of one part: a bound cannot be shown, or contradicted, from its open side."""
    if part.judged is not None:
        return part.judged
    found = int(rules.judge(part.values.to_numpy(dtype=float), region, contradicted=contradicted))
    open_side = (part.at_most and found == SHOWN) or (part.at_least and found == CONTRADICTED)
    return UNDECIDED if open_side else found


def _word(found: int | None) -> str:
    return NOT_TESTED if found is None else WORDS[found]


def _told(found: Sequence[Part], statement: Statement) -> list[str]:
    """What speaks against the claim first, then what is open, then what is for it."""
    region = statement.region()
    known = [(outcome(part, region), part) for part in found if part.enough]
    lines = [_line(part, value, statement) for value, part in sorted(known, key=lambda pair: pair[0])]
    lines += [f"{part.label}: {part.told}" for part in found if part.told and not part.enough]
    missing = len(found) - len(lines)
    return lines + ([f"{missing} of {len(found)} parts not recorded, or with too few seeds"] if missing else [])


def _line(part: Part, value: int, statement: Statement) -> str:
    if part.judged is not None:
        return f"{part.label}: {WORDS[value]}"
    numbers = part.values.to_numpy(dtype=float)
    low, high = (float(limit) for limit in rules.interval(numbers))
    mean, reach = float(numbers.mean()), rules.detectable_factor(len(numbers)) * float(rules.sem(numbers))
    if statement.by_difference:
        text, effect = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", f"{reach:.3f}"
    elif statement.relation == "below":
        text, effect = f"{np.exp(mean):.3g} [{np.exp(low):.3g}, {np.exp(high):.3g}]", f"×{np.exp(reach):.2f}"
    elif statement.relation in FACTORS:
        text = f"×{np.exp(mean):.2f} [{np.exp(low):.2f}, {np.exp(high):.2f}]"
        effect = f"×{np.exp(reach):.2f}"
    else:
        text = f"{np.expm1(mean):+.1%} [{np.expm1(low):+.1%}, {np.expm1(high):+.1%}]"
        down = np.isinf(statement.region().low)
        effect = f"{-np.expm1(-reach) if down else np.expm1(reach):.1%}"
    detectable = f", detectable {effect}" if value == UNDECIDED else ""
    return f"{part.label}: {text}, {len(numbers)} seeds, {WORDS[value]}{detectable}"
