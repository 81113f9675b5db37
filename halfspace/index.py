"""The public index: validate, choose, call the stages in the order of the mathematics."""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace import backend as backends
from halfspace import query as asking
from halfspace.arguments import checks
from halfspace.contents import Contents
from halfspace.explain import Explanation
from halfspace.files import index_file
from halfspace.hits import Hits
from halfspace.model.counters import Want
from halfspace.model.filters import AUTO, FILTERS, names
from halfspace.model.formats import FORMATS, parse
from halfspace.model.question import Question
from halfspace.model.rounding import MAX_DIM
from halfspace.model.segment import Segment, empty
from halfspace.runtime.lock import Lock
from halfspace.runtime.progress import Meter, Progress
from halfspace.state.build import Builder
from halfspace.state.restrict import restrict
from halfspace.state.snapshot import MAX_ID, Snapshot
from halfspace.state.tail import TailWriter

__all__ = ["HalfspaceIndex"]

_FLOAT32 = np.dtype(np.float32)
_SEALING = 30.0
"""What sealing costs, about, where rounding or measuring the same vectors costs 1."""


class HalfspaceIndex(Contents):
    """Vectors that can be asked for *all* of their number in a halfspace, exactly.

    `query` returns the set {i : sum_j q_j x_ij >= tau}, evaluated in real arithmetic on the stored floats: no false
    negative and no false positive, the same set for one direction or a batch, for every filter and any number of
    threads.

    Any number of threads may query at once, also while one of them inserts, deletes or saves: a query answers for the
    state of the index at one moment between its start and its end.

    Parameters
    ----------
    dim : int
        Number of dimensions d, at least 1.
    device : {"cpu", "gpu", "gpu:0", "gpu:1", ...}
        Where vectors are kept and searched. On a GPU, arrays are CuPy's, both those that are given (or what shares its
        memory with CuPy without a copy, such as PyTorch's; numbers, lists, columns and tables are copied) and those
        that come back. An array in the host's memory is refused there: ``cupy.asarray`` copies it. ``"gpu"`` is the
        current GPU.
    filter : {"auto", "cells", "groups", "balls", "sweep", "scan"}
        How vectors are ruled out before they are verified; the answer does not depend on it. ``"cells"`` tests norms,
        principal axes where they pay, and codes of each vector, in 4 and then in 8 bits; ``"groups"`` tests balls
        around 1,024, around 16 vectors that lie close together, and around each; ``"balls"`` sums the bounds of small
        balls in each subspace, and ``"sweep"`` collects vectors from their sorted lists before; ``"scan"`` reads every
        vector. ``"auto"`` builds the one that reads the fewest bytes on a sample, in batches of at least 32,768
        vectors, and leaves codes where they do not pay.
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
    """

    def __init__(
        self,
        dim: int,
        *,
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
        if filter != AUTO:
            checks.suits(FILTERS[filter], self._dim, self._backend.DEVICE)
        cut, size = checks.grouping(subspaces, group_size, self._dim, filter)
        self._format = parse(dtype)
        self._threads = self._backend.available() if threads is None else checks.as_count(threads, "threads", 1)
        self._bits = FORMATS[self._format][1]
        self._writing = Lock()
        self._stored = None
        builder = Builder(self._backend, self._filter, cut, size, self._threads)
        with self._on:
            self._like = self._backend.xp.empty(0, self._bits)
            self._snapshot = Snapshot((), empty(self._backend.xp, self._bits, self._dim), 0, builder)
        self._tail = TailWriter()

    # -- changing it --------------------------------------------------------------------------------------------------

    def insert(
        self, vectors: npt.ArrayLike, ids: npt.ArrayLike | None = None, *, progress: Progress | None = None
    ) -> npt.NDArray[np.int64]:
        """Add vectors.

        Parameters
        ----------
        vectors : array_like of real numbers, shape (n, d) or (d,)
            Rounded to the index's dtype; numbers must be finite there. NumPy's arrays, PyTorch's tensors, lists,
            columns and tables of pandas, polars and Arrow are taken, and what else NumPy makes an array of real
            numbers. Nothing is differentiated: of a tensor that requires its gradient, the numbers are read.
        ids : array_like of int, shape (n,), optional
            Ids of the vectors; by default they continue above the largest id ever used. The id of a deleted vector may
            be used again.
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
            is taken; if rows differ in length, or a value is null. Nothing has changed then.
        TypeError
            If vectors are not real numbers or ids not integers; if an array is masked or sparse, or on another device.
            The error says what to pass instead.
        """
        backend = self._backend
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
            with self._writing.once:
                snapshot = self._snapshot
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

    # -- asking it ----------------------------------------------------------------------------------------------------

    def query(
        self,
        directions: npt.ArrayLike,
        tau: npt.ArrayLike,
        *,
        scores: bool = True,
        sort: bool = False,
        within: npt.ArrayLike | None = None,
        limit: int | None = None,
        threads: int | None = None,
        out: Hits | None = None,
    ) -> Hits:
        """Find every vector x with <q, x> >= tau.

        Parameters
        ----------
        directions : array_like of real numbers, shape (d,) or (m, d)
            One direction q or a batch, rounded to float32; whatever `insert` takes.
        tau : array_like of float, scalar or shape (m,)
            The threshold, or one for each direction; the boundary belongs to the answer. ``-inf`` returns all, ``inf``
            none.
        scores : bool
            Whether to return dot products; without them, balls that lie wholly inside are taken unread.
        sort : bool
            Order hits by descending score, then by id, instead of by id.
        within : array_like of int or bool, optional
            Consider only these ids, or the ids at which a mask is true; a mask covers ids 0 to the largest in the
            index.
        limit : int, optional
            Keep only so many hits of each direction, the best by score and then by id; `Hits.totals` still counts all.
        threads : int, optional
            Threads for this call; the index's by default. The answer does not depend on it.
        out : Hits, optional
            A `Hits` made by `preallocate`, on a GPU: filled without synchronisation.

        Returns
        -------
        Hits
            Ids and scores, on the index's device: of the hits, for one direction; of each direction's hits, for a
            batch.

        Raises
        ------
        ValueError
            If shapes do not fit, a direction is not finite in float32, or tau is NaN (the error names the row).
        TypeError
            If directions or tau are not real numbers, or ids not integers; and as for `insert`.
        KeyError
            If `within` names an id that is not in the index.

        Notes
        -----
        Exact in real arithmetic on the stored numbers, the float32 direction and the float64 tau; a score is the real
        dot product rounded once to the nearest float32 (so it may round below tau). See ``docs/exactness.md``.
        """
        best = None if limit is None else min(checks.as_count(limit, "limit", 0), MAX_ID)
        snapshot = self._snapshot
        with self._on:
            if out is not None:
                self._backend.may_fill(out, directions, tau, within)
            wanted = Want.SCORES if scores or sort or best is not None else Want.IDS
            question, single = self._asked(snapshot, (directions, tau, within), wanted, threads)
            if out is not None:
                shape: dict[str, Any] = {"sort": sort, "limit": best, "single": single, "columns": snapshot.next_id}
                filled: Hits = self._backend.fill(out, question, scores=scores, **shape)
                return filled
            offsets, ids, values, totals = asking.rows(self._backend, question, sort, best)
            snapshot.builder.remember(question.directions, question.tau)
            return Hits(ids, values if scores else None, offsets, totals, single=single, columns=snapshot.next_id)

    def count(
        self,
        directions: npt.ArrayLike,
        tau: npt.ArrayLike,
        *,
        within: npt.ArrayLike | None = None,
        threads: int | None = None,
    ) -> int | npt.NDArray[np.int64]:
        """Count the vectors with <q, x> >= tau; arguments, errors and guarantee are those of `query`.

        Returns
        -------
        int, or ndarray of int64 of shape (m,), on the index's device, for a batch
        """
        snapshot = self._snapshot
        with self._on:
            question, single = self._asked(snapshot, (directions, tau, within), Want.COUNT, threads)
            counts = (asking.total if single else asking.counts)(self._backend, question)
            snapshot.builder.remember(question.directions, question.tau)
            return counts

    def explain(self, direction: npt.ArrayLike, tau: float) -> Explanation:
        """Answer one query, with scores, and count what each stage tested, decided and read.

        Parameters
        ----------
        direction : array_like of real numbers, shape (d,)
        tau : float

        Returns
        -------
        Explanation
            The counts; they depend on the index, the direction and tau alone, so they repeat.
        """
        snapshot = self._snapshot
        with self._on:
            question, single = self._asked(snapshot, (direction, tau, None), Want.EXPLAINED, 1)
            if not single:
                raise ValueError(f"explain takes one direction of shape ({self._dim},), got {len(question.directions)}")
            explanation = Explanation.of(self._filter, *asking.work(self._backend, question), snapshot.segments)
            snapshot.builder.remember(question.directions, question.tau)
            return explanation

    def _asked(
        self, snapshot: Snapshot, given: tuple[Any, Any, Any], wanted: Want, threads: int | None
    ) -> tuple[Question, bool]:
        """Validate a question: directions, tau and within; returns it, and whether it has a single direction."""
        directions, tau, within = given
        backend = self._backend
        numbers, single = checks.as_matrix(backend.asarray(directions, "directions"), self._dim, "directions")
        thresholds = backend.as_tau(tau, len(numbers), single)
        workers = self._threads if threads is None else checks.as_count(threads, "threads", 1)
        table = restrict(snapshot, within)
        ready = numbers.dtype == _FLOAT32 and backend.is_kernel_ready(numbers)
        if not ready:  # of those that are, kernels find what is not finite
            numbers = checks.rounded(numbers, _FLOAT32, "directions", backend, self._threads)
        how = self._filter == AUTO, workers, wanted, backend.MOST_HITS
        return Question(table, self._like, numbers, thresholds, *how), single

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        mmap: bool = False,
        device: str = "cpu",
        threads: int | None = None,
    ) -> "HalfspaceIndex":
        """Read an index that `save` wrote.

        Parameters
        ----------
        path : path
        mmap : bool
            Map the file instead of reading it: opens in milliseconds and shares memory between processes. Only size,
            header, section table and metadata are checked then; `verify` checks the rest.
        device, threads : optional
            As for a new index; a GPU copies what is mapped.

        Raises
        ------
        ValueError
            If the file is no index, is truncated, fails a checksum, or has ids or norms that cannot be; the error has
            the path, and says which.
        OSError
            If it cannot be read, or is no regular file.
        """
        loaded = index_file.load(path, mmap)
        index = cls(
            loaded.dim,
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
        index._stored = loaded.stored
        return index

    def _publish(self, snapshot: Snapshot) -> None:
        """Make a new state the one that is asked, once all of it is there."""
        self._backend.finish(snapshot)
        self._snapshot = snapshot
