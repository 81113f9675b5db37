"""What the system is told about mapped arrays, and what it read for them.

Codes are read one after the other, and the system reads ahead. Vectors that codes do not rule out lie here and there:
reading ahead would read all. Where many are wanted, it is quicker nevertheless.
"""

import mmap
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from halfspace.model.segment import SCAN, Segment

__all__ = ["bytes_from_disk", "expect", "fetched", "sparse_share"]

PAGE = mmap.PAGESIZE
SPARSE = 1 / 8
"""Share of the pages below which it is quicker to read them one by one than to read ahead."""


def sparse_share(row_nbytes: int) -> float:
    """Return the share of rows of so many bytes below which most pages are not read."""
    return SPARSE / max(1.0, PAGE / row_nbytes)


def expect(segments: Iterable[Segment], sparse: bool) -> None:
    """Tell the system how vectors will be read that lie behind codes: here and there, or one after the other."""
    for segment in segments:
        if segment.filter != SCAN:
            _advise(segment, 0, segment.rows, "MADV_RANDOM" if sparse else "MADV_NORMAL")


def fetched(segment: Segment, first: int, stop: int) -> None:
    """Have the system read vectors [first, stop) ahead, all of which are wanted."""
    _advise(segment, first, stop, "MADV_WILLNEED")


def _advise(segment: Segment, first: int, stop: int, advice: str) -> None:
    """Advise on some vectors, if they are mapped and the system takes advice."""
    if "mapped" not in segment.kept:
        segment.kept["mapped"] = _found(segment.vectors)
    place = segment.kept["mapped"]
    number = getattr(mmap, advice, None)
    if place is None or number is None:
        return
    mapping, begin = place
    row = segment.vectors.strides[1]
    low = (begin + first * row) // PAGE * PAGE
    mapping.madvise(number, low, begin + stop * row - low)


def _found(array: np.ndarray) -> tuple[mmap.mmap, int] | None:
    """Return the mapping that an array lies in, and where in it; None if it lies in memory."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if not isinstance(owner, mmap.mmap) or not array.size:
        return None
    start = np.frombuffer(owner, np.uint8).__array_interface__["data"][0]
    return owner, int(array.__array_interface__["data"][0]) - int(start)


def bytes_from_disk() -> int | None:
    """Count the bytes that this process has had read from disks; None where the system does not tell."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split(":")[1]) for line in lines if line.startswith("read_bytes")), None)
