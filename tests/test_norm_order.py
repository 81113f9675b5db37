"""Cells whose longest vectors come first: rows in another order, ids as before, and chunks that are passed over."""

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, check, equal, identical

from halfspace import HalfspaceIndex
from halfspace.files import container as storage

N, DIM = 5000, 12


def unequal(rng, n, d):
    """Norms that differ, in no order."""
    return (rng.standard_normal((n, d)) * rng.pareto(1.5, (n, 1))).astype(np.float32)


def sealed(vectors, ids=None, dtype="float32", **options):
    index = HalfspaceIndex(vectors.shape[1], filter="cells", dtype=dtype, **options)
    index.insert(vectors, ids=ids)
    index.compact()
    (segment,) = index._snapshot.sealed
    return index, segment


@pytest.mark.parametrize("dtype", DTYPES)
def test_longest_first(dtype, rng):
    vectors = reference.store(unequal(rng, N, DIM), dtype)
    ids = rng.permutation(3 * N)[:N] - N
    index, segment = sealed(vectors, ids, dtype)
    assert (segment.norms[0, 1:] <= segment.norms[0, :-1]).all()
    assert sorted(segment.by_id.tolist()) == list(range(N))
    assert segment.ids[segment.by_id].tolist() == sorted(ids.tolist())
    rows = np.argsort(ids)[np.searchsorted(np.sort(ids), segment.ids)]
    np.testing.assert_array_equal(
        segment.vectors[0].view(f"u{segment.vectors.itemsize}"), reference.bits(vectors[rows])
    )
    np.testing.assert_array_equal(segment.data.peaks[0], segment.norms[0, ::1024])
    directions = rng.standard_normal((30, DIM)).astype(np.float32)
    tau = np.linspace(-5, 60, 30)
    assert check([index], vectors, directions, tau, ids=ids, faster=True)
    for q, t in zip(directions[::6], tau[::6], strict=True):
        equal(index.query(q, t), reference.query(vectors, q, t, ids=ids, faster=True)[0])


def test_equal_norms_keep_the_order_of_ids(rng):
    vectors = unequal(rng, N, DIM)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for some in (
        unit,
        vectors[:1024],
        np.zeros((3000, 4), np.float32),
        unit.repeat(2, axis=0)[::2] * np.float32(1e-30),
    ):
        index, segment = sealed(some)
        assert segment.by_id is None
        assert segment.ids.tolist() == list(range(len(some)))
        index.verify()
    blocks = np.repeat(np.float32([4, 2, 1]), 1024)[:, None] * unit[:3072]
    assert sealed(blocks)[1].by_id is None  # the longest come first already
    mixed, segment = sealed(blocks[rng.permutation(3072)])
    assert segment.by_id is not None
    mixed.verify()


def test_rows_of_equal_norm_stay_in_order(rng):
    vectors = np.where(np.arange(4096)[:, None] % 3 == 0, 8, 1) * np.ones(2, np.float32)
    index, segment = sealed(vectors.astype(np.float32))
    long, short = segment.ids[:1366], segment.ids[1366:]
    assert long.tolist() == list(range(0, 4096, 3))
    assert short.tolist() == sorted(short.tolist())
    assert index.query([1, 1], 16.0).ids.tolist() == long.tolist()
    assert index.query([1, 1], 2.0).ids.tolist() == list(range(4096))


def test_chunks_out_of_reach_are_passed_over(rng):
    vectors = unequal(rng, 20 * 1024, DIM)
    index, segment = sealed(vectors)
    q = rng.standard_normal(DIM).astype(np.float32)
    tau = 0.5 * float(np.linalg.norm(q)) * float(segment.norms[0, 1024])
    stages = {stage.name: stage for stage in index.explain(q, tau).stages}
    assert set(vars(stages["norms"])) >= {"tested", "dropped", "taken", "left", "dot_products", "bytes_read"}
    reachable = int((segment.data.peaks[0] * np.linalg.norm(q) >= tau).sum())
    assert 1 <= reachable < 10
    assert stages["norms"].dropped == (20 - reachable) * 1024
    assert stages["high"].tested == reachable * 1024
    equal(index.query(q, tau), reference.one_faster(vectors, q, tau))
    assert index.count(q, 1e9) == 0
    assert index.explain(q, -1e9).hits == 20 * 1024


def test_a_threshold_at_the_longest_of_a_chunk(rng):
    """The product of a vector with itself reaches all of its norm, and rounding must not cost it."""
    vectors = unequal(rng, N, 3)
    index, segment = sealed(vectors)
    for row in range(0, N, 1024):
        x = reference.from_bits(segment.vectors[0, row].view(np.uint32), "float32")
        product, exponent = reference.dots(x[None], x)
        square = reference.from_bits([reference.encode(product[0], exponent, "float64")], "float64")[0]
        for tau in (square, np.nextafter(square, 0), np.nextafter(square, np.inf)):
            expected = reference.one(vectors, x, tau)
            equal(index.query(x, tau), expected)
            found = index.query(np.repeat(x[None], 24, axis=0), tau)
            assert found.ids.tolist() == 24 * expected[0].tolist()


def test_deletes_files_and_compaction(rng, tmp_path):
    vectors, q = unequal(rng, N, DIM), rng.standard_normal(DIM).astype(np.float32)
    index, segment = sealed(vectors)
    assert segment.by_id is not None
    gone = rng.permutation(N)[:1800]
    index.delete(gone)
    assert not any(id in index for id in gone[:50].tolist())
    kept = np.sort(np.setdiff1d(np.arange(N), gone))
    assert index.ids.tolist() == kept.tolist()
    np.testing.assert_array_equal(index.vectors(kept[::7]), vectors[kept[::7]])
    index.save(tmp_path / "index")
    for mmap in (False, True):
        loaded = HalfspaceIndex.load(tmp_path / "index", mmap=mmap)
        np.testing.assert_array_equal(loaded._snapshot.sealed[0].by_id, segment.by_id)
        loaded.verify()
        loaded.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "index").read_bytes()
        for tau in (3.0, 0.0, -np.inf):
            expected = reference.query(vectors[kept], q, tau, ids=kept, faster=True)[0]
            equal(index.query(q, tau), expected)
            identical(loaded.query(q, tau), index.query(q, tau))
            some = rng.permutation(kept)[:500]
            inside = np.isin(expected[0], some)
            equal(loaded.query(q, tau, within=some), (expected[0][inside], expected[1][inside]))
        loaded.insert(-vectors[gone[:300]], ids=gone[:300])
        loaded.compact()
        loaded.verify()
        stored, present = vectors.copy(), np.sort(np.concatenate([kept, gone[:300]]))
        stored[gone[:300]] *= -1
        (again,) = loaded._snapshot.sealed
        assert again.ids[again.by_id].tolist() == present.tolist()
        equal(loaded.query(q, 1.0), reference.query(stored[present], q, 1.0, ids=present, faster=True)[0])
        del loaded, again


def test_the_same_vectors_in_any_history_give_the_same_answer(rng):
    vectors, q = unequal(rng, N, DIM), rng.standard_normal((25, DIM)).astype(np.float32)
    whole, _ = sealed(vectors)
    index = HalfspaceIndex(DIM, filter="cells")
    order = rng.permutation(N)
    for part in np.split(order, [100, 2500, 2600]):
        index.insert(vectors[part], ids=part)
    identical(index.query(q, 2.0), whole.query(q, 2.0))
    index.compact()
    identical(index.query(q, 2.0), whole.query(q, 2.0))
    np.testing.assert_array_equal(index._snapshot.sealed[0].ids, whole._snapshot.sealed[0].ids)


@pytest.mark.parametrize("name", ["by_id", "ids"])
def test_verify_finds_rows_in_a_wrong_order(name, tmp_path, rng):
    index, _ = sealed(unequal(rng, N, 4))
    index.save(tmp_path / "index")
    stored = storage.read(tmp_path / "index")
    for change in (lambda a: a[::-1].copy(), lambda a: np.where(a == a[3], a[4], a), lambda a: a + 1):
        changed = stored.arrays | {f"0/{name}": change(stored.arrays[f"0/{name}"])}
        storage.write(tmp_path / "index", stored.metadata, changed)
        with pytest.raises(ValueError, match=r"segment 0|id \d+|whole index"):
            HalfspaceIndex.load(tmp_path / "index").verify()
