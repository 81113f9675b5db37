"""Compiling ahead: one small index of each kind, asked in each way."""

from collections.abc import Callable
from typing import Any

import numpy as np

from halfspace import backend
from halfspace.index import HalfspaceIndex
from halfspace.seal import FILTERS

__all__ = ["warmup"]

SHAPES = ((300, 4), (4096, 256))
"""Rows and dimensions: few, and so many that cells get principal axes."""
BATCHES = (3, 32, 160)
"""Directions that meet cells a few at a time, and in matrix products."""


def warmup(
    dtype: Any = "float32", *, device: str = "cpu", progress: Callable[[int, int], object] | None = None
) -> None:
    """Compile all kernels for a stored format, or load them from the cache on disk, before they are needed.

    Kernels are compiled when they are first called, which takes about a minute in all for each format, and are kept on
    disk for later processes, which load them in less than a second. Call this once where a program is installed, or
    when a service starts, so that no question waits.

    Parameters
    ----------
    dtype : {"float32", "float16", "bfloat16"}
        The stored format.
    device : {"cpu", "gpu", "gpu:0", ...}
    progress : callable, optional
        Called with how many steps are done, and of how many.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of the above.
    """
    rng = np.random.default_rng(0)
    stages = backend.load(device)
    kinds = [(filter, SHAPES[0]) for filter in FILTERS[1:]] + [("cells", SHAPES[1])]
    for done, (filter, (rows, dim)) in enumerate(kinds):
        if progress is not None:
            progress(done, len(kinds))
        index = HalfspaceIndex(dim, device=device, filter=filter, dtype=dtype)
        vectors = rng.standard_normal((rows, dim), dtype=np.float32)
        vectors[:, : dim // 8] *= 8.0
        with stages.on(device):
            own = stages.xp.asarray(vectors)
            index.insert(own)
            index.compact()
            index.query(own[0], 1.0, sort=True)
            for batch in BATCHES:
                index.query(own[:batch], 1.0, limit=1)
                index.count(own[:batch], 1.0)
    if progress is not None:
        progress(len(kinds), len(kinds))
