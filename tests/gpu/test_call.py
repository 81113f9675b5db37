"""What a call is made of: tensors by their addresses, interrupts, many chunks, a first glance at high codes."""

import importlib
from fractions import Fraction
from math import floor, inf
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from on_gpu import ask, count, make, put

from halfspace.model import rounding

pytestmark = pytest.mark.gpu


def module(name):
    return importlib.import_module(f"halfspace.gpu.{name}")


# -- tensors ----------------------------------------------------------------------------------------------------------


def as_tensor(array, shape, strides, offset=0):
    """What PyTorch says of a view of float32 numbers, with strides in numbers."""
    return SimpleNamespace(
        dtype="torch.float32",
        shape=shape,
        stride=lambda: strides,
        numel=lambda: int(np.prod(shape)),
        data_ptr=lambda: array.data.ptr + 4 * offset if np.prod(shape) else 0,
        is_contiguous=lambda: strides == tuple(np.cumprod((1, *shape[:0:-1]))[::-1]) or not shape,
    )


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((5, 4), (4, 1), 0),
        ((4, 5), (1, 4), 0),
        ((2, 2), (8, 2), 3),
        ((3, 2), (0, 4), 1),
        ((), (), 7),
        ((0, 4), (4, 1), 0),
    ],
)
def test_tensors_are_read_where_they_are(shape, strides, offset, gpu):
    numbers = np.arange(20, dtype=np.float32)
    array = put(gpu, numbers)
    own = gpu.xp.cuda.get_current_stream().ptr
    found = module("runtime.device").over_memory(as_tensor(array, shape, strides, offset), 0, own)
    expected = np.lib.stride_tricks.as_strided(numbers[offset:], shape, [4 * step for step in strides])
    np.testing.assert_array_equal(gpu.xp.asnumpy(found), expected)
    assert found.data.device_id == 0


def test_what_another_stream_does_to_a_tensor_is_waited_for(gpu, monkeypatch):
    """In the emulator, by what is asked of events; a GPU shows it."""
    if not hasattr(gpu.xp, "emulator"):
        pytest.skip("events of a GPU cannot be watched")
    array, seen = put(gpu, np.ones(4, np.float32)), []
    monkeypatch.setattr(gpu.xp.cuda.Event, "record", lambda self, stream=None: seen.append(("recorded", stream.ptr)))
    monkeypatch.setattr(gpu.xp.cuda.Stream, "wait_event", lambda self, event: seen.append(("waited for", self.ptr)))
    take, own = module("runtime.device").over_memory, gpu.xp.cuda.get_current_stream().ptr
    take(as_tensor(array, (4,), (1,)), 0, own)
    assert seen == []
    take(as_tensor(array, (4,), (1,)), 0, own + 99)
    assert seen == [("recorded", own + 99), ("waited for", own)]


# -- runs -------------------------------------------------------------------------------------------------------------


def test_an_interrupt_waits_for_the_kernels(gpu, rng, monkeypatch):
    """They write to memory that would be free. Afterwards all is as it was."""
    index = make(gpu, rng.standard_normal((300, 8), dtype=np.float32), filter="cells")
    direction, waits = put(gpu, np.ones(8, np.float32)), []
    before = index.query(direction, 0.5)._on_host()
    buffers, stream = module("run").Buffers, gpu.xp.cuda.Stream

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(buffers, "of", interrupt)
    real = stream.synchronize
    if hasattr(gpu.xp, "emulator"):
        monkeypatch.setattr(stream, "synchronize", lambda self: (waits.append(self), real(self)))
    with pytest.raises(KeyboardInterrupt):
        index.query(direction, 0.5)
    assert len(waits) == hasattr(gpu.xp, "emulator")
    monkeypatch.undo()
    after = index.query(direction, 0.5)._on_host()
    assert after.ids.tolist() == before.ids.tolist()
    assert after.scores.tolist() == before.scores.tolist()


def test_an_interrupt_waits_for_the_kernel_that_ranks(gpu, rng, monkeypatch):
    """It writes to memory of the host, which another thread would get."""
    if not hasattr(gpu.xp, "emulator"):
        pytest.skip("the streams of a GPU cannot be watched")
    index = make(gpu, rng.standard_normal((300, 8), dtype=np.float32))
    rank, stream, waits = module("collect")._rank_best, gpu.xp.cuda.Stream, []

    def interrupted(*arguments):
        rank(*arguments)
        monkeypatch.setattr(stream, "synchronize", lambda self: waits.append(self))
        raise KeyboardInterrupt

    monkeypatch.setattr(module("collect"), "_rank_best", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index.search(put(gpu, np.ones((2, 8), np.float32)), 3)
    assert len(waits) == 1


@pytest.mark.parametrize("filter", ["cells", "balls", "sweep"])
def test_a_large_run_that_is_kept_holds_no_memory(filter, gpu, rng, monkeypatch):
    """Neither that between the kernels, nor what a filter made for a question."""
    monkeypatch.setattr(module("run"), "SPARE_BYTES", 0)
    index = make(gpu, rng.standard_normal((3000, 8), dtype=np.float32), filter=filter)
    directions = rng.standard_normal((40, 8), dtype=np.float32)
    before = ask(gpu, index, directions[:2], 3.0)
    pool = gpu.xp.get_default_memory_pool()
    held = pool.used_bytes()
    for size in (40, 2, 39, 40):
        found = ask(gpu, index, directions[:size], 3.0)
        assert found.ids[: before.ids.size].tolist() == before.ids.tolist()
        assert pool.used_bytes() - held < 1 << 12
    kept = [run for runs in module("runtime.tables").upload(index._snapshot.table).spare.values() for run in runs]
    assert sorted(run.count for run in kept) == [2, 39, 40]


def test_more_chunks_than_a_block_places(gpu):
    """The places of the hits of a direction are found by several blocks, each with 256 chunks or more."""
    rows = 300_000
    numbers = np.arange(rows, dtype=np.float32)
    index = make(gpu, numbers[:, None], filter="scan")
    for tau in (-1.0, 150_000.0, rows - 3.0, rows + 1.0):
        first = max(int(tau), 0)
        found = ask(gpu, index, np.ones((1, 1), np.float32), tau)
        np.testing.assert_array_equal(found.ids, np.arange(first, rows))
        np.testing.assert_array_equal(found.scores, numbers[first:])
        assert found.totals.tolist() == [max(rows - first, 0)] == count(gpu, index, np.ones((1, 1)), [tau]).tolist()
    several = ask(gpu, index, np.ones((3, 1), np.float32), np.array([10.0, rows, 299_000.0]))
    assert several.offsets.tolist() == [0, rows - 10, rows - 10, rows - 10 + 1000]


# -- the first glance at high codes -----------------------------------------------------------------------------------


def nearest32(value):
    """Round a rational number to float32, ties to even; what is below 2^-126 is flushed to 0."""
    if abs(value) < Fraction(2) ** -126:
        return Fraction(0)
    exponent = floor(Fraction(abs(value).numerator.bit_length() - abs(value).denominator.bit_length()))
    while Fraction(2) ** exponent > abs(value):
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= abs(value):
        exponent += 1
    step = Fraction(2) ** (exponent - 23)
    rounded = round(value / step) * step
    return rounded if abs(rounded) >= Fraction(2) ** -126 else Fraction(0)


def up32(value):
    """Round a float64 up to a float32."""
    own = np.float32(value)
    return Fraction(float(own if float(own) >= value else np.nextafter(own, np.float32(inf))))


def less32(value):
    return -up32(-value * (1.0 - 2.0**-20 if value > 0.0 else 1.0 + 2.0**-20))


SMALL = st.integers(0, 255).flatmap(lambda bits: st.integers(-133, 20).map(lambda power: bits * Fraction(2) ** power))


@given(
    exponent=st.integers(-90, 40),
    digits=st.integers(1, 1 << 30),
    share=st.fractions(-1, 1),
    bias=st.fractions(-1, 1),
    sizes=st.tuples(SMALL, SMALL),
    slack=st.floats(0, 1e6),
    factor=st.floats(0, 1e6),
    off=st.integers(-3, 3),
)
def test_a_glance_drops_nothing_that_reaches_the_threshold(exponent, digits, share, bias, sizes, slack, factor, off):
    """Of thresholds next to a row's bound, in rational arithmetic; scales and radii are bfloat16, flushed ones too."""
    (scale, radius), unit, most = sizes, 2.0**exponent, float(digits)
    product = round(share * digits)
    middle = float(bias) * digits
    bound = scale * (Fraction(unit) * (product - Fraction(middle)) + Fraction(slack)) + Fraction(factor) * radius
    below = float(bound)
    for _ in range(abs(off)):
        below = np.nextafter(below, np.sign(off) * inf)
    below = float(below)
    total = most + abs(middle)
    offset = up32(slack - unit * middle + rounding.glance_margin(unit, total, slack))
    factor32 = up32(factor * (1.0 + 2.0**-20))
    threshold = less32(below - rounding.glance_loss(unit, total, slack, factor))
    high, low = divmod(product, 256)
    flushed = [value if value >= Fraction(2) ** -126 else Fraction(0) for value in (scale, radius)]
    as_float = nearest32(nearest32(Fraction(high)) * 256 + nearest32(Fraction(low)))
    inner = nearest32(as_float * Fraction(unit) + offset)
    found = nearest32(flushed[0] * inner + nearest32(factor32 * flushed[1]))
    if found < threshold:
        assert bound < Fraction(below)
