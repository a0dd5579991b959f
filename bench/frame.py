"""The frame of every command: a mistake is one line, a closed pipe (`… | head`) and Ctrl-C end it quietly."""

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bench.errors import UserError

CLOSED_PIPE = 141
INTERRUPTED = 130
"""Exit statuses, as a shell tells of SIGPIPE and SIGINT."""

Arguments = ParamSpec("Arguments")
Status = TypeVar("Status")


def framed(main: Callable[Arguments, Status]) -> Callable[Arguments, Status]:
    """Frame the `main` of a command."""

    @functools.wraps(main)
    def inside(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Status:
        try:
            status = main(*arguments, **keywords)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except BrokenPipeError:
            sys.exit(CLOSED_PIPE)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        finally:
            lost = _flush()
        if lost:
            sys.exit(lost)
        return status

    return inside


def _flush() -> int:
    """Write out what is printed; where that fails, drop it: the interpreter would try again and complain.

    Returns the exit status of a command whose output was lost, else 0.
    """
    status = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            status = CLOSED_PIPE
            if not isinstance(error, BrokenPipeError):
                print(f"error: cannot write the output ({error.strerror})", file=sys.stderr)
                status = 2
    return status
