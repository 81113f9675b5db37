"""Answers of engines, in a form that compares."""

import numpy as np


def rows(found):
    """Return the ids of each direction, in order, of offsets and ids."""
    offsets, ids = found
    assert offsets.dtype == ids.dtype == np.int64
    assert offsets[0] == 0
    assert offsets[-1] == len(ids)
    return [sorted(part.tolist()) for part in np.split(ids, offsets[1:-1])]
