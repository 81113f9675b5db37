"""Compiled kernels on disk: one file for each function and signature, named after the sources that it came from.

Numba's own cache keeps an index beside numbered files. A process that is killed between writing the one and the other
leaves an index that points at older machine code, which then runs for good; two processes that write at once can swap
their files. Here a name says which code is inside, and a checksum says that it is whole. The cache is a convenience:
whatever is wrong with it, kernels are compiled, a warning says so once, and the file is written anew.
"""

import functools
import hashlib
import os
import pickle
import platform
import re
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import caching

from halfspace.cpu.runtime.forms import FORM, FORMS

__all__ = ["KernelCache", "writing"]

_SIGNATURE = b"halfspace kernel\n"
_SUM_NBYTES = hashlib.sha256().digest_size
_ABANDONED = 3600
"""Seconds after which nobody writes a temporary file any more."""


@functools.cache
def _stamp(*others: str) -> str:
    """Digest of all that machine code depends on beside its signature: sources, compilers, form of instructions.

    others : sources that do not belong to this package
    """
    tick = time.get_clock_info("monotonic").resolution  # kernels know it as a constant
    versions = sys.version, numba.__version__, llvmlite.__version__, platform.machine(), FORMS[FORM], tick
    digest = hashlib.sha256(repr(versions).encode())
    for source in [*_sources(), *map(Path, others)]:
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> list[Path]:
    """All modules that kernels may take code or constants from."""
    package = Path(__file__).parents[2]
    folders = "model", "runtime", "cpu"
    return sorted(source for folder in folders for source in package.glob(f"{folder}/**/*.py"))


_stamp()  # of the sources as they are now: they may be replaced while this process compiles


_warned = threading.Event()
writing = threading.Lock()
"""Held while a file is written: who ends the process takes it first."""


def _warn(problem: str) -> None:
    """Say once in a process that its kernels are not kept."""
    if not _warned.is_set():
        _warned.set()
        warnings.warn(
            f"compiled kernels cannot be kept on disk, so that later processes compile them again: {problem}; "
            "NUMBA_CACHE_DIR names another folder",
            RuntimeWarning,
            stacklevel=2,
        )


class _File:
    """The files of one function, in the place of `numba.core.caching.IndexDataCacheFile`."""

    def __init__(self, folder: str, function: str, stamp: str) -> None:
        self._folder, self._stamp = Path(folder), stamp
        python = f"py{sys.version_info[0]}{sys.version_info[1]}{getattr(sys, 'abiflags', '')}"
        self._family = f"{function}.{python}-{FORMS[FORM]}-"

    def _path(self, key: Any) -> Path:
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return self._folder / f"{self._family}{self._stamp}-{digest}.nbc"

    def holds(self, key: Any) -> bool:
        """Whether there is a file under a key, be it whole or not."""
        return self._path(key).exists()

    def load(self, key: Any) -> Any:
        """Return what was saved under a key, or None."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        start = len(_SIGNATURE) + _SUM_NBYTES
        payload = content[start:]
        if content[:start] != _SIGNATURE + hashlib.sha256(payload).digest():
            return None  # cut short or damaged: it is written anew
        own_key, data = pickle.loads(payload)
        return data if own_key == key else None

    def save(self, key: Any, data: Any) -> None:
        """Write one file in one step, and remove what other sources, or processes long dead, have left behind."""
        payload = caching.dumps((key, data))
        with writing:
            self._write(self._path(key), payload)

    def _write(self, path: Path, payload: bytes) -> None:
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            temporary.write_bytes(_SIGNATURE + hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        for other in self._folder.glob(f"{self._family}*"):
            with suppress(FileNotFoundError):  # another process is at it, too
                stale = not other.name.startswith(f"{self._family}{self._stamp}-")
                if stale or (other.suffix == ".tmp" and time.time() - other.stat().st_mtime > _ABANDONED):
                    other.unlink()

    def flush(self) -> None:
        """Remove all files of this function."""
        for path in self._folder.glob(f"{self._family}*"):
            path.unlink(missing_ok=True)


class KernelCache(caching.FunctionCache):  # type: ignore[misc]
    """The cache of one compiled function, for the attribute ``_cache`` of its dispatcher."""

    def __init__(self, function: Callable[..., Any], sources: tuple[str, ...]) -> None:
        super().__init__(function)
        name = f"{Path(function.__code__.co_filename).stem}.{function.__qualname__}"
        self._cache_file = _File(self._cache_path, re.sub("[<>]", "", name), _stamp(*sources))

    @classmethod
    def of(cls, function: Callable[..., Any], sources: tuple[str, ...] = ()) -> "KernelCache | None":
        """Return the cache of a function, or None where no folder can be written.

        sources : files outside of this package that it takes code from, too
        """
        with suppress(RuntimeError, OSError):
            return cls(function, sources)
        _warn("no folder can be written")
        return None

    def holds(self, sig: Any, target_context: Any) -> bool:
        """Whether a compiled signature is on disk."""
        return self._cache_file.holds(self._index_key(sig, target_context.codegen()))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return a compiled signature, or None where it must be compiled."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # whatever the file held
            _warn(f"{self._cache_path}: {error!r}")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled signature for later processes, if that can be."""
        try:
            super().save_overload(sig, data)
        except Exception as error:  # a full disk, a quota, a folder that has become read-only
            _warn(f"{self._cache_path}: {error!r}")
