"""`KVIndex` as a cache: what goes in comes out, whatever way it came, and bad input changes nothing."""

import threading

import ml_dtypes
import numpy as np
import pytest
import torch
from helpers import attention_reference as reference

from halfspace import HalfspaceIndex
from halfspace.attention import KVIndex
from halfspace.model.kv_cache import RESERVOIR, reservoir

BATCH, HEADS, GROUP, DIM = 2, 2, 3, 16


def tokens(rng, count, batch=BATCH, dtype=np.float16):
    """Keys, values (batch, HEADS, count, DIM) with norms that differ widely, as those of language models do."""
    sizes = np.exp(rng.normal(0, 1, (batch, HEADS, count, 1)))
    keys = rng.standard_normal((batch, HEADS, count, DIM)) * sizes
    return keys.astype(dtype), rng.standard_normal((batch, HEADS, count, DIM)).astype(dtype)


def asked(rng, batch=BATCH, dtype=np.float16):
    return rng.standard_normal((batch, HEADS * GROUP, DIM)).astype(dtype)


def index_of(*parts, batch=BATCH, **options):
    """An index that was given keys and values, part after part."""
    index = KVIndex(HEADS, DIM, num_query_heads=HEADS * GROUP, batch_size=batch, **options)
    for keys, values in parts:
        index.append(keys, values)
    return index


def check(index, keys, values, q, tau=1.5, **forced):
    """Compare attention with the oracle's, for sequences (batch) of keys and values (heads, n, d)."""
    found = index.attend(q, tau=tau, details=True)
    for b, (own_keys, own_values) in enumerate(zip(keys, values, strict=True)):
        for g in range(HEADS * GROUP):
            kept = reference.kept(own_keys[g // GROUP], q[b, g], tau, **forced)
            output, lse = reference.softmax(own_keys[g // GROUP], own_values[g // GROUP], q[b, g], kept, DIM**-0.5)
            assert int(found.kept[b, g]) == kept.sum()
            np.testing.assert_allclose(np.float64(found.output[b, g]), output, rtol=2e-3, atol=2e-3)
            np.testing.assert_allclose(found.log_sum_exp[b, g], lse, rtol=1e-5, atol=1e-5)


def test_a_prefill_and_single_tokens_are_one(rng):
    """One prefill, two, or token by token: the same keys are kept and the same is stored."""
    keys, values = tokens(rng, 40)
    q = asked(rng)
    whole = index_of((keys, values))
    halves = index_of((keys[:, :, :23], values[:, :, :23]), (keys[:, :, 23:], values[:, :, 23:]))
    single = index_of(*((keys[:, :, i : i + 1], values[:, :, i : i + 1]) for i in range(40)))
    for index in (whole, halves, single):
        check(index, keys, values, q)
        np.testing.assert_array_equal(index.lengths, [40, 40])
        np.testing.assert_array_equal(index.stored()[0], keys)
        np.testing.assert_array_equal(index.stored()[1], values)
        np.testing.assert_array_equal(index.query(q, 0.5).ids, whole.query(q, 0.5).ids)


def test_room_grows_and_a_capacity_does_not(rng):
    """Beyond the first room nothing is lost; a capacity that was given is an error before anything changes."""
    keys, values = tokens(rng, 1500)
    index = index_of((keys[:, :, :1000], values[:, :, :1000]), (keys[:, :, 1000:], values[:, :, 1000:]))
    check(index, keys, values, asked(rng), tau=4.0)
    fixed = index_of((keys[:, :, :60], values[:, :, :60]), capacity=64)
    with pytest.raises(ValueError, match=r"65 tokens are beyond the capacity of 64"):
        fixed.append(keys[:, :, :5], values[:, :, :5])
    np.testing.assert_array_equal(fixed.lengths, [60, 60])
    check(fixed, keys[:, :, :60], values[:, :, :60], asked(rng))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("padding", [np.nan, np.inf, 1e30])
def test_sequences_of_unequal_length(padding, dtype, rng):
    """`lengths` says how much of each is there; the rest of the array is not looked at."""
    keys, values = (part.astype(dtype) for part in tokens(rng, 30))
    with np.errstate(over="ignore"):
        for part in (keys, values):
            part[0, :, 20:], part[1, :, 28:] = padding, padding
    index = index_of()
    with pytest.raises(ValueError, match=r"k\[0, 0, 20, 0\] is"):
        index.append(keys, values)
    for lengths, said in (([21, 28], r"k\[0, 0, 20, 0\]"), ([20, 29], r"k\[1, 0, 28, 0\]")):
        with pytest.raises(ValueError, match=said):
            index.append(keys, values, lengths=lengths)
    assert list(index.lengths) == [0, 0]
    index.append(keys, values, lengths=[20, 28])
    index.append(keys[:, :, 17:22], values[:, :, 17:22], lengths=np.array([3, 0]))
    index.append(keys[:, :, 20:], values[:, :, 20:], lengths=[0, 0])
    np.testing.assert_array_equal(index.lengths, [23, 28])
    joined, contents = (
        [
            np.concatenate([part[0, :, :20], part[0, :, 17:20]], axis=1).astype(np.float16),
            part[1, :, :28].astype(np.float16),
        ]
        for part in (keys, values)
    )
    check(index, joined, contents, asked(rng))
    for stored, expected in zip(index.stored(), (joined, contents), strict=True):
        np.testing.assert_array_equal(stored[0, :, :23], expected[0])
        np.testing.assert_array_equal(stored[1], expected[1])


def test_crop_reset_reorder_and_repeat(rng):
    """As a cache needs them: the index is as if it had been filled so."""
    keys, values = tokens(rng, 50)
    q = asked(rng)
    index = index_of((keys, values))
    index.crop(np.array([50, 31]))
    check(index, [keys[0], keys[1, :, :31]], [values[0], values[1, :, :31]], q)
    index.append(keys[:, :, :4], values[:, :, :4])
    assert list(index.lengths) == [54, 35]
    index.reorder([1, 1, 0])
    assert list(index.lengths) == [35, 35, 54]
    second = np.concatenate([keys[1, :, :31], keys[1, :, :4]], axis=1)
    found = index.attend(q[[1, 1, 0]], tau=1.5, details=True)
    np.testing.assert_array_equal(found.output[0], found.output[1])
    assert int(found.kept[0, 0]) == reference.kept(second[0], q[1, 0], 1.5).sum()
    index.reset()
    assert list(index.lengths) == [0, 0, 0]
    again = index_of((keys, values))
    again.crop(20)
    again.repeat(2)
    check(again, keys[[0, 0, 1, 1], :, :20], values[[0, 0, 1, 1], :, :20], q[[0, 0, 1, 1]])


def test_the_sample_of_a_cropped_sequence_is_that_of_its_length(rng):
    """A reservoir depends on the length alone: what is estimated afterwards does not know of the crop."""
    keys, values = tokens(rng, 3000, batch=1)
    q = asked(rng, batch=1)
    cropped = index_of((keys, values), batch=1)
    cropped.crop(2100)
    fresh = index_of((keys[:, :, :2100], values[:, :, :2100]), batch=1)
    for estimator in ("budget", "max", "gap"):
        one, other = (i.attend(q, keep=0.05, estimator=estimator, details=True) for i in (cropped, fresh))
        np.testing.assert_array_equal(one.tau, other.tau)
        np.testing.assert_array_equal(one.kept, other.kept)
        assert one.dropped is None
        assert one.error is None


def test_a_reservoir_holds_each_position_alike():
    """Slots beyond the length are empty; of a long sequence, early and late positions are held equally often."""
    few, many = reservoir(np.array([5, 200_000]))
    assert list(few[:6]) == [0, 1, 2, 3, 4, -1]
    assert np.unique(many).size == RESERVOIR
    counts = np.histogram(many, bins=8, range=(0, 200_000))[0]
    assert abs(counts - RESERVOIR / 8).max() < 5 * (RESERVOIR / 8) ** 0.5


def test_nothing_kept_and_nothing_stored(rng):
    """An empty halfspace gives 0 and -inf, and so does an empty cache."""
    keys, values = tokens(rng, 9)
    q = asked(rng)
    for index, tau in ((index_of((keys, values)), np.inf), (index_of(), -np.inf)):
        found = index.attend(q, tau=tau, details=True)
        assert not found.output.any()
        assert np.isneginf(found.log_sum_exp).all()
        assert not found.kept.any()
        assert index.query(q, tau).ids.size == 0
    for how in ({"eps": 0.1}, {"keep": 0.5}):
        assert not index_of().attend(q, **how).any()


@pytest.mark.parametrize("forced", [{"recent": 5}, {"sinks": 3}, {"recent": 4, "sinks": 2}, {"recent": 9, "sinks": 99}])
def test_recent_keys_and_sinks_are_kept_whatever_their_score(forced, rng):
    keys, values = tokens(rng, 25)
    check(index_of((keys, values), **forced), keys, values, asked(rng), tau=3.0, **forced)
    check(index_of((keys, values), **forced), keys, values, asked(rng), tau=np.inf, **forced)


def test_query_is_that_of_an_index_of_each_head(rng):
    """The same ids and the same bits of the scores as a `HalfspaceIndex` of the head's keys."""
    keys, values = tokens(rng, 300)
    q = asked(rng)
    hits = index_of((keys, values)).query(q, np.linspace(0.0, 3.0, HEADS * GROUP))
    assert len(hits) == BATCH * HEADS * GROUP
    for b in range(BATCH):
        for g in range(HEADS * GROUP):
            plain = HalfspaceIndex(DIM, dtype="float16", filter="cells")
            plain.insert(keys[b, g // GROUP])
            expected = plain.query(q[b, g].astype(np.float32), np.linspace(0.0, 3.0, HEADS * GROUP)[g])
            own = hits[b * HEADS * GROUP + g]
            np.testing.assert_array_equal(own.ids, expected.ids)
            np.testing.assert_array_equal(own.scores, expected.scores)


@pytest.mark.parametrize("eps", [0.1, 1e-2, 1e-3])
def test_a_certificate_holds(eps, rng):
    """What is dropped weighs at most the certified share, which is at most eps, and the output is that close."""
    keys, values = tokens(rng, 700)
    q = asked(rng) * 3
    found = index_of((keys, values)).attend(q, eps=eps, details=True)
    assert (found.dropped <= eps).all()
    for b in range(BATCH):
        for g in range(HEADS * GROUP):
            own = keys[b, g // GROUP], values[b, g // GROUP], q[b, g]
            share = reference.dropped_share(own[0], own[2], found.tau[b, g], DIM**-0.5)
            assert share <= found.dropped[b, g]
            dense, _ = reference.softmax(*own, np.ones(700, bool), DIM**-0.5)
            gap = np.abs(np.float64(found.output[b, g]) - dense).max()
            assert gap <= 2 * eps * np.abs(own[1].astype(np.float64)).max() + 4e-3
            apart = np.linalg.norm(np.float64(found.output[b, g]) - dense)
            length = np.linalg.norm(own[1].astype(np.float64), axis=1).max()
            assert apart <= found.error[b, g] + 2**-10 * length
            assert found.error[b, g] <= 2 * eps * length * (1 + 2**-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensors_come_and_go(dtype, rng):
    """PyTorch's tensors give tensors of the same kind, and the same answer as arrays."""
    keys, values = (torch.from_numpy(part).to(dtype) for part in tokens(rng, 33, dtype=np.float32))
    q = torch.from_numpy(asked(rng, dtype=np.float32)).to(dtype)
    name = str(dtype).removeprefix("torch.")
    numbers = {"bfloat16": ml_dtypes.bfloat16}.get(name) or np.dtype(name)
    index = index_of((keys, values), dtype=name)
    plain = index_of(*[tuple(part.float().numpy().astype(numbers) for part in (keys, values))], dtype=name)
    output = index.attend(q[:, :, None], tau=1.0)
    assert (output.dtype, output.shape) == (dtype, q[:, :, None].shape)
    expected = plain.attend(q.float().numpy().astype(numbers), tau=1.0)
    np.testing.assert_array_equal(output[:, :, 0].float().numpy(), expected.astype(np.float32))
    details = index.attend(q, tau=1.0, details=True)
    assert isinstance(details.kept, torch.Tensor)
    differentiated = index_of([part.clone().requires_grad_() for part in (keys, values)], dtype=name)
    followed = differentiated.attend(q.clone().requires_grad_(), tau=1.0)
    assert not followed.requires_grad  # numbers are read, and nothing is differentiated
    assert torch.equal(followed, index.attend(q, tau=1.0))


def test_one_sequence_needs_no_axis_for_it(rng):
    """Without the axis of sequences, in any memory order, read-only too."""
    keys, values = tokens(rng, 20, batch=1)
    q = asked(rng, batch=1)
    index = index_of((keys[0], values[0]), batch=1)
    index.append(keys[0, :, 0], values[0, :, 0])
    strided = np.asfortranarray(q[0])
    strided.flags.writeable = False
    output = index.attend(strided, tau=0.5)
    np.testing.assert_array_equal(output, index.attend(q, tau=0.5)[0])
    both = np.concatenate([keys, keys[:, :, :1]], axis=2), np.concatenate([values, values[:, :, :1]], axis=2)
    check(index, *both, q, tau=0.5)


def test_bad_input_changes_nothing(rng):
    keys, values = tokens(rng, 8)
    q = asked(rng)
    index = index_of((keys, values))
    broken = values.copy()
    broken[1, 0, 5, 2] = np.inf
    cases = [
        (ValueError, r"v\[1, 0, 5, 2\] is inf", lambda: index.append(keys, broken)),
        (
            ValueError,
            r"k\[0, 0, 0, 0\] is 1e\+30, which is infinite in float16",
            lambda: index.append(np.full(keys.shape, 1e30), values),
        ),
        (ValueError, r"k must have shape \(2, 2, tokens, 16\)", lambda: index.append(keys[:1], values[:1])),
        (ValueError, r"k and v must have one shape", lambda: index.append(keys, values[:, :, :3])),
        (ValueError, r"lengths must be at most the 8 tokens", lambda: index.append(keys, values, lengths=[9, 1])),
        (ValueError, r"lengths must not be negative", lambda: index.append(keys, values, lengths=[-1, 1])),
        (TypeError, r"lengths must be integers", lambda: index.append(keys, values, lengths=[0.5, 1])),
        (TypeError, r"k must be real numbers", lambda: index.append(keys.astype(complex), values)),
        (ValueError, r"q must have shape \(2, 6, 16\)", lambda: index.attend(q[:, :4], tau=0.0)),
        (ValueError, r"q\[1, 2, 3\] is nan", lambda: index.attend(_with_nan(q), tau=0.0)),
        (ValueError, r"tau is nan", lambda: index.attend(q, tau=np.nan)),
        (ValueError, r"tau must be a scalar or have shape", lambda: index.attend(q, tau=np.zeros(5))),
        (ValueError, r"exactly one of tau, eps and keep", lambda: index.attend(q)),
        (ValueError, r"exactly one .* got tau and eps", lambda: index.attend(q, tau=0.0, eps=0.1)),
        (ValueError, r"eps must be above 0 and below 1, got 1.5", lambda: index.attend(q, eps=1.5)),
        (ValueError, r"keep must be above 0 and at most 1, got 0", lambda: index.attend(q, keep=0)),
        (TypeError, r"eps must be a real number", lambda: index.attend(q, eps="1")),
        (ValueError, r"estimator must be one of", lambda: index.attend(q, keep=0.1, estimator="best")),
        (ValueError, r"sequences must be below 2, got 2", lambda: index.reorder([0, 2])),
        (ValueError, r"times must be at least 1", lambda: index.repeat(0)),
        (ValueError, r"length must not be negative", lambda: index.crop(-1)),
    ]
    for error, text, call in cases:
        with pytest.raises(error, match=text):
            call()
    check(index, keys, values, q)
    assert list(index.lengths) == [8, 8]


def _with_nan(q):
    q = q.copy()
    q[1, 2, 3] = np.nan
    return q


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"num_query_heads": 3}, ValueError, "num_query_heads must be a multiple of num_kv_heads"),
        ({"scale": 0.0}, ValueError, "scale must be above 0"),
        ({"recent": -1}, ValueError, "recent must be at least 0"),
        ({"capacity": 0}, ValueError, "capacity must be at least 1"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of"),
        ({"device": "tpu"}, ValueError, "device must be"),
        ({"offload": True}, ValueError, "offload keeps keys and values"),
        ({"batch_size": True}, TypeError, "batch_size must be an integer"),
    ],
)
def test_bad_arguments(options, error, text):
    with pytest.raises(error, match=text):
        KVIndex(2, 16, **options)


def test_threads_append_and_attend_at_once(rng):
    """Every answer is that of a moment: it keeps all of the first tokens that were there before."""
    keys, values = tokens(rng, 400, batch=1)
    q = asked(rng, batch=1)
    index = index_of((keys[:, :, :100], values[:, :, :100]), batch=1)
    least = index.attend(q, tau=0.5, details=True).kept
    seen, failures = [], []

    def ask():
        try:
            seen.extend(index.attend(q, tau=0.5, details=True).kept for _ in range(20))
        except BaseException as error:
            failures.append(error)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for i in range(100, 400):
        index.append(keys[:, :, i : i + 1], values[:, :, i : i + 1])
    for asker in askers:
        asker.join()
    assert not failures
    most = index.attend(q, tau=0.5, details=True).kept
    assert all((least <= kept).all() and (kept <= most).all() for kept in seen)
    check(index, keys, values, q, tau=0.5)


def test_arrays_that_a_graph_reads_do_not_move(rng, monkeypatch):
    """Once appending was captured, lengths are those of the device, and nothing may move."""
    keys, values = tokens(rng, 1000)
    index = index_of((keys, values))
    with monkeypatch.context() as capturing:
        capturing.setattr("halfspace.cpu.capturing", lambda: True)
        index.append(keys[:, :, :1], values[:, :, :1])
        with pytest.raises(ValueError, match=r"lengths are numbers of the host"):
            index.append(keys[:, :, :1], values[:, :, :1], lengths=[1, 0])
    assert list(index.lengths) == [1001, 1001]
    for change in (lambda: index.reorder([1, 0]), lambda: index.repeat(2), lambda: index.append(keys, values)):
        with pytest.raises(ValueError, match=r"a CUDA graph was captured"):
            change()
    index.append(keys[:, :, :2], values[:, :, :2])
    index.crop(1002)
    assert list(index.lengths) == [1002, 1002]


def test_stats_and_repr(rng):
    index = index_of(tokens(rng, 10), capacity=100)
    stats = index.stats()
    assert (stats["tokens"], stats["capacity"], stats["dtype"]) == (20, 128, "float16")
    assert "2 x 10 tokens, 6 query heads over 2" in repr(index)


def test_codes_take_little_beside_keys_and_values():
    """At head_dim 128, at most 27 % of float16 keys and values."""
    stats = KVIndex(8, 128, capacity=32768).stats()
    assert stats["bytes_codes"] <= 0.27 * stats["bytes_keys_values"]
