"""All engines by name, and how they are built."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from halfspace.bench.engines import faiss, gpu, others, ours, trees
from halfspace.bench.engines.spec import Engine, EngineSpec, How, Rows
from halfspace.bench.threads import pinned

__all__ = ["ENGINES", "Engine", "EngineSpec", "Rows", "build", "build_curve"]

_FAMILIES = (ours, faiss, others, trees, gpu)
ENGINES: dict[str, EngineSpec] = {spec.name: spec for family in _FAMILIES for spec in family.SPECS}


def build(
    name: str, vectors: ArrayLike, *, threads: int, dtype: str = "float32", metric: str = "ip", **setting: Any
) -> Engine:
    """Build the index of an engine.

    Parameters
    ----------
    name : str
        One of ``ENGINES``.
    vectors : array_like, shape (n, d)
        At least one; they are rounded to float32.
    threads : int
        Of the build and of queries.
    dtype : {"float32", "float16", "bfloat16"}
        In what this library, and the engines on a GPU, store the vectors. The others store float32, or their codes.
    metric : {"ip", "cosine", "l2"}
        What is compared with thresholds. Others than this library bring vectors to length 1 for ``"cosine"``.
    **setting
        As in the engine's ``curve``; what is not given is as in the middle of it.

    Returns
    -------
    Engine
        It finds rows of `vectors`.

    Raises
    ------
    ValueError
        If there is no such engine, it cannot run here, or it does not suit the vectors.
    TypeError
        If it has no such setting.
    """
    spec, own = _spec(name), np.ascontiguousarray(vectors, np.float32)
    reason = spec.available() or spec.why_not(*own.shape, metric=metric)
    if reason:
        raise ValueError(f"{name}: {reason}")
    how = How(threads, dtype, metric, spec.complete(setting))
    with pinned(threads):
        begin = time.perf_counter()
        engine = spec.make(own, how)
        engine.build_seconds = time.perf_counter() - begin
    engine.name = name
    return engine


def build_curve(
    name: str, vectors: ArrayLike, *, threads: int, dtype: str = "float32", metric: str = "ip"
) -> Iterator[Engine]:
    """Build an engine at each setting of its curve; those that differ in how they are asked share an index.

    Arguments and errors are those of `build`.
    """
    spec = _spec(name)
    made: dict[tuple[Any, ...], Engine] = {}
    for setting in spec.curve:
        key = tuple(setting[part] for part in sorted(spec.at_build))
        if key not in made:
            made[key] = build(name, vectors, threads=threads, dtype=dtype, metric=metric, **setting)
        yield made[key].tuned(**setting)


def _spec(name: str) -> EngineSpec:
    if name not in ENGINES:
        raise ValueError(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    return ENGINES[name]
