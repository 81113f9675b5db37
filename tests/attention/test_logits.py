"""Logits of a `KVIndex` that are capped, and learnt sinks: as in float64, certificates included; and its pickles."""

import copy
import pickle

import numpy as np
import pytest
from helpers import attention_reference as oracle

from halfspace.attention import KVIndex
from halfspace.datasets import load_keys

HEADS, GROUP, DIM = 2, 3, 16


def filled(rng, rows=300, **options):
    index = KVIndex(HEADS, DIM, num_query_heads=HEADS * GROUP, dtype="float32", threads=1, **options)
    keys, values = rng.standard_normal((2, 1, HEADS, rows, DIM)).astype(np.float32)
    index.append(keys, values)
    return index, keys, values, (3 * rng.standard_normal((1, HEADS * GROUP, DIM))).astype(np.float32)


def expected(keys, values, query, tau, cap, sink):
    """Output and log-sum-exp of one head in float64; a sink is one more term of the sum."""
    mask = oracle.kept(keys, query, tau)
    output, whole = oracle.softmax(keys, values, query, mask, DIM**-0.5, cap)
    if sink is None:
        return output, whole
    joint = np.logaddexp(whole, np.float64(np.float32(sink)))
    return output * np.exp(whole - joint), joint


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("how", [{"tau": -np.inf}, {"tau": 4.0}, {"tau": 1e9}, {"eps": 0.05}, {"keep": 0.2}], ids=str)
def test_output_is_that_of_float64(cap, with_sinks, how, rng):
    sinks = rng.normal(0, 3, HEADS * GROUP) if with_sinks else None
    index, keys, values, q = filled(rng, soft_cap=cap, sink_logits=sinks)
    found = index.attend(q, **how, details=True)
    for head in range(HEADS * GROUP):
        own, theirs = keys[0, head // GROUP], values[0, head // GROUP]
        sink = None if sinks is None else sinks[head]
        output, whole = expected(own, theirs, q[0, head], found.tau[0, head], cap or 0.0, sink)
        np.testing.assert_allclose(found.output[0, head], output, atol=1e-5)
        np.testing.assert_allclose(found.log_sum_exp[0, head], whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cap", [None, 1.0, 20.0])
def test_certificates_of_real_keys(cap, rng):
    """What is dropped of the softmax with its sinks is at most eps, and the output as near as that says.

    There are 2,304 of them: 64 steps of 4 heads, 3 caps, 3 shares.
    """
    data = load_keys()
    sinks = rng.normal(4, 4, 4)
    index = KVIndex(1, 128, num_query_heads=4, dtype="float16", threads=1, soft_cap=cap, sink_logits=sinks)
    index.append(data.keys[None, :2048], data.values[None, :2048])
    keys, values = data.keys[:2048], data.values[:2048].astype(np.float64)
    longest = np.linalg.norm(values, axis=1).max()
    for step in range(64):
        q = data.queries[:, step].astype(np.float32)
        for eps in (0.1, 1e-2, 1e-3):
            found = index.attend(q, eps=eps, details=True)
            for head in range(4):
                logits = oracle.logits(keys, q[head], 128**-0.5, cap or 0.0)
                weights = np.exp(np.append(logits, np.float32(sinks[head])) - logits.max())
                weights /= weights.sum()
                below = oracle.logits(keys, q[head], 1.0) < found.tau[0, head]
                lost = weights[:-1][below].sum()
                assert lost <= found.dropped[0, head] * (1 + 1e-9) <= eps * (1 + 1e-9)
                error = np.linalg.norm(found.output[head] - weights[:-1] @ values)
                assert error <= 2 * eps * longest + 1e-4


def test_arguments():
    for cap in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="soft_cap must be above 0"):
            KVIndex(1, 8, soft_cap=cap)
    with pytest.raises(ValueError, match=r"sink_logits must have shape \(1,\)"):
        KVIndex(1, 8, sink_logits=[1.0, 2.0])
    with pytest.raises(ValueError, match="sink_logits must be finite in float32, got inf"):
        KVIndex(1, 8, sink_logits=[np.inf])


@pytest.mark.parametrize("options", [{}, {"capacity": 2048, "recent": 3}], ids=str)
def test_a_pickle_answers_as_what_was_pickled(options, rng):
    index, *_, q = filled(rng, 1500, soft_cap=4.0, sink_logits=np.arange(6), **options)
    for new in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index), copy.copy(index)):
        assert new.stats() == index.stats() | {"capacity": new.capacity}
        for how in ({"tau": 1.0}, {"eps": 0.01}, {"keep": 0.1}):
            mine, theirs = (i.attend(q, **how, details=True) for i in (index, new))
            for name in ("output", "log_sum_exp", "kept", "tau"):
                np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        more = rng.standard_normal((2, 1, HEADS, 40, DIM)).astype(np.float32)
        new.append(*more)
        assert new.lengths.tolist() == [1540]
        assert index.lengths.tolist() == [1500]
    empty = pickle.loads(pickle.dumps(KVIndex(1, 8, batch_size=2)))
    assert empty.lengths.tolist() == [0, 0]
