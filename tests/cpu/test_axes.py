"""Principal axes: what is stored bounds what lies along them and beyond; no hit is lost, and files keep them."""

import numpy as np
import pytest
import scipy.linalg
from helpers import metrics, reference
from helpers.cascade import adversaries, look_at, prepared, segment_of, verdicts_of
from helpers.checking import DTYPES, build, check, equal, identical
from helpers.codes import beyond, bfloat16, bounds_along_axes, parts_of, units
from helpers.families import EXTREME_TAUS, FAMILIES, MORE_FAMILIES, boundary_taus
from threadpoolctl import ThreadpoolController

from halfspace import HalfspaceIndex
from halfspace.cpu.filters import axes
from halfspace.cpu.job import DROP, TAKE
from halfspace.files import container as storage

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_family = pytest.mark.parametrize("family", FAMILIES + MORE_FAMILIES)
DIM = 64


@pytest.fixture
def eager(monkeypatch):
    """Axes wherever they are possible, worth it or not."""
    monkeypatch.setattr(axes, "DIMS", (DIM, 1536))
    monkeypatch.setattr(axes, "ROWS", 0)
    monkeypatch.setattr(axes, "MOST_LEFT", 2.0)


def on_few_axes(rng, n, d, rank=20, noise=0.05):
    """Vectors whose spread lies on few axes, about a centre that is not the origin."""
    frame = np.linalg.qr(rng.standard_normal((d, rank)))[0].T
    return ((rng.standard_normal((n, rank)) + 0.5) @ frame + noise / np.sqrt(d) * rng.standard_normal((n, d))).astype(
        np.float32
    )


def with_axes(family, rng, n, m, dtype, metric="ip"):
    """A segment with axes, its vectors and directions; None where norms are not moderate, or nothing varies."""
    vectors, directions = metrics.made(metric, family, rng, n, DIM, m, dtype)
    segment = segment_of(vectors, metric=metric)
    moderate = 2.0**-40 <= segment.norms.max() <= 2.0**60 and (vectors != vectors[0]).any()
    assert (segment.data.axes is not None) == moderate
    return (segment if moderate else None), vectors, directions


# What is stored, and the bounds


@every_family
@every_dtype
def test_bounds_along_axes_are_true(family, dtype, rng, eager):
    """Value and width after half of the axes, and after all, are upper bounds, also along and across the axes."""
    n = 50
    segment, vectors, directions = with_axes(family, rng, n, 2, dtype)
    if segment is None:
        return
    cells = segment.data
    own = cells.axes
    x = units(vectors) - units(cells.centre[0])
    directions = np.concatenate([adversaries(cells, vectors, directions), own.axes[0, ::9], -own.axes[0, :1]])
    wide = directions[0].astype(np.float64)
    across = wide - own.axes[0].T @ (own.axes[0] @ wide)
    across = across.clip(-3e38, 3e38).astype(np.float32)
    directions = np.concatenate([directions, across[None], own.axes[0].sum(axis=0)[None]])
    seen = look_at(segment, prepared(directions))
    for q, view, digits in zip(directions, seen.views, seen.axes_digits, strict=True):
        products = x @ units(q)
        for value, width in zip(*bounds_along_axes(own, view, digits, n), strict=True):
            assert np.isfinite(width).all()
            assert beyond(value + width, products) == 0


@every_family
@every_dtype
def test_lengths_along_and_beyond_axes_are_bounds(family, dtype, rng, eager):
    """In the notation of `rounding.axes_error`, with z in more than twice the digits that it is computed in."""
    n = 50
    segment, vectors, _ = with_axes(family, rng, n, 1, dtype)
    if segment is None:
        return
    own, centre = segment.data.axes, segment.data.centre[0]
    assert own.axes.shape == (1, DIM // 4, DIM)
    matrix, weights = own.axes[0].astype(np.float64), own.weights[0].astype(np.float64)
    assert np.linalg.norm(matrix @ matrix.T - np.eye(len(matrix)), 2) < own.spread[0] < 0.01
    offsets = vectors.astype(np.float64) - centre.astype(np.float64)
    along, half = offsets @ matrix.T, len(matrix) // 2
    codes, scale = parts_of(own, n), bfloat16(own.scales[0, :n]).astype(np.float64)
    assert codes.max() <= 15
    errors = along - scale[:, None] * weights * (codes - 7.5)
    tiny = 1 + 2.0**-40  # what the sums here may err by
    for part, count in enumerate((half, 2 * half)):
        radius, rest = (bfloat16(kind[0, part, :n]).astype(np.float64) for kind in (own.radii, own.rests))
        assert (np.linalg.norm(errors[:, :count], axis=1) <= radius * tiny).all()
        beyond_axes = offsets - along[:, :count] @ matrix[:count]
        assert (np.linalg.norm(beyond_axes, axis=1) <= rest * tiny).all()
    for kind in (own.radii, own.rests):
        assert not kind[0, :, n:].any()


@pytest.mark.parametrize("metric", metrics.METRICS)
@every_family
@every_dtype
def test_verdicts_with_axes_are_true(metric, family, dtype, rng, eager):
    n = 200
    segment, vectors, directions = with_axes(family, rng, n, 2, dtype, metric)
    if segment is None:
        return
    for q in adversaries(segment.data, vectors, directions, metric):
        at = metrics.measures(metric, vectors, q)
        near = metrics.boundary_taus(metric, rng, vectors, q, 2)
        for tau in [*near, metrics.nearest(metric, at), *EXTREME_TAUS[:2], np.inf, -np.inf]:
            hit = metrics.reaches(metric, at, tau)
            ready = prepared(q[None], tau, metric)
            verdicts, _, work = verdicts_of(segment, ready)
            assert not hit[verdicts == DROP].any()
            assert hit[verdicts == TAKE].all()
            assert work["axes"][0] in (0, 128, n)  # nothing, or the first eight blocks, or all


def test_few_families_have_no_axes(eager, rng):
    found = [with_axes(family, rng, 50, 1, dtype)[0] for family in FAMILIES + MORE_FAMILIES for dtype in DTYPES]
    assert sum(segment is not None for segment in found) >= 30


# Where they are worth it


def test_when_axes_are_chosen(rng):
    few = on_few_axes(rng, 4096, 256)
    assert segment_of(few).data.axes.axes.shape == (1, 64, 256)
    assert segment_of(few[:-1]).data.axes is None  # too few rows for so many dimensions
    assert segment_of(few[:, :255]).data.axes is None
    assert segment_of(rng.standard_normal((4096, 256)).astype(np.float32)).data.axes is None  # all axes alike


def test_axes_are_found_on_one_thread_of_one_library(rng, monkeypatch):
    """The threads of SciPy's BLAS would spin; those of NumPy's, and everything afterwards, are the user's."""
    eigh, during = scipy.linalg.eigh, []

    def watched(*arguments, **options):
        during.extend(ThreadpoolController().info())
        return eigh(*arguments, **options)

    monkeypatch.setattr(scipy.linalg, "eigh", watched)
    before = ThreadpoolController().info()
    vectors = rng.standard_normal((4200, 8)) @ rng.standard_normal((8, 256))
    assert build(vectors.astype(np.float32), filter="cells")._snapshot.sealed[0].data.axes is not None
    assert ThreadpoolController().info() == before
    assert during
    scipys = [library for library in during if "scipy" in library["filepath"]]
    assert all(library["num_threads"] == 1 for library in scipys)
    assert [library for library in during if library not in scipys] == [
        library for library in before if "scipy" not in library["filepath"]
    ]


@pytest.mark.parametrize(
    "rows",
    [
        lambda rng: np.ones((4096, 1), np.float32) * rng.standard_normal(256).astype(np.float32),
        lambda rng: np.eye(256, dtype=np.float32)[rng.integers(0, 3, 4096)],
        lambda rng: rng.integers(-1, 2, (4096, 1)).astype(np.float32) * np.ones(256, np.float32),
        lambda rng: np.repeat(rng.standard_normal((2, 256)), 2048, axis=0).astype(np.float32),
    ],
    ids=["constant", "one hot", "on a line", "two points"],
)
def test_vectors_on_hardly_any_axis(rows, tmp_path, rng):
    vectors = rows(rng)
    index = HalfspaceIndex(256, filter="cells")
    index.insert(vectors)
    index.compact()
    directions = np.concatenate([vectors[:2], rng.standard_normal((3, 256)).astype(np.float32)])
    for q in directions:
        for tau in boundary_taus(rng, vectors[:50], q, 1):
            equal(index.query(q, tau), reference.one_faster(vectors, q, tau))
    index.save(tmp_path / "index")
    HalfspaceIndex.load(tmp_path / "index").verify()


@pytest.fixture(scope="module", params=[(256, "float32"), (384, "bfloat16")], ids=str)
def few(request):
    """An index with axes and a tail, and what it holds."""
    d, dtype = request.param
    rng = np.random.default_rng(d)
    vectors = reference.store(on_few_axes(rng, 16 * d + 70, d), dtype)
    index = HalfspaceIndex(d, filter="cells", dtype=dtype)
    index.insert(vectors[:-10])
    index.compact()
    index.insert(vectors[-10:])
    assert index._snapshot.sealed[0].data.axes is not None
    return index, vectors


def test_axes_at_high_and_low_thresholds(few, rng):
    index, vectors = few
    n, d = vectors.shape
    wide = vectors.astype(np.float32)
    directions = np.stack([wide[0], wide[1], rng.standard_normal(d).astype(np.float32), np.eye(d, dtype=np.float32)[0]])
    for q in directions:
        products = np.sort(wide @ q)
        taus = [products[-1], products[-5], products[-n // 2], products[5], np.inf, -np.inf]
        for tau in np.array(taus, np.float64):
            expected = reference.one_faster(vectors, q, tau)
            equal(index.query(q, tau), expected)
            assert index.count(q, tau) == len(expected[0])
    stages = {stage.name: stage for stage in index.explain(wide[0], float(np.sort(wide @ wide[0])[-5])).stages}
    assert stages["axes"].dropped > 0.9 * stages["axes"].tested > 0.2 * n
    assert stages["axes"].tested <= stages["norms"].left  # a chunk goes on without them where they do not pay
    assert stages["high"].tested == stages["norms"].left - stages["axes"].dropped
    assert check([index], vectors, np.repeat(directions, 6, axis=0), np.linspace(-2, 8, 24), faster=True)


@pytest.mark.parametrize("mmap", [False, True])
def test_files_keep_axes(few, mmap, tmp_path, rng):
    index, vectors = few
    index.save(tmp_path / "first")
    loaded = HalfspaceIndex.load(tmp_path / "first", mmap=mmap)
    loaded.verify()
    assert loaded._snapshot.sealed[0].data.axes is not None
    loaded.save(tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    q = vectors[7].astype(np.float32)
    for tau in (0.5 * float(q @ q), 0.0, -np.inf):
        identical(loaded.query(q, tau), index.query(q, tau))
        assert loaded.explain(q, tau) == index.explain(q, tau)
    assert loaded.stats() == index.stats()
    gone = np.arange(0, len(vectors), 3)
    loaded.delete(gone)
    kept = np.setdiff1d(np.arange(len(vectors)), gone)
    expected = reference.query(vectors[kept], q, 1.0, ids=kept, faster=True)[0]
    equal(loaded.query(q, 1.0), expected)
    loaded.compact()
    equal(loaded.query(q, 1.0), expected)
    assert loaded._snapshot.sealed[0].data.axes is None  # of so few rows
    loaded.verify()
    del loaded


def nudge(array):
    array.reshape(-1)[1] += 1


def last(array):
    array.reshape(-1)[-1] ^= 1


@pytest.mark.parametrize("how", [nudge, last])
@pytest.mark.parametrize("part", ["axes", "weights", "codes", "scales", "radii", "rests"])
def test_verify_finds_axes_that_do_not_fit(few, part, how, tmp_path):
    index, _ = few
    index.save(tmp_path / "index")
    stored = storage.read(tmp_path / "index")
    arrays = {key: array.copy() for key, array in stored.arrays.items()}
    array = arrays[f"0/axes/{part}"]
    if how is last and array.dtype == np.float32:
        array.view(np.uint32).reshape(-1)[-1] ^= 1 << 16
    else:
        how(array)
    storage.write(tmp_path / "index", stored.metadata, arrays)
    with pytest.raises(ValueError, match="segment 0"):
        HalfspaceIndex.load(tmp_path / "index").verify()


def test_verify_finds_another_spread(few, tmp_path):
    index, _ = few
    index.save(tmp_path / "index")
    stored = storage.read(tmp_path / "index")
    for factor in (0.5, 1 + 2.0**-50, 2.0):
        spread = stored.arrays["0/axes/spread"] * factor
        storage.write(tmp_path / "index", stored.metadata, stored.arrays | {"0/axes/spread": spread})
        with pytest.raises(ValueError, match="segment 0"):
            HalfspaceIndex.load(tmp_path / "index").verify()


@pytest.mark.parametrize("missing", ["axes", "codes", "rests", "weights"])
def test_half_of_the_axes_are_no_index(few, missing, tmp_path):
    index, _ = few
    index.save(tmp_path / "index")
    stored = storage.read(tmp_path / "index")
    arrays = {key: array for key, array in stored.arrays.items() if key != f"0/axes/{missing}"}
    storage.write(tmp_path / "index", stored.metadata, arrays)
    with pytest.raises(ValueError, match="whole index"):
        HalfspaceIndex.load(tmp_path / "index")
