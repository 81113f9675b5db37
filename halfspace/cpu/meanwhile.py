"""What answers while a search kernel is compiled: a scan, whose own compiles in a quarter of the time.

All filters give the same set and the same scores. So where the kernel of a filter is neither loaded nor on disk,
another process compiles it, and the first questions are answered as if no segment had a filter.
"""

import os
from pathlib import Path
from threading import Lock
from typing import Any

from halfspace.cpu import stored
from halfspace.cpu.filters import FilterCode, code_of
from halfspace.cpu.pipeline import compile_ahead, is_there, search_kernel
from halfspace.cpu.runtime.helper import Helper, available
from halfspace.cpu.runtime.threads import go_on
from halfspace.model.counters import Want
from halfspace.model.question import Question
from halfspace.model.segment import SCAN
from halfspace.model.table import Table
from halfspace.runtime.patience import forked, waits

__all__ = ["answered_by"]

SCANNED = 1 << 32
"""Products of components above which a scan takes longer than a second or so: the question waits for the kernel."""

_there: set[str] = set()
"""Kernels that are loaded, or will be by the next call."""
_helpers: dict[str, Helper] = {}
_lock = Lock()
_PACKAGE = Path(__file__).parents[1]


def _in_child() -> None:
    global _lock
    _lock = Lock()
    _helpers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def answered_by(question: Question, code: FilterCode) -> tuple[Question, FilterCode]:
    """Return the question with what answers it: as it is, or for a scan."""
    if code.name in _there or _may_search(question, code):
        return question, code
    scan, found = code_of(SCAN), _helpers[code.name]
    reads = question.like.dtype, question.metric
    if found.reads == (reads[0].name, reads[1]) and not (found.reading.is_set() or stored.is_there(*reads)):
        compile_ahead(scan)  # while the other process compiles what reads vectors
        found.wait(go_on, found.reading)
    return question._replace(table=_plain(question.table)), scan


def _may_search(question: Question, code: FilterCode) -> bool:
    """Whether the kernel is there, or is to be compiled here, or has been waited for."""
    if code.name == SCAN or is_there(search_kernel(code)):
        _there.add(code.name)
        return True
    must = question.wanted == Want.EXPLAINED or question.table.rows * question.directions.size > SCANNED or waits()
    found = _helpers.get(code.name)
    if found is None and not (must or forked()) and available() and _is_own(code):
        with _lock:
            asked = code.name, question.like.dtype.name, int(question.metric)
            found = _helpers.get(code.name) or Helper.start(*asked)
            if found is not None:
                _helpers[code.name] = found
    if found is None:
        return True
    if must:
        found.wait(go_on, found.ended)
    if found.ended.is_set():  # if it has failed, the kernel is compiled here
        _there.add(code.name)
        return True
    return False


def _is_own(code: FilterCode) -> bool:
    """Whether another process knows the filter, and where it is kept on disk this one finds it."""
    cache: Any = search_kernel(code)._cache
    return hasattr(cache, "holds") and all(Path(source).is_relative_to(_PACKAGE) for source in code.sources)


def _plain(table: Table) -> Table:
    """Return a table of the same rows, of which no segment has a filter."""
    known: Table | None = table.kept.get("plain")
    if known is None:
        records = table.records.copy()
        records["data"] = 0
        known = table.kept.setdefault("plain", table.changed(records, (), table.allowed))
    return known
