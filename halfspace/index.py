"""The public index: validate, choose, call the stages in the order of the mathematics."""

import io
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace import backend as backends
from halfspace.arguments import checks
from halfspace.files import index_file, mapped
from halfspace.files.streams import Source
from halfspace.joins.asked import Joins
from halfspace.model.filters import AUTO, FILTERS, names
from halfspace.model.formats import FORMATS, as_float32, parse
from halfspace.model.metrics import METRICS, Metric
from halfspace.model.rounding import MAX_DIM
from halfspace.model.segment import Segment, empty
from halfspace.runtime.lock import Lock
from halfspace.runtime.progress import Meter, Progress
from halfspace.state.build import Builder
from halfspace.state.snapshot import Snapshot
from halfspace.state.tail import TailWriter

__all__ = ["HalfspaceIndex"]

_FLOAT32 = np.dtype(np.float32)
_SEALING = 30.0
"""What sealing costs, about, where rounding or measuring the same vectors costs 1."""


class HalfspaceIndex(Joins):
    """Vectors that can be asked for *all* of their number in a halfspace, a cone or a ball, exactly.

    `query` returns the set ``{i : sum_j q_j x_ij >= tau}``, evaluated in real arithmetic on the stored floats: no false
    negative and no false positive, the same set for one direction or a batch, for every filter and any number of
    threads. With ``metric="cosine"`` it is ``{i : cos(q, x_i) >= tau}``, and with
    ``metric="l2"`` it is ``{i : |x_i - q| <= radius}``.

    Any number of threads may query at once, also while one of them inserts, deletes or saves: a query answers for the
    state of the index at one moment between its start and its end.

    Parameters
    ----------
    dim : int
        Number of dimensions d, at least 1.
    metric : {"ip", "cosine", "l2"}
        What is compared with thresholds: inner products and cosines, which are to be at least tau, or Euclidean
        distances, which are to be at most tau, then a radius. A distance is no square, and the boundary belongs to the
        answer. Nothing is normalised: vectors stay as they were given. With ``"cosine"`` none may be zero.
    device : {"cpu", "gpu", "gpu:0", "gpu:1", ...}
        Where vectors are kept and searched. On a GPU, arrays are CuPy's, both those that are given (or what shares its
        memory with CuPy without a copy, such as PyTorch's; numbers, lists, columns and tables are copied) and those
        that come back. An array in the host's memory is refused there: ``cupy.asarray`` copies it. ``"gpu"`` is the
        current GPU.
    filter : {"auto", "cells", "groups", "balls", "sweep", "scan"}
        How vectors are ruled out before they are verified; the answer does not depend on it. ``"cells"`` tests norms,
        principal axes where they pay, and codes of each vector, in 4 and then in 8 bits; ``"groups"`` tests balls
        around 1,024, around 16 vectors that lie close together, and around each; ``"balls"`` sums the bounds of small
        balls in each subspace, and ``"sweep"`` collects vectors from their sorted lists before, both with ``"ip"``
        alone; ``"scan"`` reads every vector. ``"auto"`` builds the one that reads the fewest bytes on a sample, in
        batches of at least 32,768 vectors, and leaves codes where they do not pay.
    dtype : {"float32", "float16", "bfloat16"}
        What is stored. Inserted numbers are rounded to it (to nearest, ties to even), and the promise is about the
        rounded ones.
    threads : int, optional
        Threads per call, the calling one included; all CPUs that the process may use by default. Small calls use fewer.
    subspaces : int, optional
        Of the filters ``"balls"`` and ``"sweep"``: the number S of runs of dimensions that are bounded apart, from 1
        (plain balls) to d (boxes); by default one for every 8 dimensions.
    group_size : int, optional
        Of the same filters: vectors in a ball, 4 by default.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of the above.

    Notes
    -----
    An index is log-structured (an LSM tree): immutable segments, tombstones, and a small tail that is scanned.
    Segments of like size merge, so that n inserts cost O(n log n).
    With cells, it takes about 1.3 times the bytes of its float32 vectors at d >= 128.
    The first query compiles kernels; `halfspace.warmup` does it ahead. ``docs/exactness.md`` has the proofs.

    Examples
    --------
    >>> from halfspace import HalfspaceIndex
    >>> index = HalfspaceIndex(2, metric="l2")
    >>> _ = index.insert([[0, 0], [3, 4], [6, 8]])
    >>> [(hit.id, hit.score) for hit in index.query([0, 0], 5, sort=True)]
    [(0, 0.0), (1, 5.0)]
    >>> index.delete([0, 2])
    >>> index.compact()
    >>> index.ids.tolist()
    [1]
    """

    def __init__(
        self,
        dim: int,
        *,
        metric: str = "ip",
        device: str = "cpu",
        filter: str = "auto",
        dtype: Any = "float32",
        threads: int | None = None,
        subspaces: int | None = None,
        group_size: int | None = None,
    ) -> None:
        self._dim = checks.as_count(dim, "dim", 1)
        if self._dim > MAX_DIM:
            raise ValueError(f"dim must be at most {MAX_DIM}, got {dim}")
        self._backend = backends.load(device)
        self._on = self._backend.on(device)
        self._device = device
        self._filter = checks.one_of(filter, "filter", names())
        self._metric = Metric.named(checks.one_of(metric, "metric", METRICS))
        if filter != AUTO:
            checks.suits(FILTERS[filter], self._dim, metric, self._backend.DEVICE)
        cut, size = checks.grouping(subspaces, group_size, self._dim, filter)
        self._format = parse(dtype)
        self._threads = self._backend.available() if threads is None else checks.as_count(threads, "threads", 1)
        self._bits = FORMATS[self._format][1]
        self._writing = Lock()
        self._stored = ()
        builder = Builder(self._backend, self._filter, cut, size, self._threads, self._metric)
        with self._on:
            self._like = self._backend.xp.empty(0, self._bits)
            self._snapshot = Snapshot((), empty(self._backend.xp, self._bits, self._dim), 0, builder)
        self._tail = TailWriter()

    # -- changing it --------------------------------------------------------------------------------------------------

    def insert(
        self,
        vectors: npt.ArrayLike,
        ids: npt.ArrayLike | None = None,
        *,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> npt.NDArray[np.int64]:
        """Add vectors, or put them in the place of others.

        Parameters
        ----------
        vectors : array_like of real numbers, shape (n, d) or (d,)
            Rounded to the index's dtype; numbers must be finite there. NumPy's arrays, PyTorch's tensors, lists,
            columns and tables of pandas, polars and Arrow are taken, and what else NumPy makes an array of real
            numbers. Nothing is differentiated: of a tensor that requires its gradient, the numbers are read.
        ids : array_like of int, shape (n,), optional
            Ids of the vectors; by default they continue above the largest id ever used. The id of a deleted vector may
            be used again.
        replace : bool
            With ids that are in the index already: their vectors are exchanged for these, in one step (an upsert).
            Whoever asks meanwhile sees all of the old vectors or all of the new ones.
        progress : callable, optional
            Called as ``progress(done, total)`` while work goes on: at its start with ``done`` at 0, every fraction of a
            second, and at its end with ``done == total``. Both count vectors, those of segments that are merged
            included; ``done`` is the share of the work in them, never goes back, and ``total`` stays the same. One call
            at a time, from any thread; it must not change the index. An exception that it raises cancels the insert:
            the index is as it was, and the exception comes out.

        Returns
        -------
        ndarray of int64, shape (n,)
            The ids, on the index's device.

        Raises
        ------
        ValueError
            If shapes do not fit, a number is NaN or infinite in the index's dtype (the error names the row), or an id
            is given twice or, without `replace`, taken; if `replace` comes without ids; if rows differ in length, or a
            value is null; with ``metric="cosine"``, if a vector is zero in the index's dtype (the error names the
            row). Nothing has changed then.
        TypeError
            If vectors are not real numbers or ids not integers; if an array is masked or sparse, or on another device.
            The error says what to pass instead.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> index.insert([[1, 0], [0, 1]], ids=[7, 8]).tolist()
        [7, 8]
        >>> index.insert([[3, 4], [5, 6]], ids=[8, 9], replace=True).tolist()
        [8, 9]
        >>> index.vectors([7, 8, 9]).tolist()
        [[1.0, 0.0], [3.0, 4.0], [5.0, 6.0]]
        """
        backend = self._backend
        if replace and ids is None:
            raise ValueError("replace=True needs ids: which vectors are to be replaced")
        with self._on:
            numbers, single = checks.as_matrix(backend.asarray(vectors, "vectors"), self._dim, "vectors")
            meter = Meter(progress, self._snapshot.work(len(numbers)))
            rounding, measuring, sealing = meter.split(1.0, 1.0, _SEALING)
            advance = rounding.over(numbers.size)
            bits = checks.rounded(numbers, self._bits, "vectors", backend, self._threads, advance)
            own = None
            if ids is not None:
                own = checks.as_ids(backend.asarray(ids, "ids"), scalar=single)
                if own.size != len(bits):
                    raise ValueError(f"ids must have shape ({len(bits)},), got {own.shape}")
                checks.distinct(own)
            if len(bits) == 0:
                meter.finish()
                return self._snapshot.claimed(None, 0)
            norms, grain = backend.measure(bits[None], self._threads, measuring.over(bits.size))
            if self._metric == Metric.COSINE and not bool(norms.all()):
                checks.nonzero(as_float32(bits), "vectors")
            with self._writing.once:
                snapshot = self._snapshot.without(own) if replace and own is not None else self._snapshot
                own = snapshot.claimed(own, len(bits))
                next_id = max(snapshot.next_id, int(own.max()) + 1)
                fresh = Segment(bits[None], own, norms, grain, live=own.size)
                longer = self._tail.append(snapshot, fresh, next_id, sealing)
                meter.finish()  # as long as it may be cancelled
                self._publish(longer)
            return own.copy()

    def delete(self, ids: npt.ArrayLike) -> None:
        """Remove vectors.

        Parameters
        ----------
        ids : array_like of int, shape (n,), or int

        Raises
        ------
        KeyError
            If an id is not in the index; nothing has changed then.
        ValueError
            If an id is given twice.
        """
        with self._on:
            gone = checks.as_ids(self._backend.asarray(ids, "ids"), scalar=True)
            checks.distinct(gone)
            with self._writing.once:
                where, rows = self._snapshot.known(gone)
                if gone.size:
                    self._publish(self._snapshot.excluding(where, rows))

    def clear(self) -> None:
        """Remove all vectors, and free what they took.

        Assigned ids continue above the largest ever used, as after `delete`.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 2], [3, 4]])
        >>> index.clear()
        >>> len(index), index.insert([5, 6]).tolist()
        (0, [2])
        """
        with self._on, self._writing.once:
            self._publish(self._snapshot.emptied())
            self._stored = ()

    def compact(self, *, progress: Progress | None = None) -> None:
        """Bring all vectors into one segment and reclaim the space of deleted ones.

        With the filter ``"auto"``, that segment gets the filter that suits the last questions best. Time O(n d), or
        O(n d log n) where vectors are grouped.

        Parameters
        ----------
        progress : callable, optional
            As for `insert`; ``total`` is the number of vectors.
        """
        with self._on, self._writing.once:
            meter = Meter(progress, self._snapshot.live)
            compacted = self._snapshot.compacted(meter)
            meter.finish()  # as long as it may be cancelled
            self._publish(compacted)

    # -- copies -------------------------------------------------------------------------------------------------------

    def copy(self) -> "HalfspaceIndex":
        """Return an index of its own with the same vectors, which sees no later change of this one, and none of its.

        It takes little time and memory, however many vectors there are: segments never change, and are shared.
        ``copy.copy`` and ``copy.deepcopy`` do the same.

        Returns
        -------
        HalfspaceIndex
            On the same device, with the same arguments; the state is that of one moment.

        Examples
        --------
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 2], [3, 4]])
        >>> other = index.copy()
        >>> index.delete(0)
        >>> index.ids.tolist(), other.ids.tolist()
        ([1], [0, 1])
        """
        other = object.__new__(type(self))
        with self._on:
            other.__dict__.update(self.__dict__)
            other._writing, other._tail = Lock(), TailWriter()
            other._publish(self._snapshot.apart())
        return other

    def __copy__(self) -> "HalfspaceIndex":
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> "HalfspaceIndex":
        return self.copy()

    def __reduce__(self) -> Any:
        """Pickle what `save` writes; `load` reads it again, with the device and the threads of this index."""
        content = io.BytesIO()
        self.save(content)
        return partial(type(self).load, device=self._device, threads=self._threads), (content.getvalue(),)

    @classmethod
    def load(
        cls,
        path: Source,
        *,
        mmap: bool = False,
        device: str = "cpu",
        threads: int | None = None,
    ) -> "HalfspaceIndex":
        """Read an index that `save` wrote.

        Parameters
        ----------
        path : path, bytes, or binary file object
            A file object is read from where it stands to the end of the index, whatever follows; it needs `read` alone.
        mmap : bool
            Map the file instead of reading it: opens in milliseconds, shares memory between processes, and may be
            larger than memory (``docs/scale.md``). Only size, header, section table and metadata are checked then;
            `verify` checks the rest. Needs a path.
        device, threads : optional
            As for a new index; a GPU copies what is mapped.

        Raises
        ------
        ValueError
            If the file is no index, is truncated, fails a checksum, or has ids or norms that cannot be; the error has
            the path, and says which. If what is no path is to be mapped.
        TypeError
            If `path` is none of these.
        OSError
            If it cannot be read, or is no regular file.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from halfspace import HalfspaceIndex
        >>> index = HalfspaceIndex(2)
        >>> _ = index.insert([[1, 2], [3, 4]])
        >>> with TemporaryDirectory() as folder:
        ...     index.save(Path(folder) / "my.index")
        ...     HalfspaceIndex.load(Path(folder) / "my.index").query([1, 1], 5.0).ids.tolist()
        [1]
        """
        loaded = index_file.load(path, mmap)
        index = cls(
            loaded.dim,
            metric=loaded.metric,
            device=device,
            filter=loaded.filter,
            dtype=loaded.format,
            threads=threads,
            subspaces=loaded.subspaces,
            group_size=loaded.group_size,
        )
        with index._on:
            *sealed, tail = (part.moved(index._backend.xp.asarray) for part in (*loaded.sealed, loaded.tail))
            index._publish(Snapshot(tuple(sealed), tail, loaded.next_id, index._snapshot.builder))
        if loaded.stored is not None:
            index._stored = (loaded.stored,)
            mapped.expect(index._snapshot.sealed, sparse=True)
        return index

    def _publish(self, snapshot: Snapshot) -> None:
        """Make a new state the one that is asked, once all of it is there."""
        self._backend.finish(snapshot)
        self._snapshot = snapshot
