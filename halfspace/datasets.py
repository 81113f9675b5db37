"""The small real data in the package: sentence embeddings with questions, and attention keys with queries.

Both sets are read from files inside the package, so nothing is downloaded. ``halfspace/data/README.md`` states their
origin in full; the licence texts lie beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AttentionKeys", "PyDocs", "load_keys", "load_pydocs"]


@dataclass(frozen=True, eq=False)
class PyDocs:
    """Docstrings of Python's standard library as sentence embeddings, with questions to ask them.

    All arrays are read-only. Row ``i`` of ``vectors`` embeds ``texts[i]``, the docstring of ``names[i]``.

    Attributes
    ----------
    vectors : ndarray of float16, shape (6301, 384)
        Embeddings of the texts, of unit length to within 1e-4.
    names : ndarray of str, shape (6301,)
        Dotted names, such as ``os.walk``; three of them occur twice.
    texts : ndarray of str, shape (6301,)
        The opening sentences of the docstrings.
    query_vectors : ndarray of float16, shape (32, 384)
        Embeddings of the questions, of unit length to within 1e-4.
    query_texts : ndarray of str, shape (32,)
        The questions, such as "walk a directory tree".

    Examples
    --------
    >>> docs = load_pydocs()
    >>> str(docs.names[0]), str(docs.query_texts[7])
    ('__future__._Feature.getOptionalRelease', 'walk a directory tree')
    """

    vectors: NDArray[np.float16]
    names: NDArray[np.str_]
    texts: NDArray[np.str_]
    query_vectors: NDArray[np.float16]
    query_texts: NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class AttentionKeys:
    """Keys, values and queries of one key-value head of a small language model over 8,192 tokens.

    All arrays are read-only. Rotary positions are applied to keys and queries: ``queries[h, t] @ keys[i]`` is the raw
    attention score, and the softmax takes it times ``1 / sqrt(128)``.

    Attributes
    ----------
    keys : ndarray of float16, shape (8192, 128)
        One key per token; norms 13 to 26.
    values : ndarray of float16, shape (8192, 128)
        The values that belong to the keys.
    queries : ndarray of float16, shape (4, 64, 128)
        64 queries of each of the 4 query heads that share these keys.

    Examples
    --------
    >>> data = load_keys()
    >>> data.keys.shape, data.values.shape
    ((8192, 128), (8192, 128))
    """

    keys: NDArray[np.float16]
    values: NDArray[np.float16]
    queries: NDArray[np.float16]


def load_pydocs() -> PyDocs:
    """Load 6,301 docstring embeddings of dimension 384 and the embeddings of 32 questions.

    Returns
    -------
    PyDocs
        Float16 vectors and their texts, about 13 MB in memory.

    Notes
    -----
    The texts come from the standard library of Python 3.11, copyright the Python Software Foundation and contributors
    (PSF License 2.0); only the opening of each docstring was kept. The vectors were computed with the model
    all-MiniLM-L6-v2 (Apache License 2.0) and rounded to float16. Questions and file: MIT.

    Examples
    --------
    >>> docs = load_pydocs()
    >>> docs.vectors.shape, docs.query_vectors.shape
    ((6301, 384), (32, 384))
    """
    return PyDocs(**_arrays("pydocs.npz"))


def load_keys() -> AttentionKeys:
    """Load 8,192 attention keys of dimension 128 with their values and 4 x 64 queries.

    Returns
    -------
    AttentionKeys
        Float16 arrays, about 4 MB in memory.

    Notes
    -----
    Captured from a 23-million-parameter Llama-style model (head dimension 128, 4 query heads per key-value head, rotary
    positions with base 500,000) that was made for this project and trained on Python source. MIT.

    Examples
    --------
    >>> load_keys().queries.shape
    (4, 64, 128)
    """
    return AttentionKeys(**_arrays("keys8k.npz"))


def _arrays(file: str) -> dict[str, NDArray[Any]]:
    """Read every array of one of the package's ``.npz`` files, and make it read-only."""
    with files("halfspace").joinpath("data", file).open("rb") as stream, np.load(stream, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays
