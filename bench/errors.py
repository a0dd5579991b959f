"""Errors that a user can fix: one line that names the thing, the value and the remedy."""

import difflib
import errno
import sys
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input. The commands print its single line on stderr and exit with status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class BusyError(UserError):
    """Another process is running it."""


class NothingLeftError(UserError):
    """Of a pool nothing can be chosen."""


class WriteError(UserError):
    """The disk is full or not writable: no fault of the run, which goes on when there is room."""


class NoRoomError(WriteError):
    """The disk is full, or the quota used up: for others there is no room either."""


class ClosedError(UserError):
    """What is to be read is closed to this user."""


def tell(error: object) -> None:
    """Print a mistake as one line on stderr."""
    print(f"error: {error}", file=sys.stderr)


def cannot_write(error: OSError, message: str) -> WriteError:
    """The error for a file that cannot be written."""
    return (NoRoomError if error.errno in (errno.ENOSPC, errno.EDQUOT) else WriteError)(message)


def cannot_read(error: OSError, path: object) -> UserError:
    """The error for what cannot be read, as its owner has closed it or otherwise."""
    if isinstance(error, PermissionError):
        return ClosedError(f"cannot read {path} ({error.strerror}): ask its owner to let you read it")
    return UserError(f"cannot read {path} ({error.strerror}): make it readable")


def counted(n: int, what: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def nearest(word: str, known: Iterable[str], *, listed: Iterable[str] | None = None, cutoff: float = 0.5) -> str:
    """Return a `did you mean` hint for a misspelt word, or the list of what is known (or `listed` in its place)."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(listed or names))}"
