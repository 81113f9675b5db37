"""Compiling into the cache on disk, in a process that does nothing else."""

import os
import sys
from _thread import start_new_thread

import numpy as np

from halfspace.cpu.filters import code_of
from halfspace.cpu.pipeline import compile_ahead
from halfspace.cpu.runtime.kernel_cache import writing
from halfspace.cpu.stored import readers_of
from halfspace.model.filters import FILTERS
from halfspace.model.metrics import Metric

__all__ = ["main"]


def main(name: str, dtype: str, metric: int) -> None:
    """Compile what reads vectors, say so by a line, compile the search kernel of this name, and end the process.

    It ends earlier if standard input does.
    """
    start_new_thread(_watch, ())
    readers_of(np.dtype(dtype), Metric(metric))
    os.write(1, b"\n")
    compile_ahead(next(code for code in map(code_of, FILTERS) if code.name == name))
    os._exit(0)  # whatever the environment would have an interpreter do at its end


def _watch() -> None:
    """End the process with the one that has started it, but not amid a file."""
    sys.stdin.buffer.read()
    with writing:
        os._exit(1)
