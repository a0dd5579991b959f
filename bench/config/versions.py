"""Versions of what makes numbers, one for each part: the only ones that decide whether a recorded run still counts.

The policy. A part's version is raised by one, and CHANGELOG.md says so, only where its results change beyond rounding:
other picks, or errors that differ by more than 1e-6 relative. A run carries the versions of its own parts, so that a
changed selection leaves every run without it as it was. Smaller changes (the order of a sum, another library) raise
ENGINE, which is recorded with every session and makes nothing stale. A version of 1 is not part of an identity, nor is
a setting at its default: a new setting gets the default under which everything before it was computed, and a default
is never changed afterwards (a file of conf/ may say another value).
"""

from collections.abc import Mapping
from typing import Any

ENGINE = 4
"""Changes within rounding. 1: autograd; 2: compiled kernels of the descriptor; 3: sums over pairs apart from β; 4: on a
GPU padded minibatches, sums over atoms by products (nothing else on a CPU)."""

DATA = 1
"""Conversion of published data, reference energies, the draw of the split."""

MODELS = {"GM-NN": 1, "SchNet": 1, "PaiNN": 1, "TensorNet": 1, "NequIP": 1, "MACE": 1}
"""The potentials of conf/model, by name: the network, its initial draw and its training."""

KERNELS = {
    "RND": 1,
    "AE(E)": 1,
    "AE(F)": 1,
    "QBC(E)": 1,
    "QBC(F)": 1,
    "FEAT(LL)": 1,
    "FEAT(RP)": 1,
    "GP(LL)": 1,
    "GP(RP)": 1,
    "FEAT(D)": 1,
    "FEAT(CHGNet)": 1,
    "FEAT(CHGNet-RP)": 1,
    "FEAT(SevenNet-0)": 1,
    "FEAT(SevenNet-0-RP)": 1,
    "FEAT(SOAP)": 1,
}
"""The kernels of conf/kernel, by name."""

SELECTIONS = {"MaxDiag": 1, "MaxDet": 1, "MaxDist": 1, "LCMD": 1}
"""The selections of conf/selection, by name."""

METHODS = {"kernel": KERNELS, "selection": SELECTIONS}
"""What an algorithm is made of."""
PARTS = ("dataset", "model", "kernel", "selection")
"""The parts of an identity that have a version."""


def of_method(group: str, part: Mapping[str, Any]) -> int | None:
    """Today's version of the kernel or selection of an identity; None where its class is not the project's.

    What MaxDet draws at random where the rank is used up is, since version 2 of that, the same for every batch size.
    """
    name = part.get("like", part["name"])
    if name == "MaxDet" and part.get("on_deficit") == "random":
        return 2
    return METHODS[group].get(name)


def is_current(identity: Mapping[str, Any]) -> bool:
    """Whether an identity's versions are those of this code; an outside class is taken at its word."""
    today = {"dataset": DATA, "model": MODELS.get(identity["model"]["name"])}
    today |= {group: of_method(group, identity[group]) for group in METHODS}
    return all(version is None or identity[part].get("version", 1) == version for part, version in today.items())
