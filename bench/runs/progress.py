"""Progress of long loops: a bar on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 30.0

Item = TypeVar("Item")


def progress(items: Iterable[Item], description: str, *, unit: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items and show how far the loop is."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr and sys.stderr.isatty():
        yield from tqdm(items, description, total=total, unit=unit, leave=False, dynamic_ncols=True)
        return
    started = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last > SECONDS_BETWEEN_LINES:
            log.info("%s: %d of %s %ss after %.0f s", description, done, total or "?", unit, now - started)
            last = now
        yield item
