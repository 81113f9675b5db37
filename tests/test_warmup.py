"""Compiling ahead: `warmup` compiles all that a first question of any kind needs."""

import json
import os
import subprocess
import sys

import pytest
from helpers.checking import EXTENDED, FILTERS
from helpers.command import fail, succeed

import halfspace
from halfspace import HalfspaceIndex, warmup
from halfspace.model.formats import FORMATS

CODE = """
import numpy as np
from numba.core import event
import halfspace
from halfspace.attention import KVIndex
from halfspace.attention.policy import ESTIMATORS

def ask():
    rng = np.random.default_rng(1)
    for filter in {filters}:
        index = halfspace.HalfspaceIndex(12, filter=filter, metric={metric!r})
        index.insert(rng.standard_normal((700, 12), dtype=np.float32))
        index.compact()
        directions = rng.standard_normal((40, 12), dtype=np.float32)
        index.query(directions[0], 2.0, sort=True)
        index.query(directions, 2.0, limit=3)
        index.count(directions, 2.0)
    index = KVIndex(2, 24, num_query_heads=6, dtype="float32")
    keys, queries = (rng.standard_normal((1, heads, 300, 24), dtype=np.float32) for heads in (2, 6))
    index.append(keys, keys)
    index.append(keys[:, :, :1], keys[:, :, :1])
    for threshold in [dict(tau=1.0), dict(eps=0.1), *(dict(keep=0.1, estimator=name) for name in ESTIMATORS)]:
        index.attend(queries[:, :, 0], **threshold)
    index.query(queries[:, :, 0], 1.0)

halfspace.warmup(metric={metric!r}, head_dim=8)
with event.install_recorder("numba:compile") as recorder:
    ask()
print([e.data["dispatcher"].py_func.__name__ for _, e in recorder.buffer if e.is_start])
"""


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_nothing_is_left_to_compile(metric):
    filters = FILTERS if metric == "ip" else [name for name in FILTERS if name not in ("balls", "sweep")]
    code = CODE.format(filters=filters, metric=metric)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "[]"


def test_it_tells_how_far_it_is():
    """Each filter is a step, and cells with principal axes are one."""
    told = []
    warmup(progress=lambda done, total: told.append((done, total)))
    assert told == [(done, len(EXTENDED)) for done in range(len(EXTENDED) + 1)]


def test_it_refuses_what_an_index_refuses():
    for options in ({"dtype": "int8"}, {"device": "abacus"}, {"metric": "manhattan"}):
        with pytest.raises((TypeError, ValueError)) as refused:
            warmup(**options)
        with pytest.raises(type(refused.value)):
            HalfspaceIndex(4, **options)


def test_the_command_compiles_ahead():
    summary = json.loads(succeed("warmup", "--dtype", "float32", "--json"))
    assert 0 < summary.pop("seconds") < 600
    assert summary == {"dtype": ["float32"], "metric": "ip", "device": "cpu", "attention": None}


@pytest.mark.parametrize(
    ("options", "dtypes", "more"),
    [
        ([], ["float32"], {}),
        (["--dtype", "float16", "--dtype", "bfloat16", "--dtype", "float16"], ["float16", "bfloat16"], {}),
        (["--all", "--attention", 64], list(FORMATS), {"head_dim": 64}),
        (["--device", "gpu:1"], ["float32"], {"device": "gpu:1"}),
        (["--metric", "l2"], ["float32"], {"metric": "l2"}),
    ],
)
def test_the_command_passes_on_what_it_is_asked(options, dtypes, more, monkeypatch):
    asked = []
    monkeypatch.setattr(halfspace, "warmup", lambda dtype, *, progress, **own: asked.append((dtype, own)))
    text = succeed("warmup", *options)
    expected = {"metric": "ip", "device": "cpu", "head_dim": None} | more
    assert asked == [(dtype, expected) for dtype in dtypes]
    assert ", ".join(dtypes) in text


def test_the_command_refuses_what_it_cannot_do(monkeypatch):
    assert "int8" in fail(2, "warmup", "--dtype", "int8")
    assert "abacus" in fail(2, "warmup", "--device", "abacus")
    assert "--all" in fail(2, "warmup", "--all", "--dtype", "float32")
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "halfspace.gpu", raising=False)
    assert "needs CuPy" in fail(2, "warmup", "--device", "gpu")
