"""Kernels are named by the stored format that they are compiled for."""

import numpy as np
import pytest
from numba import typeof

from halfspace.cpu.attention import cache
from halfspace.cpu.runtime import naming
from halfspace.cpu.runtime.naming import named


def shared(ids, scores):
    pass


def measure(vectors, norms):
    pass


def convert(like, out):
    pass


def append(address, store):
    pass


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(naming, "_latest", "")


def types_of(*values):
    return tuple(map(typeof, values))


def test_the_stored_array_says_the_format():
    single, half, brain = (np.zeros((2, 3), dtype) for dtype in (np.float32, np.uint16, np.int16))
    for array, name in ((single, "float32"), (half, "float16"), (brain, "bfloat16")):
        assert named(measure, types_of(array, single[0])) == f"kernels for {name}"
        assert named(append, types_of(5, (array, array, single))) == f"kernels for {name}"
        assert named(convert, types_of(half, array)) == f"kernels for {name}"


def test_kernels_of_no_format_are_of_the_one_at_work():
    single = np.zeros(3, np.float32)
    assert named(shared, types_of(5, single)) == "kernels"
    named(measure, types_of(np.zeros((2, 3), np.uint16), single))
    assert named(shared, types_of(5, single)) == "kernels for float16"
    assert named(measure, types_of(5, single)) == "kernels for float16"


def test_attention_is_told_apart():
    store = (np.zeros((1, 2, 3), np.int16),) * 2 + (np.zeros((1, 2), np.float32),)
    assert named(cache._append.py_func, types_of(5, store)) == "attention for bfloat16"
