"""The paper's claims, as `reference/claims.csv` states them: which algorithms, what is compared, and the region."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import style
from analysis.paper.numbers import REFERENCE
from analysis.statistics.rules import ABOVE, BELOW, Region

MARGINS = (0.01, 0.05)
"""Beside a claim's own: what the outcome would be."""


@dataclass(frozen=True)
class Statement:
    """One claim. `relation` says what is compared and in which region it lies (`region`, docs/statistics.md)."""

    claim: str
    place: str
    scenario: str
    batch_size: int
    statistic: str
    quantity: str
    measures: list[str]
    at: list[str]
    relation: str
    algorithms: list[str]
    others: list[str]
    low: float
    high: float
    margin: float
    combine: str

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Statement":
        """From a row of the file; `main` names the methods that the paper's figures draw."""
        row = {key: "" if pd.isna(value) else value for key, value in row.items()}
        main = list(style.main_methods(style.METHODS, forces=row["quantity"] != "energy"))
        algorithms, others = (
            main if row[key] == "main" else [name for name in row[key].split(";") if name]
            for key in ("algorithm", "other")
        )
        given = {key: row[key] for key in ("low", "high", "margin")}
        numbers: dict[str, Any] = {key: np.nan if value == "" else float(value) for key, value in given.items()}
        kept = {key: row[key] for key in ("claim", "place", "scenario", "statistic", "quantity", "relation")}
        at = [one for one in str(row["at"]).split(";") if one]
        lists: dict[str, Any] = {"measures": row["measure"].split(";"), "at": at}
        combine = row["combine"] or "every"
        names: dict[str, Any] = {"algorithms": algorithms, "others": others, "batch_size": int(row["batch_size"])}
        return cls(**kept, **lists, **names, **numbers, combine=combine)

    @property
    def by_difference(self) -> bool:
        """Whether a difference is compared, not the logarithm of a ratio."""
        return self.statistic == "pcc"

    def region(self, margin: float | None = None) -> Region:
        """Where the compared quantity lies if the claim is true, with the claim's own margin or another."""
        width = self.margin if margin is None else margin
        edge = width if self.by_difference else float(np.log1p(width))
        regions = {
            "not_lower": Region(low=-edge),
            "not_higher": Region(high=edge),
            "similar": Region(-edge, edge),
            "flat": Region(-edge, edge),
        }
        regions |= dict.fromkeys(("lower", "lowest", "mostly_lower", "gains_more"), BELOW)
        regions |= dict.fromkeys(("higher", "mostly_higher", "grows", "closes"), ABOVE)
        low = -np.inf if np.isnan(self.low) else float(np.log(self.low))
        high = np.inf if np.isnan(self.high) else float(np.log(self.high))
        return regions.get(self.relation, Region(low, high))


@functools.cache
def statements() -> list[Statement]:
    """Every claim of the file, in its order."""
    table = pd.read_csv(REFERENCE / "claims.csv", dtype={"place": str, "at": str})
    return [Statement.of(row) for row in table.to_dict("records")]
