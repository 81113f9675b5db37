"""Learnt sinks: a logit of each query head that takes its part of the softmax, and has no value."""

from typing import Any

import numpy as np

from halfspace.model.arrays import namespace
from halfspace.model.formats import as_float32

__all__ = ["with_sinks"]


def with_sinks(output: Any, log_sum_exp: Any, sinks: Any) -> tuple[Any, Any]:
    """Add the term exp(sink) to the denominator of a softmax; returns the output and the logarithm of the new one.

    output : bits (batch, query_heads, d); log_sum_exp : (batch, query_heads), -inf where no key was kept
    sinks : float32 (query_heads,), or None

    What was certified holds still: the keys that were dropped have a smaller share of a larger sum.
    """
    if sinks is None:
        return output, log_sum_exp
    xp = namespace(log_sum_exp)
    whole = xp.logaddexp(log_sum_exp, sinks)
    shrunk = as_float32(output) * xp.exp(log_sum_exp - whole)[..., None]
    return _narrowed(shrunk, output.dtype), whole


def _narrowed(numbers: Any, bits: Any) -> Any:
    """Round float32 to the bits of a stored format, ties to even; NaN stays NaN."""
    if bits == np.int16:  # bfloat16: the upper half
        pattern = numbers.view(np.uint32)
        return ((pattern + 0x7FFF + (pattern >> 16 & 1)) >> 16).astype(np.uint16).view(np.int16)
    return numbers.astype(np.float16).view(np.uint16) if bits == np.uint16 else numbers
