"""Attention on the CPU: exactly the keys that reach the threshold, softmax as in float64, the same bits by any way."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import attention_reference as oracle
from helpers import reference
from helpers.caches import fill
from helpers.checking import FILTERS
from helpers.families import EXTREME_TAUS, FAMILIES, MORE_FAMILIES, boundary_taus, gaussian, integers
from hypothesis import given
from hypothesis import strategies as st

from halfspace import cpu
from halfspace.cpu.attention.attend import RUN
from halfspace.datasets import load_keys
from halfspace.model.formats import as_bits
from halfspace.model.kv_cache import Aim
from halfspace.model.layout import CHUNK

DIMS = [1, 5, 64, 80, 96, 128, 256]
FORMATS = ["float32", "float16", "bfloat16"]


class How(NamedTuple):
    """How keys are attended, and whether the output is held against the oracle, too."""

    scale: float = 0.5
    recent: int = 0
    sinks: int = 0
    softmax: bool = True
    cap: float = 0.0


PLAIN = How()


def ask(cache, queries, tau, scale=0.5, recent=0, sinks=0, threads=2, cap=0.0):
    tau = np.ascontiguousarray(np.broadcast_to(np.float64(tau), queries.shape[:2]))
    return cpu.attend(cache, queries, tau, scale, recent, sinks, threads, cap)


def check(cache, keys, values, queries, tau, lengths=None, how=PLAIN):
    """Hold an answer against the oracle."""
    found = ask(cache, queries, tau, how.scale, how.recent, how.sinks, cap=how.cap)
    batch, query_heads, _ = queries.shape
    group = query_heads // keys.shape[1]
    assert found.output.shape == queries.shape
    assert [part.dtype for part in found] == [np.float32, np.float32, np.int64]
    tau = np.broadcast_to(np.float64(tau), queries.shape[:2])
    for b in range(batch):
        rows = keys.shape[2] if lengths is None else lengths[b]
        for g in range(query_heads):
            own, query = keys[b, g // group, :rows], queries[b, g]
            mask = oracle.kept(own, query, tau[b, g], how.recent, how.sinks)
            assert found.kept[b, g] == mask.sum()
            if not how.softmax:
                continue
            output, log_sum_exp = oracle.softmax(own, values[b, g // group, :rows], query, mask, how.scale, how.cap)
            largest = np.abs(values[b, g // group, :rows].astype(np.float64)).max(initial=0.0)
            np.testing.assert_allclose(found.output[b, g], output, rtol=0, atol=4e-6 * largest)
            np.testing.assert_allclose(found.log_sum_exp[b, g], log_sum_exp, rtol=1e-6, atol=1e-6)
    return found


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("dim", DIMS)
def test_output_is_that_of_float64(rng, dim, dtype):
    """Every dimension and format, five query heads to a KV head, thresholds from none to all."""
    batch, heads, rows, group = 2, 2, 200, 5
    keys, queries = gaussian(rng, batch * heads * rows, dim, batch * heads * group, dtype)
    values = gaussian(rng, batch * heads * rows, dim, 1, dtype)[0].reshape(batch, heads, rows, dim)
    keys, queries = keys.reshape(values.shape), queries.reshape(batch, heads * group, dim)
    for framed in (False, True):
        cache = fill(keys, values, framed=framed)
        tau = np.resize([-np.inf, 0.0, dim**0.5, 2.5 * dim**0.5, np.inf], queries.shape[:2])
        for cap in (0.0, 1.5):
            check(cache, keys, values, queries, tau, how=How(dim**-0.5, cap=cap))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES, ids=lambda family: family.__name__)
def test_kept_is_exact_on_awkward_keys(rng, family, dtype):
    """Thresholds on dot products and a unit in the last place beside them; subnormals, overflow, cancellation, ties."""
    keys, queries = family(rng, 90, 9, 2, dtype)
    for query in queries:
        taus = np.concatenate([boundary_taus(rng, keys, query, 6), EXTREME_TAUS])
        asked = np.repeat(query[None], len(taus), axis=0)[None]
        for framed in (False, True):
            cache = fill(keys[None, None], keys[None, None], framed=framed)
            check(cache, keys[None, None], keys[None, None], asked, taus[None], how=How(softmax=False))


class Drawn(NamedTuple):
    """A question of which everything is drawn."""

    seed: int
    family: Any
    dtype: str
    rows: int
    dim: int
    heads: int
    group: int
    framed: bool
    how: How


@given(
    st.builds(
        Drawn,
        seed=st.integers(0, 2**32 - 1),
        family=st.sampled_from(FAMILIES + MORE_FAMILIES),
        dtype=st.sampled_from(FORMATS),
        rows=st.integers(0, 150),
        dim=st.sampled_from([1, 2, 5, 8, 17, 64]),
        heads=st.integers(1, 2),
        group=st.sampled_from([1, 2, 3, 4, 9]),
        framed=st.booleans(),
        how=st.builds(
            How,
            sinks=st.sampled_from([0, 1, 7, 1000]),
            recent=st.sampled_from([0, 1, 64, 1000]),
            softmax=st.just(False),
        ),
    )
)
def test_any_question(drawn):
    rng, rows, heads, group = np.random.default_rng(drawn.seed), drawn.rows, drawn.heads, drawn.group
    keys, queries = drawn.family(rng, heads * max(rows, 1), max(drawn.dim, 3), heads * group, drawn.dtype)
    dim = keys.shape[1]
    keys = keys.reshape(1, heads, max(rows, 1), dim)[:, :, :rows]
    taus = []
    for g, query in enumerate(queries):
        own = keys[0, g // group]
        taus.append(rng.choice(boundary_taus(rng, own, query, 2) if rows else [0.0]))
    cache = fill(keys, keys, framed=drawn.framed)
    check(cache, keys, keys, queries[None], np.array(taus)[None], how=drawn.how)


def test_ties_are_kept(rng):
    """Whole numbers, many of them equal to the threshold, which float32 and float64 hold."""
    keys, queries = integers(rng, 2 * 1500, 64, 6, "float16")
    keys, queries = keys.reshape(1, 2, 1500, 64), queries[None]
    cache = fill(keys, keys)
    for tau in (0.0, 1.0, 12.0):
        found = check(cache, keys, keys, queries, tau, how=How(0.1))
        above = ask(cache, queries, np.nextafter(tau, np.inf))
        assert (above.kept < found.kept).any()


def test_no_keys_at_all():
    """An empty sequence, and a threshold that nothing reaches: zero, and a logarithm of zero."""
    empty = np.zeros((2, 2, 0, 8), np.float16)
    queries = np.ones((2, 4, 8), np.float32)
    some = np.ones((2, 2, 3, 8), np.float16)
    for cache, tau in ((fill(empty, empty), -np.inf), (fill(some, some), 9.0), (fill(some, some), np.inf)):
        found = ask(cache, queries, tau, recent=0)
        assert not found.output.any()
        assert not found.kept.any()
        assert (found.log_sum_exp == -np.inf).all()


@pytest.mark.parametrize("dtype", FORMATS)
def test_one_key(dtype):
    """Its value is the output, to the bit."""
    value = np.linspace(-3, 5, 16).astype(reference.DTYPES[dtype])[None, None, None]
    cache = fill(value, value)
    found = ask(cache, np.ones((1, 3, 16), np.float32), -1e9)
    np.testing.assert_array_equal(found.output[0], np.repeat(value[0, 0].astype(np.float32), 3, axis=0))


@pytest.mark.parametrize(("sinks", "recent"), [(1, 0), (0, 1), (70, 70), (100, 150), (1000, 0), (0, 1000), (130, 65)])
def test_sinks_and_recent_are_kept(rng, sinks, recent):
    """Also where they overlap, or are more than there are; each key counts once."""
    keys, queries = gaussian(rng, 2 * 200, 16, 8, "float16")
    keys, queries = keys.reshape(2, 1, 200, 16), queries.reshape(2, 4, 16)
    lengths = [200, 90]
    cache = fill(keys, keys, lengths)
    for tau in (np.inf, 6.0, -np.inf):
        check(cache, keys, keys, queries, tau, lengths, How(recent=recent, sinks=sinks))


def test_sequences_of_unequal_length(rng):
    lengths = [1, 0, 1500, 64, 4500]
    keys, queries = gaussian(rng, 5 * 2 * 4500, 32, 5 * 4, "bfloat16")
    keys, queries = keys.reshape(5, 2, 4500, 32), queries.reshape(5, 4, 32)
    values = keys[:, ::-1].copy()
    check(fill(keys, values, lengths), keys, values, queries, 6.0, lengths, How(0.2, recent=2, sinks=1))


def test_bits_depend_on_what_is_kept_alone(rng):
    """Neither on threads, nor on how the prefill was cut, nor on the frame of the codes."""
    rows = 2 * RUN * CHUNK + 700
    keys, queries = gaussian(rng, rows * 2, 64, 8, "float16")
    keys, queries = keys.reshape(1, 2, rows, 64), queries[None]
    values = keys[:, :, ::-1].copy()
    whole = fill(keys, values)
    pieces = cpu.new_cache(1, 2, 64, np.dtype(np.uint16), whole.capacity, False)
    for first, last in ((0, 1), (1, 1000), (1000, 5000), (5000, rows)):
        cpu.extend(pieces, as_bits(keys)[:, :, first:last], as_bits(values)[:, :, first:last], None)
    for tau in (-np.inf, 0.0, 15.0, 25.0):
        answers = [ask(cache, queries, tau, threads=threads) for cache in (whole, pieces) for threads in (1, 2, 3, 8)]
        for answer in answers[1:]:
            for one, other in zip(answers[0], answer, strict=True):
                assert one.tobytes() == other.tobytes()


def test_large_logits_and_small_ones(rng):
    """Weights from 1 down to nothing, also over several runs of which some weigh nothing."""
    rows = RUN * CHUNK + 100
    keys, queries = gaussian(rng, rows, 16, 3, "float32")
    keys *= np.linspace(1, 2000, rows, dtype=np.float32)[:, None]
    keys, queries = keys[None, None], queries[None]
    check(fill(keys, keys), keys, keys, queries, -np.inf, how=How(1.0))
    check(fill(keys[:, :, ::-1], keys), keys[:, :, ::-1], keys, queries, -np.inf, how=How(1e-4))


def test_queries_of_the_stored_format(rng):
    """They are what they stand for."""
    keys, queries = gaussian(rng, 300, 24, 4, "float16")
    narrow = queries.astype(np.float16)[None]
    cache = fill(keys[None, None], keys[None, None])
    one, other = ask(cache, as_bits(narrow), 4.0), ask(cache, narrow.astype(np.float32), 4.0)
    assert one.output.tobytes() == other.output.tobytes()


def test_read_only_arrays(rng):
    """Questions are read, and not compiled for anew."""
    keys, queries = gaussian(rng, 100, 16, 4, "float16")
    cache = fill(keys[None, None], keys[None, None])
    tau, queries = np.full((1, 4), 2.0), queries[None]
    expected = cpu.attend(cache, queries, tau, 1.0, 0, 0, 1)
    queries.setflags(write=False)
    tau.setflags(write=False)
    assert cpu.attend(cache, queries, tau, 1.0, 0, 0, 1).output.tobytes() == expected.output.tobytes()
    assert cpu.estimate(cache, queries, 0.1, "max", 1).shape == (1, 4)
    assert cpu.attend_chosen(cache, queries, Aim(0.1, None), 1.0, 0, 0, 1).tau.shape == (1, 4)


def test_real_keys():
    """Eight thousand keys of a language model, with 1 % and 30 % of them kept."""
    data = load_keys()
    keys, values = data.keys[None, None], data.values[None, None]
    cache = fill(keys, values)
    for step in (0, 40):
        queries = data.queries[None, :, step].astype(np.float32)
        scores = np.sort(queries[0] @ data.keys.T.astype(np.float32), axis=1)
        for share in (0.01, 0.3):
            tau = scores[None, :, -int(share * 8192)].astype(np.float64)
            check(cache, keys, values, queries, tau, how=How(128**-0.5))


def test_an_index_keeps_the_same(rng):
    """What is attended are the hits of an index on the same keys."""
    from halfspace import HalfspaceIndex

    keys, queries = gaussian(rng, 3000, 48, 4, "float16")
    index = HalfspaceIndex(48, dtype="float16", filter=FILTERS[1])
    index.insert(keys)
    cache = fill(keys[None, None], keys[None, None])
    for tau in (5.0, 10.0, 20.0):
        assert ask(cache, queries[None], tau).kept[0].tolist() == index.count(queries, tau).tolist()
