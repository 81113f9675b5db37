"""What is read and written other than by its path: bytes, and binary file objects of any kind."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from halfspace.files.atomic import regular_mode

__all__ = ["Reader", "Source", "Target", "Writer", "opened"]

Target = str | os.PathLike[str] | IO[bytes]
"""Where something is written: a path, or a file object that takes bytes."""
Source = Target | bytes | bytearray | memoryview
"""What something is read from: a path, a file object that gives bytes, or the bytes themselves."""


class Reader:
    """A source, read from where it stands; nothing is read ahead.

    Attributes
    ----------
    name : str
        What errors call it.
    file : IO[bytes]
        What it is read from.
    nbytes : int, or None
        How many bytes there are, where that is known before they are read.
    """

    def __init__(self, file: IO[bytes], name: str, nbytes: int | None) -> None:
        self.file, self.name, self.nbytes = file, name, nbytes
        self._done = 0

    def read(self, nbytes: int) -> bytes:
        """Return the next bytes, fewer only at the end."""
        parts = []
        while nbytes:
            part = self._ready(self.file.read(nbytes))
            if not part:
                break
            parts.append(part)
            nbytes -= len(part)
        whole = b"".join(parts)
        self._done += len(whole)
        return whole

    def take(self, nbytes: int, expected: int) -> bytes:
        """Return the next bytes, all of them; `expected` and errors are those of `fill`."""
        whole = self.read(nbytes)
        if len(whole) < nbytes:
            raise self._short(expected)
        return whole

    def fill(self, room: memoryview, expected: int) -> None:
        """Read as many bytes as there is room for, of a file of so many bytes as are `expected`.

        Raises
        ------
        ValueError
            If it ends before.
        """
        into = getattr(self.file, "readinto", None)
        while room.nbytes:
            if into is not None:
                count = self._ready(into(room))
            else:
                part = self._ready(self.file.read(room.nbytes))
                count = len(part)
                room[:count] = part
            if count == 0:
                raise self._short(expected)
            self._done += count
            room = room[count:]

    def _ready(self, result: Any) -> Any:
        if result is None:
            raise BlockingIOError(f"{self.name}: it has no bytes yet, and does not wait for them")
        return result

    def _short(self, expected: int) -> ValueError:
        return ValueError(f"truncated: expected {expected} bytes, found {self._done}")


@contextlib.contextmanager
def opened(source: Source) -> Iterator[Reader]:
    """Open a file for the block, or read what is given, which stays open.

    Raises
    ------
    TypeError
        If it is none of a path, bytes and a binary file object.
    OSError
        If a file is missing or cannot be opened, or is a folder, a pipe or a device.
    """
    if isinstance(source, (str, os.PathLike)):
        regular_mode(source)
        with open(source, "rb") as file:
            yield Reader(file, str(Path(source)), os.fstat(file.fileno()).st_size)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield Reader(io.BytesIO(source), "<bytes>", memoryview(source).nbytes)
    else:
        _must_be_binary(source, "read")
        yield Reader(source, _name(source), None)


class Writer:
    """A file object, to which bytes are written one after the other, from where it stands."""

    def __init__(self, file: IO[bytes]) -> None:
        _must_be_binary(file, "write")
        self._file = file

    def write(self, data: bytes | memoryview) -> None:
        """Write all bytes: what a raw file leaves of them, too.

        Raises
        ------
        OSError
            If the file takes no more.
        """
        left = memoryview(data)
        while left.nbytes:
            count = self._file.write(left)
            if count is None and isinstance(self._file, io.RawIOBase):
                raise BlockingIOError(f"{_name(self._file)}: it takes no bytes yet, and does not wait")
            left = left[left.nbytes if count is None else count :]


def _must_be_binary(file: Any, how: str) -> None:
    if isinstance(file, io.TextIOBase):
        raise TypeError(f"{_name(file)} is a file of text: open it with mode {how[0] + 'b'!r}")
    if not callable(getattr(file, how, None)):
        also = ", bytes" if how == "read" else ""
        raise TypeError(f"expected a path{also} or a binary file object, got {type(file).__name__}")


def _name(file: Any) -> str:
    name = getattr(file, "name", None)
    return name if isinstance(name, str) and name else f"<{type(file).__name__}>"
