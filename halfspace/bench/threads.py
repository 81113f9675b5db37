"""The same number of threads for everyone."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from types import ModuleType

__all__ = ["load_faiss", "pinned"]


def load_faiss() -> ModuleType:
    """Import FAISS, whose bindings warn about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import faiss
    module: ModuleType = faiss
    return module


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Let the BLAS of NumPy, and FAISS, use so many threads; what was set before comes back.

    Engines with threads of their own (halfspace, usearch) are given the number when they are built.

    Parameters
    ----------
    threads : int
        At least 1.

    Examples
    --------
    >>> with pinned(1):
    ...     pass  # NumPy's BLAS and FAISS use one thread here
    """
    from threadpoolctl import threadpool_limits

    faiss = load_faiss() if importlib.util.find_spec("faiss") else None
    with threadpool_limits(threads):  # of the libraries that are loaded now
        before = faiss.omp_get_max_threads() if faiss else 0
        try:
            if faiss:
                faiss.omp_set_num_threads(threads)
            yield
        finally:
            if faiss:
                faiss.omp_set_num_threads(before)
