"""Answers into memory that is there already: queries that never wait, and that a CUDA graph may hold."""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.arguments import checks
from halfspace.gpu.runtime.device import asarray, is_here, keep_until_read, plain, release
from halfspace.gpu.runtime.tables import Uploaded, upload
from halfspace.gpu.search import IDS, SCORES, Buffers, Run, room
from halfspace.hits import Hits

__all__ = ["Buffers", "Preallocated", "fill", "may_fill"]

CANDIDATES = 8
"""Candidates that there is room for, for each hit."""
FEW = 1 << 14
"""Candidates that there is always room for."""

_ARRAYS = ("ids", "scores", "offsets", "totals")


class Preallocated(Hits):
    """A `Hits` that `HalfspaceIndex.query` fills without waiting; see `Hits.preallocate`.

    Attributes
    ----------
    buffers : Buffers
        The whole arrays, for kernels that follow on the stream of the query: only the first ``offsets[-1]`` ids and
        scores are an answer, and only if `check` says so.
    """

    def __init__(self, capacity: int, directions: int | None, scores: bool) -> None:
        self._capacity, self._directions = checks.as_count(capacity, "capacity", 1), directions
        count = 1 if directions is None else checks.as_count(directions, "directions", 1)
        self.buffers = Buffers.of(count, self._capacity, SCORES if scores else IDS)
        super().__init__(*self.buffers, single=directions is None, columns=0)
        self._count = count
        self._status = cp.zeros(4, np.uint64)  # the header of the last search that was done
        self._run: Run | None = None
        self._uploaded: Uploaded | None = None
        self._captured: list[object] = []
        self._readable = True
        self._forget()

    def _forget(self) -> None:
        """Let nothing be read until it is checked: what is not set, `__getattr__` refuses."""
        if self._readable:
            for name in _ARRAYS:
                delattr(self, name)
        self._readable = False

    def __getattr__(self, name: str) -> Any:
        if name in _ARRAYS:
            raise RuntimeError(f"{name}: call check() first, which waits for the answer")
        raise AttributeError(name)

    def __repr__(self) -> str:
        return super().__repr__() if self._readable else f"<Hits: room for {self._capacity:,}, not checked>"

    def fill(self, query: Any, uploaded: Uploaded, columns: int) -> None:
        """Launch the kernels that answer a `halfspace.query.Query`."""
        run = self._run
        if run is None or self._uploaded is not uploaded:
            wanted = SCORES if self.buffers.scores.size else IDS
            rooms = CANDIDATES * self._capacity + FEW
            run = Run(uploaded, query.like, self._count, query.directions.shape[1], wanted, rooms, told=False)
            run.tell(self._status)
            self._run, self._uploaded = run, uploaded
        self._columns = columns
        self._forget()
        run.ask(query.directions, query.tau)
        run.answer_into(self.buffers)
        run.launch()
        run.fill()
        self._hold(
            (query.table, uploaded, run, list(run.held), query.directions, query.tau, self.buffers, self._status)
        )

    def _hold(self, read: object) -> None:
        """Keep what kernels read until they are done; in a graph, as long as this object."""
        if cp.cuda.get_current_stream().is_capturing():
            self._captured.append(read)
        else:
            keep_until_read(read)

    def check(self) -> "Preallocated":
        """Wait for the current stream, on which the query or graph ran, and make the answer readable.

        Returns
        -------
        Hits
            This object, its arrays cut to the answer.

        A graph that is replayed writes anew: what was read before is then no answer, until this is called again.

        Raises
        ------
        RuntimeError
            If nothing was asked yet.
        ValueError
            If a direction was not finite or tau NaN, or the answer did not fit; the error says what it needs.
        """
        self._forget()
        release()
        if self._run is None:
            raise RuntimeError("nothing was asked yet: pass this as out= to query")
        pairs, listed, hits, bad = self._status.get().tolist()
        if bad < self._count:
            raise ValueError(f"directions[{bad}] is not finite, or its tau is nan")
        candidates, room = max(pairs, listed), CANDIDATES * self._capacity + FEW
        if hits > self._capacity or candidates > room:
            raise ValueError(
                f"{hits} hits and {candidates} candidates, but room for {self._capacity} and {room}: "
                f"preallocate a capacity of {max(hits, -(-(candidates - FEW) // CANDIDATES))}"
            )
        whole = self.buffers
        self.ids, self.offsets, self.totals = whole.ids[:hits], whole.offsets, whole.totals
        self.scores = whole.scores[:hits] if whole.scores.size else None
        self._readable = True
        return self


def fill(
    out: Any, query: Any, *, scores: bool, sort: bool, limit: int | None, single: bool, columns: int
) -> Preallocated:
    """Answer a `halfspace.query.Query` into a `Preallocated`, without waiting for it.

    Raises
    ------
    TypeError, ValueError
        If `out` is no preallocated `Hits`, or the question does not fit it.
    """
    if not isinstance(out, Preallocated):
        raise TypeError(f"out must come from Hits.preallocate, got {type(out).__name__}")
    if sort or limit is not None:
        raise ValueError("out takes hits by id, all of them: sort and limit are not for it")
    asked = (None if single else len(query.directions)), scores
    made = out._directions, out.buffers.scores.size > 0
    if asked != made:
        raise ValueError(f"out was preallocated for (directions, scores) {made}, the query has {asked}")
    uploaded = upload(query.table)
    if out.buffers.ids.device.id != cp.cuda.runtime.getDevice():
        raise ValueError(f"out is on GPU {out.buffers.ids.device.id}, the index on GPU {cp.cuda.runtime.getDevice()}")
    if not uploaded.ordered:
        raise ValueError("ids of segments overlap: compact() the index before querying it with out")
    most = room(query.table, query.directions.shape[1])
    if len(query.directions) > most:
        raise ValueError(f"out takes {most} directions at once here, got {len(query.directions)}")
    out.fill(query, uploaded, columns)
    return out


def may_fill(out: Any, directions: Any, tau: Any, within: Any) -> None:
    """Refuse a question for `out` that would have to be waited for, before anything is done about it."""
    if within is not None:
        raise ValueError("out takes no within: ids would have to be looked up, and waited for")
    own = asarray(directions, "directions")
    if not is_here(directions) or own.dtype != np.float32 or not plain(own):
        raise ValueError("out takes contiguous float32 directions on the GPU: others are converted, and waited for")
    if isinstance(tau, (int, float)):
        return
    limits = asarray(tau, "tau")
    if not is_here(tau) or limits.ndim != 1 or limits.dtype != np.float64:
        raise ValueError(
            "out takes tau as a number or as float64 (m,) on the GPU: others are converted, and waited for"
        )
