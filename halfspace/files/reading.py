"""What the readers of vectors share: what an array must be, and errors that name the file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = ["Report", "check_dtype", "chosen", "matrix", "reading"]

Report = Callable[[int, int | None], object]
"""Takes how much is read and of how much, which is None where nobody knows."""


@contextlib.contextmanager
def reading(file: Path, what: str = "") -> Iterator[None]:
    """Make a ValueError that names the file of whatever a library says of its content.

    Parsers of formats meet odd files with errors of all kinds: of keys, of memory, of structures, of what is missing.
    """
    try:
        yield
    except Exception as error:  # no signal is heard here: see `undisturbed`
        text = str(error) or type(error).__name__
        raise ValueError(f"{file}: {what}{text:.500}") from error


def chosen(
    file: Path, member: str | None, held: Mapping[str, str], fitting: Sequence[str], kinds: tuple[str, str]
) -> str:
    """Return the member that was named, or the only one that fits.

    Parameters
    ----------
    file : Path
    member : str, optional
        The name, if one was given.
    held : mapping of str to str
        All members, and how each is described.
    fitting : sequence of str
        Those that may be meant where no name is given.
    kinds : tuple of str
        What a member is called, and what one that fits is.
    """
    found = ", ".join(f"{name} {text}" for name, text in held.items()) or f"no {kinds[0]}"
    if member is None:
        if len(fitting) != 1:
            count = "more than one" if fitting else "no"
            raise ValueError(f"{count} {kinds[1]}; choose with {file}:NAME from {found}")
        return fitting[0]
    if member not in held:
        raise ValueError(f"no {kinds[0]} named {member!r}; it holds {found}")
    return member


def matrix(array: NDArray[Any], place: str) -> NDArray[Any]:
    """Return the array if it is (n, d) and real, or (d,) as one row, else say what it is instead."""
    check_dtype(array.dtype, place)
    if array.ndim not in (1, 2) or array.shape == (0,):
        raise ValueError(f"{place}: expected an array of shape (n, d), or (d,) for one, found shape {array.shape}")
    return array[None] if array.ndim == 1 else array


def check_dtype(dtype: np.dtype[Any], place: str) -> None:
    """Refuse a dtype that is not one of real numbers."""
    if (dtype.kind not in "fiu" or dtype.itemsize > 8) and dtype != ml_dtypes.bfloat16:
        raise ValueError(f"{place}: expected real numbers of at most 64 bits, found dtype {dtype}")
