"""The estimators: scikit-learn's own checks, its answers where float64 is exact, and rational ones at the edge."""

import pickle
from fractions import Fraction

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cluster import DBSCAN
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from halfspace.sklearn import HalfspaceKNeighborsTransformer, HalfspaceNeighbors, HalfspaceRadiusTransformer


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([HalfspaceNeighbors(), HalfspaceRadiusTransformer(), HalfspaceKNeighborsTransformer()])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def lists(rows):
    return [row.tolist() for row in rows]


def points(rng, n, m=25):
    """Whole numbers, so that scikit-learn's own squares of distances are exact: many ties, and many duplicates."""
    return rng.integers(-3, 4, (n, 4)).astype(np.float64), rng.integers(-3, 4, (m, 4)).astype(np.float64)


@pytest.mark.parametrize("metric", ["l2", "euclidean"])
@pytest.mark.parametrize("own", [False, True])
def test_radii_are_those_of_scikit_learn(metric, own, rng):
    samples, queries = points(rng, 800)
    ours, theirs = (kind.fit(samples) for kind in (HalfspaceNeighbors(metric=metric), NearestNeighbors()))
    asked = None if own else queries
    for radius in (0.0, 1.0, 2.0, np.sqrt(8.0), 5.0):
        distances, rows = ours.radius_neighbors(asked, radius)
        their_distances, their_rows = theirs.radius_neighbors(asked, radius, sort_results=True)
        assert distances.dtype == rows.dtype == object
        for j, (row, distance) in enumerate(zip(rows, distances, strict=True)):
            assert row.tolist() == sorted(their_rows[j].tolist())
            assert distance.dtype == np.float64
            np.testing.assert_allclose(np.sort(distance), their_distances[j], rtol=2.0**-24)
        assert lists(ours.radius_neighbors(asked, radius, return_distance=False)) == lists(rows)
        ordered, their = ours.radius_neighbors(asked, radius, sort_results=True)
        for j, row in enumerate(their):
            assert row.tolist() == rows[j][np.lexsort((rows[j], distances[j]))].tolist()
            assert np.all(np.diff(ordered[j]) >= 0)
    default, at_one = (ours.radius_neighbors(asked, radius, return_distance=False) for radius in (None, 1.0))
    assert lists(default) == lists(at_one)


@pytest.mark.parametrize("own", [False, True])
def test_graphs_of_radii(own, rng):
    samples, queries = points(rng, 300)
    ours, theirs = HalfspaceNeighbors(radius=2.0).fit(samples), NearestNeighbors(radius=2.0).fit(samples)
    asked = None if own else queries
    for mode in ("connectivity", "distance"):
        graph, expected = (index.radius_neighbors_graph(asked, mode=mode) for index in (ours, theirs))
        expected.sort_indices()
        assert graph.shape == expected.shape
        assert graph.indices.tolist() == expected.indices.tolist()
        assert graph.indptr.tolist() == expected.indptr.tolist()
        assert graph.dtype == np.float64
        np.testing.assert_allclose(graph.data, expected.data, rtol=2.0**-24)
    graph = ours.radius_neighbors_graph(asked, 3.0, mode="distance", sort_results=True)
    assert all(np.all(np.diff(graph.data[a:b]) >= 0) for a, b in zip(graph.indptr[:-1], graph.indptr[1:], strict=True))


@pytest.mark.parametrize("own", [False, True])
def test_the_nearest_are_those_of_scikit_learn(own, rng):
    samples, queries = points(rng, 300)
    ours, theirs = HalfspaceNeighbors().fit(samples), NearestNeighbors(algorithm="brute").fit(samples)
    asked = None if own else queries
    for k in (1, 5, 40):
        distances, rows = ours.kneighbors(asked, k)
        expected, _ = theirs.kneighbors(asked, k)
        np.testing.assert_allclose(distances, expected, rtol=2.0**-24)
        squares = ((samples[:, None] - (samples if own else queries)) ** 2).sum(axis=2)
        for j, row in enumerate(rows):
            others = [i for i in np.lexsort((np.arange(300), squares[:, j])).tolist() if not (own and i == j)]
            assert row.tolist() == others[:k]
        assert ours.kneighbors(asked, k, return_distance=False).tolist() == rows.tolist()
        graph = ours.kneighbors_graph(asked, k, mode="distance")
        assert graph.shape == (len(rows), 300)
        assert graph.indices.reshape(rows.shape).tolist() == rows.tolist()
        assert graph.data.reshape(rows.shape).tolist() == distances.tolist()
        assert set(ours.kneighbors_graph(asked, k).data) == {1.0}
    assert ours.kneighbors(asked)[1].shape == (len(rows), 5)


def test_more_duplicates_than_neighbours():
    samples = np.repeat([[1.0, 2.0], [3.0, 4.0]], 10, axis=0)
    rows = HalfspaceNeighbors(n_neighbors=2).fit(samples).kneighbors(return_distance=False)
    assert rows[:3].tolist() == [[1, 2], [0, 2], [0, 1]]
    assert rows[3:10].tolist() == [[0, 1]] * 7


def test_the_boundary_is_decided_by_real_numbers(rng):
    """Radii that are distances, rounded to float64, and their neighbours; none of the hits is said to lie beyond."""
    samples = rng.standard_normal((60, 3)).astype(np.float32)
    neighbors = HalfspaceNeighbors().fit(samples)
    for query in samples[:5]:
        squares = [
            sum((Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(x, query, strict=True)) for x in samples
        ]
        for row in (7, 20, 33):
            edge = np.sqrt(float(squares[row]))
            for radius in (np.nextafter(edge, 0.0), edge, np.nextafter(edge, 9.0)):
                (distances,), (rows,) = neighbors.radius_neighbors(query[None], radius)
                assert rows.tolist() == [i for i, square in enumerate(squares) if square <= Fraction(radius) ** 2]
                assert distances.max() <= radius


def test_cosines(rng):
    samples, queries = rng.standard_normal((400, 5)), rng.standard_normal((9, 5))
    ours, theirs = (kind(metric="cosine").fit(samples) for kind in (HalfspaceNeighbors, NearestNeighbors))
    for radius in (0.1, 0.5, 1.25):
        distances, rows = ours.radius_neighbors(queries, radius, sort_results=True)
        their_distances, their_rows = theirs.radius_neighbors(queries, radius, sort_results=True)
        assert lists(rows) == lists(their_rows)  # no cosine lies so close to an edge
        for own, their in zip(distances, their_distances, strict=True):
            np.testing.assert_allclose(own, their, atol=2e-7)
            assert own.max(initial=0.0) <= radius
    distances, rows = ours.kneighbors(queries, 6)
    their_distances, their_rows = theirs.kneighbors(queries, 6)
    assert rows.tolist() == their_rows.tolist()
    np.testing.assert_allclose(distances, their_distances, atol=2e-7)
    with pytest.raises(ValueError, match=r"\[1\] is zero"):
        ours.fit([[1.0, 2.0], [0.0, 0.0]])


def test_the_edge_of_a_cone_belongs_to_it():
    samples = np.array([[3.0, 4.0], [4.0, 3.0], [-3.0, 4.0], [0.0, 2.0], [1.0, 1.0]])
    neighbors = HalfspaceNeighbors(metric="cosine").fit(samples)
    (rows,) = neighbors.radius_neighbors([[0.0, 5.0]], 0.25, return_distance=False)
    assert rows.tolist() == [0, 2, 3]
    (distances,), (rows,) = neighbors.radius_neighbors([[1.0, 0.0]], 1.0)
    assert rows.tolist() == [0, 1, 3, 4]
    assert distances[2] == 1.0


def test_inner_products(rng):
    samples, queries = points(rng, 200)
    neighbors = HalfspaceNeighbors(metric="ip", radius=-4.0).fit(samples)
    distances, rows = neighbors.radius_neighbors(queries)
    products = queries @ samples.T
    for j, row in enumerate(rows):
        assert row.tolist() == np.flatnonzero(products[j] >= 4.0).tolist()
        assert distances[j].tolist() == (-products[j, row]).tolist()
    distances, rows = neighbors.kneighbors(queries, 3)
    assert distances.tolist() == np.sort(-products, axis=1)[:, :3].tolist()
    for j, row in enumerate(neighbors.kneighbors(n_neighbors=4, return_distance=False)):
        own = samples @ samples[j]
        others = [i for i in np.lexsort((np.arange(200), -own)).tolist() if i != j]
        assert row.tolist() == others[:4]


def test_clusters_of_a_pipeline_are_those_of_dbscan(rng):
    samples = np.concatenate([rng.integers(0, 6, (150, 2)), rng.integers(20, 26, (150, 2)), [[50, 50]]]).astype(float)
    for radius in (1.0, 1.5):
        graph = HalfspaceRadiusTransformer(radius=radius)
        clusters = make_pipeline(graph, DBSCAN(eps=radius, min_samples=6, metric="precomputed"))
        assert clusters.fit_predict(samples).tolist() == DBSCAN(eps=radius, min_samples=6).fit_predict(samples).tolist()
    random = rng.standard_normal((200, 3)).astype(np.float32)
    edge = float(np.sqrt(((random[0].astype(np.float64) - random[1]) ** 2).sum()))
    graph = HalfspaceRadiusTransformer(radius=edge).fit_transform(random)
    assert graph.data.max() <= edge
    assert np.all(graph.diagonal() == 0.0)
    assert graph.nnz == HalfspaceRadiusTransformer(radius=edge, mode="connectivity").fit_transform(random).sum()


def test_classes_by_the_nearest_of_a_pipeline(rng):
    samples = rng.standard_normal((120, 3)).astype(np.float32)
    classes = (samples.sum(axis=1) > 0).astype(int)
    graph = HalfspaceKNeighborsTransformer(n_neighbors=7)
    ours = make_pipeline(graph, KNeighborsClassifier(n_neighbors=5, metric="precomputed")).fit(samples, classes)
    theirs = KNeighborsClassifier(n_neighbors=5).fit(samples, classes)
    queries = rng.standard_normal((40, 3)).astype(np.float32)
    assert ours.predict(queries).tolist() == theirs.predict(queries).tolist()
    own = graph.fit_transform(samples)
    assert np.diff(own.indptr).tolist() == [8] * 120
    assert np.all(own.diagonal() == 0.0)
    assert HalfspaceKNeighborsTransformer(n_neighbors=7, mode="connectivity").fit_transform(samples).nnz == 7 * 120


def test_numbers_are_stored_rounded(rng):
    samples = rng.standard_normal((50, 4))
    neighbors = HalfspaceNeighbors(dtype="float16", n_jobs=2).fit(samples)
    assert neighbors.index_.vectors(np.arange(50)).tolist() == samples.astype(np.float16).tolist()
    expected = NearestNeighbors().fit(samples.astype(np.float16).astype(np.float64))
    assert neighbors.kneighbors(n_neighbors=3)[1].tolist() == expected.kneighbors(n_neighbors=3)[1].tolist()
    for n_jobs, threads in ((None, 1), (3, 3)):
        assert HalfspaceNeighbors(n_jobs=n_jobs).fit(samples).index_.stats()["threads"] == threads


def test_estimators_are_cloned_and_pickled(rng):
    samples, queries = points(rng, 60)
    neighbors = HalfspaceNeighbors(radius=2.0, n_neighbors=3).fit(samples)
    again = pickle.loads(pickle.dumps(neighbors))
    assert again.kneighbors(queries)[1].tolist() == neighbors.kneighbors(queries)[1].tolist()
    assert clone(neighbors).get_params() == neighbors.get_params()
    assert not hasattr(clone(neighbors), "index_")


def test_mistakes_are_named(rng):
    samples, _ = points(rng, 10)
    neighbors = HalfspaceNeighbors().fit(samples)
    with pytest.raises(ValueError, match="n_neighbors <= n_samples_fit, but n_neighbors = 11"):
        neighbors.kneighbors(samples, 11)
    with pytest.raises(ValueError, match="n_neighbors < n_samples_fit, but n_neighbors = 10"):
        neighbors.kneighbors(n_neighbors=10)
    with pytest.raises(ValueError, match="n_neighbors must be at least 1"):
        neighbors.kneighbors(samples, 0)
    with pytest.raises(ValueError, match="return_distance must be True"):
        neighbors.radius_neighbors(samples, return_distance=False, sort_results=True)
    with pytest.raises(ValueError, match="mode must be one of"):
        neighbors.radius_neighbors_graph(samples, mode="weights")
    with pytest.raises(ValueError, match="radius is nan"):
        neighbors.radius_neighbors(samples, np.nan)
    with pytest.raises(ValueError, match="metric must be one of"):
        HalfspaceNeighbors(metric="manhattan").fit(samples)
    with pytest.raises(ValueError, match="dtype must be one of"):
        HalfspaceNeighbors(dtype="float64").fit(samples)
