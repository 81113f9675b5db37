"""Shaping an answer on the device: order and cut its rows, put blocks of rows together.

Signatures are those of `halfspace.cpu.collect`; the number of threads is not looked at.
"""

from typing import Any

import cupy as cp
import numpy as np
import numpy.typing as npt

from halfspace.gpu.run import Buffers
from halfspace.gpu.runtime.launch import Kernel
from halfspace.gpu.runtime.records import ROW_THREADS, THREADS
from halfspace.model.counters import Want

__all__ = ["best", "collect", "edges", "higher", "joined", "order_by_id", "ranked", "sort_by_score", "without"]

FEW = 1 << 16
"""Hits that are ordered by comparing each with all of its row; more are sorted."""
BLOCKS = 1 << 13
"""Blocks that compare, about: rows are cut into parts where they are few."""
RANKED = 2048
"""Hits of a row that a block ranks at once; the twin of the constant in ``kernels/select.cu``."""
LONG = 1 << 18
"""Hits of a row, in the mean, that one block looks through for the best; longer rows are sorted."""

_HITS = ("offsets", np.int64), ("ids", np.int64), ("scores", np.float32)
_KEPT = ("kept_offsets", np.int64), ("kept_ids", np.int64), ("kept_scores", np.float32)
_keep_hits = Kernel("select.cu", "keep_hits", *_HITS, ("limit", int), *_KEPT)
_rank_hits = Kernel("select.cu", "rank_hits", *_HITS, ("ranked_ids", np.int64), ("ranked_scores", np.float32))

_rank_best = Kernel(
    "select.cu",
    "rank_best",
    *_HITS,
    ("limit", int),
    *(("best_ids", np.int64), ("best_scores", np.float32), ("best_offsets", np.int64)),
    ("clear", int),
)


def collect(found: Any, threads: int) -> tuple[Any, Any, Any]:
    """Return offsets (m + 1,), ids and scores (hits,) of an `halfspace.gpu.search.Answer`."""
    return found.offsets, found.ids, found.scores


def edges(found: Any, ids: Any, threads: int) -> tuple[Any, Any, Any]:
    """Return ids of directions, of which these are all (m,), and of vectors (hits,), and scores."""
    if found.listed is not None:
        pairs: tuple[Any, Any, Any] = found.listed.edges(ids, found.hits)
        return pairs
    offsets, hits, scores = collect(found, threads)
    return ids[_rows(offsets, hits.size)], hits, scores


def _rows(offsets: Any, size: int) -> Any:
    """Return the row of each of so many hits."""
    return cp.searchsorted(offsets[1:], cp.arange(size), side="right")


def _order(*keys: Any) -> Any:
    """Return what sorts int64 keys, the last one first."""
    return cp.lexsort(cp.stack([key.astype(np.int64) for key in keys]))


def _by_score(offsets: Any, scores: Any) -> tuple[Any, Any]:
    """Return what sorts each row by descending score and then by place, and the row of each hit."""
    bits = scores.view(np.int32).astype(np.int64)
    descending = cp.where(bits >= 0, -bits, bits + 0x80000000)  # integers: flushed subnormals keep their places
    rows = _rows(offsets, scores.size)
    return _order(cp.arange(scores.size), descending, rows), rows


def order_by_id(offsets: Any, ids: Any, scores: Any) -> tuple[Any, Any, Any]:
    """Order each row by id."""
    order = _order(ids, _rows(offsets, ids.size))
    return offsets, ids[order], scores[order] if scores.size else scores


def sort_by_score(offsets: Any, ids: Any, scores: Any, threads: int) -> tuple[Any, Any, Any]:
    """Order each row by descending score, then by id; rows come ordered by id."""
    if ids.size > FEW:
        order, _ = _by_score(offsets, scores)
        return offsets, ids[order], scores[order]
    rows, ranked = offsets.size - 1, (cp.empty_like(ids), cp.empty_like(scores))
    parts = max(1, min(-(-ids.size // THREADS), BLOCKS // rows))
    _rank_hits((rows, parts), THREADS, offsets, ids, scores, *ranked)
    return offsets, *ranked


def best(found: Any, limit: int, threads: int, sort: bool = False) -> tuple[Any, Any, Any]:
    """Keep of each direction the `limit` best, by score and then by id: in order of ids, or in that of scores."""
    rows = collect(found, threads)
    if limit < rows[1].size:
        rows = _kept(*rows, limit)
    return sort_by_score(*rows, threads) if sort else rows


def _kept(offsets: Any, ids: Any, scores: Any, limit: int) -> tuple[Any, Any, Any]:
    """Keep of each row the `limit` best, by score and then by place; places stay in order."""
    rows, hits = offsets.size - 1, ids.size
    if hits > LONG * rows:
        order, owners = _by_score(offsets, scores)
        kept = cp.sort(order[cp.arange(hits) - offsets[owners] < limit])
        lengths = cp.minimum(offsets[1:] - offsets[:-1], limit)
        return cp.concatenate([offsets[:1], cp.cumsum(lengths)]), ids[kept], scores[kept]
    room = min(hits, rows * limit)
    own_offsets, own_ids, own_scores = (
        cp.empty(size, kind) for size, kind in ((rows + 1, np.int64), (room, np.int64), (room, np.float32))
    )
    _keep_hits((rows,), ROW_THREADS, offsets, ids, scores, limit, own_offsets, own_ids, own_scores)
    total = int(own_offsets[-1])  # some rows may have fewer
    return own_offsets, own_ids[:total], own_scores[:total]


def ranked(found: Any, limit: int, threads: int) -> tuple[Any, npt.NDArray[np.bool_], Any]:
    """Return the `limit` best of each direction, and where they are so many with scores of their own; and some more."""
    offsets, ids, scores = collect(found, threads)
    rows = offsets.size - 1
    if not rows or not limit * rows <= ids.size <= LONG * rows or limit >= RANKED:
        none, clear = cp.zeros(rows + 1, np.int64), np.zeros(rows, np.bool_)
        own: Any = none, ids[:0], scores[:0], none[:rows]
    else:
        buffers = Buffers.of(rows, rows * limit, Want.SCORES)  # totals lie behind the offsets
        own = buffers.offsets, buffers.ids, buffers.scores, buffers.totals
        clear = np.frombuffer(cp.cuda.alloc_pinned_memory(rows), np.bool_, rows)  # kernels write to it
        try:
            _rank_best((rows,), ROW_THREADS, offsets, ids, scores, limit, *buffers[:3], clear.ctypes.data)
        finally:  # after an interrupt, too: what it writes to would be free
            cp.cuda.get_current_stream().synchronize()
    if clear.all():
        return own, clear, None
    few = rows == 1  # sooner sorted than sifted
    more = sort_by_score(offsets, ids, scores, threads) if few else best(found, limit + 1, threads, sort=True)
    return own, clear, more


def higher(tau: Any, unless: Any) -> Any:
    """Return the higher of two thresholds, floats or float64 (m,), of each direction."""
    return max(tau, unless) if isinstance(tau, float) and isinstance(unless, float) else cp.maximum(tau, unless)


def without(found: Any, beyond: Any, threads: int) -> Any:
    """Return an answer without the hits of another, all of which are among its own; counters are the sum of both."""
    counts = found.counts - beyond.counts
    work = None if found.work is None else found.work + beyond.work
    ids, scores = found.ids, found.scores
    if ids.size and beyond.ids.size:
        known = cp.unique(ids)  # in the place of ids: with the row, they order as the hits do
        own, others = (
            _rows(one.offsets, one.ids.size) * known.size + cp.searchsorted(known, one.ids) for one in (found, beyond)
        )
        at = cp.minimum(cp.searchsorted(others, own), others.size - 1)
        kept = cp.flatnonzero(others[at] != own)
        ids, scores = ids[kept], scores[kept] if scores.size else scores
    offsets = cp.concatenate([found.offsets[:1], cp.cumsum(counts)])
    rest = {"hits": found.hits - beyond.hits, "counts": counts, "offsets": offsets}
    return found._replace(**rest, ids=ids, scores=scores, work=work)


def joined(whole: tuple[Any, ...], block: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add a block of rows to those before: offsets, ids, scores and true numbers."""
    offsets, ids, scores, totals = whole
    more_offsets, more_ids, more_scores, more_totals = block
    return (
        cp.concatenate([offsets, more_offsets[1:] + ids.size]),
        cp.concatenate([ids, more_ids]),
        cp.concatenate([scores, more_scores]),
        cp.concatenate([totals, more_totals]),
    )
