"""What tests of the GPU share: bringing arrays there and answers back."""

import numpy as np
from helpers.checking import equal

from halfspace import HalfspaceIndex
from halfspace.model.formats import as_bits, as_numbers

EXTREMES_THAT_STAY = [0.0, -0.0, 2.0**-149, -(2.0**-298), 1e300, -1e300, np.inf, -np.inf]
"""Extreme thresholds that are no subnormal float64, which the emulator flushes and no GPU does."""


def put(gpu, array):
    """A copy of an array on the GPU, of any dtype that an index stores."""
    array = np.asarray(array)
    return as_numbers(gpu.xp.asarray(as_bits(array))) if array.dtype.name == "bfloat16" else gpu.xp.asarray(array)


def make(gpu, vectors, *, filter="auto", dtype="float32", ids=None, compact=True, **options):
    """An index of ``vectors`` on the GPU; compacted, so that even few rows lie encoded in a segment."""
    index = HalfspaceIndex(vectors.shape[-1], device="gpu", filter=filter, dtype=dtype, **options)
    index.insert(put(gpu, vectors), ids=None if ids is None else gpu.xp.asarray(ids))
    if compact:
        index.compact()
    return index


def ask(gpu, index, directions, tau, **options):
    """The answer to a question, brought to the host."""
    tau = tau if isinstance(tau, float) else gpu.xp.asarray(tau)
    return index.query(put(gpu, directions), tau, **options)._on_host()


def count(gpu, index, directions, tau, **options):
    """The counts of a batch, on the host."""
    return gpu.xp.asnumpy(index.count(put(gpu, directions), gpu.xp.asarray(tau), **options))


def equal_rows(hits, expected):
    """A batch of answers is that of the oracle, to the bit; the first that is not is named by its number."""
    assert len(hits) == len(expected)
    for which, (ours, theirs) in enumerate(zip(hits, expected, strict=True)):
        if hits.scores is None:
            assert ours.ids.tolist() == theirs[0].tolist(), f"direction {which}"
        else:
            equal(ours, theirs)
    assert hits.totals.tolist() == [len(found) for found, _ in expected]


def same_bits(ours, theirs):
    """Two arrays of the host that agree in dtype, shape and every bit."""
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.tobytes() == theirs.tobytes()
