"""Named random streams: every draw is keyed by what it is for, so a resumed run needs no generator state."""

import hashlib

import numpy as np


def stream(seed: int, use: str, *, n_train: int = 0, member: int = 0, epoch: int = 0) -> np.random.Generator:
    """Return the generator of one use of randomness (docs/method.md, Experiments).

    Streams of different keys are independent, and a new use never shifts an existing one. Keying by N_train pairs runs
    across algorithms and batch sizes: at equal seed and N_train they start from the same weights.
    """
    digest = int.from_bytes(hashlib.sha256(use.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, digest, n_train, member, epoch])))
