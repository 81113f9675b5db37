"""The index of this library with each of its filters, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfspace import HalfspaceIndex
from halfspace.bench.engines.spec import Engine, EngineSpec, How, Rows
from halfspace.model.filters import AUTO, FILTERS
from halfspace.model.metrics import METRICS

__all__ = ["SPECS"]


class Halfspace(Engine):
    """`HalfspaceIndex`, asked for ids and scores in order of ids."""

    scores = True

    def __init__(self, vectors: NDArray[np.float32], how: How, filter: str = "auto") -> None:
        super().__init__(vectors, how)
        self.index = HalfspaceIndex(
            vectors.shape[1], metric=how.metric, filter=filter, threads=how.threads, dtype=how.dtype
        )
        self.index.insert(vectors)  # ids are the rows
        self.index.compact()

    @property
    def nbytes(self) -> int:
        counted = self.index.stats()
        return sum(counted[f"bytes_{name}"] for name in ("vectors", "codes", "ids", "bounds"))

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        tau = float(taus[0]) if (taus == taus[0]).all() else taus
        return lambda: self.index.query(directions, tau, scores=self.scores)

    def found(self, answer: Any) -> Rows:
        return answer.offsets, answer.ids


_ABOUT = "HalfspaceIndex(...).query with scores, hits in order of ids"


def _spec(filter: str, what: str, metrics: tuple[str, ...] = METRICS) -> EngineSpec:
    name = "halfspace" if filter == AUTO else f"halfspace-{filter}"
    return EngineSpec(name, f"{_ABOUT}; {what}", partial(Halfspace, filter=filter), metrics=metrics)


SPECS = [
    _spec(AUTO, "the filter that suits is chosen by itself"),
    *(
        _spec(name, f"filter={name!r}: {spec.summary}", spec.metrics)
        for name, spec in FILTERS.items()
        if "cpu" in spec.code
    ),
]
