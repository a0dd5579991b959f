"""The frame of every command: a mistake, also of a plugin, is one line; a closed pipe (`| head`), Ctrl-C: quiet."""

import contextlib
import errno
import functools
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from bench.errors import UserError, tell

CLOSED_PIPE = 141
INTERRUPTED = 130
"""Exit statuses, as a shell tells of SIGPIPE and SIGINT."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Arguments = ParamSpec("Arguments")
Status = TypeVar("Status")


def framed(main: Callable[Arguments, Status]) -> Callable[Arguments, Status]:
    """Frame the `main` of a command."""

    @functools.wraps(main)
    def inside(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Status:
        try:
            _open_closed()
            _speak_any_language()
            status = main(*arguments, **keywords)
        except UserError as error:
            tell(error)
            sys.exit(2)
        except BrokenPipeError:
            sys.exit(CLOSED_PIPE)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except SystemExit as end:
            if type(end) is SystemExit and "bench.config.plugins" in sys.modules:
                from bench.config.blame import in_one_line  # noqa: PLC0415

                if line := in_one_line(end):
                    tell(line)
                    sys.exit(2)
            raise
        except Exception as error:
            from bench.config.blame import in_one_line  # noqa: PLC0415 - pydantic, which takes time

            line = in_one_line(error)
            if not line and isinstance(error, OSError) and error.errno in NO_ROOM:
                line = _cannot_write(error)
            if not line:
                raise
            if not _flush():
                tell(line)
            sys.exit(2)
        finally:
            ended = sys.exception()
            lost = _flush()
            if lost and (ended is None or (isinstance(ended, SystemExit) and not ended.code)):
                sys.exit(lost)
        return status

    return inside


def named(text: str) -> Path:
    """A path that an argument names; an empty one would be the working folder. Raises UserError."""
    if not text:
        raise UserError("an empty name of a file or folder (is a variable of the shell not set?): give one")
    return Path(text)


def _open_closed() -> None:
    """Read and write nothing where stdin, stdout or stderr is closed (`2>&-`): no other file takes its descriptor."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - to the end; the lowest that is free
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _speak_any_language() -> None:
    """Print what the shell's language has no letters for as an escape (LC_ALL=C with PYTHONUTF8=0).

    Raises UserError for names of files that cannot be read as text then.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:]
    with contextlib.suppress(FileNotFoundError):  # the working folder was removed
        words.append(os.fspath(Path.cwd()))
    for word in words:
        if any("\udc80" <= letter <= "\udcff" for letter in word):
            raise UserError(
                f"{os.fsencode(word).decode(errors='replace')!r} is no text in this shell's language"
                f" ({sys.getfilesystemencoding()}): set LC_ALL=C.UTF-8, and PYTHONUTF8=1"
            )


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
                tell(_cannot_write(error))
                status = 2
    return status


def _cannot_write(error: OSError) -> str:
    return f"cannot write {error.filename or 'the output'} ({error.strerror}): make room, or send it elsewhere"
