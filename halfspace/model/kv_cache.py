"""Keys and values of all heads of a batch of sequences, with room to grow, and the cells of the keys.

The keys of head h of sequence b are *space* b * heads + h. Every key is a ball of its own, so it is coded the moment it
comes, in the frame that is then in force: there is no tail, and nothing depends on how a prefill was cut.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf, nextafter, sqrt
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from halfspace.model.arrays import host, namespace
from halfspace.model.filters.cells import Cells
from halfspace.model.layout import HIGH_MIDDLE, LARGEST_CODE, TILE, Shape, Zeros, chunks_of, nbytes
from halfspace.model.segment import Segment

__all__ = [
    "ESTIMATORS",
    "GRAINS",
    "NOT_FINITE",
    "OVERFULL",
    "RESERVOIR",
    "SCAN",
    "Aim",
    "Attention",
    "Cache",
    "Chosen",
    "grown",
    "packed",
    "reservoir",
    "room_for",
    "select",
    "shorten",
    "unpacked",
    "view",
]

RESERVOIR = 1024
"""Positions of each sequence that thresholds are estimated from."""
GRAINS = {"float16": 2.0**-24, "bfloat16": 0.0, "float32": 0.0}
"""A power of two of which every number of a format is a multiple, or 0 where it is too small to be of use."""
ESTIMATORS = ("budget", "max", "gap")
"""Ways to read a threshold off a sample, see `halfspace.attention.policy`."""
SCAN = "scan"
"""The way to read it off the bounds of all keys."""
OVERFULL, NOT_FINITE = 1, 2
"""What may be wrong with a sequence, bits of its status: rows did not fit, or were not finite."""


class Aim(NamedTuple):
    """What keys are chosen by in one pass over their codes: one of the two."""

    eps: float | None  # the share of each head's softmax that may be dropped
    keep: float | None  # the share of the keys that is kept, about


class Attention(NamedTuple):
    """Softmax over the keys that were kept, on the device."""

    output: Any  # (batch, query_heads, d), 0 where none was
    log_sum_exp: Any  # float32 (batch, query_heads), -inf where none was
    kept: Any  # int64 (batch, query_heads)


class Chosen(NamedTuple):
    """Attention over keys that were chosen."""

    attention: Attention
    tau: Any  # float64 (batch, query_heads)
    dropped: Any  # float64 (batch, query_heads), upper bounds of the share of the softmax that was dropped


@dataclass(eq=False)
class Cache:
    """The arrays of a batch of sequences, on one device; rows from a sequence's length on mean nothing."""

    keys: np.ndarray  # (spaces, capacity, d), the bits of the stored format
    values: np.ndarray  # (spaces, capacity, d), the same
    norms: npt.NDArray[np.float32]  # (spaces, capacity), upper bounds of |k|
    value_peaks: npt.NDArray[np.float32]  # (spaces, chunks), upper bounds of the largest |v| of each 1,024 rows
    cells: Cells  # of `capacity` rows, without axes; spans are those of the longest codes that there could be
    lengths: npt.NDArray[np.int64]  # (batch,)
    sample: npt.NDArray[np.int64]  # (batch, RESERVOIR), see `reservoir`
    status: npt.NDArray[np.uint64]  # (batch,), 0 or bits of OVERFULL and NOT_FINITE
    heads: int
    offload: bool = False  # whether keys and values lie in the host's memory
    stale: bool = False  # whether coding anew has begun and not ended: codes mean nothing until it is done
    kept: dict[str, Any] = field(default_factory=dict)  # what a backend derives for its kernels
    fetch: Callable[[npt.NDArray[np.bool_] | None], None] | None = None
    """On the CPU, where keys and values lie elsewhere: brings all, or those (spaces, rows), before they are read."""

    @staticmethod
    def shapes(spaces: int, rows: int, dim: int, bits: np.dtype[Any]) -> dict[str, tuple[Any, Shape]]:
        """Return the dtype and the shape of each array that holds rows; those of `cells` are its own."""
        return {
            "keys": (bits, (spaces, rows, dim)),
            "values": (bits, (spaces, rows, dim)),
            "norms": (np.float32, (spaces, rows)),
            "value_peaks": (np.float32, (spaces, chunks_of(rows))),
        }

    @classmethod
    def blank(cls, zeros: Zeros, shape: Shape, bits: np.dtype[Any], offloaded: Zeros | None = None) -> Self:
        """Make room; all is zero but the weights, which are 1, the sample, which is -1, and the spans.

        shape : batch, heads, capacity (see `room_for`) and dimensions
        bits : dtype of the stored numbers, see `halfspace.model.formats.FORMATS`
        offloaded : makes keys and values, where they lie in the host's memory though `zeros` makes arrays of a GPU
        """
        batch, heads, capacity, dim = shape
        spaces = batch * heads
        cells = Cells.blank(zeros, Cells.shapes(spaces, capacity, dim))
        cells.weights[:] = 1.0
        for which, most in enumerate((HIGH_MIDDLE, LARGEST_CODE)):  # the longest codes that there could be
            cells.spans[:, which] = nextafter(most * sqrt(dim) * (1.0 + 2.0**-50), inf)
        makers = {"norms": zeros, "value_peaks": zeros, "keys": offloaded or zeros, "values": offloaded or zeros}
        own = {
            name: makers[name](size, dtype) for name, (dtype, size) in cls.shapes(spaces, capacity, dim, bits).items()
        }
        sample = zeros((batch, RESERVOIR), np.int64)
        sample[:] = -1
        return cls(
            **own,
            cells=cells,
            lengths=zeros((batch,), np.int64),
            sample=sample,
            status=zeros((batch,), np.uint64),
            heads=heads,
            offload=offloaded is not None,
        )

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
        """Count the room that there is; sum the bytes of keys and values, and of all that filters need."""
        frame = sum(nbytes(getattr(self.cells, name)) for name in Cells.FRAME)
        return {
            "capacity": self.capacity,
            "batch_size": self.batch,
            "num_kv_heads": self.heads,
            "bytes_keys_values": nbytes(self.keys) + nbytes(self.values),
            "bytes_codes": nbytes(self.cells) - frame + nbytes(self.norms) + nbytes(self.value_peaks),
            "bytes_rest": frame + sum(map(nbytes, (self.lengths, self.sample, self.status))),
        }


def reservoir(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sample the positions of sequences of these lengths (batch,): (batch, RESERVOIR), -1 where there are fewer.

    Algorithm R of Vitter (Random sampling with a reservoir, 1985): position i comes to a slot drawn from 0 to i, and
    stays if that is one of the RESERVOIR and no later position comes there. Slots are drawn by a hash of the position
    (splitmix64), so that the sample depends on the length alone.
    """
    most = int(lengths.max(initial=0))
    positions = np.arange(RESERVOIR, max(most, RESERVOIR), dtype=np.uint64)
    mixed = (positions + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    slots = (mixed ^ mixed >> np.uint64(31)) % (positions + np.uint64(1))
    stays = slots < RESERVOIR
    come, slots = positions[stays].astype(np.int64), slots[stays].astype(np.int64)
    sample = np.full((lengths.size, RESERVOIR), -1, np.int64)
    for own, length in zip(sample, lengths, strict=True):
        own[: min(length, RESERVOIR)] = np.arange(min(length, RESERVOIR))
        np.maximum.at(own, slots[come < length], come[come < length])
    return sample


def room_for(rows: int) -> int:
    """Round a number of rows up to whole tiles of codes: the room that a cache may have."""
    return -(-rows // TILE) * TILE


def grown(cache: Cache, capacity: int, backend: Any) -> Cache:
    """Copy a cache into one with room for more rows."""
    return _copied(cache, np.arange(cache.batch), capacity, backend)


def select(cache: Cache, sequences: npt.NDArray[np.int64], backend: Any) -> Cache:
    """Copy some sequences (k,), which may be named more than once, into a cache of their own."""
    return _copied(cache, sequences, cache.capacity, backend)


def shorten(cache: Cache, lengths: npt.NDArray[np.int64]) -> None:
    """Forget what lies beyond lengths (batch,), none of them longer than it was; these come last."""
    xp = namespace(cache.lengths)
    cache.sample[:] = xp.asarray(reservoir(lengths))
    cache.status[:] = 0
    cache.lengths[:] = xp.asarray(lengths)


def _copied(cache: Cache, sequences: npt.NDArray[np.int64], capacity: int, backend: Any) -> Cache:
    bits = cache.keys.dtype
    new: Cache = backend.new_cache(sequences.size, cache.heads, cache.dim, bits, capacity, cache.offload)
    which = (sequences[:, None] * cache.heads + np.arange(cache.heads)).ravel().tolist()
    theirs = dict(_corners(new, 0))
    for name, (old, used) in _corners(cache, int(host(cache.lengths).max(initial=0))):
        for at, space in enumerate(which):  # one at a time: nothing is held twice
            theirs[name][0][at][used] = old[space][used]
    chosen = namespace(cache.lengths).asarray(sequences)
    new.stale = cache.stale
    new.lengths[:], new.sample[:], new.status[:] = cache.lengths[chosen], cache.sample[chosen], cache.status[chosen]
    return new


def _corners(cache: Cache, rows: int) -> Iterator[tuple[str, tuple[Any, tuple[slice, ...]]]]:
    """Yield the arrays of spaces by name, and which part of a space's so many rows take up.

    An array of fewer rows is a corner of one of more.
    """
    for owner, shapes in (
        (cache, Cache.shapes(1, rows, cache.dim, cache.keys.dtype)),
        (cache.cells, Cells.shapes(1, rows, cache.dim)),
    ):
        for name, (_, shape) in shapes.items():
            yield name, (getattr(owner, name), tuple(slice(size) for size in shape[1:]))


_OF_SEQUENCES = ("lengths", "sample", "status")


def packed(cache: Cache) -> dict[str, Any]:
    """Copy what a cache holds to the host, array by array, without the room that nothing lies in."""
    found = {name: np.array(host(getattr(cache, name))) for name in _OF_SEQUENCES}
    for name, (array, used) in _corners(cache, int(found["lengths"].max(initial=0))):
        found[name] = np.array(host(array[(slice(None), *used)]))
    return found


def unpacked(cache: Cache, arrays: dict[str, Any]) -> None:
    """Put what `packed` returned into a cache of as many sequences and heads, with room for it."""
    xp = namespace(cache.lengths)
    for name, (array, used) in _corners(cache, int(arrays["lengths"].max(initial=0))):
        array[(slice(None), *used)] = namespace(array).asarray(arrays[name])
    for name in _OF_SEQUENCES:
        getattr(cache, name)[:] = xp.asarray(arrays[name])


def view(cache: Cache, sequence: int, length: int, format: str) -> Segment:
    """View a sequence of this length as one segment of `heads` spaces, whose ids are positions."""
    spaces = slice(sequence * cache.heads, (sequence + 1) * cache.heads)
    ids = namespace(cache.lengths).arange(length, dtype=np.int64)
    parts = {name: getattr(cache.cells, name) for name in Cells.SECTIONS}
    own = {name: part[spaces] for name, part in parts.items() if part is not None}
    return Segment(
        cache.keys[spaces, :length],
        ids,
        cache.norms[spaces, :length],
        GRAINS[format],
        "cells",
        data=Cells(**own),
        live=length,
    )
