"""The answer to a query: compressed sparse rows, a row per direction."""

from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from halfspace import backend
from halfspace.model.arrays import beside, host, namespace
from halfspace.model.formats import widen32

__all__ = ["Hit", "Hits", "columns", "library"]


class Hit(NamedTuple):
    """One vector of an answer.

    Examples
    --------
    >>> Hit(7, 0.5)
    Hit(id=7, score=0.5)
    """

    id: int
    score: float | None


def columns(ids: Any, scores: Any | None, offsets: Any) -> dict[str, Any]:
    """Return hits as the columns of a table, on their device; arguments are the attributes of `Hits`.

    Returns
    -------
    dict of str to ndarray
        ``query`` (hits,) int64, the direction of each hit, counted from 0; ``id``, and ``score`` unless there is none.
    """
    xp = namespace(offsets)
    begun = xp.bincount(offsets, minlength=ids.size + 1)[: ids.size]  # directions whose hits begin at each place
    table = {"query": xp.cumsum(begun) - 1, "id": ids}
    return table if scores is None else table | {"score": scores}


class Hits:
    """All vectors that reach the threshold of one direction, or of each direction of a batch.

    For one direction, the length is the number of hits; items and iteration are `Hit` pairs ``(id, score)``. For a
    batch of m directions, the length is m; items and iteration are the `Hits` of each direction. Slices are `Hits`
    too. All arrays lie on the index's device: they are NumPy's, or CuPy's.

    Attributes
    ----------
    ids : ndarray of int64, shape (hits,)
        Ids of the hits, direction by direction; within a direction in ascending order, or, with ``sort=True``, by
        score, the best first, and then by id. The best score is the largest; of distances it is the smallest.
    scores : ndarray of float32, shape (hits,), or None
        The real dot product, cosine or distance of each hit, by the index's metric, rounded once to the nearest
        float32; None with ``scores=False``. Distances are not squared.
    offsets : ndarray of int64, shape (m + 1,)
        Hits ``offsets[i]:offsets[i + 1]`` belong to direction i; (2,) for one direction.
    totals : ndarray of int64, shape (m,)
        How many vectors reach each threshold, also where ``limit`` kept fewer; (1,) for one direction.

    Examples
    --------
    >>> from halfspace import HalfspaceIndex
    >>> index = HalfspaceIndex(2)
    >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1]])
    >>> hits = index.query([[1, 0], [1, 1]], [0.5, 1.5])
    >>> hits.offsets.tolist(), hits.ids.tolist(), hits.scores.tolist()
    ([0, 2, 2], [0, 1], [1.0, 0.5])
    >>> [len(answer) for answer in hits]
    [2, 0]
    """

    __slots__ = ("_columns", "_single", "ids", "offsets", "scores", "totals")

    def __init__(
        self,
        ids: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32] | None,
        offsets: npt.NDArray[np.int64],
        totals: npt.NDArray[np.int64],
        *,
        single: bool,
        columns: int,
    ) -> None:
        self.ids = ids
        self.scores = scores
        self.offsets = offsets
        self.totals = totals
        self._single = single
        self._columns = columns

    @property
    def queries(self) -> npt.NDArray[np.int64]:
        """The direction of each hit, counted from 0, (hits,), on the index's device; of one direction, zeros."""
        with beside(self.ids):
            queries: npt.NDArray[np.int64] = columns(self.ids, None, self.offsets)["query"]
            return queries

    @staticmethod
    def preallocate(capacity: int, directions: int | None = None, *, scores: bool = True) -> Any:
        """Make room on the current GPU: the name of before for `HalfspaceIndex.preallocate`.

        Examples
        --------
        >>> out = Hits.preallocate(100)  # doctest: +SKIP
        """
        return backend.load("gpu").preallocate(capacity, directions, scores)

    def __len__(self) -> int:
        return self.ids.size if self._single else self.totals.size

    @overload
    def __getitem__(self, item: int) -> "Hit | Hits": ...
    @overload
    def __getitem__(self, item: slice) -> "Hits": ...
    def __getitem__(self, item: int | slice) -> "Hit | Hits":
        with beside(self.ids):
            if isinstance(item, slice):
                return self._slice(item)
            at = range(len(self))[item]  # IndexError and TypeError as for any sequence
            if self._single:
                score = None if self.scores is None else float(widen32(host(self.scores[at : at + 1]))[0])
                return Hit(int(self.ids[at]), score)
            return self._rows([at], host(self.offsets), single=True)

    def _slice(self, item: slice) -> "Hits":
        if not self._single:
            return self._rows(range(len(self))[item], host(self.offsets), single=False)
        ids = self.ids[item]
        scores = None if self.scores is None else self.scores[item]
        offsets = namespace(ids).asarray([0, ids.size], np.int64)
        return Hits(ids, scores, offsets, self.totals, single=True, columns=self._columns)

    def _rows(self, rows: Sequence[int], offsets: npt.NDArray[np.int64], single: bool) -> "Hits":
        """Take some directions; `offsets` are those of all, on the host."""
        xp = namespace(self.ids)
        spans = [slice(int(offsets[row]), int(offsets[row + 1])) for row in rows]
        ids = xp.concatenate([self.ids[span] for span in spans] or [self.ids[:0]])
        scores = self.scores
        if scores is not None:
            scores = xp.concatenate([scores[span] for span in spans] or [scores[:0]])
        own = np.cumsum([0, *(span.stop - span.start for span in spans)], dtype=np.int64)
        totals = self.totals[xp.asarray(rows, np.int64)]
        return Hits(ids, scores, xp.asarray(own), totals, single=single, columns=self._columns)

    def __iter__(self) -> Iterator[Any]:
        if self._single:
            own = self._on_host()
            return (own[at] for at in range(len(own)))
        return self._each(host(self.offsets))

    def _each(self, offsets: npt.NDArray[np.int64]) -> Iterator["Hits"]:
        for at in range(len(self)):
            with beside(self.ids):
                own = self._rows([at], offsets, single=True)
            yield own

    def _on_host(self) -> "Hits":
        """Return the same answer in the host's memory."""
        if isinstance(self.ids, np.ndarray):
            return self
        scores = None if self.scores is None else host(self.scores)
        own = host(self.ids), scores, host(self.offsets), host(self.totals)
        return Hits(*own, single=self._single, columns=self._columns)

    def to_scipy(self) -> Any:
        """Return the answer as a sparse matrix of scores, on the host.

        Returns
        -------
        scipy.sparse.csr_array of float32, shape (m, columns)
            A row per direction, a column per id, up to the largest id that the index has used. Scores that are zero
            are kept as explicit entries; without scores every entry is 1.

        Raises
        ------
        ValueError
            If an id is negative, or larger than a column can be.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1]])
        >>> index.query([[1, 0], [0, 1]], 0.5).to_scipy().toarray().tolist()
        [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]
        """
        from scipy.sparse import csr_array

        own = self._on_host()
        if own.ids.size and int(own.ids.min()) < 0:
            raise ValueError(f"id {int(own.ids.min())} is negative: it cannot be a column")
        if self._columns > np.iinfo(np.int64).max:
            raise ValueError(f"id {self._columns - 1} is too large to be a column")
        data = np.ones(own.ids.size, np.float32) if own.scores is None else own.scores
        return csr_array((data, own.ids, own.offsets), shape=(own.totals.size, self._columns), copy=True)

    def to_arrow(self) -> Any:
        """Return the answer as a table of Arrow, on the host, a row for each hit.

        Returns
        -------
        pyarrow.Table
            The columns ``query``, an int64, the direction counted from 0; ``id``, an int64; and, unless there are no
            scores, ``score``, a float32. Ids and scores are read in place where they are on the host already.

        Raises
        ------
        ImportError
            If pyarrow, of the extra ``tables``, is missing.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1]])
        >>> index.query([[1, 0], [0, 1]], 1.0).to_arrow().to_pylist()
        [{'query': 0, 'id': 0, 'score': 1.0}, {'query': 1, 'id': 2, 'score': 1.0}]
        """
        return library("pyarrow", "to_arrow").table(self._table())

    def to_pandas(self) -> Any:
        """Return the answer as a DataFrame of pandas; like `to_arrow`, of which it needs pandas alone.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1]])
        >>> index.query([1, 0], 0.5).to_pandas().shape
        (2, 3)
        """
        return library("pandas", "to_pandas").DataFrame(self._table(), copy=False)

    def to_polars(self) -> Any:
        """Return the answer as a DataFrame of polars; like `to_arrow`, of which it needs polars alone.

        All columns are copied.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 0], [0.5, 0.5], [0, 1]])
        >>> index.query([1, 0], 0.5).to_polars().shape
        (2, 3)
        """
        return library("polars", "to_polars").DataFrame(self._table())

    def _table(self) -> dict[str, Any]:
        own = self._on_host()
        return columns(own.ids, own.scores, own.offsets)

    def __reduce__(self) -> Any:
        """Pickle the arrays; what was preallocated comes back as an answer like others."""
        own = self.ids, self.scores, self.offsets, self.totals
        return partial(Hits, single=self._single, columns=self._columns), own

    def __repr__(self) -> str:
        total, kept = int(self.totals.sum()), self.ids.size
        what = f"{kept:,} hits" if kept == total else f"{kept:,} of {total:,} hits"
        if not self._single:
            return f"<Hits: {self.totals.size:,} directions, {what}>"
        shown = [f"{hit.id}" if hit.score is None else f"{hit.id}: {hit.score:.4g}" for hit in self[:3]]
        if kept > len(shown):
            shown.append("...")
        return f"<Hits: {what}" + (f" ({', '.join(shown)})>" if shown else ">")


def library(name: str, method: str) -> Any:
    """Import a library that an answer is handed to."""
    try:
        return import_module(name)
    except ImportError as error:
        extra = ', or the extra "tables"' if name == "pyarrow" else ""
        raise ImportError(f"{method} needs {name}: pip install {name}{extra}", name=name) from error
