"""Columns and tables of pandas, polars and Arrow as arrays of NumPy.

Numbers are read in place where the library allows it. None of the three is imported here: a value that is one of theirs
has imported it. What is missing is an error that names its row, as it would become NaN or another type.
"""

import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

__all__ = ["converted", "is_column"]

_LIBRARIES = frozenset({"pandas", "polars", "pyarrow"})


def _library(values: Any) -> str | None:
    """Name the library that a value, or what its class derives from, belongs to."""
    for kind in type(values).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in _LIBRARIES:
            return library
    return None


def is_column(values: Any) -> bool:
    """Whether a value belongs to one of the three libraries."""
    return _library(values) is not None


def converted(values: Any, name: str, start: int = 0) -> Any:
    """Return a column (n,) or (n, d), or a table (n, d), as an array; anything else as it is.

    A column of Arrow may be a piece of a longer one: errors then count its rows from `start`.

    Raises
    ------
    ValueError
        If a value is missing, or rows differ in length; the error says where.
    TypeError
        If it does not hold numbers.
    """
    library = _library(values)
    if library == "pandas":
        return _of_pandas(values, name)
    if library == "polars":
        return _of_polars(values, name)
    return _of_arrow(values, name, start) if library == "pyarrow" else values


# -- tables -----------------------------------------------------------------------------------------------------------


def _of_pandas(values: Any, name: str) -> Any:
    pandas = sys.modules["pandas"]
    if isinstance(values, pandas.DataFrame):
        dtypes = set(values.dtypes)
        if len(dtypes) == 1 and all(_of_numpy(dtype) and dtype.kind in "biuf" for dtype in dtypes):
            return values.to_numpy()  # in place where pandas keeps it as one block
        columns = [_of_series(values.iloc[:, at], _column(name, label)) for at, label in enumerate(values.columns)]
        return _stacked(columns, [_column(name, label) for label in values.columns], len(values))
    if isinstance(values, (pandas.Series, pandas.Index, pandas.api.extensions.ExtensionArray)):
        return _of_series(pandas.Series(values), name)
    return values


def _of_polars(values: Any, name: str) -> Any:
    polars = sys.modules["polars"]
    if isinstance(values, polars.Series):
        return _dense(values, name, _Polars())
    if isinstance(values, polars.LazyFrame):
        raise TypeError(f"{name} is a LazyFrame, which has no rows yet: pass {name}.collect()")
    if isinstance(values, polars.DataFrame):
        names = [_column(name, label) for label in values.columns]
        columns = [_dense(column, own, _Polars()) for column, own in zip(values.get_columns(), names, strict=True)]
        return _stacked(columns, names, len(values))
    return values


def _of_arrow(values: Any, name: str, start: int) -> Any:
    arrow = sys.modules["pyarrow"]
    if isinstance(values, (arrow.Array, arrow.ChunkedArray)):
        return _dense(values, name, _Arrow(), start)
    if isinstance(values, (arrow.Table, arrow.RecordBatch)):
        names = [_column(name, label) for label in values.column_names]
        columns = [_dense(column, own, _Arrow()) for column, own in zip(values.columns, names, strict=True)]
        return _stacked(columns, names, values.num_rows)
    return values.as_py() if isinstance(values, arrow.Scalar) else values


def _column(name: str, label: Any) -> str:
    return f"{name}[{label!r}]"


def _stacked(columns: Sequence[np.ndarray], names: Sequence[str], rows: int) -> np.ndarray:
    """Bring columns of real numbers (n,) side by side, in a dtype that holds all of them."""
    for column, name in zip(columns, names, strict=True):
        if column.ndim != 1:
            raise TypeError(f"{name} is a column of rows, not of numbers: pass that column alone")
        if column.dtype.kind not in "biuf" or column.dtype.itemsize > 8:
            place = next((at for at, value in enumerate(column) if not isinstance(value, (int, float, np.number))), 0)
            what = f": {name}[{place}] is {column[place]!r}" if column.size else ""
            raise TypeError(f"{name} must be real numbers of at most 64 bits, got dtype {column.dtype}{what}")
    table = np.empty((rows, len(columns)), np.result_type(*columns) if columns else np.float64)
    for at, (column, name) in enumerate(zip(columns, names, strict=True)):
        if table.dtype.kind == "f" and column.dtype.kind in "iu" and column.dtype.itemsize == 8:
            _must_fit(column, name)
        table[:, at] = column
    return table


def _must_fit(column: np.ndarray, name: str) -> None:
    """Refuse integers (n,) that float64 does not hold: they would be rounded twice."""
    for row in np.flatnonzero((column > 2**53) | (column < -(2**53))):
        number = int(column[row])
        if int(float(number)) != number:
            raise ValueError(
                f"{name}[{row}] is {number}, which float64, the dtype of all columns, does not hold: "
                "convert that column to float64"
            )


# -- columns ----------------------------------------------------------------------------------------------------------


def _of_numpy(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype)


def _of_series(series: Any, name: str) -> np.ndarray:
    """Return a pandas Series (n,), of any dtype, as an array."""
    dtype = series.dtype
    if _of_numpy(dtype):
        own: np.ndarray = series.to_numpy()
        return own
    missing = np.flatnonzero(series.isna().to_numpy())
    if missing.size:
        remedy = f"use {name}.fillna(value) or {name}.dropna()"
        raise ValueError(f"{name}[{missing[0]}] is missing ({series.iloc[missing[0]]}): {remedy}")
    if hasattr(dtype, "pyarrow_dtype"):
        return _dense(series.array.__arrow_array__(), name, _Arrow())
    numbers: np.ndarray = series.to_numpy(dtype=getattr(dtype, "numpy_dtype", None))
    return numbers


class _Reader(Protocol):
    """How a library shows its columns."""

    drop: str  # its name for leaving out what is null

    def whole(self, column: Any) -> Any:
        """Return a column in one piece, without what only names its type."""

    def null(self, column: Any) -> int | None:
        """Find the first row that is null."""

    def lengths(self, column: Any) -> Any:
        """Return the lengths (n,) of lists, one length for all of them, or None for what is no list."""

    def flat(self, column: Any) -> Any:
        """Return what lists hold, one after the other."""

    def numbers(self, column: Any) -> np.ndarray | None:
        """Return numbers as an array, or None if they are something else."""


class _Arrow:
    """Arrays of Arrow."""

    drop = "drop_null"

    def __init__(self) -> None:
        self._arrow = sys.modules["pyarrow"]

    def whole(self, column: Any) -> Any:
        if isinstance(column, self._arrow.ChunkedArray):
            column = column.chunk(0) if column.num_chunks == 1 else self._joined(column)
        return column.storage if isinstance(column, self._arrow.ExtensionArray) else column

    def _joined(self, column: Any) -> Any:
        return self._arrow.concat_arrays(column.chunks) if column.num_chunks else self._arrow.array([], column.type)

    def null(self, column: Any) -> int | None:
        return int(column.is_null().to_numpy(zero_copy_only=False).argmax()) if column.null_count else None

    def lengths(self, column: Any) -> Any:
        types = self._arrow.types
        if types.is_fixed_size_list(column.type):
            return column.type.list_size
        lists = types.is_list(column.type) or types.is_large_list(column.type)
        if lists or types.is_list_view(column.type) or types.is_large_list_view(column.type):
            return column.value_lengths().to_numpy()
        return None

    def flat(self, column: Any) -> Any:
        return column.flatten()

    def numbers(self, column: Any) -> np.ndarray | None:
        types, kind = self._arrow.types, column.type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            return None
        numbers: np.ndarray = column.to_numpy(zero_copy_only=False)
        return numbers


class _Polars:
    """Series of polars."""

    drop = "drop_nulls"

    def __init__(self) -> None:
        self._polars = sys.modules["polars"]

    def whole(self, column: Any) -> Any:
        return column

    def null(self, column: Any) -> int | None:
        return int(column.is_null().arg_max()) if column.null_count() else None

    def lengths(self, column: Any) -> Any:
        if isinstance(column.dtype, self._polars.Array):
            return column.dtype.size
        return column.list.len().to_numpy() if isinstance(column.dtype, self._polars.List) else None

    def flat(self, column: Any) -> Any:
        return column.explode()

    def numbers(self, column: Any) -> np.ndarray | None:
        dtype = column.dtype
        if not (dtype.is_integer() or dtype.is_float() or dtype == self._polars.Boolean):
            return None
        numbers: np.ndarray = column.to_numpy()
        return numbers


def _dense(column: Any, name: str, reader: _Reader, start: int = 0) -> np.ndarray:
    """Return a column of numbers (n,), or of lists of one length, however deep, as an array (n, ...)."""
    shape: tuple[int, ...] = (len(column),)
    kind = getattr(column, "type", None) or column.dtype
    while True:
        column = reader.whole(column)
        null = reader.null(column)
        if null is not None:
            remedy = f"fill_null or {reader.drop}" if len(shape) == 1 else "fill_null, in the lists"
            raise ValueError(f"{_at(name, null, shape, start)} is null: use {remedy}")
        lengths = reader.lengths(column)
        if lengths is None:
            break
        if isinstance(lengths, np.ndarray):
            odd = np.flatnonzero(lengths != lengths[:1])
            if odd.size:
                own, first = (f"{_at(name, at, shape, start)} has length {lengths[at]}" for at in (odd[0], 0))
                raise ValueError(f"{own}, {first}: rows must have one length")
            if not lengths.size:
                return np.empty(0)
            lengths = int(lengths[0])
        shape = (*shape, lengths)
        if lengths == 0:
            return np.empty(shape)
        column = reader.flat(column)
    numbers = reader.numbers(column)
    if numbers is None:
        raise TypeError(f"{name} must be real numbers of at most 64 bits, or lists of them, got a column of {kind}")
    return numbers.reshape(shape)


def _at(name: str, position: int, shape: tuple[int, ...], start: int) -> str:
    """Name a position in what has this shape, whose rows are counted from `start`."""
    row, *inner = map(int, np.unravel_index(int(position), shape))
    return f"{name}[{', '.join(map(str, (start + row, *inner)))}]"
