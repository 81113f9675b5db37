"""The cache of attention on a GPU: what is stored and coded, however it came; what is refused."""

import numpy as np
import pytest
from helpers.families import FAMILIES

from halfspace import cpu
from halfspace.model.filters.cells import Cells
from halfspace.model.formats import as_bits, as_float32
from halfspace.model.kv_cache import NOT_FINITE, OVERFULL, RESERVOIR, grown, reservoir, select

pytestmark = pytest.mark.gpu

DIMS = [8, 64, 80, 96, 128, 256]
FORMATS = ["float32", "float16", "bfloat16"]


def tokens(rng, batch, heads, rows, dim, family=FAMILIES[0], dtype="float16"):
    """Stored bits of keys or values, (batch, heads, rows, d)."""
    return as_bits(family(rng, batch * heads * rows, dim, 1, dtype)[0]).reshape(batch, heads, rows, dim)


def on_device(gpu, array):
    return None if array is None else gpu.xp.asarray(array)


def filled(gpu, keys, values, cuts=(), capacity=None, counts=None, offload=False):
    """A cache that was given keys and values in pieces, which begin at these rows."""
    batch, heads, rows, dim = keys.shape
    cache = gpu.new_cache(batch, heads, dim, keys.dtype, capacity or -(-rows // 64) * 64, offload)
    for first, last in zip([0, *cuts], [*cuts, rows], strict=True):
        pieces = (gpu.xp.asarray(part[:, :, first:last]) for part in (keys, values))
        gpu.extend(cache, *pieces, on_device(gpu, counts))
    return cache


def arrays(gpu, cache, length):
    """What a cache holds of the rows before a length, on the host."""
    cells, words = cache.cells, cache.dim // 8
    parts = {name: gpu.xp.asnumpy(getattr(cache, name)) for name in ("keys", "values", "norms", "lengths", "sample")}
    parts |= {name: gpu.xp.asnumpy(getattr(cells, name)) for name in ("scales", "peaks", "centre", "weights")}
    parts["status"] = gpu.xp.asnumpy(cache.status)
    for name in ("keys", "values", "norms", "scales"):
        parts[name] = parts[name][:, :length]
    parts["peaks"] = parts["peaks"][:, : -(-length // 1024)]
    parts["radii"] = gpu.xp.asnumpy(cells.radii)[:, :, :length]
    high = gpu.xp.asnumpy(cells.high).swapaxes(2, 3)
    parts["high"] = high.reshape(len(high), -1, 4 * words)[:, :length]
    parts["low"] = gpu.xp.asnumpy(cells.low)[:, : 4 * length * words]
    return parts


def same(ours, theirs):
    for name, array in theirs.items():
        assert ours[name].tobytes() == array.tobytes(), name


def check_cells(gpu, cache, length):
    """Codes and scales are the CPU's to the bit; radii too, but for the order of sums; norms and peaks are bounds."""
    own = arrays(gpu, cache, length)
    frame = {name: gpu.xp.asnumpy(getattr(cache.cells, name)) for name in ("centre", "weights")}
    like = Cells(frame["centre"], frame["weights"], *[None] * 6)
    theirs = cpu.encode(np.ascontiguousarray(own["keys"]), own["norms"], 1, like=like)
    blocks = theirs.high.swapaxes(2, 3).reshape(len(own["keys"]), -1, own["high"].shape[2])
    np.testing.assert_array_equal(own["high"], blocks[:, :length])
    np.testing.assert_array_equal(own["low"], theirs.low[:, : own["low"].shape[1]])
    np.testing.assert_array_equal(own["scales"], theirs.scales[:, :length])
    assert np.abs(own["radii"].astype(int) - theirs.radii[:, :, :length]).max(initial=0) <= 1
    norms, _ = cpu.measure(np.ascontiguousarray(own["keys"]), 1)
    np.testing.assert_allclose(own["norms"], norms, rtol=1e-6)
    exact = np.sqrt((as_float32(own["keys"]).astype(np.longdouble) ** 2).sum(axis=2))
    assert (own["norms"] >= exact).all()
    peaks = np.maximum.reduceat(own["norms"], np.arange(0, length, 1024), axis=1)
    assert (own["peaks"] >= peaks).all()
    spans = gpu.xp.asnumpy(cache.cells.spans)
    assert (spans >= np.array([120.5, 127.0]) * np.sqrt(np.longdouble(cache.dim))).all()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dtype", FORMATS)
def test_however_tokens_come_they_are_coded_alike(dim, dtype, rng, gpu):
    """One prefill, two, or single tokens at the end; in the first frame and in one that was chosen."""
    keys, values = (tokens(rng, 2, 2, 70, dim, dtype=dtype) for _ in "kv")
    whole, parts = filled(gpu, keys, values), filled(gpu, keys, values, [1, 33, 66, 67, 68, 69])
    same(arrays(gpu, parts, 70), arrays(gpu, whole, 70))
    np.testing.assert_array_equal(arrays(gpu, whole, 70)["keys"], keys.reshape(4, 70, dim))
    np.testing.assert_array_equal(arrays(gpu, whole, 70)["values"], values.reshape(4, 70, dim))
    check_cells(gpu, whole, 70)
    gpu.reframe(whole)
    check_cells(gpu, whole, 70)
    half = filled(gpu, keys[:, :, :40], values[:, :, :40], capacity=128)
    half.cells.centre[:], half.cells.weights[:] = whole.cells.centre, whole.cells.weights
    first = filled(gpu, keys[:, :, :1], values[:, :, :1], capacity=128)
    first.cells.centre[:], first.cells.weights[:] = whole.cells.centre, whole.cells.weights
    for row in range(1, 40):
        gpu.extend(first, *(gpu.xp.asarray(part[:, :, row : row + 1]) for part in (keys, values)), None)
    again, alone = arrays(gpu, whole, 70), arrays(gpu, first, 40)
    for name in ("high", "scales"):
        np.testing.assert_array_equal(alone[name][:, 1:], again[name][:, 1:40])
    np.testing.assert_array_equal(alone["radii"][:, :, 1:], again["radii"][:, :, 1:40])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.parametrize("dtype", FORMATS)
def test_awkward_keys(family, dtype, rng, gpu):
    """Subnormal, huge, tied and cancelling keys, before and after a frame is chosen for them."""
    keys = tokens(rng, 1, 2, 40, 16, family, dtype)
    cache = filled(gpu, keys, keys)
    with np.errstate(all="ignore"):
        check_cells(gpu, cache, 40)
        gpu.reframe(cache)
        check_cells(gpu, cache, 40)


def test_frames_follow_the_keys(rng, gpu):
    """Centres are means, weights fall with the spread of a dimension; a sequence without keys has none of both."""
    spreads = 2.0 ** -np.arange(16)
    keys = as_bits((rng.standard_normal((2, 3, 300, 16)) * spreads + 3.0).astype(np.float32))
    cache = filled(gpu, keys, keys, counts=np.array([300, 0]))
    gpu.reframe(cache)
    own = arrays(gpu, cache, 300)
    np.testing.assert_allclose(own["centre"][:3], keys[0].mean(axis=1), rtol=1e-5)
    deviations = keys[0].std(axis=1)
    expected = (deviations / deviations.max(axis=1, keepdims=True)) ** 0.75
    np.testing.assert_allclose(own["weights"][:3], expected, rtol=2.0**-6)
    assert not np.any(own["weights"].view(np.uint32) & 0xFFFF)
    np.testing.assert_array_equal(own["centre"][3:], 0)
    np.testing.assert_array_equal(own["weights"][3:], 1)


def test_sequences_of_unequal_length(rng, gpu):
    """Counts say how many rows of each sequence come; what lies behind them is not looked at, NaN or not."""
    keys, values = (tokens(rng, 3, 2, 50, 64) for _ in "kv")
    counts = np.array([50, 0, 17])
    behind = keys.copy()
    behind[2, :, 17:] = as_bits(np.float16(np.nan)[None])[0]
    cache = filled(gpu, behind, values, counts=counts)
    own = arrays(gpu, cache, 50)
    np.testing.assert_array_equal(own["lengths"], counts)
    np.testing.assert_array_equal(own["status"], 0)
    np.testing.assert_array_equal(own["sample"], reservoir(counts))
    np.testing.assert_array_equal(own["keys"][4:, :17], keys[2, :, :17])
    gpu.extend(cache, *(gpu.xp.asarray(part[:, :, :1]) for part in (keys, values)), gpu.xp.asarray(np.array([0, 1, 1])))
    np.testing.assert_array_equal(gpu.xp.asnumpy(cache.lengths), [50, 1, 18])
    np.testing.assert_array_equal(arrays(gpu, cache, 1)["keys"][2:4, 0], keys[1, :, 0])


def test_strided_tokens(rng, gpu):
    """Keys as models have them, a slice of a larger array, or with heads behind tokens."""
    wide = tokens(rng, 2, 3, 20, 32)
    held = gpu.xp.asarray(np.ascontiguousarray(wide.swapaxes(1, 2)))
    cache = gpu.new_cache(2, 3, 16, wide.dtype, 64, False)
    gpu.extend(cache, held.swapaxes(1, 2)[..., :16], held.swapaxes(1, 2)[..., 16:], None)
    own = arrays(gpu, cache, 20)
    np.testing.assert_array_equal(own["keys"], wide[..., :16].reshape(6, 20, 16))
    np.testing.assert_array_equal(own["values"], wide[..., 16:].reshape(6, 20, 16))
    again = gpu.new_cache(2, 3, 16, wide.dtype, 64, False)
    turned = gpu.xp.asarray(np.asfortranarray(wide[..., :16]))
    gpu.extend(again, turned, held.swapaxes(1, 2)[..., 16:], None)
    same(arrays(gpu, again, 20), own)


@pytest.mark.parametrize("rows", [1, 7])
def test_what_is_refused_changes_nothing(rows, rng, gpu):
    """Rows beyond the capacity, and rows that are not finite; afterwards the sequence takes no more."""
    keys, values = (tokens(rng, 2, 2, 60, 64) for _ in "kv")
    more = gpu.xp.asarray(tokens(rng, 2, 2, rows, 64))
    for trouble, place in ((OVERFULL, None), (NOT_FINITE, "keys"), (NOT_FINITE, "values")):
        cache = filled(gpu, keys, values, capacity=64 if place is None else 128)
        before = arrays(gpu, cache, 60)
        bad = {"keys": more.copy(), "values": more.copy()}
        if place is None:
            cache.lengths[1] = 64
            before["lengths"][1] = 64
        else:
            bad[place][1, 1, rows - 1, 63] = 0x7C00 if rows == 1 else 0x7E01
        counts = gpu.xp.asarray(np.array([0, rows]))
        for _ in range(2):
            gpu.extend(cache, bad["keys"], bad["values"], counts)
        after = arrays(gpu, cache, 60)
        assert after.pop("status").tolist() == [0, trouble]
        before.pop("status")
        before.pop("peaks")  # may stay raised: they are bounds
        after.pop("peaks")
        same(after, before)


def test_the_sample_is_that_of_the_length(rng, gpu):
    """However a sequence grew; positions are the reservoir's of its length."""
    keys = np.zeros((1, 1, 2600, 8), np.uint16)
    for cuts in ([], [1023], [1024, 1025, 1026], [2598, 2599]):
        cache = filled(gpu, keys, keys, cuts)
        np.testing.assert_array_equal(gpu.xp.asnumpy(cache.sample), reservoir(np.array([2600])))
        assert cache.sample.shape == (1, RESERVOIR)


def test_offloaded_keys_and_values(rng, gpu):
    """In the host's memory, the same in all else; copies of such a cache too."""
    keys, values = (tokens(rng, 2, 2, 100, 64) for _ in "kv")
    here, there = filled(gpu, keys, values, [99]), filled(gpu, keys, values, [99], offload=True)
    for cache in (here, there):
        gpu.reframe(cache)
    same(arrays(gpu, there, 100), arrays(gpu, here, 100))
    larger, swapped = grown(there, 256, gpu), select(there, np.array([1, 0, 1]), gpu)
    assert larger.offload
    assert swapped.offload
    same(arrays(gpu, larger, 100), arrays(gpu, here, 100))
    np.testing.assert_array_equal(arrays(gpu, swapped, 100)["keys"][:2], keys[1])
    gpu.extend(larger, gpu.xp.asarray(keys[:, :, :1]), gpu.xp.asarray(values[:, :, :1]), None)
    np.testing.assert_array_equal(arrays(gpu, larger, 101)["keys"][:, 100], keys[:, :, 0].reshape(4, 64))


def test_words_of_eight_dimensions(gpu):
    with pytest.raises(ValueError, match="8 dimensions, got 12"):
        gpu.new_cache(1, 1, 12, np.dtype(np.uint16), 64, False)


def test_keys_whose_coding_anew_was_stopped_are_coded_before_the_next_answer(rng, gpu, monkeypatch):
    from halfspace.attention import KVIndex

    class Stop(Exception):
        pass

    def stopped(*_, **__):
        raise Stop

    keys = rng.integers(-3, 4, (1, 2, 100, 8))
    given = gpu.xp.asarray(keys.astype(np.float32))
    index = KVIndex(2, 8, device="gpu", dtype="float32")
    with monkeypatch.context() as patch:
        patch.setattr("halfspace.gpu.attention.cache._encode_keys", stopped)
        with pytest.raises(Stop):
            index.append(given, given)
    assert index._cache.stale
    assert index.lengths.tolist() == [100]
    query = rng.integers(-3, 4, (1, 2, 8))
    hits = index.query(gpu.xp.asarray(query.astype(np.float32)), 8.0)._on_host()
    assert not index._cache.stale
    for head, found in enumerate(hits):
        assert found.ids.tolist() == np.flatnonzero(keys[0, head] @ query[0, head] >= 8).tolist()
