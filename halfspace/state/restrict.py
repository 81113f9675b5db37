"""Restricting a query to some ids: one bit a row, beside the tombstones."""

from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.model.arrays import namespace
from halfspace.model.segment import address
from halfspace.model.table import Table
from halfspace.state.snapshot import Snapshot

__all__ = ["restrict", "wanted_rows"]


def restrict(snapshot: Snapshot, within: Any) -> Table:
    """Return the table of a snapshot with all rows excluded that are dead or not within."""
    if within is None:
        return snapshot.table
    inside, xp = wanted_rows(snapshot, within), snapshot.builder.backend.xp
    masks = [xp.packbits(~rows, bitorder="little") for rows in inside]
    records = snapshot.table.records.copy()
    for number, mask in enumerate(masks):
        records[:, number]["excluded"] = address(mask)
    return snapshot.table.changed(records, masks, sum(int(rows.sum()) for rows in inside))


def wanted_rows(snapshot: Snapshot, within: Any) -> list[npt.NDArray[np.bool_]]:
    """Tell of the rows of each segment (n,) whether they are live and within."""
    if within is None:
        return [~segment.dead_rows for segment in snapshot.segments]
    array = snapshot.builder.backend.asarray(within, "within")
    if array.dtype == np.bool_:
        return _by_mask(snapshot, array)
    return _by_ids(snapshot, checks.as_ids(array, "within"))


def _by_ids(snapshot: Snapshot, ids: npt.NDArray[np.int64]) -> list[npt.NDArray[np.bool_]]:
    """Tell of each segment's rows whether they are live and among the ids."""
    where, rows = snapshot.known(ids, "within")
    inside = [namespace(ids).zeros(segment.rows, np.bool_) for segment in snapshot.segments]
    for number, segment in enumerate(inside):
        segment[rows[where == number]] = True
    return inside


def _by_mask(snapshot: Snapshot, mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
    """Tell of each segment's rows whether they are live and their ids true in a mask."""
    if mask.ndim != 1:
        raise ValueError(f"within must have one dimension, got shape {mask.shape}")
    xp = namespace(mask)
    inside: list[npt.NDArray[np.bool_]] = []
    for segment in snapshot.segments:
        rows = xp.flatnonzero(~segment.dead_rows)
        ids = segment.ids[rows]
        lowest, highest = (int(ids.min()), int(ids.max())) if segment.live else (0, -1)
        if lowest < 0 or highest >= mask.size:
            beyond = lowest if lowest < 0 else highest
            raise ValueError(f"within is a mask of ids 0 to {mask.size - 1}, but the index holds id {beyond}")
        inside.append(xp.zeros(segment.rows, np.bool_))
        inside[-1][rows] = mask[ids]
    if sum(int(rows.sum()) for rows in inside) < int(mask.sum()):
        _by_ids(snapshot, xp.flatnonzero(mask))  # names the id that is not there
    return inside
