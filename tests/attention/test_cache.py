"""The cache of attention on the CPU: what is stored and coded, however it came; what is refused."""

import numpy as np
import pytest
from helpers import attention_reference as oracle
from helpers.families import FAMILIES
from hypothesis import given
from hypothesis import strategies as st

from halfspace import cpu
from halfspace.model.formats import as_bits
from halfspace.model.kv_cache import OVERFULL, RESERVOIR

DIMS = [1, 5, 64, 80, 96, 128, 256]
FORMATS = ["float32", "float16", "bfloat16"]


def tokens(rng, batch, heads, rows, dim, family=FAMILIES[0], dtype="float16"):
    """Stored bits of keys or values, (batch, heads, rows, d)."""
    return as_bits(family(rng, batch * heads * rows, dim, 1, dtype)[0]).reshape(batch, heads, rows, dim)


def filled(keys, values, cuts=(), capacity=None, counts=None, threads=1):
    """A cache that was given keys and values in pieces, which begin at these rows."""
    batch, heads, rows, dim = keys.shape
    cache = cpu.new_cache(batch, heads, dim, keys.dtype, capacity or -(-rows // 64) * 64, False)
    for first, last in zip([0, *cuts], [*cuts, rows], strict=True):
        cpu.extend(cache, keys[:, :, first:last], values[:, :, first:last], counts, threads)
    return cache


def check_cells(cache, length):
    """Codes, scales, radii, norms and peaks of the first rows are to the bit those of the stages for an index."""
    words, blocks = -(-cache.dim // 8), length // 16
    norms, _ = cpu.measure(cache.keys[:, :length], 1)
    own, like = cache.cells, cpu.encode(cache.keys[:, :length], norms, 1, like=cache.cells)
    np.testing.assert_array_equal(cache.norms[:, :length], norms)
    np.testing.assert_array_equal(own.high[:, :blocks], like.high[:, :blocks])
    np.testing.assert_array_equal(own.low[:, : 4 * length * words], like.low[:, : 4 * length * words])
    np.testing.assert_array_equal(own.scales[:, :length], like.scales[:, :length])
    np.testing.assert_array_equal(own.radii[:, :, :length], like.radii[:, :, :length])
    np.testing.assert_array_equal(own.peaks[:, : -(-length // 1024)], like.peaks)
    assert (own.spans >= like.spans).all()


def same(one, other, length):
    """Two caches hold the same rows, coded alike."""
    words = -(-one.dim // 8)
    for name in ("keys", "values", "norms"):
        np.testing.assert_array_equal(getattr(one, name)[:, :length], getattr(other, name)[:, :length])
    for name, end in (
        ("high", length // 16),
        ("low", 4 * length * words),
        ("scales", length),
        ("peaks", -(-length // 1024)),
    ):
        np.testing.assert_array_equal(getattr(one.cells, name)[:, :end], getattr(other.cells, name)[:, :end])
    np.testing.assert_array_equal(one.cells.radii[:, :, :length], other.cells.radii[:, :, :length])
    for name in ("lengths", "sample", "status"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("dim", DIMS)
def test_cells_are_those_of_an_index(rng, dim, dtype):
    keys, values = (tokens(rng, 2, 2, 70, dim, dtype=dtype) for _ in range(2))
    cache = filled(keys, values)
    check_cells(cache, 70)
    cpu.reframe(cache)
    assert cache.cells.centre.any()
    check_cells(cache, 70)
    cpu.extend(cache, keys[:, :, :0], values[:, :, :0], None)
    np.testing.assert_array_equal(cache.keys[:, :70], keys.reshape(4, 70, dim))
    np.testing.assert_array_equal(cache.values[:, :70], values.reshape(4, 70, dim))


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_cells_of_awkward_keys(rng, family, dtype):
    keys = tokens(rng, 1, 2, 50, 9, family, dtype)
    cache = filled(keys, keys)
    check_cells(cache, 50)
    cpu.reframe(cache)
    check_cells(cache, 50)


@given(
    cuts=st.lists(st.integers(0, 2100), max_size=4).map(sorted),
    dtype=st.sampled_from(FORMATS),
    dim=st.sampled_from([3, 64]),
)
def test_any_cut_of_a_prefill_is_the_same(cuts, dtype, dim):
    rng = np.random.default_rng(dim)
    keys, values = (tokens(rng, 1, 2, 2100, dim, dtype=dtype) for _ in range(2))
    same(filled(keys, values, cuts, 2112), filled(keys, values, (), 2112), 2100)


def test_token_by_token(rng):
    keys, values = (tokens(rng, 2, 2, 1100, 8) for _ in range(2))
    same(filled(keys, values, range(1, 1100)), filled(keys, values), 1100)


def test_large_prefills_are_shared_by_threads(rng):
    keys, values = (tokens(rng, 2, 2, 5000, 128) for _ in range(2))
    cache = filled(keys, values, (300,), threads=3)
    cpu.reframe(cache, 3)
    alone = filled(keys, values)
    cpu.reframe(alone)
    same(cache, alone, 5000)
    np.testing.assert_array_equal(cache.cells.centre, alone.cells.centre)
    check_cells(cache, 5000)


def test_strides_of_any_kind(rng):
    """Rows may lie anywhere, even with numbers that do not follow one another."""
    keys, values = (tokens(rng, 2, 3, 40, 16) for _ in range(2))
    whole = filled(keys, values)
    swapped = keys.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3)
    reversed_rows = values[:, :, ::-1].copy()[:, :, ::-1]
    same(filled(swapped, reversed_rows), whole, 40)
    same(filled(np.asfortranarray(keys), values), whole, 40)


def test_sequences_of_unequal_length(rng):
    keys, values = (tokens(rng, 3, 2, 50, 16) for _ in range(2))
    cache = filled(keys, values, capacity=128, counts=np.array([50, 0, 17]))
    np.testing.assert_array_equal(cache.lengths, [50, 0, 17])
    cpu.reframe(cache)
    assert not cache.cells.centre[2:4].any()
    cpu.extend(cache, keys, values, np.array([1, 2, 0]))
    np.testing.assert_array_equal(cache.lengths, [51, 2, 17])
    for b, length in enumerate(cache.lengths):
        alone = cpu.new_cache(1, 2, 16, keys.dtype, 128, False)
        for name in ("centre", "weights"):
            getattr(alone.cells, name)[:] = getattr(cache.cells, name)[2 * b : 2 * b + 2]
        rows = np.concatenate([keys[b, :, :50], keys[b]], axis=1) if b == 0 else keys[b]
        cpu.extend(alone, rows[None, :, :length], rows[None, :, :length], None)
        np.testing.assert_array_equal(alone.keys[:, :length], cache.keys[2 * b : 2 * b + 2, :length])
        np.testing.assert_array_equal(alone.cells.scales[:, :length], cache.cells.scales[2 * b : 2 * b + 2, :length])
        np.testing.assert_array_equal(alone.sample[0], cache.sample[b])


def test_rows_beyond_the_capacity_are_refused(rng):
    keys, values = (tokens(rng, 2, 1, 40, 8) for _ in range(2))
    cache = filled(keys, values, capacity=64, counts=np.array([40, 20]))
    cpu.extend(cache, keys, values, None)
    np.testing.assert_array_equal(cache.lengths, [40, 60])
    np.testing.assert_array_equal(cache.status, [OVERFULL, 0])
    np.testing.assert_array_equal(cache.keys[0, :40], keys[0, 0])


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1025, 3000])
def test_the_sample_is_a_reservoir(rng, length):
    keys = tokens(rng, 1, 1, max(length, 1), 1)[:, :, :length]
    cache = filled(keys, keys, (length // 2,), 3072)
    np.testing.assert_array_equal(cache.sample[0], oracle.reservoir(length, RESERVOIR))


def test_rows_that_were_cropped_are_overwritten(rng):
    """A crop sets lengths back; what comes then is coded as if nothing had been there."""
    keys, values = (tokens(rng, 1, 2, 2000, 8) for _ in range(2))
    keys[:, :, 1024:] = 0x7BFF  # the largest float16: were it left, the peaks would show it
    cache = filled(keys, values, capacity=2048)
    cache.lengths[:] = 1024
    cpu.extend(cache, values[:, :, :200], values[:, :, :200], None)
    check_cells(cache, 1224)
