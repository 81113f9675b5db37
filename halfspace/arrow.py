"""Record batches of vectors in, record batches of matches out: one function for a loop, for Ray Data and for Spark."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from halfspace.arguments import checks
from halfspace.files.sources import column_of
from halfspace.hits import library
from halfspace.index import HalfspaceIndex
from halfspace.joins.asked import Joins
from halfspace.shards import Shards

__all__ = ["matches"]

ROWS = 1024
"""Vectors whose k best are asked for at once."""
COLUMNS = ("query", "id", "score")
"""Columns of matches."""


def matches(
    batches: Iterable[Any],
    index: Joins | str | os.PathLike[str],
    tau: float | None = None,
    *,
    k: int | None = None,
    column: str | None = None,
    keep: Sequence[str] | Mapping[str, str] = (),
    scores: bool = True,
    threads: int | None = None,
) -> Iterator[Any]:
    """Find for each vector of a stream the stored ones that reach a threshold, or the k best, as a stream.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch or pyarrow.Table
        Rows with a vector each, a list of real numbers.
    index : HalfspaceIndex, Shards, or path
        What is asked. A path, of an index file or of a folder of shards, is opened once in each process, mapped: such a
        call may be sent to other processes.
    tau : float, optional
        The threshold, as for `HalfspaceIndex.query`; with `k`, as for `HalfspaceIndex.search`.
    k : int, optional
        How many of the best of each vector.
    column : str, optional
        The column of vectors; by default the only column of lists.
    keep : sequence of str, or mapping of str to str, optional
        Columns that go along with each match; a mapping gives them other names.
    scores : bool
        Whether there is a column of scores.
    threads : int, optional
        As for `HalfspaceIndex.query`.

    Yields
    ------
    pyarrow.RecordBatch
        A row for each match: ``query``, int64, the row of the vector in the stream, counted from 0; the columns to
        keep; ``id``, int64; ``score``, float32. In order of rows; of each, in order of ids, or the best first with `k`.
        Each batch that comes gives at least one, perhaps without rows.

    Raises
    ------
    TypeError, ValueError
        If neither tau nor k is given, a column is missing or called as one of the matches' own, or a vector does not
        fit; the error has the rows.
    ImportError
        If pyarrow, of the extra ``tables``, is missing.

    Notes
    -----
    Exact, as `HalfspaceIndex.query` is; in memory for one batch and some of its matches, however many there are.

    Examples
    --------
    >>> import pyarrow
    >>> from halfspace import HalfspaceIndex
    >>> from halfspace.arrow import matches
    >>> index = HalfspaceIndex(2)
    >>> _ = index.insert([[1, 0], [0, 1], [1, 1]])
    >>> table = pyarrow.table({"name": ["a", "b"], "vector": [[1.0, 0.0], [0.0, 2.0]]})
    >>> pyarrow.Table.from_batches(matches([table], index, 1.0, keep=["name"])).select(["name", "id"]).to_pylist()
    [{'name': 'a', 'id': 0}, {'name': 'a', 'id': 2}, {'name': 'b', 'id': 1}, {'name': 'b', 'id': 2}]
    """
    if tau is None and k is None:
        raise TypeError("matches needs tau, a threshold, or k, how many of the best")
    most = None if k is None else checks.as_count(k, "k", 0)
    names = dict(keep) if isinstance(keep, Mapping) else {name: name for name in keep}
    for name, other in names.items():
        if other in COLUMNS:
            raise ValueError(f"keep: matches have a column {other!r} of their own: rename it, as {{{name!r}: 'other'}}")
    arrow = library("pyarrow", "matches")
    asked = index if isinstance(index, Joins) else opened(index)
    return _matches(arrow, batches, asked, (tau, most, scores, threads), column, names)


def _matches(
    arrow: Any,
    batches: Iterable[Any],
    index: Joins,
    how: tuple[float | None, int | None, bool, int | None],
    column: str | None,
    names: dict[str, str],
) -> Iterator[Any]:
    first, scores = 0, how[2]
    for given in batches:
        for batch in given.to_batches() or [_none(arrow, given)] if isinstance(given, arrow.Table) else [given]:
            vectors = column_of(batch, _column(arrow, batch.schema, column), first)
            if not len(vectors):
                vectors = np.empty((0, index.dim), np.float32)
            kept = {other: _kept(batch, name) for name, other in names.items()}
            for rows, ids, values in _found(index, vectors, first, how):
                taken = arrow.array(rows)
                columns = {"query": arrow.array(first + rows)}
                columns |= {other: own.take(taken) for other, own in kept.items()}
                columns |= {"id": arrow.array(ids)} | ({"score": arrow.array(values)} if scores else {})
                yield arrow.record_batch(columns)
            first += batch.num_rows


def _none(arrow: Any, table: Any) -> Any:
    return arrow.RecordBatch.from_pylist([], schema=table.schema)


def _found(
    index: Joins, vectors: Any, first: int, how: tuple[float | None, int | None, bool, int | None]
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield rows, ids and scores (hits,) of matches; at least once."""
    tau, k, scores, threads = how
    done = False
    try:
        if k is None:
            assert tau is not None
            for pairs in index.join(vectors, tau, scores=scores, blocks=True, threads=threads):
                yield pairs.ids_b, pairs.ids_a, pairs.scores
                done = True
        else:
            for begin in range(0, len(vectors), ROWS):
                hits = index.search(vectors[begin : begin + ROWS], k, tau=tau, threads=threads)
                yield begin + hits.queries, hits.ids, hits.scores
                done = True
    except ValueError as error:
        raise ValueError(f"rows from {first} on: {error}") from error
    if not done:
        yield np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)


def _column(arrow: Any, schema: Any, column: str | None) -> str:
    """Return the name of the column of vectors."""
    if column is not None:
        return column
    types = arrow.types
    lists = [
        field.name
        for field in schema
        if types.is_list(field.type) or types.is_large_list(field.type) or types.is_fixed_size_list(field.type)
    ]
    if len(lists) != 1:
        raise ValueError(f"{len(lists)} columns hold lists: name one by column=; there are {', '.join(schema.names)}")
    found: str = lists[0]
    return found


def _kept(batch: Any, name: str) -> Any:
    """Return a column of any type."""
    if batch.schema.names.count(name) != 1:
        raise ValueError(f"keep: no column named {name!r}, or several; there are {', '.join(batch.schema.names)}")
    return batch.column(name)


def opened(path: str | os.PathLike[str]) -> Joins:
    """Open an index file, mapped, or a folder of shards; what this process has open already is not opened again."""
    place = Path(os.path.realpath(path))
    return _opened(place, (place / "shards.json" if place.is_dir() else place).stat().st_mtime_ns)


@lru_cache(16)
def _opened(path: Path, changed: int) -> Joins:
    return Shards(path) if path.is_dir() else HalfspaceIndex.load(path, mmap=True)
