"""The filters of an index: what their counters say, which is chosen, and the promise for any of their options."""

import importlib

import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, FILTERS, check, equal
from helpers.families import EXTREME_TAUS, FAMILIES, boundary_taus, pairs
from hypothesis import given
from hypothesis import strategies as st

from halfspace import HalfspaceIndex, cpu
from halfspace.model.counters import STAGES, Column, Want
from halfspace.state import build as seal
from halfspace.state.choose import TRIAL_ROWS

search = importlib.import_module("halfspace.cpu.search")
GROUPED = ["groups", "balls", "sweep"]
every_filter = pytest.mark.parametrize("filter", FILTERS)
every_grouped_filter = pytest.mark.parametrize("filter", GROUPED)


def normal(rng, n, d):
    return rng.standard_normal((n, d)).astype(np.float32)


def heavy_tailed(rng, n, d):
    return (rng.standard_normal((n, d)) * rng.pareto(1.5, (n, 1))).astype(np.float32)


def sealed(vectors, filter, **options):
    """An index with all vectors in one segment."""
    index = HalfspaceIndex(vectors.shape[1], filter=filter, **options)
    index.insert(vectors)
    index.compact()
    return index


COUNTS = "tested", "dropped", "taken", "left", "dot_products", "bytes_read"


def tau_for(vectors, direction, hits):
    """A threshold that about so many vectors reach."""
    return float(np.partition(vectors @ direction, -hits)[-hits])


def stages_of(index, direction, tau):
    """The stages of a query by name, those that did nothing as well, and the number of hits."""
    explanation = index.explain(direction, tau)
    nothing = {name: dict.fromkeys(COUNTS, 0) for name in STAGES}
    return nothing | {stage.name: vars(stage) for stage in explanation.stages}, explanation.hits


def bytes_of(stages):
    return sum(stage["bytes_read"] for stage in stages.values())


def found_by(index, directions, tau, wanted, threads=1):
    question, _ = index._asked(index._snapshot, directions, tau, None, None, wanted, threads)
    return cpu.search(question)


# Counters


@pytest.mark.parametrize("data", [normal, heavy_tailed])
@every_filter
def test_stages_account_for_every_vector(filter, data, rng):
    n, vectors = 3000, data(rng, 3000, 8)
    index = sealed(vectors, filter, **({"subspaces": 3} if filter in ("balls", "sweep") else {}))
    for direction in normal(rng, 3, 8):
        for tau in [tau_for(vectors, direction, hits) for hits in (1, 30, 900, 2999)] + [-np.inf, np.inf, 0.0]:
            s, hits = stages_of(index, direction, tau)
            for name, stage in s.items():
                assert stage["tested"] == stage["dropped"] + stage["taken"] + stage["left"]
                assert stage["dot_products"] == (stage["tested"] if name in ("scan", "verify", "exact") else 0)
                assert (stage["bytes_read"] > 0) >= (stage["tested"] > 0)
            assert s["verify"]["left"] == s["exact"]["tested"]
            assert hits == s["verify"]["taken"] + s["exact"]["taken"] == index.count(direction, tau)
            if filter == "groups":
                assert s["chunks"]["tested"] == n
                assert s["groups"]["tested"] == s["chunks"]["left"]
                assert s["rows"]["tested"] == s["groups"]["left"]
            elif filter in ("balls", "sweep"):
                assert s["sweep"]["tested"] == (n if filter == "sweep" else 0)
                assert s["gates"]["tested"] == (s["sweep"]["left"] if filter == "sweep" else n)
                assert s["balls"]["tested"] == s["gates"]["left"]
            elif filter == "scan":
                assert s["scan"]["tested"] == n
            else:
                assert s["norms"]["tested"] == n
                assert s["norms"]["left"] == s["high"]["tested"] + s["scan"]["tested"]
                assert s["high"]["left"] >= s["low"]["tested"]
                assert s["scan"]["tested"] == 0 or filter == "auto"
            filters = [stage for name, stage in s.items() if name not in ("verify", "exact")]
            unsettled = s["high"]["left"] - s["low"]["tested"] + s["low"]["left"]  # low codes are left out if they cost
            last = unsettled + s["rows"]["left"] + s["scan"]["left"] + s["balls"]["left"]
            assert s["verify"]["tested"] == last + sum(stage["taken"] for stage in filters)


@pytest.mark.parametrize("repeats", [1, 6])
@pytest.mark.parametrize("threads", [2, 3, 8])
@every_filter
def test_counters_do_not_depend_on_threads(filter, threads, repeats, rng, monkeypatch):
    """Of few directions, and of so many that cells are multiplied with all of them."""
    monkeypatch.setattr(search, "MIN_BYTES", 1)
    vectors = heavy_tailed(rng, 9000, 6)
    index = HalfspaceIndex(6, filter=filter)
    for part in (vectors[:7000], vectors[7000:8500], vectors[8500:8900], vectors[8900:]):
        index.insert(part)
    index.delete(np.arange(0, 9000, 7))
    directions, tau = normal(rng, 5 * repeats, 6), np.tile([0.5, 3.0, 20.0, -np.inf, np.inf], repeats)
    for wanted in (Want.COUNT, Want.IDS, Want.SCORES):
        one, many = (found_by(index, directions, tau, wanted, count) for count in (1, threads))
        assert one.work.tolist() == many.work.tolist() == found_by(index, directions, tau, wanted).work.tolist()
        assert one.counts.tolist() == many.counts.tolist()
    assert len(many.parts) > len(one.parts)
    assert index.explain(directions[0], 0.5) == index.explain(directions[0], 0.5)


@pytest.mark.parametrize(
    ("data", "d", "subspaces", "share"),
    [
        (normal, 4, 1, 0.02),
        (normal, 6, 2, 0.1),
        (normal, 8, 2, 0.15),
        (heavy_tailed, 8, 2, 0.03),
        (heavy_tailed, 16, 4, 0.06),
    ],
)
def test_a_sweep_stops_early(data, d, subspaces, share, rng):
    vectors, directions = data(rng, 20_000, d), normal(rng, 4, d)
    index = sealed(vectors, "sweep", subspaces=subspaces)
    left = []
    for direction in directions:
        stages, hits = stages_of(index, direction, tau_for(vectors, direction, 20))
        assert stages["sweep"]["left"] >= hits
        left.append(stages["sweep"]["left"])
    assert np.mean(left) < share * 20_000
    assert stages_of(index, directions[0], -np.inf)[0]["sweep"]["left"] == 20_000


@pytest.mark.parametrize(("data", "d", "share"), [(normal, 4, 0.98), (normal, 8, 0.3), (heavy_tailed, 4, 0.98)])
def test_gates_drop(data, d, share, rng):
    vectors, directions = data(rng, 20_000, d), normal(rng, 4, d)
    index = sealed(vectors, "balls", subspaces=d // 4)
    stages = [stages_of(index, direction, tau_for(vectors, direction, 20))[0] for direction in directions]
    assert np.mean([stage["gates"]["dropped"] for stage in stages]) > share * 20_000
    assert all(stage["balls"]["left"] < 0.03 * 20_000 for stage in stages)


@pytest.mark.parametrize(
    ("data", "d", "share"), [(normal, 3, 0.06), (normal, 6, 0.15), (heavy_tailed, 3, 0.06), (heavy_tailed, 16, 0.12)]
)
def test_groups_read_little(data, d, share, rng):
    vectors, directions = data(rng, 20_000, d), normal(rng, 4, d)
    index = sealed(vectors, "groups")
    read = [bytes_of(stages_of(index, q, tau_for(vectors, q, 20))[0]) for q in directions]
    assert np.mean(read) < share * vectors.nbytes


def test_groups_read_ever_less_of_more_rows(rng):
    read = []
    for n in (4096, 65_536):
        vectors, directions = normal(rng, n, 3), normal(rng, 4, 3)
        index = sealed(vectors, "groups")
        read.append(sum(bytes_of(stages_of(index, q, tau_for(vectors, q, 50))[0]) for q in directions))
    assert read[1] < 4 * read[0]


@every_grouped_filter
def test_counting_takes_wholesale(filter, rng):
    vectors = normal(rng, 20_003, 3)
    index, direction = sealed(vectors, filter), np.array([1.0, 0.5, -0.2], np.float32)
    rows = dict(zip(STAGES, range(len(STAGES)), strict=True))
    whole = found_by(index, direction, -1e3, Want.COUNT)
    assert whole.counts.tolist() == [20_003]
    taken = whole.work[:, Column.TAKEN]
    assert taken[rows["chunks" if filter == "groups" else "balls"]] == taken.sum() == 20_003
    assert not whole.work[:, Column.DOTS].any()
    if filter == "groups":
        assert whole.work[:, Column.BYTES].sum() < 0.01 * vectors.nbytes
    half = found_by(index, direction, 0.1, Want.COUNT)
    assert half.counts[0] == len(reference.one_faster(vectors, direction, 0.1)[0])
    assert half.work[:, Column.DOTS].sum() < (0.05 if filter == "groups" else 0.15) * 20_003
    index.delete(np.arange(0, 20_003, 3))  # what is taken is counted row by row now
    assert index.count(direction, -1e3) == 13_335
    assert index.count(direction, -1e3, within=np.arange(1, 20_003, 3)) == 6668


# The choice


def test_auto_chooses_groups_where_dimensions_are_few(rng):
    vectors = normal(rng, TRIAL_ROWS, 3)
    first, second = (sealed(vectors, "auto").explain(np.ones(3), 4.0) for _ in range(2))
    assert first == second
    (choice,) = first.choices
    assert (choice.filter, choice.vectors) == ("groups", TRIAL_ROWS)
    assert set(choice.trial) == {"scan", "cells", "groups", "balls", "sweep"}
    assert all(isinstance(count, int) for count in choice.trial.values())
    assert choice.trial["groups"] == min(choice.trial.values()) > 0
    said = str(first)
    assert f"'groups' for {TRIAL_ROWS:,} vectors" in said
    assert all(f"{filter} {count:,}" in said for filter, count in choice.trial.items())


def test_auto_chooses_cells_on_the_sphere(rng):
    vectors = normal(rng, TRIAL_ROWS, 128)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    (choice,) = sealed(vectors, "auto").explain(vectors[0], 0.5).choices
    assert choice.filter == "cells"
    assert choice.trial["cells"] < choice.trial["scan"]


def test_few_rows_are_not_tried(rng):
    vectors = normal(rng, TRIAL_ROWS, 3)
    explanation = sealed(vectors[1:], "auto").explain(np.ones(3), 4.0)
    assert [(choice.filter, choice.trial) for choice in explanation.choices] == [("cells", None)]
    assert explanation.decisions == []
    for filter in FILTERS[:-1]:
        explanation = sealed(vectors, filter).explain(np.ones(3), 4.0)
        assert [(choice.filter, choice.trial) for choice in explanation.choices] == [(filter, None)]


def test_the_same_history_leads_to_the_same_choice(rng, monkeypatch):
    monkeypatch.setattr(seal, "TRIAL_ROWS", 3000)
    vectors, directions = normal(rng, 5000, 5), normal(rng, 6, 5)
    choices = []
    for _ in range(2):
        index = HalfspaceIndex(5)
        index.insert(vectors[:4000])
        for direction, tau in zip(directions, (3.0, -np.inf, np.inf, 0.0, 4.0, 1.0), strict=True):
            index.query(direction, tau)
            index.count(np.stack([direction] * 3), tau)
        index.insert(vectors[4000:])
        index.compact()
        choices.append(index.explain(directions[0], 1.0).choices)
        assert choices[-1][0].trial is not None
        equal(index.query(directions[0], 4.0), reference.one_faster(vectors, directions[0], 4.0))
    assert choices[0] == choices[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_trial_on_any_data(family, dtype, rng, monkeypatch):
    monkeypatch.setattr(seal, "TRIAL_ROWS", 1500)
    vectors, directions = family(rng, 1500, 3, 2, dtype)
    index = sealed(vectors, "auto", dtype=dtype)
    assert index.explain(directions[0], 0.0).choices[0].trial is not None
    taus = [boundary_taus(rng, vectors, direction, 1)[0] for direction in directions]
    for tau in (0.0, -np.inf, np.inf, np.array(taus)):
        assert check([index], vectors, directions, tau, faster=True) == 3000
    index.compact()  # asked by now, it may choose another filter
    assert check([index], vectors, directions, 0.0, faster=True) == 3000
    index.verify()


# Any subspaces, any size of groups


@given(
    family=st.sampled_from(FAMILIES),
    dtype=st.sampled_from(DTYPES),
    filter=st.sampled_from(["balls", "sweep"]),
    shape=st.integers(1, 20).flatmap(lambda d: st.tuples(st.integers(1, 70), st.just(d), st.integers(1, d))),
    group_size=st.one_of(st.integers(1, 80), st.sampled_from([2**31, 2**63 - 1])),
    seed=st.integers(0, 2**32),
)
def test_any_subspaces_and_group_size(family, dtype, filter, shape, group_size, seed):
    (n, d, subspaces), rng = shape, np.random.default_rng(seed)
    vectors, directions = family(rng, n, d, 1, dtype)
    index = sealed(vectors, filter, dtype=dtype, subspaces=subspaces, group_size=group_size)
    directions, taus = pairs(rng, vectors, directions, k=2)
    directions[-1] = 0
    assert check([index], vectors, directions, taus, faster=True) > 0
    index.verify()


@every_filter
def test_degenerate_questions(filter, rng):
    for n, d in ((0, 1), (0, 3), (1, 1), (1, 3), (5, 1)):
        vectors = normal(rng, n, d)
        index = sealed(vectors, filter)
        for direction in (np.zeros(d, np.float32), np.ones(d, np.float32)):
            for tau in EXTREME_TAUS:
                equal(index.query(direction, tau), reference.one(vectors, direction, tau))
                assert index.explain(direction, tau).hits == index.count(direction, tau)


@pytest.mark.parametrize(
    ("n", "d", "options"),
    [
        (66_000, 3, {}),
        (16_402, 3, {"group_size": 1, "subspaces": 2}),
        (16_500, 2, {"group_size": 20_000}),
        (20_000, 2, {"group_size": 16_385}),
        (70_001, 2, {"group_size": 3, "subspaces": 1}),
    ],
)
@pytest.mark.parametrize("filter", ["balls", "sweep"])
def test_many_groups_and_large_ones(filter, n, d, options, rng):
    vectors, directions = normal(rng, n, d), normal(rng, 3, d)
    index = sealed(vectors, filter, **options)
    for threads in (1, 2):
        for direction in directions:
            for hits in (10, 1000):
                tau = tau_for(vectors, direction, hits)
                equal(index.query(direction, tau, threads=threads), reference.one_faster(vectors, direction, tau))


def test_more_chunks_than_a_tile(rng):
    vectors, directions = normal(rng, 70_001, 3), normal(rng, 3, 3)
    index = sealed(vectors, "groups")
    for direction in directions:
        for hits in (10, 1000, 69_000):
            tau = tau_for(vectors, direction, hits)
            equal(index.query(direction, tau), reference.one_faster(vectors, direction, tau))
    equal(index.query(directions[0], -np.inf), reference.one_faster(vectors, directions[0], -np.inf))
