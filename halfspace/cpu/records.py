"""Segments as kernels see them: records of addresses, which own nothing."""

import numpy as np

__all__ = ["BALLS", "SEGMENT"]

SEGMENT = np.dtype(
    [
        ("rows", np.int64),
        ("ids", np.int64),  # address of int64 (rows,)
        ("vectors", np.int64),  # address of stored (rows, d)
        ("norms", np.int64),  # address of float32 (rows,)
        ("grain", np.float64),
        ("excluded", np.int64),  # address of uint8 (ceil(rows / 8),), a bit a row, or 0
        ("centre", np.int64),  # address of float32 (d,)
        ("codes", np.int64),  # cells: address of uint8 (blocks, steps, 16, 4), or 0
        ("scales", np.int64),  # address of float32 (16 blocks,)
        ("radii", np.int64),  # address of float32 (16 blocks,)
        ("group_codes", np.int64),  # the same of each 16 rows, or 0
        ("group_scales", np.int64),
        ("group_radii", np.int64),
        ("chunk_codes", np.int64),  # the same of each 1,024 rows, or 0
        ("chunk_scales", np.int64),
        ("chunk_radii", np.int64),
        ("balls", np.int64),  # address of one BALLS record, or 0
    ]
)
"""One space of one segment."""

BALLS = np.dtype(
    [
        ("subspaces", np.int64),
        ("groups", np.int64),  # in each subspace
        ("bounds", np.int64),  # address of float32 (subspaces, groups, 2): lower and upper bounds
        ("holders", np.int64),  # address of int32 (subspaces, rows): the group that holds each row
        ("order", np.int64),  # address of int64 (subspaces,): the best subspace first
        (
            "rest",
            np.int64,
        ),  # address of float64 (subspaces + 1,): the largest bounds of the k-th in that order, and on
        ("candidates", np.int64),  # address of uint8 (ceil(rows / 8),), a bit a row, or 0 where all rows are
        ("below", np.float64),  # a row whose upper bounds sum to less is dropped
        ("above", np.float64),  # a row whose lower bounds sum to as much is taken
    ]
)
"""The balls of one space of one segment, bounded for one direction."""
