"""The host as a device: what other devices have to do around the stages, next to nothing here."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from halfspace.cpu.pipeline import SCORES as EXPLAINED

__all__ = ["EXPLAINED", "REMEMBERED", "fill", "finish", "on", "plain"]

REMEMBERED = 1
"""Of the questions that are answered, one in so many is remembered; elsewhere a copy may cost as much as a question."""


def on(device: str) -> AbstractContextManager[Any]:
    """Return what makes a device the current one while it is entered: any number of times, by any thread."""
    return nullcontext()


def finish(snapshot: Any) -> None:
    """Wait until all that a `halfspace.snapshot.Snapshot` holds is there, and make it ready to be asked."""


def plain(array: np.ndarray) -> bool:
    """Whether kernels take an array as it is."""
    return array.flags.carray


def fill(out: Any, query: Any, **options: Any) -> Any:
    """Answer a `halfspace.query.Query` into a `halfspace.Hits` that was made before, without waiting for it."""
    raise ValueError("out is for an index on a GPU: on the CPU, query returns its answer")
