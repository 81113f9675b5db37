"""Engines on an NVIDIA GPU: this library's, and brute force by CuPy and by PyTorch; a call ends when the GPU has done.

Vectors and directions lie on the GPU before a call is timed, and answers stay there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfspace import HalfspaceIndex
from halfspace.bench.engines.forms import halves, least_products, normalised
from halfspace.bench.engines.spec import Engine, EngineSpec, How, Rows, reason_of, rows_of

__all__ = ["SPECS", "no_gpu"]

_SCORES = 4_000_000_000
"""Bytes of scores that brute force holds at once."""


def no_gpu(modules: Mapping[str, str]) -> str | None:
    """Return None if the modules find a GPU, else the reason why not."""
    try:
        if "cupy" in modules:
            import cupy as cp

            cp.cuda.runtime.getDeviceCount()
        if "torch" in modules:
            import torch

            if not torch.cuda.is_available():
                return "torch finds no GPU"
    except Exception as error:  # whatever a driver that is not there, or too old, makes of it
        return f"no GPU: {reason_of(error)}"
    return None


class HalfspaceGpu(Engine):
    """`HalfspaceIndex` with ``device="gpu"``."""

    def __init__(self, vectors: NDArray[np.float32], how: How) -> None:
        import cupy as cp

        super().__init__(vectors, how)
        self.index = HalfspaceIndex(vectors.shape[1], metric=how.metric, device="gpu", dtype=how.dtype)
        self.index.insert(cp.asarray(vectors))
        self.index.compact()
        cp.cuda.Device().synchronize()

    @property
    def nbytes(self) -> int:
        return sum(size for name, size in self.index.stats().items() if name.startswith("bytes_"))

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        import cupy as cp

        device, asked = cp.cuda.Device(), cp.asarray(directions)
        tau = float(taus[0]) if (taus == taus[0]).all() else cp.asarray(taus)

        def query() -> Any:
            hits = self.index.query(asked, tau)
            device.synchronize()
            return hits

        return query

    def found(self, answer: Any) -> Rows:
        import cupy as cp

        return cp.asnumpy(answer.offsets), cp.asnumpy(answer.ids)


class Cupy(Engine):
    """``cupy.nonzero(q @ X.T >= tau)``, some directions at a time; of one direction, ``cupy.flatnonzero``.

    For cosines all are of length 1; for distances, |x|^2 / 2 is subtracted from products.
    """

    def __init__(self, vectors: NDArray[np.float32], how: How) -> None:
        import cupy as cp

        super().__init__(vectors, how)
        self.vectors = cp.asarray(normalised(vectors, how.metric)).astype(how.dtype)
        own = halves(vectors, how.metric)
        self.halves = None if own is None else cp.asarray(own).astype(how.dtype)
        cp.cuda.Device().synchronize()

    @property
    def nbytes(self) -> int:
        return int(self.vectors.nbytes) + (0 if self.halves is None else int(self.halves.nbytes))

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        import cupy as cp

        device, x, m = cp.cuda.Device(), self.vectors, len(directions)
        asked = cp.asarray(normalised(directions, self.metric)).astype(x.dtype)
        limits = cp.asarray(least_products(directions, taus, self.metric)).astype(x.dtype)[:, None]
        step = max(1, _SCORES // (x.itemsize * len(x)))

        def scores(products: Any) -> Any:
            return products if self.halves is None else products - self.halves

        def single() -> Any:
            ids = cp.flatnonzero(scores(x @ asked[0]) >= limits[0])
            device.synchronize()
            return [(None, ids)], m

        def blocks() -> Any:
            parts = [slice(first, first + step) for first in range(0, m, step)]
            found = [cp.nonzero(scores(asked[part] @ x.T) >= limits[part]) for part in parts]
            device.synchronize()
            return found, m

        return single if m == 1 else blocks

    def found(self, answer: Any) -> Rows:
        import cupy as cp

        found, m = answer
        step = max(1, _SCORES // (self.vectors.itemsize * len(self.vectors)))
        places, ids = [], []
        for k, (own, columns) in enumerate(found):
            ids.append(cp.asnumpy(columns))
            places.append(np.zeros(len(ids[-1]), np.int64) if own is None else cp.asnumpy(own) + k * step)
        return rows_of(np.concatenate(places), np.concatenate(ids), m)


class Torch(Engine):
    """``torch.nonzero(q @ X.T >= tau)`` in full float32 (no TF32), some directions at a time.

    For cosines all are of length 1; for distances, |x|^2 / 2 is subtracted from products.
    """

    def __init__(self, vectors: NDArray[np.float32], how: How) -> None:
        import torch

        super().__init__(vectors, how)
        kind, own = getattr(torch, how.dtype), halves(vectors, how.metric)
        self.vectors = torch.tensor(normalised(vectors, how.metric)).to("cuda", kind)
        self.halves = None if own is None else torch.tensor(own).to("cuda", kind)
        torch.cuda.synchronize()

    @property
    def nbytes(self) -> int:
        held = [self.vectors] if self.halves is None else [self.vectors, self.halves]
        return sum(int(part.element_size() * part.nelement()) for part in held)

    def ask(self, directions: NDArray[np.float32], taus: NDArray[np.float64]) -> Callable[[], Any]:
        import torch

        x, m = self.vectors, len(directions)
        asked = torch.tensor(normalised(directions, self.metric)).to(x.device, x.dtype)
        limits = torch.tensor(least_products(directions, taus, self.metric)).to(x.device, x.dtype)[:, None]
        step = max(1, _SCORES // (x.element_size() * len(x)))

        def scores(products: Any) -> Any:
            return products if self.halves is None else products - self.halves

        def blocks() -> Any:
            parts = [slice(first, first + step) for first in range(0, m, step)]
            found = [torch.nonzero(scores(asked[part] @ x.T) >= limits[part]) for part in parts]
            torch.cuda.synchronize()
            return found, m, step

        return blocks

    def found(self, answer: Any) -> Rows:
        found, m, step = answer
        pairs = [part.cpu().numpy() + np.array([k * step, 0]) for k, part in enumerate(found)]
        places, ids = np.concatenate(pairs).T
        return rows_of(places, ids, m)


_CUPY = {"cupy": "cupy-cuda13x, or cupy-cuda12x for a driver of CUDA 12"}

SPECS = [
    EngineSpec(name, about, make, device="gpu", needs=needs, lacking=no_gpu)
    for name, about, make, needs in (
        ("halfspace-gpu", "HalfspaceIndex(device='gpu').query with scores", HalfspaceGpu, _CUPY),
        ("cupy", "cupy.nonzero(q @ X.T >= tau), ids alone", Cupy, _CUPY),
        ("torch", "torch.nonzero(q @ X.T >= tau), ids alone, no TF32", Torch, {"torch": "torch"}),
    )
]
