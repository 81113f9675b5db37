"""Answers into memory that is there already: queries that never wait, and that a CUDA graph may hold."""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.arguments import checks
from halfspace.gpu.run import Buffers, Run
from halfspace.gpu.runtime.device import asarray, is_here, is_kernel_ready, keep_until_read, release
from halfspace.gpu.runtime.tables import Uploaded, upload
from halfspace.gpu.search import room
from halfspace.hits import Hits
from halfspace.model.counters import Want
from halfspace.model.metrics import Metric
from halfspace.model.question import Question

__all__ = ["Preallocated", "fill", "may_fill", "preallocate"]

CANDIDATES = 8
"""Candidates that there is room for, for each hit."""
FEW = 1 << 14
"""Candidates that there is always room for."""

_ARRAYS = ("ids", "scores", "offsets", "totals")


class Preallocated(Hits):
    """A `Hits` that `HalfspaceIndex.query` fills without waiting; see `preallocate`.

    Attributes
    ----------
    buffers : Buffers
        The whole arrays, for kernels that follow on the stream of the query: only the first ``offsets[-1]`` ids and
        scores are an answer, and only if `check` says so.
    """

    def __init__(self, capacity: int, directions: int | None, scores: bool) -> None:
        self._capacity, self._directions = checks.as_count(capacity, "capacity", 1), directions
        count = 1 if directions is None else checks.as_count(directions, "directions", 1)
        self.buffers = Buffers.of(count, self._capacity, Want.SCORES if scores else Want.IDS)
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

    def fill(self, question: Question, uploaded: Uploaded, columns: int) -> None:
        """Launch the kernels that answer a question."""
        run = self._run
        if run is None or self._uploaded is not uploaded:
            wanted = Want.SCORES if self.buffers.scores.size else Want.IDS
            rooms = CANDIDATES * self._capacity + FEW
            run = Run(uploaded, question, rooms, wanted, self._status)
            self._run, self._uploaded = run, uploaded
        self._columns = columns
        self._forget()
        run.ask(question._replace(as_users=question.metric == Metric.L2))
        run.launch()
        run.answer_into(self.buffers)
        self._keep((question, uploaded, run, list(run.keepalive), self.buffers, self._status))

    def _keep(self, read: object) -> None:
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
            If a direction was not finite (or zero, with the metric ``"cosine"``) or tau NaN, or the answer did not fit;
            the error says what it needs.
        """
        self._forget()
        release()
        if self._run is None:
            raise RuntimeError("nothing was asked yet: pass this as out= to query")
        pairs, listed, hits, bad = self._status.get().tolist()
        if bad < self._count:
            zero = ", or zero, which has no cosine" if self._run.metric == Metric.COSINE else ""
            raise ValueError(f"directions[{bad}] is not finite{zero}, or its tau is nan")
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


def preallocate(capacity: int, directions: int | None, scores: bool) -> Preallocated:
    """Make room on the current GPU for an answer that is filled without waiting."""
    return Preallocated(capacity, directions, scores)


def fill(
    out: Any, question: Question, *, scores: bool, sort: bool, limit: int | None, single: bool, columns: int
) -> Preallocated:
    """Answer a question into a `Preallocated`, without waiting for it.

    Raises
    ------
    TypeError, ValueError
        If `out` is no preallocated `Hits`, or the question does not fit it.
    """
    if not isinstance(out, Preallocated):
        raise TypeError(f"out must come from HalfspaceIndex.preallocate, got {type(out).__name__}")
    if sort or limit is not None:
        raise ValueError("out takes hits by id, all of them: sort and limit are not for it")
    asked = (None if single else len(question.directions)), scores
    made = out._directions, out.buffers.scores.size > 0
    if asked != made:
        raise ValueError(f"out was preallocated for (directions, scores) {made}, the query has {asked}")
    uploaded = upload(question.table)
    if out.buffers.ids.device.id != cp.cuda.runtime.getDevice():
        raise ValueError(f"out is on GPU {out.buffers.ids.device.id}, the index on GPU {cp.cuda.runtime.getDevice()}")
    if not uploaded.ordered:
        raise ValueError("ids of segments overlap: compact() the index before querying it with out")
    most = room(question.table, question.directions.shape[1])
    if len(question.directions) > most:
        raise ValueError(f"out takes {most} directions at once here, got {len(question.directions)}")
    out.fill(question, uploaded, columns)
    return out


def may_fill(out: Any, directions: Any, tau: Any, within: Any) -> None:
    """Refuse a question for `out` that would have to be waited for, before anything is done about it."""
    if within is not None:
        raise ValueError("out takes no within: ids would have to be looked up, and waited for")
    own = asarray(directions, "directions")
    if not is_here(directions) or own.dtype != np.float32 or not is_kernel_ready(own):
        raise ValueError("out takes contiguous float32 directions on the GPU: others are converted, and waited for")
    if isinstance(tau, (int, float)):
        return
    limits = asarray(tau, "tau")
    if not is_here(tau) or limits.ndim != 1 or limits.dtype != np.float64:
        raise ValueError(
            "out takes tau as a number or as float64 (m,) on the GPU: others are converted, and waited for"
        )
