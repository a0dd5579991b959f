"""The split of a dataset into initial training set, validation, pool and test set; one seed, one split."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from bench.config.schema import Scenario
from bench.config.seeds import stream
from bench.data.structures import Structures
from bench.errors import UserError


@dataclass(frozen=True)
class Split:
    """Disjoint indices into the dataset; validation, pool and test are ascending."""

    initial: Int[np.ndarray, " initial"]
    validation: Int[np.ndarray, " validation"]
    pool: Int[np.ndarray, " pool"]
    test: Int[np.ndarray, " test"]


def draw_split(data: Structures, sizes: Scenario, seed: int) -> Split:
    """Draw the parts at random. Raises UserError if the dataset is too small."""
    taken = sizes.initial + sizes.validation + sizes.pool
    asked = taken + (1 if sizes.test is None else sizes.test)
    if asked > len(data):
        raise UserError(
            f"dataset {data.name} holds {len(data)} structures, but the scenario asks for {asked}"
            f" (initial {sizes.initial}, validation {sizes.validation}, pool {sizes.pool},"
            f" test {'at least 1' if sizes.test is None else sizes.test}): lower scenario.pool or scenario.test"
        )
    order = stream(seed, "split").permutation(len(data))
    test = len(data) - taken if sizes.test is None else sizes.test
    ends = np.cumsum([sizes.validation, test, sizes.initial, sizes.pool])
    validation, test_part, initial, pool = np.split(order[: ends[-1]], ends[:-1])
    return Split(initial, np.sort(validation), np.sort(pool), np.sort(test_part))
