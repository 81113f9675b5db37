"""Vectors in lines of JSON, of a ``.jsonl`` file or of standard input."""

from __future__ import annotations

import json
import math
import reprlib
from array import array
from functools import partial
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from halfspace.files.reading import Report
from halfspace.runtime.interrupts import of_a_handler

__all__ = ["read"]

_LINE = 1 << 26
"""Bytes that a line may have, so that something else than lines does not fill the memory."""
_STEP = 1024
"""Lines from one report to the next."""
_NUMBERS = frozenset({int, float})
_ABSENT = object()


def read(
    stream: IO[bytes], place: str, total: int | None, report: Report, *, identified: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
    """Read one vector from each line, an array of numbers or an object that has one as ``"vector"``.

    Parameters
    ----------
    stream : binary file
    place : str
        What errors call it.
    total : int, optional
        Its bytes, if that is known.
    report : callable
        Takes the bytes that are read, and the total.
    identified : bool
        Whether to look for ids, which objects have as ``"id"``: all lines, or none.

    Returns
    -------
    vectors : ndarray, shape (n, d), float64
    ids : ndarray, shape (n,), int64, or None
        None where lines have none.

    Raises
    ------
    ValueError
        If a line is no JSON, no vector, or of another length than the first; the error has its number, from 1 on.
        Empty lines are passed over.
    """
    numbers, ids = array("d"), array("q")
    first, dim, done = 0, 0, 0
    for at, line in enumerate(iter(partial(stream.readline, _LINE), b""), 1):
        done += len(line)
        if at % _STEP == 0:
            report(done, total)
        if line.isspace():
            continue
        try:
            if len(line) == _LINE:
                raise ValueError(f"is longer than {_LINE >> 20} MiB")
            vector, id = _vector(line)
            first, dim = first or at, dim or len(vector)
            if len(vector) != dim:
                raise ValueError(f"has {len(vector)} numbers, line {first} has {dim}: rows must have one length")
            if identified and id is not _ABSENT:
                ids.append(_id(id))
            numbers.fromlist(vector)
            if len(ids) not in (0, len(numbers) // dim):
                raise ValueError(f"line {first} and this one do not both have an id: give one to all, or to none")
        except (ValueError, OverflowError, RecursionError) as error:
            if of_a_handler(error):
                raise
            raise ValueError(f"{place}: line {at}: {error!s:.500}") from error
    report(done, total)
    if not first:
        raise ValueError(f"{place}: no line has a vector")
    vectors = np.frombuffer(numbers).reshape(-1, dim)
    return vectors, np.frombuffer(ids, np.int64) if ids else None


def _vector(line: bytes) -> tuple[list[float], Any]:
    """Return the numbers of a line, and its id if it has one."""
    try:
        value = json.loads(line.decode(), parse_constant=_refused)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error.msg}, column {error.colno}") from None
    id = _ABSENT
    if isinstance(value, dict):
        if "vector" not in value:
            raise ValueError(f"has no 'vector', but {reprlib.repr(list(value))}")
        id, value = value.get("id", _ABSENT), value["vector"]
    if not isinstance(value, list) or not value:
        found = "an empty one" if value == [] else f"{json.dumps(value):.80}"
        raise ValueError(f"expected an array of numbers, or an object that has one as 'vector', found {found}")
    if not _NUMBERS.issuperset(map(type, value)):
        bad = next(at for at, number in enumerate(value) if type(number) not in _NUMBERS)
        raise ValueError(f"column {bad} is {json.dumps(value[bad]):.80}, not a number")
    if not all(map(math.isfinite, value)):
        raise ValueError(f"column {list(map(math.isfinite, value)).index(False)} is beyond the range of float64")
    return value, id


def _id(id: Any) -> int:
    if type(id) is not int or not -(2**63) <= id < 2**63:
        raise ValueError(f"its id must be an integer that fits in int64, got {json.dumps(id):.80}")
    return id


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
