"""Thresholds of attention: given, certified, or estimated.

With logits s_i = scale <q, k_i>, softmax weights are exp(s_i) / Z with Z = sum_i exp(s_i). Keys below a threshold are
dropped; their *share* is the sum of their weights.

Certified (``eps``). Any tau with sum_{s_i < tau} exp(s_i) <= eps Z drops a share of at most eps, and moves the output
by at most 2 eps max |v|: kept weights grow by a factor of at most 1 / (1 - eps). Codes of keys give bounds
l_i <= s_i <= u_i, so that dropped keys weigh at most the sum of their exp(u_i), and all keys at least that of exp(l_i).

On the CPU, tau_1 is raised first until the bounds of what lies below it have used up a part of eps; keys that may reach
tau_1 then get their exact scores, and tau is raised further until

    sum_{u_i < tau_1} exp(u_i) + sum_{u_i >= tau_1, s_i < tau} exp(s_i)
        <=  eps ( sum_{u_i >= tau_1} exp(s_i) + sum_{u_i < tau_1} exp(l_i) )

On a GPU, a key that is dropped lies below the threshold, and below its own upper bound, so that one pass over the codes
is enough: tau is the largest with

    sum_{l_i < tau} exp(min(u_i, tau))  <=  eps sum_i exp(l_i)

where the heaviest keys have their exact scores in place of l_i.

Capped logits are bounded by the capped bounds, as capping never changes the order of logits, nor widens a gap between
two. A learnt sink adds to Z alone, so that what is dropped has a smaller share still.

All of it is evaluated with the rounding errors paid for, so the share is proved for every answer, at run time. (The
bound that needs no sums, tau = max s + ln(eps / n), keeps several times as many keys.)

Estimated (``keep``). The share of keys to be kept, in place of a share of the softmax; read off the scores of a
reservoir sample of the keys, after Dehghankar and Asudeh (Sparse attention as a range searching problem, 2026). It
comes with no certificate:

- ``"budget"``: the score of the rank in the sample that the share of keys asks for;
- ``"max"``: the largest score among so few of the sample, evenly spread over its slots, that the mean share above it is
  the one asked for;
- ``"gap"``: the middle of the widest gap between scores of the sample, among ranks within a factor of two of that one.
"""

from typing import Any, NamedTuple

from halfspace.arguments import checks
from halfspace.attention.arguments import Given
from halfspace.model.kv_cache import ESTIMATORS, Cache

__all__ = ["Threshold", "thresholds"]


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
        checks.one_of(estimator, "estimator", ESTIMATORS)
        if eps is not None and not 0.0 < _number(eps, "eps") < 1.0:
            raise ValueError(f"eps must be above 0 and below 1, got {eps}")
        if keep is not None and not 0.0 < _number(keep, "keep") <= 1.0:
            raise ValueError(f"keep must be above 0 and at most 1, got {keep}")
        return cls(tau, None if eps is None else float(eps), None if keep is None else float(keep), estimator)


def _number(value: Any, name: str) -> float:
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    return float(value)


def thresholds(
    how: Threshold, given: Given, cache: Cache, queries: Any, logits: tuple[float, float]
) -> tuple[Any, Any]:
    """Choose a threshold (batch, query_heads) of <q, k> for queries (batch, query_heads, d), or take the given one.

    logits : the scale and the cap of logits, the latter 0 where there is none

    Returns it, and the share of each head's softmax that is dropped at most, or None where nothing is certified.
    """
    if how.eps is not None:
        tau, dropped = given.backend.certify(cache, queries, how.eps, logits[0], given.threads, logits[1])
        return tau, dropped
    if how.keep is not None:
        return given.backend.estimate(cache, queries, how.keep, how.estimator, given.threads), None
    return given.thresholds(how.tau, cache.batch), None
