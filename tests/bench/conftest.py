"""Data of several tests of the comparison."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def integers():
    """Small integers, whose scores are exact in float32, with many ties."""
    rng = np.random.default_rng(7)
    return rng.integers(-3, 4, (600, 16)).astype(np.float32), rng.integers(-3, 4, (5, 16)).astype(np.float32)
