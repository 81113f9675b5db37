"""Vectors in a column of a ``.parquet`` file, read piece by piece into one array."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfspace.arguments.columns import converted
from halfspace.files.atomic import regular_mode
from halfspace.files.reading import Report, chosen, reading
from halfspace.runtime.interrupts import undisturbed

__all__ = ["batches", "begun", "read", "stream"]

_ROWS = 4096
"""Rows that are decoded at once."""
_BUFFER = 1 << 20
"""Bytes of the file that are read at once."""


def read(file: Path, member: str | None, report: Report) -> NDArray[Any]:
    """Read the named column, or the only one of lists of real numbers; an interrupt is heard after each piece."""
    with file.open("rb"):  # so that what cannot be opened fails as it does for the other formats
        pass
    source = undisturbed(_opened, file)
    try:
        name, n, dtype, dim = undisturbed(_begin, file, source, member)
        array, pieces = np.empty((n, dim or 0), dtype), source.iter_batches(_ROWS, columns=[name], use_threads=False)
        done = 0
        while (batch := undisturbed(_next, file, pieces, [name])) is not None:
            piece = undisturbed(_rows, file, name, batch, done)
            if done == 0 and array.shape[1] != piece.shape[1]:  # lists of any length: the first row has that of all
                array = np.empty((len(array), piece.shape[1]), array.dtype)
            _place(file, name, array, piece, done)
            done += len(piece)
            report(done, len(array))
    finally:
        undisturbed(source.close)  # after the piece that an interrupt left to itself
    if done != len(array):
        raise ValueError(f"{file}: column {name!r} has {done} rows, the file states {len(array)}")
    return array


def _opened(file: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"{file}: reading Parquet needs pyarrow: pip install pyarrow") from None
    regular_mode(file)  # a pipe would be waited for
    with reading(file, "not a readable .parquet file: "):
        return parquet.ParquetFile(
            file,
            buffer_size=_BUFFER,
            pre_buffer=False,  # which would read a group of rows at once
            page_checksum_verification=True,
        )


def begun(file: Path, member: str | None) -> tuple[int, int | None]:
    """Return the number of rows, and how long the lists of the column are, if its type says so."""
    source = undisturbed(_opened, file)
    try:
        _, n, _, dim = undisturbed(_begin, file, source, member)
    finally:
        undisturbed(source.close)
    return n, dim


def stream(
    file: Path, member: str | None, ids: str | None, start: int = 0
) -> Iterator[tuple[NDArray[Any], NDArray[Any] | None]]:
    """Read the rows (k, d) from `start` on, some at a time, and the column of `ids` (k,) beside them, if one is named.

    What lies before is passed over by groups of rows, as the file has them.
    """
    source = undisturbed(_opened, file)
    try:
        name, _, _, _ = undisturbed(_begin, file, source, member)
        names = [name] if ids is None else [name, ids]
        if ids is not None and source.schema_arrow.names.count(ids) != 1:
            raise ValueError(f"{file}: no column named {ids!r}, or several; it holds {source.schema_arrow.names}")
        begin, groups = 0, list(range(source.num_row_groups))
        while groups and begin + source.metadata.row_group(groups[0]).num_rows <= start:
            begin += source.metadata.row_group(groups.pop(0)).num_rows
        pieces = source.iter_batches(_ROWS, row_groups=groups, columns=names, use_threads=False)
        while (batch := undisturbed(_next, file, pieces, names)) is not None:
            here = batch.slice(max(0, min(start - begin, batch.num_rows)))
            begin += batch.num_rows
            if here.num_rows:
                at = begin - here.num_rows
                rows = undisturbed(_rows, file, name, here, at)
                yield rows, None if ids is None else undisturbed(_rows, file, ids, here, at)
    finally:
        undisturbed(source.close)


def batches(file: Path) -> Iterator[Any]:
    """Read all columns, some rows at a time; of no rows, too, so that columns are known."""
    source = undisturbed(_opened, file)
    try:
        names, pieces = source.schema_arrow.names, source.iter_batches(_ROWS, use_threads=False)
        count = 0
        while (batch := undisturbed(_next, file, pieces, names)) is not None:
            count += 1
            yield batch
        if not count:
            yield source.schema_arrow.empty_table()
    finally:
        undisturbed(source.close)


def _begin(file: Path, source: Any, member: str | None) -> tuple[str, int, np.dtype[Any], int | None]:
    """Return the name of the column, the number of rows, the dtype, and the length of lists, if their type says so."""
    with reading(file):
        schema = source.schema_arrow
        held = {field.name: str(field.type) for field in schema}
        lists = {field.name: found for field in schema if (found := _of_lists(field.type)) is not None}
        name = chosen(file, member, held, list(lists), ("column", "column of lists of real numbers"))
        if name not in lists:
            raise ValueError(f"column {name!r} holds {held[name]}, not lists of real numbers")
        if schema.names.count(name) != 1:
            raise ValueError(f"{schema.names.count(name)} columns are named {name!r}")
        dtype, dim = lists[name]
        n = source.metadata.num_rows
        if n == 0 and dim is None:
            raise ValueError(f"column {name!r} has no rows, which would say how long they are")
        return name, n, dtype, dim


def _of_lists(kind: Any) -> tuple[np.dtype[Any], int | None] | None:
    """Return the dtype of a column of lists of real numbers, and the length that its type states."""
    from pyarrow import BaseExtensionType, types

    kind = kind.storage_type if isinstance(kind, BaseExtensionType) else kind
    fixed = types.is_fixed_size_list(kind)
    views = types.is_list_view(kind) or types.is_large_list_view(kind)
    if not (fixed or views or types.is_list(kind) or types.is_large_list(kind)):
        return None
    value = kind.value_type
    if not (types.is_integer(value) or types.is_floating(value)):
        return None
    return np.dtype(value.to_pandas_dtype()), kind.list_size if fixed else None


def _next(file: Path, pieces: Iterator[Any], names: list[str]) -> Any | None:
    """Return the next rows of some columns, or None after the last."""
    with reading(file):
        batch = next((piece for piece in pieces if piece.num_rows), None)
        if batch is not None and batch.schema.names != names:
            raise ValueError(f"columns {', '.join(map(repr, batch.schema.names))} cannot be told apart by name")
        return batch


def _rows(file: Path, name: str, batch: Any, done: int) -> NDArray[Any]:
    """Return a column of some rows as an array; errors count them from `done`."""
    with reading(file):
        rows: NDArray[Any] = converted(batch.column(batch.schema.names.index(name)), name, done)
        return rows


def _place(file: Path, name: str, array: NDArray[Any], piece: NDArray[Any], done: int) -> None:
    """Put rows (k, d) behind those that are read, which must have the same length."""
    if piece.shape[1] != array.shape[1]:
        raise ValueError(
            f"{file}: {name}[{done}] has length {piece.shape[1]}, {name}[0] has length {array.shape[1]}: "
            "rows must have one length"
        )
    if done + len(piece) > len(array):
        raise ValueError(f"{file}: column {name!r} has more rows than the {len(array)} that the file states")
    array[done : done + len(piece)] = piece
