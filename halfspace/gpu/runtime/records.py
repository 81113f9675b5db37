"""Segments, questions and answers as the kernels see them: the twins of what is in ``kernels/runtime/records.cuh``."""

from enum import IntEnum
from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.filters import code_of
from halfspace.model.layout import Codes
from halfspace.model.segment import Segment, address

__all__ = [
    "CALL",
    "CODES",
    "GLANCE",
    "HEADER",
    "LEVEL",
    "LIFT",
    "PLAN",
    "ROW_THREADS",
    "SEGMENT",
    "THREADS",
    "VIEW",
    "Kind",
    "codes_at",
    "tabulate",
]

THREADS = 256
"""Threads of a block of the kernels that answer questions."""
ROW_THREADS = 1024
"""Threads of a block that goes through a row alone."""


class Kind(IntEnum):
    """What is in the record of a segment, and how directions are prepared for it."""

    SCAN = 0  # vectors and norms alone
    CELLS = 1
    GROUPS = 2
    BALLS = 3


def _fields(names: str, kind: Any = np.int64) -> list[tuple[str, Any]]:
    """Fields of one type, by their names: addresses or numbers."""
    return [(name, kind) for name in names.split()]


CODES = np.dtype(_fields("codes scales radii lengths"))
SEGMENT = np.dtype(
    [
        *_fields("kind rows first ids by_id places excluded vectors norms"),
        ("grain", np.float64),
        *_fields("centre weights high low scales high_radii low_radii peaks"),
        ("high_span", np.float64),
        ("low_span", np.float64),
        *_fields("lengths"),
        ("slack", np.float64),
        *_fields("of_rows of_groups of_chunks", CODES),
        *_fields("subspaces groups width columns"),
        ("of_subspaces", CODES),
        *_fields("holders"),
    ]
)
PLAN = np.dtype(_fields("norm grain slope intercept tau bad", np.float64))
LEVEL = np.dtype(_fields("level sure_level ratio offset", np.float32))
LIFT = np.dtype(_fields("below above", np.float32))
GLANCE = np.dtype(_fields("unit offset factor below", np.float32))
VIEW = np.dtype(
    [
        *_fields("below above lift_below lift_above norm factor factor_above widest", np.float64),
        *_fields("unit digit_sum high_slack low_slack", np.float64),
        ("levels", LEVEL, (2,)),
        ("lifts", LIFT, (3,)),
        ("glance", GLANCE),
    ]
)
HEADER = np.dtype(_fields("pairs listed hits bad", np.uint64))
CALL = np.dtype(
    [
        *_fields("directions tau"),
        ("one_tau", np.float64),
        *_fields("count batch dim wanted segments segment_count chunks owners plans views digits stride tiles"),
        *_fields("pairs pair_room listed scores listed_room bits counts starts totals offsets header status"),
        *_fields("ids values answer_room without_sign work"),
    ]
)


def tabulate(segment: Segment) -> tuple[np.ndarray, list[object]]:
    """Return SEGMENT (spaces,), and what it refers to beside the segment's own arrays."""
    kept = segment.kept
    known: tuple[np.ndarray, list[object]] | None = kept.get("gpu")
    return known or kept.setdefault("gpu", _tabulate(segment))


def _tabulate(segment: Segment) -> tuple[np.ndarray, list[object]]:
    code = code_of(segment.filter)
    records = np.zeros(segment.vectors.shape[0], SEGMENT)
    others: list[object] = []
    places = None
    if segment.by_id is not None:
        places = cp.zeros_like(segment.by_id)  # zeros, should a damaged file that is mapped not name all
        places[segment.by_id] = cp.arange(segment.rows)
        others.append(places)
    for space, record in enumerate(records):
        record["kind"], record["rows"], record["grain"] = code.kind, segment.rows, segment.grain
        record["ids"] = address(segment.ids)
        record["vectors"], record["norms"] = address(segment.vectors[space]), address(segment.norms[space])
        for name, array in (("by_id", segment.by_id), ("places", places), ("excluded", segment.dead)):
            record[name] = 0 if array is None else address(array)
        others += code.tabulate(segment, space, record)
    return records, others


def codes_at(codes: Codes, space: int) -> tuple[int, ...]:
    """Return the CODES of one space."""
    parts = (getattr(codes, name) for name in CODES.names or ())
    return tuple(0 if part is None else address(part[space]) for part in parts)
