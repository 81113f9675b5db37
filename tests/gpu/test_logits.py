"""Capped logits and learnt sinks of a `KVIndex` on a GPU, beside those on the CPU."""

import numpy as np
import pytest
from helpers.reference import DTYPES

from halfspace.attention import KVIndex
from halfspace.model.formats import as_bits, as_numbers

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("wide", [False, True], ids=["as stored", "float32"])
def test_the_output_is_that_of_the_cpu(dtype, wide, rng, gpu):
    options = {"num_query_heads": 6, "dtype": dtype, "soft_cap": 2.5, "sink_logits": np.linspace(-3.0, 5.0, 6)}
    here, there = KVIndex(2, 32, threads=1, **options), KVIndex(2, 32, device="gpu", **options)
    keys, values = rng.standard_normal((2, 1, 2, 100, 32)).astype(DTYPES[dtype])
    q = rng.standard_normal((1, 6, 32)).astype(np.float32 if wide else DTYPES[dtype])
    here.append(keys, values)
    there.append(*(as_numbers(gpu.xp.asarray(as_bits(part))) for part in (keys, values)))
    asked = as_numbers(gpu.xp.asarray(as_bits(q)))
    narrow = {"float16": 2.0**-9, "bfloat16": 2.0**-6}.get(q.dtype.name, 1e-5)
    for how in ({"tau": -np.inf}, {"tau": 3.0}, {"tau": 1e9}):
        mine = here.attend(q, **how, details=True)
        theirs = there.attend(asked, **how, details=True)
        output = as_numbers(gpu.xp.asnumpy(as_bits(theirs.output))).astype(np.float32)
        np.testing.assert_allclose(output, mine.output.astype(np.float32), atol=narrow)
        np.testing.assert_allclose(gpu.xp.asnumpy(theirs.log_sum_exp), mine.log_sum_exp, rtol=1e-5, atol=1e-5)
