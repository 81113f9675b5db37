"""Answers into memory that is there already, which nobody waits for, and CUDA graphs."""

import numpy as np
import pytest
from helpers import reference
from helpers.checking import equal
from helpers.families import gaussian
from on_gpu import equal_rows, make, put

from halfspace.hits import Hits

pytestmark = pytest.mark.gpu

DIM, MANY = 8, 30
READABLE = ("ids", "scores", "offsets", "totals")


@pytest.fixture
def problem(rng, gpu):
    """Vectors with an index, directions, and thresholds that 1 to 20 vectors reach."""
    vectors, directions = gaussian(rng, 1300, DIM, 2 * MANY, "float32")
    tau = np.sort(vectors @ directions.T, axis=0)[-rng.integers(1, 20, 2 * MANY), np.arange(2 * MANY)]
    tau = tau.astype(np.float64)
    return make(gpu, vectors, filter="cells"), directions, tau, reference.query(vectors, directions, tau, faster=True)


def unreadable(out):
    for name in READABLE:
        with pytest.raises(RuntimeError, match=f"{name}: call check"):
            getattr(out, name)
    with pytest.raises(RuntimeError, match="check"):
        len(out)
    with pytest.raises(RuntimeError, match="check"):
        list(out)
    assert "not checked" in repr(out)
    with pytest.raises(AttributeError):
        out.nothing  # noqa: B018


@pytest.mark.parametrize("scores", [True, False])
def test_one_direction(scores, problem, gpu):
    index, directions, tau, expected = problem
    out = Hits.preallocate(64, scores=scores)
    unreadable(out)
    for k in (0, 1, 2, 0):
        q = put(gpu, directions[k])
        assert index.query(q, float(tau[k]), scores=scores, out=out) is out
        unreadable(out)
        assert out.check() is out
        assert len(out) == len(expected[k][0])
        assert out.ids.tolist() == [hit.id for hit in out] == expected[k][0].tolist()
        if scores:
            equal(out._on_host(), expected[k])
            assert out.buffers.scores.shape == (64,)
        else:
            assert out.scores is None
        assert not len(out) or out.buffers.ids.data.ptr == out.ids.data.ptr
        assert out.buffers.ids.shape == (64,)
        assert out.offsets.tolist() == out.buffers.offsets.tolist() == [0, len(out)]
        assert out.totals.tolist() == [len(out)]
    index.query(put(gpu, directions[0]), np.inf, scores=scores, out=out)
    assert len(out.check()) == 0


@pytest.mark.parametrize("filter", ["cells", "scan", "groups", "balls", "sweep"])
def test_a_batch(filter, problem, gpu):
    index, directions, tau, expected = problem
    if filter != "cells":
        index = make(gpu, index.vectors(index.ids).get(), filter=filter)
    m = MANY if filter == "cells" else 3
    out, ids = Hits.preallocate(1000, m), Hits.preallocate(1000, directions=m, scores=False)
    for own in (slice(0, m), slice(m, 2 * m)):
        q, limits = put(gpu, directions[own]), put(gpu, tau[own])
        index.query(q, limits, out=out)
        unreadable(out)
        equal_rows(out.check()._on_host(), expected[own])
        equal_rows(index.query(q, limits, scores=False, out=ids).check()._on_host(), expected[own])
    assert out.to_scipy().shape == (m, 1300)
    index.query(put(gpu, directions[:m]), float(tau.max()), out=out)
    every = reference.query(index.vectors(index.ids).get(), directions[:m], tau.max(), faster=True)
    assert out.check().ids.tolist() == [id for found, _ in every for id in found.tolist()]


def test_the_index_may_change_between(problem, gpu):
    """A segment more, a tail, rows that are gone: the same memory takes the next answer."""
    index, directions, tau, _ = problem
    out, q = Hits.preallocate(5000, MANY), put(gpu, directions[:MANY])
    for change in (
        lambda: None,
        lambda: index.insert(put(gpu, directions)),
        lambda: index.delete(gpu.xp.arange(0, 1000, 3)),
        lambda: index.compact(),
    ):
        change()
        ids = index.ids.get()
        expected = reference.query(index.vectors(index.ids).get(), directions[:MANY], tau[0], ids=ids, faster=True)
        equal_rows(index.query(q, float(tau[0]), out=out).check()._on_host(), expected)


def test_check_says_what_is_wrong(problem, gpu):
    index, directions, tau, expected = problem
    q, limits = put(gpu, directions[:MANY]), put(gpu, tau[:MANY])
    out = Hits.preallocate(20, MANY)
    with pytest.raises(RuntimeError, match="nothing was asked"):
        out.check()
    index.query(q, limits, out=out)
    needed = sum(len(ids) for ids, _ in expected[:MANY])
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{needed} hits .* room for 20 .*preallocate a capacity of {needed}"):
            out.check()
        unreadable(out)
    index.query(q, float(tau[:MANY].max()) + 100, out=out)
    assert len(out.check().ids) == 0
    exact = Hits.preallocate(needed, MANY)
    equal_rows(index.query(q, limits, out=exact).check()._on_host(), expected[:MANY])
    for row, column, value in ((3, 5, np.nan), (MANY - 1, 0, np.inf)):
        bad = q.copy()
        bad[row, column] = value
        index.query(bad, limits, out=out)
        with pytest.raises(ValueError, match=rf"directions\[{row}\].*not finite"):
            out.check()
        unreadable(out)
    bad = limits.copy()
    bad[7] = np.nan
    index.query(q, bad, out=out)
    with pytest.raises(ValueError, match=r"directions\[7\].*tau is nan"):
        out.check()
    equal_rows(index.query(q, limits, out=exact).check()._on_host(), expected[:MANY])


def test_more_candidates_than_there_is_room_for(rng, gpu):
    """Every vector lies closer to the threshold than its code tells: all are candidates, one is a hit."""
    vectors = rng.uniform(-100, 100, (20_000, 4)).astype(np.float32)
    vectors[:, 0] = 1
    vectors[17, 0] = 1.01
    index, q = make(gpu, vectors, filter="cells"), put(gpu, np.eye(4, dtype=np.float32)[0])
    out = Hits.preallocate(1)
    index.query(q, 1.001, out=out)
    with pytest.raises(ValueError, match=r"[01] hits and \d+ candidates.*preallocate a capacity of \d+") as caught:
        out.check()
    capacity = int(str(caught.value).rpartition(" ")[2])
    enough = Hits.preallocate(capacity)
    assert index.query(q, 1.001, out=enough).check().ids.tolist() == [17]


def test_what_does_not_fit_is_refused(problem, gpu):
    index, directions, tau, expected = problem
    one, batch = put(gpu, directions[0]), put(gpu, directions[:MANY])
    out = Hits.preallocate(100)
    index.query(one, float(tau[0]), out=out).check()
    for arguments, options, error, said in (
        ((one, 1.0), {"sort": True}, ValueError, "sort and limit"),
        ((one, 1.0), {"limit": 3}, ValueError, "sort and limit"),
        ((one, 1.0), {"scores": False}, ValueError, "preallocated for"),
        ((batch, 1.0), {}, ValueError, rf"preallocated for \(directions, scores\) \(None, True\).*{MANY}"),
        ((batch[:1], 1.0), {}, ValueError, "preallocated for"),
        ((directions[0], 1.0), {}, TypeError, r"cupy.asarray\(directions\)"),
        ((one, np.nan), {}, ValueError, "tau"),
        ((one[:3], 1.0), {}, ValueError, "shape"),
    ):
        with pytest.raises(error, match=said):
            index.query(*arguments, **options, out=out)
        equal(out._on_host(), expected[0])  # what was there is still there
    with pytest.raises(ValueError, match="preallocated for"):
        index.query(batch, 1.0, out=Hits.preallocate(100, MANY - 1))
    with pytest.raises(TypeError, match=r"HalfspaceIndex\.preallocate"):
        index.query(one, 1.0, out=index.query(one, 1.0))
    for capacity, count, error in ((0, None, ValueError), (-1, 3, ValueError), (1.5, 3, TypeError), (5, 0, ValueError)):
        with pytest.raises(error):
            Hits.preallocate(capacity, count)
    index.insert(one, ids=[5000])
    index.insert(gpu.xp.tile(one, (300, 1)), ids=2 * gpu.xp.arange(300) + 4000)
    index.insert(gpu.xp.tile(one, (300, 1)), ids=2 * gpu.xp.arange(300) + 4001)
    with pytest.raises(ValueError, match=r"compact\(\)"):
        index.query(one, float(tau[0]), out=out)
    index.compact()
    index.query(one, 1e9, out=out).check()


def test_a_host_has_nothing_to_preallocate_for(rng):
    from halfspace import HalfspaceIndex

    index = HalfspaceIndex(2)
    with pytest.raises((TypeError, ValueError), match="out"):
        index.query([1.0, 2.0], 0.0, out=index.query([1.0, 2.0], 0.0))


def on_a_gpu(gpu):
    if hasattr(gpu.xp, "emulator"):
        pytest.skip("needs a GPU: the emulator has neither graphs nor streams that run apart")


@pytest.mark.parametrize("filter", ["cells", "scan", "groups"])
def test_a_graph_asks_what_is_there_then(filter, problem, gpu):
    on_a_gpu(gpu)
    index, directions, tau, expected = problem
    if filter != "cells":
        index = make(gpu, index.vectors(index.ids).get(), filter=filter)
    for m in (None, MANY):
        own = 0 if m is None else slice(0, m)
        out, stream = Hits.preallocate(5000, m), gpu.xp.cuda.Stream(non_blocking=True)
        with stream:
            q = put(gpu, directions[own])
            limits = float(tau[0]) if m is None else put(gpu, tau[own])
            index.query(q, limits, out=out).check()
            stream.begin_capture()
            index.query(q, limits, out=out)
            graph = stream.end_capture()
            for first in (0, 7, 13):
                q[...] = put(gpu, directions[first] if m is None else directions[first : first + m])
                if m is not None:
                    limits[...] = put(gpu, tau[first : first + m])
                graph.launch(stream)
                out.check()
                if m is None:
                    vectors = index.vectors(index.ids).get()
                    equal(out._on_host(), reference.one(vectors, directions[first], float(tau[0])))
                else:
                    equal_rows(out._on_host(), expected[first : first + m])


def test_streams_of_their_own(problem, gpu):
    """What is asked on a stream waits for what was written there, and for nothing else."""
    on_a_gpu(gpu)
    index, directions, tau, expected = problem
    streams = [gpu.xp.cuda.Stream(non_blocking=True) for _ in range(3)]
    outs = [Hits.preallocate(5000, MANY) for _ in streams]
    for turn in range(4):
        for k, (stream, out) in enumerate(zip(streams, outs, strict=True)):
            own = slice(k + turn, k + turn + MANY)
            with stream:
                index.query(put(gpu, directions[own]), put(gpu, tau[own]), out=out)
        for k, (stream, out) in enumerate(zip(streams, outs, strict=True)):
            with stream:
                equal_rows(out.check()._on_host(), expected[k + turn : k + turn + MANY])
                equal_rows(
                    index.query(put(gpu, directions[k : k + MANY]), put(gpu, tau[k : k + MANY]))._on_host(),
                    expected[k : k + MANY],
                )
