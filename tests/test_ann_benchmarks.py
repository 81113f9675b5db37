"""The module of ann-benchmarks, in a stand-in of its package, asked as its runner asks."""

import importlib.util
import sys
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "asv_benchmarks/ann_benchmarks/halfspace"
RUN = yaml.safe_load((FOLDER / "config.yml").read_text("utf-8"))["float"]["any"][0]


class BaseANN:
    """What a module inherits there."""

    def done(self):
        pass

    def get_additional(self):
        return {}

    def __str__(self):
        return self.name


@pytest.fixture
def engine(monkeypatch):
    """The class that the configuration names, imported as a module of that package."""
    package = RUN["module"].rpartition(".")[0]
    names = ("ann_benchmarks", package, f"{package}.base", f"{package}.base.module", RUN["module"])
    for name in names:
        module = ModuleType(name)
        module.__path__ = [str(FOLDER)] if name == RUN["module"] else []
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules[f"{package}.base.module"], "BaseANN", BaseANN, raising=False)
    name = f"{RUN['module']}.module"
    spec = importlib.util.spec_from_file_location(name, FOLDER / "module.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return getattr(module, RUN["constructor"])


def distances(metric, vectors, query):
    wide, q = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "euclidean":
        return np.linalg.norm(wide - q, axis=1)
    with np.errstate(invalid="ignore"):
        return 1 - wide @ q / (np.linalg.norm(wide, axis=1) * np.linalg.norm(q))


@pytest.mark.parametrize("metric", ["angular", "euclidean"])
@pytest.mark.parametrize("filter", [*product(*RUN["run_groups"]["base"]["args"])])
def test_an_engine_is_asked_as_the_runner_does(engine, metric, filter, rng):
    assert RUN["base_args"] == ["@metric"]
    algorithm = engine(metric, *filter)
    assert isinstance(algorithm, BaseANN)
    assert filter[0] in str(algorithm)
    vectors = rng.standard_normal((400, 6)).astype(np.float32)
    vectors[7] = 0
    queries = rng.standard_normal((12, 6)).astype(np.float32)
    algorithm.fit(vectors)
    for arguments in ([], [1]):
        if arguments:
            algorithm.set_query_arguments(*arguments)
        algorithm.batch_query(queries, 10)
        batch = algorithm.get_batch_results()
        assert len(batch) == len(queries)
        for query, rows in zip(queries, batch, strict=True):
            assert rows.tolist() == np.argsort(distances(metric, vectors, query))[:10].tolist()
            assert algorithm.query(query, 10).tolist() == rows.tolist()
    assert algorithm.get_additional() == {}
    algorithm.done()


def test_queries_without_an_angle_are_answered(engine):
    algorithm = engine("angular")
    algorithm.fit(np.eye(3, dtype=np.float32))
    queries = np.array([[0, 0, 0], [0, 0, 2]], np.float32)
    algorithm.batch_query(queries, 2)
    assert [len(rows) for rows in algorithm.get_batch_results()] == [2, 2]
    assert algorithm.get_batch_results()[1][0] == 2
    assert len(algorithm.query(queries[0], 2)) == 2
    assert not queries[0].any()


def test_metrics_that_are_not_there_are_named(engine):
    with pytest.raises(NotImplementedError, match="hamming"):
        engine("hamming")


def test_the_image_installs_this_distribution():
    assert "pip install halfspace-search" in (FOLDER / "Dockerfile").read_text("utf-8")
    assert RUN["docker_tag"] == "ann-benchmarks-halfspace"
