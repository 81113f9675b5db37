"""Caches of keys and values for the tests of attention's stages on the CPU."""

import numpy as np

from halfspace import cpu
from halfspace.model.formats import as_bits


def fill(keys, values, lengths=None, framed=True):
    """A cache of keys and values (batch, heads, rows, d), of which each sequence has so many rows."""
    batch, heads, rows, dim = keys.shape
    cache = cpu.new_cache(batch, heads, dim, as_bits(keys).dtype, max(64, -(-rows // 64) * 64), False)
    cpu.extend(cache, as_bits(keys), as_bits(values), None if lengths is None else np.array(lengths))
    if framed:
        cpu.reframe(cache)
    return cache
