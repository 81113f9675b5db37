"""Queries of a KV cache: each sequence is a table of one segment, whose spaces are its KV heads."""

from typing import Any

import numpy.typing as npt

from halfspace import query as asking
from halfspace.attention.arguments import Given
from halfspace.model.counters import Want
from halfspace.model.kv_cache import Cache, view
from halfspace.model.question import Question
from halfspace.model.table import Table

__all__ = ["rows"]


def rows(
    given: Given, cache: Cache, lengths: npt.NDArray[Any], queries: Any, levels: Any, scores: bool
) -> tuple[Any, ...]:
    """Find the keys that reach thresholds; offsets, ids, values and totals, sequence by sequence.

    lengths : (batch,); queries : float32 (batch * query_heads, d); levels : float64 (batch * query_heads,)
    """
    backend, heads = given.backend, given.query_heads
    like = backend.xp.empty(0, cache.keys.dtype)
    wanted = Want.SCORES if scores else Want.IDS
    whole: tuple[Any, ...] | None = None
    for sequence, length in enumerate(lengths.tolist()):
        own = slice(sequence * heads, (sequence + 1) * heads)
        table = Table.of([view(cache, sequence, length, given.format)], backend)
        asked = Question(table, like, queries[own], levels[own], False, given.threads, wanted, backend.MOST_HITS)
        block = asking.rows(backend, asked, False, None)
        whole = block if whole is None else backend.joined(whole, block)
    assert whole is not None
    return whole
