"""The compiled functions of building: none works for long on its own, and steps of any size give the same."""

import importlib

import numpy as np
import pytest
from helpers.interrupts import DIMENSION, integers
from numba import types

from halfspace import HalfspaceIndex

MODULES = {
    name.rpartition(".")[2]: importlib.import_module(f"halfspace.cpu.{name}")
    for name in (
        *("filters.axes", "filters.balls", "filters.cells", "filters.groups"),
        *("attention.cache", "codes", "formats", "partition"),
    )
}
BUILDING = {
    "axes": ["_encode", "_multiply"],
    "balls": ["_enclose"],
    "cache": ["_append", "_lengthen"],
    "cells": ["encode_rows"],
    "codes": ["_sum"],
    "formats": ["_copy_into", "_round_into", "measure_rows"],
    "groups": ["_encode_chunks", "_encode_groups"],
    "partition": ["_find_axis", "_pass", "_project", "_split_down"],
}
"""The compiled functions that building calls from Python."""
MOST = 3 << 19
"""Components that one of them may work on at once: spans of 2^20 that are rounded up to whole chunks."""


@pytest.mark.parametrize("filter", ["cells", "groups", "balls"])
def test_no_kernel_works_for_long_on_its_own(filter, rng, monkeypatch):
    sizes = []

    def counted(function, dim):
        def call(*args):
            first, last = args[-1] if isinstance(args[-1], tuple) else args[-2:]
            sizes.append((function.__name__, (last - first) * dim))
            return function(*args)

        return call

    dim, project = 32, 8 if filter == "balls" else 32
    wide = {"_copy_into": 1, "_round_into": 1, "_enclose": 4 * 8}
    for module, names in BUILDING.items():
        for name in names:
            if module not in ("axes", "cache", "partition"):
                function = getattr(MODULES[module], name)
                monkeypatch.setattr(MODULES[module], name, counted(function, wide.get(name, dim)))
    monkeypatch.setattr(MODULES["partition"], "_project", counted(MODULES["partition"]._project, project))
    index = HalfspaceIndex(dim, filter=filter, threads=2)
    index.insert(rng.standard_normal((70_000, dim)))
    assert len({name for name, _ in sizes}) >= 4
    assert max(size for _, size in sizes) <= MOST


def test_a_selection_stops_after_so_many_rows_and_goes_on_where_it_was(rng):
    partition = MODULES["partition"]
    for keys in (rng.standard_normal(5000), rng.integers(0, 9, 5000).astype(float), np.arange(5000.0), np.zeros(5000)):
        results = []
        for most in (1, 7, 1000, 10**9):
            own, order = keys.copy(), np.arange(keys.size, dtype=np.int32)
            state, pivot, calls = np.array([0, keys.size - 1, 1, 0]), np.zeros(1), 1
            while not partition._pass(own, order, 0, 1234, state, pivot, most):
                calls += 1
            assert calls > 1 or most > 1000
            assert own.tolist() == keys[order].tolist()
            assert own[:1234].max() <= own[1234:].min()
            results.append(order.tolist())
        assert all(result == results[0] for result in results)


def test_a_partition_is_the_same_in_steps_of_any_size(rng, monkeypatch):
    partition = MODULES["partition"]
    vectors, columns = rng.standard_normal((20_000, 6)).astype(np.float32), np.array([0, 2, 6])
    expected = partition.partition(vectors, columns, 4, 1)
    assert np.array_equal(np.sort(expected), np.tile(np.arange(20_000), (2, 1)))
    for sizes in ((1 << 14, 1 << 22, 1 << 24, 1000), (64, 1 << 22, 300, 17), (1 << 14, 600, 1, 1 << 20)):
        for name, size in zip(("LARGE", "COMPONENTS", "TOGETHER", "STEPS"), sizes, strict=True):
            monkeypatch.setattr(partition, name, size)
        assert np.array_equal(partition.partition(vectors, columns, 4, 2), expected)


def kinds_in(given):
    """List the types that a type is made of, where it is a tuple's, perhaps of tuples."""
    return [part for own in given.types for part in kinds_in(own)] if isinstance(given, types.BaseTuple) else [given]


def test_kernels_of_building_return_numbers_or_nothing():
    """An array that is returned is made by Python code, which an exception of a signal handler would break.

    What is given is taken apart without such code where it is arrays, numbers and plain tuples of types known already.
    """
    rng = np.random.default_rng(0)
    for filter in ("cells", "groups", "balls"):
        HalfspaceIndex(DIMENSION, filter=filter).insert(integers(rng, 300))
    seen = 0
    for module, names in BUILDING.items():
        for name in names:
            for signature, compiled in getattr(MODULES[module], name).overloads.items():
                returned = compiled.signature.return_type
                assert all(
                    isinstance(part, types.Number | types.Boolean | types.NoneType) for part in kinds_in(returned)
                )
                assert not any(isinstance(given, types.BaseNamedTuple) for given in signature)
                assert not any(isinstance(part, types.Record) for given in signature for part in kinds_in(given))
                seen += 1
    assert seen > 8
