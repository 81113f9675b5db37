"""Hypothesis profiles, and fixtures that all tests share."""

import gc
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HALFSPACE_COMPILE", "wait")  # what answers meanwhile has tests of its own

settings.register_profile(
    "ci",
    max_examples=50,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("thorough", settings.get_profile("ci"), max_examples=10_000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def rng(request):
    """A generator whose seed is the name of the test."""
    return np.random.default_rng(list(request.node.name.encode()))


@pytest.fixture
def no_gc_callbacks():
    """Take away what Hypothesis has the collector call: a handler that raises in there is ignored by Python."""
    callbacks, gc.callbacks[:] = gc.callbacks[:], []
    yield
    gc.callbacks[:] = callbacks


@pytest.fixture(scope="session")
def gpu():
    """``halfspace.gpu``: on a GPU where there is one, else in the emulator, which needs a C++ compiler."""
    if not _gpu_is_there():
        if shutil.which("g++") is None:
            pytest.skip("neither a GPU nor g++ for the emulator")
        for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
            del sys.modules[name]
        sys.path.insert(0, str(Path(__file__).parent / "emulator"))
    import halfspace.gpu

    return halfspace.gpu


def _gpu_is_there():
    try:
        import cupy  # noqa: TID251

        return cupy.cuda.runtime.getDeviceCount() > 0
    except Exception:  # CuPy raises its own errors where there is no driver
        return False
