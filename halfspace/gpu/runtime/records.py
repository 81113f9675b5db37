"""Segments, questions and answers as the kernels see them: the twins of the structs in ``kernels/records.cuh``."""

from typing import Any

import cupy as cp
import numpy as np

from halfspace.model.layout import Codes
from halfspace.model.segment import Segment, address

__all__ = ["CALL", "HEADER", "PLAN", "SEGMENT", "VIEW", "tabulate"]

KINDS = ("scan", "cells", "groups", "balls")
"""What a segment has, by its number."""

_CODES = ("codes", "scales", "radii")
_LEVELS = {"cells": "of_rows", "groups": "of_groups", "chunks": "of_chunks"}


def _fields(names: str, kind: Any = np.int64) -> list[tuple[str, Any]]:
    """Fields of one type, by their names: addresses or numbers."""
    return [(name, kind) for name in names.split()]


SEGMENT = np.dtype(
    [
        *_fields("kind rows first ids by_id places excluded vectors norms"),
        ("grain", np.float64),
        *_fields("centre weights high low scales high_radii low_radii peaks"),
        ("high_span", np.float64),
        ("low_span", np.float64),
        *((level, np.int64, (3,)) for level in _LEVELS.values()),
        *_fields("subspaces groups width swept columns"),
        ("of_subspaces", np.int64, (3,)),
        *_fields("holders"),
    ]
)
PLAN = np.dtype(_fields("norm grain slope intercept tau bad", np.float64))
VIEW = np.dtype(
    [
        *_fields("below above factor unit digit_sum high_slack low_slack", np.float64),
        ("levels", np.float32, (2, 4)),
    ]
)
HEADER = np.dtype(_fields("pairs listed hits bad", np.uint64))
CALL = np.dtype(
    [
        *_fields("directions tau"),
        ("one_tau", np.float64),
        *_fields("count batch dim wanted segments segment_count chunks owners plans views digits stride"),
        *_fields("pairs pair_room listed scores listed_room bits counts starts totals offsets header told"),
        *_fields("ids values answer_room work"),
    ]
)


def tabulate(segment: Segment) -> tuple[np.ndarray, list[object]]:
    """Return SEGMENT (spaces,), and what it refers to beside the segment's own arrays."""
    kept = segment.kept
    known: tuple[np.ndarray, list[object]] | None = kept.get("gpu")
    return known or kept.setdefault("gpu", _tabulate(segment))


def _tabulate(segment: Segment) -> tuple[np.ndarray, list[object]]:
    records = np.zeros(segment.vectors.shape[0], SEGMENT)
    others: list[object] = []
    cells, groups, balls = segment.cells, segment.groups, segment.balls
    places = columns = None
    if segment.by_id is not None:
        places = cp.zeros_like(segment.by_id)  # zeros, should a damaged file that is mapped not name all
        places[segment.by_id] = cp.arange(segment.rows)
        others.append(places)
    if balls is not None:
        columns = cp.asarray(balls.columns)
        others.append(columns)
    for space, row in enumerate(records):
        row["rows"], row["grain"] = segment.rows, segment.grain
        row["ids"] = address(segment.ids)
        row["vectors"], row["norms"] = address(segment.vectors[space]), address(segment.norms[space])
        for name, array in (("by_id", segment.by_id), ("places", places), ("excluded", segment.dead)):
            row[name] = 0 if array is None else address(array)
        row["kind"] = KINDS.index(
            "cells"
            if cells is not None
            else "groups"
            if groups is not None
            else "balls"
            if balls is not None
            else "scan"
        )
        if cells is not None:
            for name in ("centre", "weights", "high", "low", "scales", "peaks"):
                row[name] = address(getattr(cells, name)[space])
            row["high_radii"], row["low_radii"] = (address(radii) for radii in cells.radii[space])
            row["high_span"], row["low_span"] = cells.spans[space].get()
        if groups is not None:
            row["centre"] = address(groups.centre[space])
            for name, field in _LEVELS.items():
                row[field] = _places(getattr(groups, name), space)
        if balls is not None and columns is not None:
            count = balls.columns.size - 1
            row["centre"], row["columns"] = address(balls.centre[space]), address(columns)
            row["subspaces"], row["groups"] = count, -(-segment.rows // balls.size)
            row["width"], row["swept"] = int(np.diff(balls.columns).max()), segment.filter == "sweep"
            row["of_subspaces"] = _places(balls.groups, space * count)
            row["holders"] = address(balls.holders[space])
    return records, others


def _places(codes: Codes, at: int) -> list[int]:
    return [address(getattr(codes, name)[at]) for name in _CODES]
