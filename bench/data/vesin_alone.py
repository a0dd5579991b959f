"""vesin without torch, which it imports where it can: that takes seconds, and only lists of tensors need it."""

import sys

_hidden = "torch" not in sys.modules
if _hidden:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    from vesin import NeighborList
finally:
    if _hidden:
        del sys.modules["torch"]

__all__ = ["NeighborList"]
