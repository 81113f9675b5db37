"""What a join finds: a table of pairs, whole or block by block."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halfspace.files.outputs import check_output, write_table
from halfspace.hits import library
from halfspace.joins.blocks import Edges
from halfspace.model.arrays import beside, host
from halfspace.model.formats import widen32

__all__ = ["Pair", "PairBlocks", "Pairs"]


class Pair(NamedTuple):
    """Two vectors whose score reaches the threshold.

    Examples
    --------
    >>> Pair(3, 8, 0.5)
    Pair(id_a=3, id_b=8, score=0.5)
    """

    id_a: int
    id_b: int
    score: float | None


class Pairs:
    """Pairs of vectors whose scores reach a threshold; items and iteration are `Pair`.

    Attributes
    ----------
    ids_a, ids_b : ndarray of int64, shape (pairs,), on the index's device
        Of `HalfspaceIndex.pairs`, the smaller and the larger id; of `HalfspaceIndex.join`, the id in the index and
        that in the other. In ascending order of ``ids_a``, then of ``ids_b``, unless they are one block of many.
    scores : ndarray of float32, shape (pairs,), or None
        The real score of each pair, rounded once to the nearest float32; None with ``scores=False``.

    Examples
    --------
    >>> from halfspace import HalfspaceIndex
    >>> index = HalfspaceIndex(1, metric="l2")
    >>> _ = index.insert([[0], [5], [1], [2]])
    >>> pairs = index.pairs(1.0)
    >>> pairs[0], len(pairs)
    (Pair(id_a=0, id_b=2, score=1.0), 2)
    >>> pairs.columns()["id_b"].tolist(), pairs.to_scipy().shape
    ([2, 3], (4, 4))
    >>> pairs.to_arrow().num_rows, pairs.to_pandas().shape, pairs.to_polars().shape
    (2, (2, 3), (2, 3))
    """

    __slots__ = ("_shape", "ids_a", "ids_b", "scores")

    def __init__(
        self,
        ids_a: npt.NDArray[np.int64],
        ids_b: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32] | None,
        *,
        shape: tuple[int, int],
    ) -> None:
        self.ids_a, self.ids_b, self.scores, self._shape = ids_a, ids_b, scores, shape

    def __len__(self) -> int:
        return int(self.ids_a.size)

    def __getitem__(self, item: int | slice) -> "Pair | Pairs":
        with beside(self.ids_a):
            if isinstance(item, slice):
                scores = None if self.scores is None else self.scores[item]
                return Pairs(self.ids_a[item], self.ids_b[item], scores, shape=self._shape)
            at = range(len(self))[item]
            score = None if self.scores is None else float(widen32(host(self.scores[at : at + 1]))[0])
            return Pair(int(self.ids_a[at]), int(self.ids_b[at]), score)

    def __iter__(self) -> Iterator[Pair]:
        own = self.columns()
        scores = widen32(own["score"]).tolist() if "score" in own else [None] * len(self)
        return map(Pair, own["id_a"].tolist(), own["id_b"].tolist(), scores)

    def __repr__(self) -> str:
        return f"<Pairs: {len(self):,}>"

    def __reduce__(self) -> Any:
        return partial(Pairs, shape=self._shape), (self.ids_a, self.ids_b, self.scores)

    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns of the table, ``id_a``, ``id_b`` and perhaps ``score``, on the host."""
        with beside(self.ids_a):
            table = {"id_a": host(self.ids_a), "id_b": host(self.ids_b)}
            return table if self.scores is None else table | {"score": host(self.scores)}

    def to_arrow(self) -> Any:
        """Return a table of Arrow, on the host: ``id_a`` and ``id_b``, int64, and ``score``, float32, if there is one.

        Raises
        ------
        ImportError
            If pyarrow, of the extra ``tables``, is missing.
        """
        return library("pyarrow", "to_arrow").table(self.columns())

    def to_pandas(self) -> Any:
        """Return a DataFrame of pandas; like `to_arrow`, of which it needs pandas alone."""
        return library("pandas", "to_pandas").DataFrame(self.columns(), copy=False)

    def to_polars(self) -> Any:
        """Return a DataFrame of polars; like `to_arrow`, of which it needs polars alone."""
        return library("polars", "to_polars").DataFrame(self.columns())

    def to_parquet(self, path: str | PathLike[str]) -> int:
        """Write the table of `to_arrow` to a file, in one step; returns the number of pairs.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(1, metric="l2")
        >>> _ = index.insert([[0], [5], [1], [2]])
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     index.pairs(1.0).to_parquet(Path(folder) / "pairs.parquet")
        2
        """
        return _written(path, iter([self.columns()]))

    def to_scipy(self) -> Any:
        """Return a sparse matrix of scores, on the host.

        Returns
        -------
        scipy.sparse.coo_array of float32
            Rows are ``ids_a``, columns ``ids_b``, up to the largest id; pairs of one index come once, above the
            diagonal. Scores that are zero are explicit entries; without scores every entry is 1.

        Raises
        ------
        ValueError
            If an id is negative, or larger than a row or column can be.
        """
        from scipy.sparse import coo_array

        own = self.columns()
        for name in ("id_a", "id_b"):
            if len(self) and int(own[name].min()) < 0:
                raise ValueError(f"id {int(own[name].min())} is negative: it cannot be a row or a column")
        if max(self._shape) > np.iinfo(np.int64).max:
            raise ValueError(f"id {max(self._shape) - 1} is too large to be a row or a column")
        data = own.get("score", np.ones(len(self), np.float32))
        return coo_array((data, (own["id_a"], own["id_b"])), shape=self._shape)


class PairBlocks:
    """Pairs, block by block, in bounded memory: an iterable of `Pairs`, each time anew.

    Blocks come as they are found: in each, and among them, pairs are in no particular order.

    Examples
    --------
    >>> from halfspace import HalfspaceIndex
    >>> index = HalfspaceIndex(1, metric="l2")
    >>> _ = index.insert([[0], [5], [1], [2]])
    >>> sum(len(block) for block in index.pairs(1.0, blocks=True))
    2
    >>> [len(columns["id_a"]) for columns in index.pairs(1.0, blocks=True).columns()]
    [0, 2]
    """

    def __init__(self, begin: Callable[[], Iterator[Edges]], make: Callable[[Edges], Pairs], none: Edges) -> None:
        self._begin, self._make, self._none = begin, make, none

    def __iter__(self) -> Iterator[Pairs]:
        for edges in self._begin():
            yield self._make(edges)

    def __repr__(self) -> str:
        return "<PairBlocks: iterate, or write them by to_parquet>"

    def to_parquet(self, path: str | PathLike[str]) -> int:
        """Write all pairs to a file of Parquet, in one step, block by block; returns their number.

        The columns are ``id_a`` and ``id_b``, int64, and ``score``, float32, if there are scores.

        Raises
        ------
        ImportError
            If pyarrow, of the extra ``tables``, is missing.
        OSError, ValueError
            If the file cannot be written; what was there before is untouched.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(1, metric="l2")
        >>> _ = index.insert([[0], [5], [1], [2]])
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     index.pairs(1.0, blocks=True).to_parquet(Path(folder) / "pairs.parquet")
        2
        """
        return _written(path, self.columns())

    def columns(self) -> Iterator[dict[str, np.ndarray]]:
        """Iterate over the columns of the table, on the host, block by block; the first block is empty."""
        return (block.columns() for block in chain([self._make(self._none)], self))


def _written(path: str | PathLike[str], blocks: Iterator[dict[str, np.ndarray]]) -> int:
    library("pyarrow", "to_parquet")
    check_output(Path(path), [])
    return write_table(Path(path), blocks, ".parquet")
