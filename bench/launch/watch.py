"""How far a sweep is: a table of the states of its runs, once or until nobody works on it."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from bench.config.schema import Scenario
from bench.errors import UserError, tell
from bench.launch.queue import Entry
from bench.runs.record import STATES as RECORDED

STATES = (*RECORDED, "damaged", "missing")
SECONDS_BETWEEN_LOOKS = (0.2, 2.0)
"""At first, and at most: a tenth of the time that it has been looked at."""


class Watch:
    """Looks at the records of some runs; what is done is not read again."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.state = dict.fromkeys((entry.end for entry in entries), "missing")

    def look(self) -> Counter[str]:
        """Read the states anew and count them."""
        for entry in self.entries:
            if self.state[entry.end] != "done":
                self.state[entry.end] = entry.state()
        return Counter(self.state.values())

    def table(self, workers: int) -> list[str]:
        """A row per scenario and the total, as last looked."""
        names = list(dict.fromkeys(entry.run.scenario.name for entry in self.entries))
        lines = [f"{'scenario':18} {'runs':>5} " + " ".join(f"{state:>11}" for state in STATES)]
        for name in [*names, *(["all"] if len(names) > 1 else [])]:
            part = [e for e in self.entries if name in ("all", e.run.scenario.name)]
            counts = Counter(self.state[entry.end] for entry in part)
            lines.append(f"{name:18} {len(part):5d} " + " ".join(f"{counts[state]:11d}" for state in STATES))
        return [*lines, f"workers: {workers}"]

    def status(self, workers: int) -> dict[str, Any]:
        """The same for scripts, as last looked (`--status --json`); these keys stay as they are.

        `workers` at work or queued; `counts` of the runs by state; `runs`, each with the id and the folder of its
        record, its state, scenario, deviations from it, selection, kernel, batch size and seed, the words after
        `python -m bench.run` that stand for it, and why it failed (null for the others).
        """
        counts = Counter(self.state.values())
        return {
            "workers": workers,
            "counts": {state: counts[state] for state in STATES},
            "runs": [self._row(entry, self.state[entry.end]) for entry in self.entries],
        }

    @staticmethod
    def _row(entry: Entry, state: str) -> dict[str, Any]:
        run = entry.run
        return {
            "run_id": entry.folder.name,
            "folder": str(entry.folder),
            "state": state,
            "scenario": run.scenario.name,
            "deviations": run.deviations,
            "selection": run.selection["name"],
            "kernel": run.kernel["name"],
            "batch_size": run.batch_size,
            "seed": run.seed,
            "words": entry.words,
            "failure": entry.reason() if state in ("failed", "damaged") else None,
        }

    def until_nobody_works(self, workers: Callable[[], int]) -> Counter[str]:
        """Show the table, live on a terminal, until no worker is left."""
        shown: list[str] = []
        started = time.monotonic()
        while True:
            try:
                left = workers()
            except UserError as error:
                tell(error)
                left = -1
            counts = self.look()
            table = self.table(left)
            if table != shown:
                if shown and sys.stdout.isatty():
                    print(f"\x1b[{len(shown)}A", end="")
                print("\n".join(f"{line}\x1b[K" if sys.stdout.isatty() else line for line in table), flush=True)
                shown = table
            if left == 0:
                return counts
            shortest, longest = SECONDS_BETWEEN_LOOKS
            time.sleep(min(max(shortest, (time.monotonic() - started) / 10), longest))


def sizes(entries: Sequence[Entry]) -> list[str]:
    """A line for each scenario of a sweep: how many structures are labelled, picked from and tested on."""
    batches: dict[Scenario, set[int]] = {}
    for entry in entries:
        batches.setdefault(entry.run.scenario, set()).add(entry.run.batch_size)
    return [
        f"{one.name}: {one.initial} to {one.final} labelled for training, in batches of"
        f" {', '.join(map(str, sorted(found)))}, from a pool of {one.pool}; {one.validation} more labelled for"
        f" validation, {one.test or 'the rest'} for the test"
        for one, found in batches.items()
    ]
