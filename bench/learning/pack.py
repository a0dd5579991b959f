"""Many runs at once: those at one training set size, alike in data, model and training, are trained in lockstep."""

import contextlib
from collections.abc import Sequence

from bench.config.schema import RunConfig
from bench.learning.cycle import Cycle, answer, cycle_of
from bench.learning.opened import Shared
from bench.runs.record import RunRecord
from bench.training.fit import FitResult
from bench.training.shared import Request, trained


def run_pack(runs: Sequence[RunConfig], *, lock: bool = True) -> list[RunRecord | Exception]:
    """Do runs together, or what is left of them: those alike in data, model and training are trained in lockstep.

    Returns a run's record or what made it fail; the others go on. Without `lock` for a caller that holds the runs'
    locks. Raises Stopped after a signal.
    """
    outcomes: dict[int, RunRecord | Exception] = {}
    cycles: dict[int, tuple[Cycle, Request]] = {}
    shared = Shared()
    with contextlib.ExitStack() as held:

        def advance(index: int, cycle: Cycle, fitted: FitResult | Exception | None) -> None:
            """Have a run go on until it needs a training again, or ends."""
            try:
                cycles[index] = cycle, answer(cycle, fitted)
            except StopIteration as end:
                outcomes[index] = end.value
            except Exception as error:
                outcomes[index] = error

        for index, run in enumerate(runs):
            advance(index, cycle_of(run, shared, held if lock else None), None)
        while cycles:
            # the smallest training sets first: runs that were stopped at different steps meet
            fewest = min(len(request.labelled) for _, request in cycles.values())
            chosen = {i: c for i, c in cycles.items() if len(c[1].labelled) == fewest}
            leader = next(iter(chosen.values()))[1]
            together = [i for i, (_, request) in chosen.items() if alike(request.run, leader.run)]
            for index, outcome in zip(together, trained([chosen[i][1] for i in together]), strict=True):
                advance(index, cycles.pop(index)[0], outcome)
    return [outcomes[index] for index in range(len(runs))]


def alike(one: RunConfig, other: RunConfig) -> bool:
    """Whether two runs can be trained in lockstep: what may differ are seed, kernel and selection."""
    keys = ("scenario", "dataset", "model", "training", "batch_size", "device", "precision")
    return all(getattr(one, key) == getattr(other, key) for key in keys)
