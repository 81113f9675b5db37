"""The host as a device: what other devices have to do around the stages, next to nothing here."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "DEVICE",
    "REMEMBERED",
    "capturing",
    "fill",
    "finish",
    "is_kernel_ready",
    "may_fill",
    "named",
    "on",
    "place",
    "preallocate",
    "wait",
]

DEVICE = "cpu"

REMEMBERED = 16
"""Of the questions that are answered, one in so many is remembered; elsewhere a copy may cost as much as a question."""


def on(device: str) -> AbstractContextManager[Any]:
    """Return what makes a device the current one while it is entered: any number of times, by any thread."""
    return nullcontext()


def named(device: str) -> str:
    """Return a name of a device as one that no other has."""
    return DEVICE


def finish(snapshot: Any) -> None:
    """Wait until all that a `halfspace.state.snapshot.Snapshot` holds is there, and make it ready to be asked."""


def capturing() -> bool:
    """Whether what is launched goes into a graph instead of being run."""
    return False


def is_kernel_ready(array: np.ndarray) -> bool:
    """Whether kernels take an array as it is."""
    return array.flags.carray


def wait() -> None:
    """Wait for what was begun."""


def place(*arrays: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """Return arrays of the host on the device."""
    return arrays


def preallocate(capacity: int, directions: int | None, scores: bool) -> Any:
    """Refuse to make room for an answer."""
    raise ValueError(_NO_ROOM)


def may_fill(out: Any, directions: Any, tau: Any, within: Any) -> None:
    """Refuse a question whose answer goes into a `halfspace.Hits` that was made before."""
    raise ValueError(_NO_ROOM)


def fill(out: Any, question: Any, *, scores: bool, sort: bool, limit: int | None, single: bool, columns: int) -> Any:
    """Refuse as `may_fill` does, which comes before."""
    raise ValueError(_NO_ROOM)


_NO_ROOM = "out is for an index on a GPU: on the CPU, query returns its answer"
