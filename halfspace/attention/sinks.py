"""Learnt sinks: a logit of each query head that takes its part of the softmax, and has no value."""

from typing import Any

import numpy as np

from halfspace.model.arrays import namespace

__all__ = ["with_sinks"]


def with_sinks(output: Any, log_sum_exp: Any, sinks: Any) -> tuple[Any, Any]:
    """Add the term exp(sink) to the denominator of a softmax; returns the output and the logarithm of the new one.

    output : (batch, query_heads, d); log_sum_exp : (batch, query_heads), -inf where no key was kept; sinks : float32
    (query_heads,), or None

    What was certified holds still: the keys that were dropped have a smaller share of a larger sum.
    """
    if sinks is None:
        return output, log_sum_exp
    xp = namespace(log_sum_exp)
    whole = xp.logaddexp(log_sum_exp, sinks)
    share = xp.exp(log_sum_exp - whole)[..., None]
    return (output.astype(np.float32, copy=False) * share).astype(output.dtype, copy=False), whole
