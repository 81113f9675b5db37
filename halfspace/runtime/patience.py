"""Who waits for compilation: every call does, or where it can be, another process compiles meanwhile."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["VARIABLE", "WAIT", "forked", "wait_always", "waiting", "waits"]

VARIABLE, WAIT, BACKGROUND = "HALFSPACE_COMPILE", "wait", "background"
"""The environment variable that says so, and its values."""

_here = threading.local()
_always = False
_forked = False


def _in_child() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def forked() -> bool:
    """Whether this process is the child of a fork, or one of several that `multiprocessing` has started."""
    process = sys.modules.get("multiprocessing.process")
    return _forked or (process is not None and process.parent_process() is not None)


def wait_always() -> None:
    """Have all threads wait from now on: in a process that measures."""
    global _always
    _always = True


@contextmanager
def waiting() -> Iterator[None]:
    """Have this thread wait for what it needs: what it asks for is to be compiled."""
    before, _here.waits = getattr(_here, "waits", False), True
    try:
        yield
    finally:
        _here.waits = before


def waits() -> bool:
    """Whether this thread waits for compilation, whatever it asks for; the environment may say so."""
    wanted = os.environ.get(VARIABLE, BACKGROUND)
    if wanted not in (WAIT, BACKGROUND):
        raise ValueError(f"the environment variable {VARIABLE} must be {WAIT!r} or {BACKGROUND!r}, got {wanted!r}")
    return wanted == WAIT or _always or getattr(_here, "waits", False)
