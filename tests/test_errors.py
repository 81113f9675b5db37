"""Bad input: the kind of error, what it says, and that nothing has changed after it."""

import re

import ml_dtypes
import numpy as np
import pytest
from helpers import reference
from helpers.checking import DTYPES, build

from halfspace import HalfspaceIndex

NAN, INF = np.nan, np.inf
LARGEST_ID = 50


def bad(values, row, column, value, dtype=np.float64):
    array = np.array(values, dtype)
    array[row, column] = value
    return array


ONES = np.ones((4, 3))


@pytest.fixture
def index():
    """Rows in the tail and in a segment, a hole where one was deleted."""
    index = build(np.arange(15).reshape(5, 3).astype(np.float32), ids=[3, 10, 20, 30, LARGEST_ID])
    index.insert([[1, 2, 3], [4, 5, 6]], ids=[7, 8])
    index.delete([20])
    return index


def state(index):
    """Everything that a caller can see."""
    ids = index.ids.tolist()
    hits = index.query([[1, 1, 1], [0, -1, 0]], [10, -5])
    rows = reference.bits(index.vectors(sorted(ids))).tolist()
    return len(index), sorted(ids), rows, hits.ids.tolist(), hits.offsets.tolist(), reference.bits(hits.scores).tolist()


def refused(index, call, error, *said):
    """``call(index)`` raises exactly ``error``, its text has every one of ``said``, and the index is what it was."""
    before, last = state(index), next_id(index)
    with pytest.raises((ValueError, TypeError, KeyError)) as caught:
        call(index)
    assert type(caught.value) in (error if isinstance(error, tuple) else (error,))
    text = str(caught.value)
    for part in said:
        assert re.search(part, text), f"{part!r} is not said in {text!r}"
    assert state(index) == before
    assert next_id(index) == last + 1


def next_id(index):
    """The id that the index assigns to a vector, which does not stay."""
    given = index.insert([0, 0, 0])
    index.delete(given)
    return given.item()


SHAPES = [
    (np.float64(1), r"\(\)"),
    (np.ones((2, 2, 3)), "3"),
    (np.ones((2, 4)), "4"),
    (np.ones(4), "4"),
    (np.ones((2, 0)), "0"),
]


@pytest.mark.parametrize(("array", "said"), SHAPES)
@pytest.mark.parametrize("method", ["insert", "query", "count", "explain"])
def test_shapes(index, method, array, said):
    call = (lambda i: i.insert(array)) if method == "insert" else (lambda i: getattr(i, method)(array, 0.0))
    refused(index, call, ValueError, said)


def test_ragged_lists(index):
    refused(index, lambda i: i.insert([[1, 2, 3], [1, 2]]), ValueError)
    refused(index, lambda i: i.query([[1, 2, 3], [1, 2]], 0), ValueError)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (ONES.astype(complex), "complex128"),
        (ONES.astype(object), "object"),
        (ONES.astype(str), "<U|str"),
        (ONES.astype(np.longdouble), "float128|longdouble"),
        ([["a", "b", "c"]], "<U|str"),
        (ONES.astype("datetime64[s]"), "datetime64"),
    ],
)
@pytest.mark.parametrize("method", ["insert", "query", "count"])
def test_dtypes(index, method, array, said):
    call = (lambda i: i.insert(array)) if method == "insert" else (lambda i: getattr(i, method)(array, 0.0))
    refused(index, call, TypeError, said)


@pytest.mark.parametrize("source", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("value", "said"), [(NAN, "nan"), (INF, "inf"), (-INF, "inf")])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 1), (3, 2)])
@pytest.mark.parametrize("method", ["insert", "query", "count"])
def test_nan_and_infinity_are_placed(index, method, row, column, value, said, source):
    array = bad(ONES, row, column, value, source)
    call = (lambda i: i.insert(array)) if method == "insert" else (lambda i: getattr(i, method)(array, 0.0))
    refused(index, call, ValueError, rf"(?i){said}", rf"\b{row}\b")


@pytest.mark.parametrize("source", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_in_every_format(dtype, value, source):
    index = build(np.arange(9).reshape(3, 3), dtype=dtype, ids=[0, 1, LARGEST_ID])
    refused(index, lambda i: i.insert(bad(ONES, 2, 1, value, source)), ValueError, "(?i)nan|inf", r"\b2\b")


def test_nan_far_down_a_large_insert(index):
    array = bad(np.ones((5000, 3)), 4321, 0, NAN)
    refused(index, lambda i: i.insert(array), ValueError, r"\b4321\b")
    refused(index, lambda i: i.query(array, 1e9), ValueError, r"\b4321\b")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float32", 3.5e38),
        ("float32", 2.0**128 - 2.0**103),
        ("float32", -1e300),
        ("float16", 65520.0),
        ("float16", -1e6),
        ("bfloat16", 3.4e38),
        ("bfloat16", 1e200),
    ],
)
def test_a_value_that_becomes_infinite_is_refused(dtype, value):
    index = build(np.arange(9).reshape(3, 3), dtype=dtype, ids=[0, 1, LARGEST_ID])
    refused(index, lambda i: i.insert(bad(ONES, 2, 1, value)), ValueError, r"\b2\b", dtype)


@pytest.mark.parametrize(("dtype", "value"), [("float32", 2.0**128 - 2.0**103 - 2.0**76), ("float16", 65519.0)])
def test_a_value_that_rounds_to_the_largest_is_taken(dtype, value):
    index = HalfspaceIndex(3, dtype=dtype)
    index.insert(bad(ONES, 2, 1, value))
    assert index.vectors([2])[0, 1] == np.finfo(dtype).max


def test_a_direction_that_overflows_float32_is_refused(index):
    refused(index, lambda i: i.query(bad(ONES, 3, 0, 1e39), 0.0), ValueError, r"\b3\b")
    refused(index, lambda i: i.count(bad(ONES, 3, 0, -1e39), 0.0), ValueError, r"\b3\b")


@pytest.mark.parametrize(
    ("tau", "error", "said"),
    [
        (NAN, ValueError, "(?i)nan"),
        ([0, 1, NAN, 2], ValueError, r"\b2\b"),
        ([0, 1, 2], ValueError, "3"),
        ([0], ValueError, "1"),
        (np.zeros((4, 1)), ValueError, r"\(4, 1\)"),
        (np.zeros((1, 4)), ValueError, r"\(1, 4\)"),
        ([], ValueError, "0"),
        (None, TypeError, "None|object"),
        ("high", TypeError, "high|str|<U"),
        (1j, TypeError, "complex|1j"),
        ([1j] * 4, TypeError, "complex|1j"),
        (np.longdouble(1), TypeError, "float128|longdouble"),
        (np.zeros(4, object), TypeError, "object"),
    ],
)
@pytest.mark.parametrize("method", ["query", "count"])
def test_taus(index, method, tau, error, said):
    refused(index, lambda i: getattr(i, method)(ONES, tau), error, said)


def test_tau_of_one_direction_is_one_number(index):
    refused(index, lambda i: i.query(ONES[0], [0, 1]), ValueError, "2")


@pytest.mark.parametrize(
    ("ids", "error", "said"),
    [
        ([1, 2, 4], ValueError, "3"),
        ([[1, 2, 4, 5]], ValueError, r"\(1, 4\)"),
        (5, ValueError, r"\(\)|0"),
        ([1.0, 2.0, 4.0, 5.0], TypeError, "float64"),
        ([True, False, True, False], TypeError, "bool"),
        (["a", "b", "c", "d"], TypeError, "<U|str"),
        ([1, 2, 1, 4], ValueError, r"\b1\b"),
        ([1, 2, LARGEST_ID, 4], ValueError, rf"\b{LARGEST_ID}\b"),
        ([1, 2, 4, 7], ValueError, r"\b7\b"),
        (np.array([1, 2, 4, 2**63], np.uint64), ValueError, str(2**63)),
        ([1, 2, 4, 2**63], (ValueError, TypeError), f"{2**63}|float64"),
        ([1, 2, 4, 2**64], (ValueError, TypeError), f"{2**64}|object"),
    ],
)
def test_ids_of_an_insert(index, ids, error, said):
    refused(index, lambda i: i.insert(ONES, ids=ids), error, said)


def test_assigned_ids_do_not_overflow():
    index = build(np.ones((1, 3)), ids=[2**63 - 2])
    before = state(index)
    with pytest.raises(ValueError, match=r"int64|9223372036854775"):
        index.insert(ONES)
    assert state(index) == before
    assert index.insert(ONES[0]).tolist() == [2**63 - 1]
    with pytest.raises(ValueError, match=r"int64|9223372036854775"):
        index.insert(ONES[0])
    assert len(index) == 2


@pytest.mark.parametrize("unknown", [[99], [3, 99], [20], [3, -1], [-(2**63)]])
@pytest.mark.parametrize(
    "call",
    [
        lambda index, ids: index.delete(ids),
        lambda index, ids: index.vectors(ids),
        lambda index, ids: index.query(ONES, 0.0, within=ids),
        lambda index, ids: index.count(ONES, 0.0, within=ids),
    ],
    ids=["delete", "vectors", "query", "count"],
)
def test_unknown_ids(index, call, unknown):
    refused(index, lambda i: call(i, unknown), KeyError, rf"{unknown[-1]}\b")


def test_one_id_twice_in_a_delete(index):
    refused(index, lambda i: i.delete([3, 10, 3]), ValueError, r"\b3\b")


@pytest.mark.parametrize("ids", [[1.5], ["a"], [None], [[3]]])
@pytest.mark.parametrize("method", ["delete", "vectors"])
def test_ids_of_a_delete(index, method, ids):
    refused(index, lambda i: getattr(i, method)(ids), (TypeError, ValueError))


def mask(length, *true):
    array = np.zeros(length, bool)
    array[list(true)] = True
    return array


@pytest.mark.parametrize(
    ("within", "error", "said"),
    [
        (mask(LARGEST_ID + 1, 3, 20), KeyError, r"\b20\b"),
        (mask(LARGEST_ID + 10, 3, LARGEST_ID + 5), KeyError, rf"\b{LARGEST_ID + 5}\b"),
        (mask(LARGEST_ID, 3), ValueError, rf"\b{LARGEST_ID}\b"),
        (mask(1), ValueError, rf"\b(3|{LARGEST_ID}|{LARGEST_ID + 1})\b"),
        (np.zeros((1, LARGEST_ID + 1), bool), ValueError, r"\(1, 51\)"),
        ([[3]], ValueError, r"\(1, 1\)"),
        ([3.0], TypeError, "float64"),
        (["3"], TypeError, "<U|str"),
    ],
)
@pytest.mark.parametrize("method", ["query", "count"])
def test_within(index, method, within, error, said):
    refused(index, lambda i: getattr(i, method)(ONES, 0.0, within=within), error, said)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"limit": -1}, ValueError, "-1"),
        ({"limit": 1.5}, TypeError, "1.5|float"),
        ({"limit": "2"}, TypeError, "2|str"),
        ({"limit": True}, TypeError, "True|bool"),
        ({"threads": 0}, ValueError, "0"),
        ({"threads": -3}, ValueError, "-3"),
        ({"threads": 1.5}, TypeError, "1.5|float"),
        ({"out": object()}, ValueError, "out.*GPU"),
    ],
)
def test_options_of_a_query(index, options, error, said):
    refused(index, lambda i: i.query(ONES, 0.0, **options), error, said)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"dim": 0}, ValueError, "0"),
        ({"dim": -4}, ValueError, "-4"),
        ({"dim": 2.0}, TypeError, "2.0|float"),
        ({"dim": "3"}, TypeError, "3|str"),
        ({"dim": None}, TypeError, "None"),
        ({"filter": "balsl"}, ValueError, "balsl"),
        ({"filter": None}, (ValueError, TypeError), "None"),
        ({"dtype": "float64"}, ValueError, "float64"),
        ({"dtype": "int8"}, ValueError, "int8"),
        ({"dtype": "nonsense"}, (ValueError, TypeError), "nonsense"),
        ({"device": "tpu"}, ValueError, "tpu"),
        ({"device": "cpu:0:1"}, ValueError, "cpu:0:1"),
        ({"device": "cpu:0"}, ValueError, "'cpu', 'gpu' or 'gpu:<number>', got 'cpu:0'"),
        ({"device": "gpu:"}, ValueError, "gpu:"),
        ({"device": "gpu:-1"}, ValueError, "gpu:-1"),
        ({"device": "gpu:one"}, ValueError, "gpu:one"),
        ({"device": "GPU"}, ValueError, "GPU"),
        ({"device": None}, TypeError, "None"),
        ({"device": 0}, (ValueError, TypeError), "0|int"),
        ({"threads": 0}, ValueError, "0"),
        ({"threads": -1}, ValueError, "-1"),
        ({"threads": 2.5}, TypeError, "2.5|float"),
        ({"dim": 2**26 + 1}, ValueError, str(2**26 + 1)),
        ({"dim": 65_537, "filter": "cells"}, ValueError, "'cells'.*65537"),
        ({"dim": 65_537, "filter": "groups"}, ValueError, "'groups'.*65537"),
        ({"dim": 65_537, "filter": "balls"}, ValueError, "'balls'.*65537"),
        ({"dim": 65_537, "filter": "sweep"}, ValueError, "'sweep'.*65537"),
        ({"filter": "scan", "subspaces": 2}, ValueError, "subspaces.*'scan'"),
        ({"filter": "cells", "subspaces": 2}, ValueError, "subspaces.*'cells'"),
        ({"filter": "groups", "group_size": 2}, ValueError, "group_size.*'groups'"),
        ({"group_size": 2}, ValueError, "group_size.*'auto'"),
        ({"filter": "balls", "subspaces": 0}, ValueError, "subspaces.*0"),
        ({"filter": "balls", "subspaces": -2}, ValueError, "subspaces.*-2"),
        ({"filter": "balls", "subspaces": 4}, ValueError, "subspaces.*3.*4"),
        ({"filter": "sweep", "subspaces": 1.5}, TypeError, r"subspaces.*1\.5"),
        ({"filter": "sweep", "subspaces": "2"}, TypeError, "subspaces.*'2'"),
        ({"filter": "sweep", "subspaces": True}, TypeError, "subspaces.*True"),
        ({"filter": "balls", "group_size": 0}, ValueError, "group_size.*0"),
        ({"filter": "balls", "group_size": -1}, ValueError, "group_size.*-1"),
        ({"filter": "balls", "group_size": 2**63}, ValueError, f"group_size.*{2**63}"),
        ({"filter": "sweep", "group_size": 4.0}, TypeError, r"group_size.*4\.0"),
        ({"filter": "sweep", "group_size": [4]}, TypeError, r"group_size.*\[4\]"),
    ],
)
def test_arguments_of_the_index(arguments, error, said):
    with pytest.raises((ValueError, TypeError, KeyError), match=said) as caught:
        HalfspaceIndex(**({"dim": 3} | arguments))
    assert type(caught.value) in (error if isinstance(error, tuple) else (error,))


@pytest.mark.parametrize("count", [np.int64(2), np.uint8(2), np.array(2)])
def test_counts_may_be_numbers_of_numpy(count, tmp_path, rng):
    vectors = rng.standard_normal((50, 3))
    index = HalfspaceIndex(3, filter="balls", subspaces=count, group_size=count, threads=count)
    index.insert(vectors)
    index.compact()
    index.save(tmp_path / "index")
    assert HalfspaceIndex.load(tmp_path / "index").count(np.ones(3), 0.0) == index.count(np.ones(3), 0.0)


@pytest.mark.parametrize("key", ["3", 3.5, None, (3,), 99, -1, 20, 2**70])
def test_in_answers_no_to_what_is_not_an_id(index, key):
    assert key not in index
    assert 3 in index
    assert np.int32(3) in index


def test_checks_come_before_changes_even_when_the_last_row_is_bad(index, rng):
    vectors = rng.standard_normal((3000, 3))
    vectors[-1, -1] = NAN
    refused(index, lambda i: i.insert(vectors, ids=np.arange(1000, 4000)), ValueError, r"\b2999\b")
    ids = np.arange(1000, 4000)
    ids[-1] = 3
    refused(index, lambda i: i.insert(np.ones((3000, 3)), ids=ids), ValueError, r"\b3\b")


def test_no_rows_need_no_id():
    """Also where no id is left."""
    index = HalfspaceIndex(2)
    index.insert([[1, 2]], [2**63 - 1])
    for ids in (None, np.empty(0, np.int64)):
        assert index.insert(np.empty((0, 2)), ids).tolist() == []
    with pytest.raises(ValueError, match="no id is left"):
        index.insert([[3, 4]])
