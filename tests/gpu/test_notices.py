"""Kernels that take long to compile are told of, as on the CPU."""

import importlib
import time
from types import SimpleNamespace

import pytest

from halfspace.runtime import notices
from halfspace.runtime.notices import shown_by

pytestmark = pytest.mark.gpu


def test_a_kernel_that_takes_long_is_told_of_when_it_is_first_called(gpu, monkeypatch):
    launch = importlib.import_module("halfspace.gpu.runtime.launch")
    monkeypatch.setattr(notices, "LONG", 0.0)
    monkeypatch.setattr(notices, "_told", set())
    devices = []

    class Module:
        def get_function(self, name):
            devices.append(launch.cp.cuda.runtime.getDevice())
            time.sleep(0.3)
            return SimpleNamespace(shared_size_bytes=0, kernel=lambda grid, block, packed, shared_mem: None)

    monkeypatch.setattr(launch, "_module", lambda *_: Module())
    shown = []
    with shown_by(shown.append):
        for file, format in (("mean.cu", 0), ("mean.cu", 1), ("attention/attend.cu", 2)):
            kernel = launch.Kernel(file, "nothing", ("number", int))
            for _ in range(2):
                kernel((1,), 32, 5, format=format)
    assert shown[::2] == [
        "compiling GPU kernels",
        "compiling GPU kernels for float16",
        "compiling GPU attention for bfloat16",
    ]
    assert devices == [launch.cp.cuda.runtime.getDevice()] * 3
