"""How codes and bounds lie in memory, on every device and in files.

Vectors go by in *chunks* of 1,024 rows. Codes of balls lie in *blocks* of 16, four of which are a *tile*: whole tiles
are allocated, and a chunk of rows has as many blocks as a tile has balls.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from halfspace.model.arrays import is_array
from halfspace.model.metrics import Metric

__all__ = [
    "BLOCK",
    "CHUNK",
    "HIGH_MIDDLE",
    "LARGEST_CODE",
    "LOW_MIDDLE",
    "MODERATE",
    "TILE",
    "Arrays",
    "Codes",
    "Sections",
    "Zeros",
    "blocks_of",
    "chunks_of",
    "nbytes",
    "words_of",
]

BLOCK = 16
"""Balls in a block of codes: lanes of the widest register."""
TILE = 4 * BLOCK
"""Balls in a tile, four blocks; arrays of codes hold whole tiles."""
CHUNK = TILE * BLOCK
"""Rows in a chunk: a tile of blocks."""

HIGH_MIDDLE, LOW_MIDDLE = 120.5, 7.5
"""A code of 8 bits is c = (16 high - HIGH_MIDDLE) + (low - LOW_MIDDLE)."""
LARGEST_CODE = 127.0
"""The largest magnitude of a code of 8 bits."""
MODERATE = 2.0**60
"""The largest norm for which float32 will do in products of codes, and in frames."""

Shape = tuple[int, ...]
Zeros = Callable[[Shape, Any], Any]
"""Makes an array of zeros, of a shape and a dtype, on a device."""


def blocks_of(balls: int) -> int:
    """Count the blocks of whole tiles that hold so many balls."""
    return -(-balls // TILE) * (TILE // BLOCK)


def chunks_of(rows: int) -> int:
    """Count the chunks of so many rows; the last one may be short."""
    return -(-rows // CHUNK)


def words_of(dim: int) -> int:
    """Count the words of 8 codes of 4 bits that so many dimensions take."""
    return -(-dim // 8)


class Sections:
    """Arrays of a file that belong to one segment, checked as they are taken."""

    def __init__(self, arrays: dict[str, np.ndarray], prefix: str) -> None:
        self._arrays, self._prefix = arrays, prefix

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._arrays

    def size(self, name: str) -> int:
        """Count the elements of a section; KeyError if it is not there."""
        return int(self._arrays[self._prefix + name].size)

    def take(self, name: str, dtype: Any, shape: Shape) -> np.ndarray:
        """Take a section out; ValueError if it is not of this dtype and shape."""
        full = self._prefix + name
        array = self._arrays.pop(full)
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"section {full} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}")
        return array


@dataclass(frozen=True, eq=False)
class Arrays:
    """A record of arrays of one device: the base of all that is stored beside vectors."""

    SECTIONS: ClassVar[Mapping[str, str]] = {}
    """Of each array, by its attribute, the name of its section in a file, in order: part of the format, for good."""
    ON_HOST: ClassVar[frozenset[str]] = frozenset()
    """Attributes that are arrays of the host on every device."""

    @classmethod
    def blank(cls, zeros: Zeros, shapes: Mapping[str, tuple[Any, Shape]], **made: Any) -> Self:
        """Make room: arrays of zeros of the given dtypes and shapes, but for those that are made already."""
        return cls(**{name: zeros(shape, dtype) for name, (dtype, shape) in shapes.items() if name not in made} | made)

    @classmethod
    def taken(cls, sections: Sections, shapes: Mapping[str, tuple[Any, Shape]], prefix: str = "", **made: Any) -> Self:
        """Take the arrays out of a file."""
        parts = {name: sections.take(prefix + cls.SECTIONS[name], *shape) for name, shape in shapes.items()}
        return cls(**parts | made)

    def sections(self, prefix: str = "") -> dict[str, Any]:
        """Return all arrays by the names of their sections."""
        parts = {prefix + section: getattr(self, name) for name, section in self.SECTIONS.items()}
        return {name: part for name, part in parts.items() if part is not None}

    def moved(self, convert: Callable[[Any], Any]) -> Self:
        """Return the same on another device, to which `convert` brings an array."""
        names = [field.name for field in fields(self) if field.name not in self.ON_HOST]
        return replace(self, **{name: _moved(getattr(self, name), convert) for name in names})


def _moved(part: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(part, Arrays):
        return part.moved(convert)
    return convert(part) if is_array(part) else part


def nbytes(part: Any) -> int:
    """Bytes of an array, of all arrays of a record, or of nothing."""
    if is_array(part):
        return int(part.nbytes)
    return sum(nbytes(inner) for inner in vars(part).values()) if isinstance(part, Arrays) else 0


@dataclass(frozen=True, eq=False)
class Codes(Arrays):
    """Balls with lattice-coded centres, 16 to a block: centre = base + scale * (code - 128), around a known base.

    What their lengths are depends on the metric: see `halfspace.model.filters.groups.Groups`.
    """

    SECTIONS: ClassVar = {"codes": "codes", "scales": "scales", "radii": "radii", "lengths": "lengths"}

    codes: npt.NDArray[np.uint8]  # (spaces, blocks, steps, 16, 4): blocks of 16 balls, steps of 4 dimensions
    scales: npt.NDArray[np.float32]  # (spaces, 16 blocks), 0 beyond the last ball
    radii: npt.NDArray[np.float32]  # (spaces, 16 blocks), the same
    lengths: npt.NDArray[np.float32] | None = None  # (spaces, 16 blocks), the same; for metrics that have any

    @staticmethod
    def shapes(spaces: int, balls: int, dim: int, metric: Metric = Metric.IP) -> dict[str, tuple[Any, Shape]]:
        """Return the dtype and the shape of each array."""
        blocks = blocks_of(balls)
        lengths = {} if metric == Metric.IP else {"lengths": (np.float32, (spaces, BLOCK * blocks))}
        return lengths | {
            "codes": (np.uint8, (spaces, blocks, -(-dim // 4), BLOCK, 4)),
            "scales": (np.float32, (spaces, BLOCK * blocks)),
            "radii": (np.float32, (spaces, BLOCK * blocks)),
        }
