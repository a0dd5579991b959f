"""Compiled code, kept by what it was made from: a new or a read-only checkout of the same kernels compiles nothing.

It lies in $NUMBA_CACHE_DIR, else in $XDG_CACHE_HOME/bmdal-bench or ~/.cache/bmdal-bench, in a folder for each version
of the kernels, numba, LLVM and Python. In it every compiled function has a file of its own, named by the types of its
arguments and the processor, and written as a whole: processes that compile at once write the same files.
"""

import contextlib
import hashlib
import os
import pickle
import platform
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching, serialize

from bench.config.places import cache_folder


def digest(*parts: object) -> str:
    """Sixteen digits for some values as text."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


CHECKSUM_BYTES = hashlib.sha256().digest_size
SOURCES = digest(*(path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))))
"""All kernels' sources: numba does not notice when what a kernel calls has changed in another file."""


def folder() -> Path:
    """Where compiled code of this version is kept."""
    given = os.environ.get("NUMBA_CACHE_DIR")
    versions = SOURCES, numba.__version__, llvmlite.__version__, platform.python_version()
    return (Path(given) if given else cache_folder()) / f"kernels-{digest(*versions)}"


class _Locator(caching._CacheLocator):
    """Tells numba where; nothing is read or written here."""

    def __init__(self, line: int) -> None:
        self.line = line

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_Locator":  # noqa: ARG003
        return cls(py_func.__code__.co_firstlineno)

    def get_cache_path(self) -> str:
        return str(folder())

    def get_source_stamp(self) -> str:
        return SOURCES

    def get_disambiguator(self) -> str:
        return str(self.line)


class _Files:
    """In place of numba's numbered files with an index, in which processes that write at once lose each other's."""

    def __init__(self, base: str) -> None:
        self.base = base

    def _path(self, key: object) -> Path:
        return folder() / f"{self.base}.{digest(key)}.nbc"

    def load(self, key: object) -> Any:
        """What is kept for a key, or None; damaged code would end the process when it is called."""
        with contextlib.suppress(OSError):
            kept = self._path(key).read_bytes()
            checksum, content = kept[:CHECKSUM_BYTES], kept[CHECKSUM_BYTES:]
            if hashlib.sha256(content).digest() == checksum:
                return pickle.loads(content)
        return None

    def save(self, key: object, data: object) -> None:
        """Keep it where that is possible."""
        path = self._path(key)
        draft = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            content = serialize.dumps(data)
            draft.write_bytes(hashlib.sha256(content).digest() + content)
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes: list[Any] = [_Locator]  # noqa: RUF012 - as numba declares it


class KeptCode(caching.FunctionCache):
    """The compiled code of one function."""

    _impl_class = _Implementation

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _Files(self._impl.filename_base)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code; where there is no place for it, it is compiled again next time."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)
