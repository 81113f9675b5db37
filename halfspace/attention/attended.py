"""What `KVIndex.attend` tells, if it is asked for details."""

from dataclasses import dataclass
from typing import Any

__all__ = ["Attended"]


@dataclass(frozen=True, eq=False)
class Attended:
    """Attention over the keys that reach a threshold, and what is known of it.

    Arrays are of the library, and on the device, of the queries.

    Attributes
    ----------
    output : array, of the shape and dtype of the queries
        Softmax-weighted means of the values that were kept; 0 where none was.
    log_sum_exp : array of float32, shape (batch, query heads)
        Logarithm of the sum of exp(scale <q, k>) over the keys that were kept; -inf where none was.
    kept : array of int64, shape (batch, query heads)
        How many keys were kept.
    tau : array of float64, shape (batch, query heads)
        The threshold of <q, k>.
    dropped : array of float64, shape (batch, query heads), or None
        With ``eps``: the share of the softmax over all keys that was dropped, at most. None where nothing is certified.
    """

    output: Any
    log_sum_exp: Any
    kept: Any
    tau: Any
    dropped: Any
