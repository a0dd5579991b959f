"""The first training set where it is chosen, not drawn: by a kernel that needs no model (`first_batch: selected`)."""

from dataclasses import replace

import numpy as np

from bench.config.seeds import stream
from bench.data.split import Split
from bench.kernels.base import KernelInputs, prepare
from bench.learning.opened import Opened
from bench.potentials.base import untrained
from bench.runs.record import SPLIT, read_arrays
from bench.selection.base import check_embedding, check_picks


def with_first_batch(opened: Opened) -> Opened:
    """The run with its first training set picked from what was drawn for it and the pool; as recorded where it is.

    The parts keep their sizes, and validation and test sets stay. Raises UserError.
    """
    run, record, drawn = opened.config, opened.record, opened.split
    if run.first_batch == "random":
        return opened
    kept = read_arrays(record.folder / SPLIT, record.content.files) if record.steps else None
    if kept is not None:
        return replace(opened, split=Split(**kept))
    candidates = np.sort(np.concatenate([drawn.initial, drawn.pool]))
    view, nothing = opened.view, np.zeros(0, dtype=np.int64)
    inputs = KernelInputs(untrained(view, run.seed), view, nothing, run.seed)
    embedding = prepare(opened.kernel, inputs).embed(candidates)
    check_embedding(embedding, candidates, opened.kernel.name, 0)
    selected = opened.selection.select(embedding, len(drawn.initial), stream(run.seed, "deficit", n_train=0))
    check_picks(selected, len(candidates), len(drawn.initial), opened.selection.name)
    initial = candidates[selected.rows]
    return replace(opened, split=replace(drawn, initial=initial, pool=np.setdiff1d(candidates, initial)))
