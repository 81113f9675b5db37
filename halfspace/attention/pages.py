"""Codes of keys that lie in pages of somebody else, where sequences share pages, as a server of many requests has them.

A *slot* is a row of a page. Its key is coded when it is written, in the frame of its layer and KV head, since a slot
may belong to several sequences. `Desk` is where the codes of one sequence are laid in order, so that the kernels of a
`halfspace.model.kv_cache.Cache` read them; keys and values come there only where they are asked for.
"""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from halfspace.attention.arguments import Given
from halfspace.attention.kv import REFRAME
from halfspace.model.kv_cache import Cache, room_for
from halfspace.model.layout import BLOCK, CHUNK, TILE, words_of

__all__ = ["Desk", "Pages"]

SAMPLE = 1 << 14
"""Keys that a frame is chosen from, at most."""

Numbers = npt.NDArray[np.int64]


class Desk:
    """Room for the keys of one sequence, used again for every sequence and every layer of a kind."""

    def __init__(self, given: Given, bits: np.dtype[Any]) -> None:
        self._given, self._bits = given, bits
        self._cache: Cache | None = None

    def room(self, rows: int) -> Cache:
        """Return a cache of one sequence with room for so many rows, whatever it holds."""
        if self._cache is None or self._cache.capacity < rows:
            given = self._given
            capacity = room_for(rows if self._cache is None else max(rows, 2 * self._cache.capacity))
            self._cache = given.backend.new_cache(1, given.heads, given.dim, self._bits, capacity, False)
        return self._cache


class Pages:
    """The codes of one layer, a row for each slot.

    Parameters
    ----------
    given : Given
        The shapes of heads, and the backend.
    keys, values : array of bits, shape (pages, slots of a page, KV heads, head_dim)
        What the owner of the pages writes to; they are read, never written. The slots of a page follow one another in
        memory, and pages lie a whole number of slots apart.

    Notes
    -----
    Whoever writes keys to slots says so at once, by `write` or `copy`: codes of what was there before prove nothing.
    """

    def __init__(self, given: Given, keys: np.ndarray, values: np.ndarray) -> None:
        count, size, heads, dim = keys.shape
        if size % TILE:
            raise ValueError(f"pages must have a multiple of {TILE} slots, got {size}")
        self._given, self._keys, self._values = given, keys, values
        words = words_of(dim)
        self._high = np.zeros((heads, count, size // BLOCK, words, BLOCK, 4), np.uint8)
        self._low = np.zeros((heads, count, size, 4 * words), np.uint8)
        self._scales = np.zeros((heads, count, size), np.uint16)
        self._radii = np.zeros((2, heads, count, size), np.uint16)
        self._norms = np.zeros((heads, count, size), np.float32)
        self._filled = np.zeros(count, np.int64)  # slots of each page that ever held a key: the first ones
        self._press: Cache = given.backend.new_cache(1, heads, dim, keys.dtype, size, False)  # codes come about here
        self._written = self._framed = 0  # keys, since the beginning and when the frame was chosen
        self._stale = False  # whether coding anew has begun and not ended

    def write(self, slots: Numbers) -> None:
        """Code the keys that have come to slots, which are numbered page by page."""
        if slots.size == 0:
            return
        size = self._keys.shape[1]
        breaks = np.flatnonzero((np.diff(slots) != 1) | (slots[1:] % size == 0)) + 1
        runs = [(int(run[0]) // size, int(run[0]) % size, run.size) for run in np.split(slots, breaks)]
        for page, first, count in runs:
            self._filled[page] = max(self._filled[page], first + count)
        self._written += slots.size
        if self._stale or self._written >= REFRAME * self._framed:
            self._reframe()
            return
        for page, first, count in runs:
            self._code(page, first, first + count)

    def copy(self, sources: Numbers, targets: Numbers) -> None:
        """Take over the codes of pages whose keys were copied."""
        for part in (self._high, self._low, self._scales, self._norms, *self._radii):
            part[:, targets] = part[:, sources]
        self._filled[targets] = self._filled[sources]

    def lay(self, desk: Desk, pages: Numbers, length: int) -> Cache:
        """Lay out the sequence of the first `length` slots of some pages, in order; it holds until the next one is."""
        if self._stale:
            self._reframe()
        size, count = self._keys.shape[1], pages.size
        rows = count * size
        cache = desk.room(rows)
        cells = cache.cells
        for head in range(self._given.heads):
            for part, place in (
                (self._high[head], cells.high[head, : rows // BLOCK]),
                (self._low[head], cells.low[head, : rows * self._low.shape[-1]]),
                (self._scales[head], cells.scales[head, :rows]),
                (self._radii[0, head], cells.radii[head, 0, :rows]),
                (self._radii[1, head], cells.radii[head, 1, :rows]),
                (self._norms[head], cache.norms[head, :rows]),
            ):
                np.take(part, pages, axis=0, out=place.reshape(count, *part.shape[1:]), mode="clip")
        chunks = np.arange(0, length, CHUNK)
        cells.peaks[:, : chunks.size] = np.maximum.reduceat(cache.norms[:, :length], chunks, axis=1)
        cells.centre[:], cells.weights[:] = self._press.cells.centre, self._press.cells.weights
        cache.lengths[0] = length
        cache.fetch = partial(self._fetch, cache, pages, length)
        return cache

    def _fetch(self, cache: Cache, pages: Numbers, length: int, wanted: npt.NDArray[np.bool_] | None) -> None:
        """Bring keys and values to the desk: all, or those of which `wanted` (KV heads, rows) says so."""
        _, size, heads, dim = self._keys.shape
        if wanted is None:
            for first, page in zip(range(0, length, size), pages, strict=True):
                rows = slice(first, first + size)
                cache.keys[:, rows] = self._keys[page].transpose(1, 0, 2)
                cache.values[:, rows] = self._values[page].transpose(1, 0, 2)
            return
        head, row = np.nonzero(wanted)
        to = head * cache.capacity + row
        for theirs, ours in ((self._keys, cache.keys), (self._values, cache.values)):
            by_page, by_row, by_head, _ = theirs.strides
            lines = as_strided(theirs, ((len(theirs) - 1) * by_page // by_head + size * heads, dim), theirs.strides[2:])
            at = pages[row // size] * (by_page // by_head) + row % size * (by_row // by_head) + head
            ours.reshape(-1, dim)[to] = np.take(lines, at, axis=0, mode="clip")

    def _code(self, page: int, first: int, last: int) -> None:
        """Code the keys of slots [first, last) of a page, in the frame that is in force."""
        press, backend = self._press, self._given.backend
        press.lengths[0] = first
        rows = self._keys[page, first:last].transpose(1, 0, 2)[None]
        backend.extend(press, rows, rows, None, 1)
        cells, which = press.cells, slice(first, last)
        block, lane = np.divmod(np.arange(first, last), BLOCK)
        self._high[:, page, block, :, lane] = cells.high[:, block, :, lane]
        low = cells.low[:, : self._low[0, 0].size].reshape(self._given.heads, *self._low.shape[2:])
        self._low[:, page, which] = low[:, which]
        self._scales[:, page, which] = cells.scales[:, which]
        self._radii[:, :, page, which] = cells.radii[:, :, which].transpose(1, 0, 2)
        self._norms[:, page, which] = press.norms[:, which]

    def _reframe(self) -> None:
        """Choose the frame of each head anew from what the pages hold, and code all of it again."""
        self._stale = True
        given, used = self._given, np.flatnonzero(self._filled)
        ends = np.cumsum(self._filled[used])
        chosen = np.linspace(0, ends[-1] - 1, min(int(ends[-1]), SAMPLE)).astype(np.int64)
        which = np.searchsorted(ends, chosen, side="right")
        rows = self._keys[used[which], chosen - (ends - self._filled[used])[which]].transpose(1, 0, 2)[None]
        bits = self._keys.dtype
        sample: Cache = given.backend.new_cache(1, given.heads, given.dim, bits, room_for(chosen.size), False)
        given.backend.extend(sample, rows, rows, None, given.threads)
        given.backend.reframe(sample, given.threads)
        own, theirs = self._press.cells, sample.cells
        own.centre[:], own.weights[:] = theirs.centre, theirs.weights
        for page in used.tolist():
            self._code(page, 0, int(self._filled[page]))
        self._framed, self._stale = self._written, False
