"""Attention over exactly the keys above a threshold: `HalfspaceIndex`'s stages as the KV cache of a language model.

>>> import numpy as np
>>> from halfspace.attention import Attended, KVIndex
>>> rng = np.random.default_rng(0)
>>> keys, values = rng.standard_normal((2, 1, 1, 100, 64))  # sequences, KV heads, tokens, dimensions
>>> index = KVIndex(num_kv_heads=1, head_dim=64, num_query_heads=2)
>>> index.append(keys, values)  # a prefill; or one token at a time
>>> q = rng.standard_normal((1, 2, 64))
>>> found: Attended = index.attend(q, eps=0.01, details=True)
>>> found.output.shape, bool((found.dropped <= 0.01).all())
((1, 2, 64), True)
>>> np.array_equal(index.query(q, found.tau).totals, found.kept.ravel())  # the keys themselves
True
>>> index.crop(50)
>>> index.repeat(2)  # two sequences from now on, as beam search wants
>>> index.reorder([1, 0])
>>> index.stored()[0].shape, index.stats()["tokens"]
((2, 1, 50, 64), 100)
>>> index.check()  # says nothing: all is well
>>> index.reset()
>>> index.lengths.tolist()
[0, 0]
"""

from halfspace.attention.interop import Attended
from halfspace.attention.kv import KVIndex

__all__ = ["Attended", "KVIndex"]
