"""Restricting a query to some ids: one bit a row, beside the tombstones."""

from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace import checks
from halfspace.snapshot import Snapshot

__all__ = ["restrict"]


def restrict(snapshot: Snapshot, within: Any) -> tuple[np.ndarray, tuple[object, ...]]:
    """Return the kernels' table with all rows excluded that are not within, and the owners of what it points to."""
    if within is None:
        return snapshot.table, (snapshot,)
    ids = _as_ids(snapshot, within)
    where, rows = snapshot.locate(ids)
    if (where < 0).any():
        raise KeyError(f"id {ids[where < 0][0]} in within is not in the index")
    table = snapshot.table.copy()
    masks = []
    for number, segment in enumerate(snapshot.segments):
        outside = np.ones(segment.rows, np.bool_)
        outside[rows[where == number]] = False  # located rows are live: what is dead stays outside
        masks.append(np.packbits(outside, bitorder="little"))
        table[:, number]["excluded"] = masks[-1].__array_interface__["data"][0]
    return table, (snapshot, *masks)


def _as_ids(snapshot: Snapshot, within: Any) -> npt.NDArray[np.int64]:
    """Return the ids that an array of ids or a mask indexed by id stands for."""
    array = np.asarray(within)
    if array.dtype != np.bool_:
        return checks.as_ids(array, "within")
    if array.ndim != 1:
        raise ValueError(f"within must have one dimension, got shape {array.shape}")
    ids = snapshot.ids()
    if ids.size and (ids[0] < 0 or ids[-1] >= array.size):
        outside = int(ids[0] if ids[0] < 0 else ids[-1])
        raise ValueError(f"within is a mask of ids 0 to {array.size - 1}, but the index holds id {outside}")
    return np.flatnonzero(array)
