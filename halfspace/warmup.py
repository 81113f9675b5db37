"""Compiling ahead: one small index of each kind, asked in each way."""

from collections.abc import Callable
from typing import Any

import numpy as np

from halfspace import backend
from halfspace.arguments import checks
from halfspace.attention.kv import KVIndex
from halfspace.index import HalfspaceIndex
from halfspace.model.filters import FILTERS
from halfspace.model.kv_cache import ESTIMATORS, SCAN
from halfspace.model.metrics import METRICS
from halfspace.runtime.patience import waiting

__all__ = ["warmup"]

SHAPES = ((300, 4), (4096, 256))
"""Rows and dimensions: few, and so many that cells get principal axes."""
TOKENS = 100
BATCHES = (3, 32, 160)
"""Directions that meet cells a few at a time, and in matrix products."""


def warmup(
    dtype: Any = "float32",
    *,
    metric: str = "ip",
    device: str = "cpu",
    head_dim: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Compile all kernels for a stored format, or load them from the cache on disk, before they are needed.

    Kernels are compiled when they are first called, which takes about a minute in all for each format, and are kept on
    disk for later processes, which load them in less than a second. Call this once where a program is installed, or
    when a service starts, so that no question waits.

    Parameters
    ----------
    dtype : {"float32", "float16", "bfloat16"}
        The stored format.
    metric : {"ip", "cosine", "l2"}
        What scores are: most kernels serve all metrics, and some are compiled for each.
    device : {"cpu", "gpu", "gpu:0", ...}
    head_dim : int, optional
        Compile the kernels of `halfspace.attention` as well, for heads of so many dimensions; on the CPU they serve any
        number.
    progress : callable, optional
        Called with how many steps are done, and of how many.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of the above.

    Examples
    --------
    >>> from halfspace import warmup
    >>> warmup("float16", metric="cosine")  # doctest: +SKIP
    """
    rng = np.random.default_rng(0)
    checks.one_of(metric, "metric", METRICS)
    stages = backend.load(device)
    rows, dim = SHAPES[0]
    kinds = [
        (filter, (rows, min(max(dim, spec.least_dim), spec.most_dim)))
        for filter, spec in FILTERS.items()
        if stages.DEVICE in spec.code and metric in spec.metrics
    ]
    kinds.append(("cells", SHAPES[1]))
    if head_dim is not None:
        checks.as_count(head_dim, "head_dim", 1)
    steps = len(kinds) + (head_dim is not None)
    for done, (filter, (rows, dim)) in enumerate(kinds):
        if progress is not None:
            progress(done, steps)
        index = HalfspaceIndex(dim, metric=metric, device=device, filter=filter, dtype=dtype)
        vectors = rng.standard_normal((rows, dim), dtype=np.float32)
        vectors[:, : dim // 8] *= 8.0
        with waiting(), stages.on(device):
            own = stages.xp.asarray(vectors)
            index.insert(own)
            index.compact()
            index.query(own[0], 1.0, sort=True)
            for batch in BATCHES:
                index.query(own[:batch], 1.0, limit=1)
                index.count(own[:batch], 1.0)
    if head_dim is not None:
        if progress is not None:
            progress(len(kinds), steps)
        _attend(stages, rng, dtype, device, head_dim)
    if progress is not None:
        progress(steps, steps)


def _attend(stages: backend.Backend, rng: np.random.Generator, dtype: Any, device: str, head_dim: int) -> None:
    """Append a prefill, as models lay it out, and a token; attend by every threshold."""
    index = KVIndex(2, head_dim, dtype=dtype, device=device)
    with waiting(), stages.on(device):
        tokens = stages.xp.asarray(rng.standard_normal((1, TOKENS, 2, head_dim), dtype=np.float32))
        tokens = tokens.transpose(0, 2, 1, 3)
        index.append(tokens, tokens)
        token = stages.xp.ascontiguousarray(tokens[:, :, :1])
        index.append(token, token)
        query = token[:, :, 0]
        index.attend(query, tau=1.0)
        index.attend(query, eps=0.1)
        for estimator in (SCAN, *ESTIMATORS):
            index.attend(query, keep=0.1, estimator=estimator)
        index.query(query, 1.0)
