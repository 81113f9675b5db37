"""Vectors that come block by block, from whatever row on: of arrays, files, tables of Arrow, or iterators."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from halfspace.arguments import checks
from halfspace.arguments.columns import converted
from halfspace.files import parquet
from halfspace.files.reading import Report
from halfspace.files.vectors import STANDARD_INPUT, called, nothing, read_identified, read_vectors, split

__all__ = ["Block", "Source", "column_of", "files_of", "identified", "source_of"]

_COMPONENTS = 1 << 20
"""Components of a block, about."""


class Block(NamedTuple):
    """Some rows, one after the other."""

    numbers: NDArray[Any]  # (k, d), real numbers
    ids: NDArray[Any] | None  # (k,)
    place: str  # what errors call the source
    first: int  # where the rows begin in it


class Source(Protocol):
    """Where vectors come from."""

    @property
    def about(self) -> list[Any]:
        """What tells it from others, as JSON has it."""

    @property
    def rows(self) -> int | None:
        """Number of rows, if that is known ahead."""

    @property
    def again(self) -> bool:
        """Whether `blocks` may be called again."""

    def blocks(self, start: int) -> Iterator[Block]:
        """Yield the rows from `start` on."""


@dataclass(frozen=True)
class _Array:
    """An array (n, d), mapped or not."""

    array: Any
    ids: Any  # (n,), or None
    place: str = "source"
    about: list[Any] = field(default_factory=list)
    again: bool = True

    @property
    def rows(self) -> int:
        return len(self.array)

    def blocks(self, start: int) -> Iterator[Block]:
        step = max(1, _COMPONENTS // max(1, self.array.shape[1]))
        for first in range(start, self.rows, step):
            own = None if self.ids is None else self.ids[first : first + step]
            yield Block(self.array[first : first + step], own, self.place, first)


@dataclass(frozen=True)
class _Files:
    """Files of vectors, one after the other."""

    paths: list[Path]
    member: str | None
    ids: str | NDArray[np.int64] | None
    identified: bool = True  # whether ids that are in files count
    again: bool = True

    @property
    def about(self) -> list[Any]:
        found = [(path, os.stat(path)) for path in self.paths]
        return [self.member, *([str(path), about.st_size, about.st_mtime_ns] for path, about in found)]

    @property
    def rows(self) -> int:
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [
            parquet.begun(path, self.member)[0] if _is_parquet(path) else len(self.read(path)[0]) for path in self.paths
        ]

    def read(self, path: Path, report: Report = nothing) -> tuple[NDArray[Any], NDArray[np.int64] | None]:
        """Read one of them at once, or map it; and the ids that it has."""
        named = path if self.member is None else f"{path}:{self.member}"
        if str(named) == STANDARD_INPUT:
            named = f"./{path}"  # a file that is called so
        if self.ids is None and self.identified:
            return read_identified(named, report)
        return read_vectors(named, report), None

    def blocks(self, start: int) -> Iterator[Block]:
        before = 0
        for path, size in zip(self.paths, self._sizes, strict=True):
            for block in self._of(path, max(0, start - before)):
                at = before + block.first
                given = self.ids if isinstance(self.ids, np.ndarray) else None
                yield block if given is None else block._replace(ids=given[at : at + len(block.numbers)])
            before += size

    def _of(self, path: Path, start: int) -> Iterator[Block]:
        if not _is_parquet(path):
            array, ids = self.read(path)
            yield from _Array(array, ids, str(path)).blocks(start)
            return
        column = self.ids if isinstance(self.ids, str) else None
        for rows, ids in parquet.stream(path, self.member, column, start):
            yield Block(rows, ids, str(path), start)
            start += len(rows)


@dataclass(frozen=True)
class _Stream:
    """Arrays, record batches or tables of an iterator; what lies before the start is passed over."""

    parts: Iterable[Any]
    column: str | None
    ids: str | NDArray[np.int64] | None
    rows: int | None = None
    about: list[Any] = field(default_factory=list)
    again: bool = False

    def blocks(self, start: int) -> Iterator[Block]:
        first = 0
        for part in self.parts:
            numbers, own = self._taken(part, first)
            count, skip = len(numbers), max(0, min(start - first, len(numbers)))
            if isinstance(self.ids, np.ndarray):
                own = self.ids[first : first + count]
            if skip < count:
                yield Block(numbers[skip:], None if own is None else own[skip:], "source", first + skip)
            first += count

    def _taken(self, part: Any, first: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
        if _is_table(part) and self.column is not None:
            numbers = column_of(part, self.column, first)
            return numbers, column_of(part, self.ids, first) if isinstance(self.ids, str) else None
        if isinstance(self.ids, str):
            raise ValueError(f"ids={self.ids!r} names a column: the source needs columns, and column= that of vectors")
        numbers = checks.asarray(part, "source")
        return (numbers[None] if numbers.ndim == 1 else numbers), None


def source_of(
    source: Any, column: str | None = None, ids: Any = None, report: Report = nothing, *, own_ids: bool = True
) -> Source:
    """Return what was given as blocks of rows.

    ids : an array (n,), or the name of a column; report : told what is read at once, as some kinds of file are;
    own_ids : whether ids that lines of JSON have count, where no others are given

    Raises
    ------
    TypeError, ValueError
        If it is nothing of the kind, or ids do not fit.
    OSError
        If a file is not there.
    """
    named = ids if ids is None or isinstance(ids, str) else checks.as_ids(checks.asarray(ids, "ids"))
    if isinstance(source, (str, os.PathLike)) and str(source) == STANDARD_INPUT:
        looked_at = named is None and own_ids
        text = os.fspath(source)
        array, own = read_identified(text, report) if looked_at else (read_vectors(text, report), named)
        found: Source = _Array(array, own, called(text))
    elif isinstance(source, (str, os.PathLike)):
        paths, member = files_of(source)
        if isinstance(named, str) and not all(map(_is_parquet, paths)):
            raise ValueError(f"ids={named!r} names a column, which files of Parquet have: give an array of ids")
        found = _of_files(_Files(paths, member if column is None else column, named, own_ids), report)
    elif isinstance(source, (_Array, _Files, _Stream)):
        return source
    elif _is_table(source) or hasattr(source, "read_next_batch") or _is_iterator(source):
        parts = [source] if _is_table(source) else source
        rows = len(source) if _is_table(source) else None
        found = _Stream(parts, column, named, rows)
    else:
        array = source if isinstance(source, np.ndarray) else checks.asarray(source, "source")
        if array.ndim != 2:
            raise ValueError(f"source must have shape (n, d), got {array.shape}")
        if isinstance(named, str):
            raise ValueError(f"ids={named!r} names a column, which an array has not: give an array of ids")
        found = _Array(array, named, about=[list(array.shape), str(array.dtype)])
    if isinstance(named, np.ndarray):
        checks.distinct(named)
        if found.rows is not None and named.size != found.rows:
            raise ValueError(f"ids must have shape ({found.rows},), got {named.shape}")
    return found


def _of_files(source: _Files, report: Report) -> Source:
    """Read a single file that is no table once, and map it where that can be."""
    if len(source.paths) > 1 or _is_parquet(source.paths[0]):
        return source
    array, own = source.read(source.paths[0], report)
    return _Array(array, own if source.ids is None else source.ids, called(source.paths[0]), source.about)


def identified(source: Source, ids: NDArray[np.int64]) -> Source:
    """Return the same rows with these ids (n,)."""
    assert isinstance(source, (_Array, _Files, _Stream))
    return replace(source, ids=ids)


def files_of(path: str | os.PathLike[str]) -> tuple[list[Path], str | None]:
    """Return the files that a path, a pattern or a folder of Parquet names, in order, and which part of them."""
    file, member = split(os.fspath(path))
    if file.is_dir():
        found = sorted(file.rglob("*.parquet"))
        if not found:
            raise ValueError(f"{file}: no file of Parquet in this folder")
    elif not os.path.lexists(file) and glob.has_magic(str(file)):
        found = sorted(map(Path, glob.glob(str(file), recursive=True)))
        if not found:
            raise ValueError(f"{file}: no file is called so")
    else:
        found = [file]
    return found, member


def column_of(part: Any, name: str, first: int) -> NDArray[Any]:
    """Return a column of a record batch or table as an array; errors count its rows from `first`."""
    if part.schema.names.count(name) != 1:
        raise ValueError(f"no column named {name!r}, or several; the source has {', '.join(part.schema.names)}")
    numbers: NDArray[Any] = converted(part.column(name), name, first)
    return numbers


def _is_table(value: Any) -> bool:
    """Whether a value is a record batch or a table of Arrow."""
    return type(value).__module__.partition(".")[0] == "pyarrow" and hasattr(value, "num_rows")


def _is_iterator(value: Any) -> bool:
    """Whether a value yields arrays or tables, instead of being one."""
    if isinstance(value, Sequence):
        return len(value) > 0 and _is_table(value[0])
    return isinstance(value, Iterator) or (isinstance(value, Iterable) and not hasattr(value, "__len__"))


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"
