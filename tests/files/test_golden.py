"""Files that earlier releases wrote: read, verified, asked, and written again byte for byte.

Every filter and format, tails, dead rows, ids of the user's, rows in order of norms, principal axes and a trial: from
before sections had names. Cosines and distances: the first that there were.
"""

from pathlib import Path

import numpy as np
import pytest
from helpers import metrics
from helpers.checking import equal

from halfspace import HalfspaceIndex
from halfspace.model import filters

FOLDER = Path(__file__).parents[1] / "data" / "golden"
FILES = sorted(FOLDER.glob("*.index"))


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_file_is_read_and_written_again(path, mmap, rng, tmp_path):
    index = HalfspaceIndex.load(path, mmap=mmap)
    index.verify()
    index.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    directions = rng.standard_normal((3, index.dim)).astype(np.float32)
    stored = index.vectors(index.ids)
    tau = {"ip": 1.0, "cosine": 0.2, "l2": 12.0}[index.metric]
    expected = metrics.query(index.metric, stored, directions, tau, ids=index.ids) if len(index) else []
    for ours, theirs in zip(index.query(directions, tau), expected, strict=False):
        equal(ours, theirs)


def test_every_filter_and_format_has_one():
    kept = {"scan", "cells", "groups", "balls", "sweep"}
    assert kept <= set(filters.FILTERS)
    assert {path.stem for path in FILES} >= {
        f"{name}-{dtype}" for name in kept for dtype in ("float32", "float16", "bfloat16")
    } | {"auto-trial", "cells-axes", "cells-by-norm", "empty"}
    assert {path.stem for path in FILES} >= {
        f"{metric}-{name}" for metric in ("cosine", "l2") for name in ("scan", "cells", "axes", "groups")
    }


def test_they_hold_what_they_are_named_for():
    def sealed(name):
        return HalfspaceIndex.load(FOLDER / f"{name}.index")._snapshot.sealed[0]

    for name in ("cells", "cosine", "l2"):
        assert sealed(f"{name}-axes").data.axes is not None
    for metric in ("cosine", "l2"):
        assert sealed(f"{metric}-cells").data.lengths is not None
        assert sealed(f"{metric}-groups").data.groups.lengths is not None
        assert sealed(f"{metric}-groups").dead is not None
    assert sealed("cells-by-norm").by_id is not None
    assert set(sealed("auto-trial").trial) == {"scan", "cells", "groups", "balls", "sweep"}
    assert sealed("groups-float16").dead is not None
    assert HalfspaceIndex.load(FOLDER / "sweep-bfloat16.index").stats()["tail"] == 6
