"""The emulator, also where there is a GPU."""

import importlib
import sys
from pathlib import Path

import pytest

EMULATOR = Path(__file__).parents[1] / "emulator"


@pytest.fixture
def cp(monkeypatch):
    """The emulator's ``cupy``, whatever else is installed; afterwards all is as it was."""
    theirs = [name for name in sys.modules if name.split(".")[0] == "cupy"]
    if not all(str(EMULATOR) in str(sys.modules[name].__file__) for name in theirs):
        for name in theirs:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(EMULATOR)
    return importlib.import_module("cupy")
