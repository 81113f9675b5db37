"""Vectors in a column of a ``.parquet`` file, read piece by piece into one array."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfspace.arguments.columns import converted
from halfspace.files.reading import Report, chosen, reading
from halfspace.runtime.interrupts import undisturbed

__all__ = ["read"]

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
        name, array, pieces = undisturbed(_begin, file, source, member)
        done = 0
        while (piece := undisturbed(_next, file, name, pieces, done)) is not None:
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
    with reading(file, "not a readable .parquet file: "):
        return parquet.ParquetFile(
            file,
            buffer_size=_BUFFER,
            pre_buffer=False,  # which would read a group of rows at once
            page_checksum_verification=True,
        )


def _begin(file: Path, source: Any, member: str | None) -> tuple[str, NDArray[Any], Iterator[Any]]:
    """Return the name of the column, an array that is to hold it, and its pieces."""
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
        return name, np.empty((n, dim or 0), dtype), source.iter_batches(_ROWS, columns=[name], use_threads=False)


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


def _next(file: Path, name: str, pieces: Iterator[Any], done: int) -> NDArray[Any] | None:
    """Return the next rows (k, d), or None after the last."""
    with reading(file):
        batch = next((piece for piece in pieces if piece.num_rows), None)
        if batch is None:
            return None
        if batch.schema.names != [name]:
            raise ValueError(f"columns {', '.join(map(repr, batch.schema.names))} cannot be told apart by name")
        rows: NDArray[Any] = converted(batch.column(0), name, done)
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
