"""Keys and values of all heads of a batch of sequences, with room to grow, and the cells of the keys.

The keys of head h of sequence b are *space* b * heads + h. Every key is a ball of its own, so it is coded the moment it
comes, in the frame that is then in force: there is no tail, and nothing depends on how a prefill was cut.
"""

from dataclasses import dataclass, field
from math import inf, nextafter, sqrt
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.model.arrays import host, namespace
from halfspace.model.filters.cells import Cells
from halfspace.model.layout import nbytes
from halfspace.model.segment import Segment

__all__ = [
    "ESTIMATORS",
    "GRAINS",
    "NOT_FINITE",
    "OVERFULL",
    "ROW_STEP",
    "SAMPLE",
    "Cache",
    "grown",
    "longest_codes",
    "reservoir",
    "select",
    "view",
]

ROW_STEP = 64
"""Rows that there is room for are a multiple of this: a tile of codes."""
SAMPLE = 1024
"""Positions of each sequence that thresholds are estimated from."""
GRAINS = {"float16": 2.0**-24, "bfloat16": 0.0, "float32": 0.0}
"""A power of two of which every number of a format is a multiple, or 0 where it is too small to be of use."""
LONGEST_HIGH, LONGEST = 120.5, 127.0
"""The largest component of a high code (the middle of its 16), and of a whole one."""
ESTIMATORS = ("budget", "max", "gap")
"""Ways to read a threshold off a sample, see `halfspace.attention.policy`."""
OVERFULL, NOT_FINITE = 1, 2
"""What may be wrong with a sequence, bits of its status: rows did not fit, or were not finite."""


@dataclass(eq=False)
class Cache:
    """The arrays of a batch of sequences, on one device; rows from a sequence's length on mean nothing."""

    keys: np.ndarray  # (spaces, capacity, d), the bits of the stored format
    values: np.ndarray  # (spaces, capacity, d), the same
    norms: npt.NDArray[np.float32]  # (spaces, capacity), upper bounds of |k|
    cells: Cells  # of `capacity` rows, without axes; spans are those of the longest codes that there could be
    lengths: npt.NDArray[np.int64]  # (batch,)
    sample: npt.NDArray[np.int64]  # (batch, SAMPLE), see `reservoir`
    status: npt.NDArray[np.uint64]  # (batch,), 0 or bits of OVERFULL and NOT_FINITE
    heads: int
    offload: bool = False  # whether keys and values lie in the host's memory
    stale: bool = False  # whether coding anew has begun and not ended: codes mean nothing until it is done
    kept: dict[str, Any] = field(default_factory=dict)  # what a backend derives for its kernels

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return int(self.lengths.shape[0])

    @property
    def capacity(self) -> int:
        """Rows that each space has room for."""
        return int(self.keys.shape[1])

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return int(self.keys.shape[2])

    def sizes(self) -> dict[str, int]:
        """Sum the bytes of keys and values, and of all that filters need."""
        codes = self.cells.high, self.cells.low, self.cells.scales, self.cells.radii, self.cells.peaks, self.norms
        frame = self.cells.centre, self.cells.weights, self.cells.spans
        return {
            "bytes_keys_values": nbytes(self.keys) + nbytes(self.values),
            "bytes_codes": sum(map(nbytes, codes)),
            "bytes_rest": sum(map(nbytes, (*frame, self.lengths, self.sample, self.status))),
        }


def longest_codes(dim: int) -> list[float]:
    """Bound the norms of high codes and of whole ones: the spans of cells whose codes are not known yet."""
    return [nextafter(most * sqrt(dim) * (1.0 + 2.0**-50), inf) for most in (LONGEST_HIGH, LONGEST)]


def reservoir(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sample the positions of sequences of these lengths (batch,): (batch, SAMPLE), -1 where there are fewer.

    Algorithm R of Vitter (Random sampling with a reservoir, 1985): position i comes to a slot drawn from 0 to i, and
    stays if that is one of the SAMPLE and no later position comes there. Slots are drawn by a hash of the position
    (splitmix64), so that the sample depends on the length alone.
    """
    most = int(lengths.max(initial=0))
    positions = np.arange(SAMPLE, max(most, SAMPLE), dtype=np.uint64)
    mixed = (positions + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    slots = (mixed ^ mixed >> np.uint64(31)) % (positions + np.uint64(1))
    stays = slots < SAMPLE
    come, slots = positions[stays].astype(np.int64), slots[stays].astype(np.int64)
    sample = np.full((lengths.size, SAMPLE), -1, np.int64)
    for own, length in zip(sample, lengths, strict=True):
        own[: min(length, SAMPLE)] = np.arange(min(length, SAMPLE))
        np.maximum.at(own, slots[come < length], come[come < length])
    return sample


def grown(cache: Cache, capacity: int, backend: ModuleType) -> Cache:
    """Copy a cache into one with room for more rows."""
    return _copied(cache, np.arange(cache.batch), capacity, backend)


def select(cache: Cache, sequences: npt.NDArray[np.int64], backend: ModuleType) -> Cache:
    """Copy some sequences (k,), which may be named more than once, into a cache of their own."""
    return _copied(cache, sequences, cache.capacity, backend)


def _copied(cache: Cache, sequences: npt.NDArray[np.int64], capacity: int, backend: ModuleType) -> Cache:
    new: Cache = backend.new_cache(sequences.size, cache.heads, cache.dim, cache.keys.dtype, capacity, cache.offload)
    rows = int(host(cache.lengths).max(initial=0))
    words = cache.cells.high.shape[2]
    which = (sequences[:, None] * cache.heads + np.arange(cache.heads)).ravel().tolist()
    blocks = -(-rows // 16)
    old, own = cache.cells, new.cells
    for source, target, used in (
        (cache.keys, new.keys, rows),
        (cache.values, new.values, rows),
        (cache.norms, new.norms, rows),
        (old.high, own.high, blocks),
        (old.low, own.low, 4 * rows * words),
        (old.scales, own.scales, rows),
        (old.peaks, own.peaks, -(-rows // 1024)),
        (old.centre, own.centre, cache.dim),
        (old.weights, own.weights, cache.dim),
    ):
        for at, space in enumerate(which):  # one at a time: nothing is held twice
            target[at, :used] = source[space, :used]
    for at, space in enumerate(which):
        own.radii[at, :, :rows] = old.radii[space, :, :rows]
    chosen = namespace(cache.lengths).asarray(sequences)
    new.stale = cache.stale
    new.lengths[:], new.sample[:], new.status[:] = cache.lengths[chosen], cache.sample[chosen], cache.status[chosen]
    return new


def view(cache: Cache, sequence: int, length: int, format: str) -> Segment:
    """View a sequence of this length as one segment of `heads` spaces, whose ids are positions."""
    spaces = slice(sequence * cache.heads, (sequence + 1) * cache.heads)
    cells = cache.cells
    ids = namespace(cache.lengths).arange(length, dtype=np.int64)
    return Segment(
        cache.keys[spaces, :length],
        ids,
        cache.norms[spaces, :length],
        GRAINS[format],
        "cells",
        data=Cells(
            cells.centre[spaces],
            cells.weights[spaces],
            cells.spans[spaces],
            cells.high[spaces],
            cells.low[spaces],
            cells.scales[spaces],
            cells.radii[spaces],
            cells.peaks[spaces],
        ),
        live=length,
    )
