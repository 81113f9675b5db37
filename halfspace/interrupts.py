"""Work that no interrupt may break off, and that no fork may catch half way.

Signal handlers run in the main thread, between two of its bytecodes, and may raise there. That is harmless almost
everywhere. It is not while a module is imported or a kernel is compiled: what was half registered stays so, and every
later call fails. Such work runs in a thread of its own, for which the main thread waits: an interrupt ends the waiting
at once, and the work comes to its end.
"""

import atexit
import os
import threading
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["undisturbed"]

Result = TypeVar("Result")

_at_work = threading.RLock()
"""Held by the thread that imports or compiles. A fork waits for it: a child would wait for that thread for ever."""
PATIENCE = 2.0
"""Seconds after which a thread that has not begun never will: it was started, and then there was no memory for it."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_at_work.acquire, after_in_parent=_at_work.release, after_in_child=_at_work.release)


@atexit.register
def _finish() -> None:
    """Wait for what is at work: the interpreter must not be taken down under it."""
    with _at_work:
        pass


def undisturbed(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function such that no signal handler runs inside it; forks wait until it has returned.

    Where no thread can be started, it runs in the calling one.
    """
    begun, ended = allocate_lock(), allocate_lock()
    ended.acquire()
    outcome: list[Any] = []

    def work() -> None:
        if begun.acquire(False):
            try:
                with _at_work:
                    outcome.extend((function(*arguments), None))
            except BaseException as error:
                outcome.extend((None, error))
            finally:
                ended.release()

    if threading.get_ident() == threading.main_thread().ident:
        try:
            start_new_thread(work, ())
        except (RuntimeError, MemoryError):
            work()
        if not ended.acquire(timeout=PATIENCE):
            work()
            ended.acquire()
    else:
        work()
    if len(outcome) != 2:
        raise MemoryError("no memory to load what a call needs")
    if outcome[1] is not None:
        try:
            raise outcome[1]
        finally:
            outcome.clear()  # which refers to this frame by now
    return outcome[0]  # type: ignore[no-any-return]
