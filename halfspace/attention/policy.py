"""Thresholds of attention: given, certified, or estimated.

With logits s_i = scale <q, k_i>, softmax weights are exp(s_i) / Z with Z = sum_i exp(s_i). Keys below a threshold are
dropped; their *share* is the sum of their weights.

Certified (``eps``). Any tau with sum_{s_i < tau} exp(s_i) <= eps Z drops a share of at most eps. Codes of keys give
bounds l_i <= s_i <= u_i, by one pass. A key that is dropped lies below the threshold, and below its own upper bound, so
that a threshold will do if

    sum_{l_i < tau} exp(min(u_i, tau))  <=  eps sum_i exp(l_i)

On a GPU, tau is the largest one of which the counts of these bounds show it. On the CPU such a tau_1 for a part of eps
says which keys may be kept. These get their exact scores, and tau is raised until

    D  =  sum_{u_i < tau_1} exp(u_i) + sum_{u_i >= tau_1, s_i < tau} exp(s_i)  <=  eps (D + sum_{s_i >= tau} exp(s_i))

Capped logits are bounded by the capped bounds, as capping never changes the order of logits, nor widens a gap between
two. A learnt sink adds to Z alone, so that what is dropped has a smaller share still.

All of it is evaluated with the rounding errors paid for, so the share is proved for every answer, at run time. (The
bound that needs no sums, tau = max s + ln(eps / n), keeps several times as many keys.) What dropping a share p does to
the output is bounded by `bound_error`.

A share of the keys (``keep``). With ``"scan"`` the threshold is read off the same bounds, and what is dropped is
bounded in the same way. The others read it off the scores of a reservoir sample of the keys, without a certificate,
after Dehghankar and Asudeh (Sparse attention as a range searching problem, 2026):

- ``"budget"``: the score of the rank in the sample that the share of keys asks for;
- ``"max"``: the largest score among so few of the sample, evenly spread over its slots, that the mean share above it is
  the one asked for;
- ``"gap"``: the middle of the widest gap between scores of the sample, among ranks within a factor of two of that one.
"""

from typing import Any, NamedTuple

import numpy as np

from halfspace.arguments import checks
from halfspace.attention.arguments import Given
from halfspace.model.formats import as_float32
from halfspace.model.kv_cache import ESTIMATORS, SCAN, Aim, Cache, Chosen

__all__ = ["Threshold", "attended", "bound_error"]


class Threshold(NamedTuple):
    """How keys are chosen: by exactly one of three."""

    tau: Any
    eps: float | None
    keep: float | None
    estimator: str

    @classmethod
    def of(cls, tau: Any, eps: Any, keep: Any, estimator: Any) -> "Threshold":
        """Validate what a user gave."""
        given = [name for name, value in (("tau", tau), ("eps", eps), ("keep", keep)) if value is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of tau, eps and keep must be given, got {' and '.join(given) or 'none'}")
        checks.one_of(estimator, "estimator", (SCAN, *ESTIMATORS))
        if eps is not None and not 0.0 < _number(eps, "eps") < 1.0:
            raise ValueError(f"eps must be above 0 and below 1, got {eps}")
        if keep is not None and not 0.0 < _number(keep, "keep") <= 1.0:
            raise ValueError(f"keep must be above 0 and at most 1, got {keep}")
        return cls(tau, None if eps is None else float(eps), None if keep is None else float(keep), estimator)


def _number(value: Any, name: str) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    return float(value)


def attended(
    how: Threshold,
    given: Given,
    cache: Cache,
    queries: Any,
    logits: tuple[float, float],
    forced: tuple[int, int],
) -> tuple[Any, Any, Any]:
    """Attend for queries (batch, query_heads, d) over the keys that `how` chooses, and the forced ones.

    logits : the scale and the cap of logits, the latter 0 where there is none
    forced : how many of the last keys of a sequence, and of the first

    Returns the attention, thresholds (batch, query_heads) of <q, k>, and the share of each head's softmax that is
    dropped at most, or None where nothing is known of it.
    """
    backend, threads, (scale, cap) = given.backend, given.threads, logits
    if how.eps is not None or (how.keep is not None and how.estimator == SCAN):
        found: Chosen = backend.attend_chosen(cache, queries, Aim(how.eps, how.keep), scale, *forced, threads, cap)
        return found
    if how.keep is not None:
        tau = backend.estimate(cache, queries, how.keep, how.estimator, threads)
    else:
        tau = given.thresholds(how.tau, cache.batch)
    return backend.attend(cache, queries, tau, scale, *forced, threads, cap), tau, None


def bound_error(cache: Cache, output: Any, dropped: Any) -> Any:
    """Bound how far outputs (batch, query_heads, d) are from attention over all keys, but for rounding.

    dropped : (batch, query_heads), the share p of the softmax at most. With the means m of the values that are kept and
        d of those that are dropped, attention over all keys is (1 - p) m + p d: it differs from m by p |d - m|, and |d|
        is at most the largest |v|. Where a sink has a part of the softmax it is one of those kept, of value 0.
    """
    shape = cache.batch, cache.heads, -1
    longest = cache.value_peaks.max(axis=1).reshape(shape).astype(np.float64)
    own = as_float32(output).astype(np.float64)
    lengths = ((own * own).sum(axis=2) ** 0.5).reshape(shape)
    return dropped * (longest + lengths).reshape(dropped.shape) * (1.0 + 2.0**-40)
