"""Work that no interrupt may break off, and that no fork may catch half way.

Signal handlers run in the main thread, between two of its bytecodes, and may raise there. That is harmless almost
everywhere. It is not while a module is imported or a kernel is compiled: what was half registered stays so, and every
later call fails. Such work runs in a thread of its own, for which the main thread waits: an interrupt ends the waiting
at once, and the work comes to its end.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["undisturbed"]

Result = TypeVar("Result")

_at_work = threading.RLock()
"""Held by the thread that imports or compiles. A fork waits for it: a child would wait for that thread for ever."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_at_work.acquire, after_in_parent=_at_work.release, after_in_child=_at_work.release)


def undisturbed(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function such that no signal handler runs inside it; forks wait until it has returned.

    Where no thread can be started, it runs in the calling one.
    """
    outcome: Future[Result] = Future()

    def work() -> None:
        try:
            with _at_work:
                result = function(*arguments)
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    if threading.get_ident() == threading.main_thread().ident:
        try:
            threading.Thread(target=work, name="halfspace-load").start()
        except RuntimeError:  # no memory for one
            work()
    else:
        work()
    return outcome.result()
