"""Work that no interrupt may break off, and that no fork may catch half way.

Signal handlers run in the main thread, between two of its bytecodes, and may raise there. That is harmless almost
everywhere. It is not while a module is imported or a kernel is compiled: what was half registered stays so, and every
later call fails. Such work runs in a thread of its own, for which the main thread waits: an interrupt ends the waiting
at once, and the work comes to its end. So do other threads, which must not keep waiting for work that was given up.
"""

import atexit
import os
import signal
import threading
import time
import traceback
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any, TypeVar

__all__ = ["held_over_forks", "of_a_handler", "undisturbed"]

Result = TypeVar("Result")

_at_work = threading.RLock()
"""Held by the thread that imports or compiles. A fork waits for it: a child would wait for that thread for ever."""
held_over_forks: list[Any] = [_at_work]
"""Locks that a fork takes, in this order, and gives back in both processes: other threads are not forked."""
STEP = 0.05
"""Seconds between two looks at what happens meanwhile."""
PATIENCE = 2.0
"""Seconds after which a thread that has not begun never will: it was started, and then there was no memory for it."""


def _before_fork() -> None:
    for lock in held_over_forks:
        while True:
            try:
                lock.acquire()
                break
            except BaseException:  # of a handler: `os.fork` would print it and fork all the same, without the lock
                traceback.print_exc()


def _after_fork() -> None:
    for lock in reversed(held_over_forks):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


@atexit.register
def _finish() -> None:
    """Wait for what is at work: the interpreter must not be taken down under it."""
    with _at_work:
        pass


def of_a_handler(error: BaseException) -> bool:
    """Whether an exception, just caught, comes out of a signal handler.

    It is then no failure of the work that it fell into, and must come out as it is.
    """
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _code(handler: Any) -> CodeType | None:
    """Return the code of a function, a method, a partial or an object that is called."""
    while isinstance(handler, partial):
        handler = handler.func
    for function in (handler, getattr(handler, "__func__", None), getattr(type(handler), "__call__", None)):  # noqa: B004
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            return code
    return None


def _nothing() -> None:
    pass


def undisturbed(function: Callable[..., Result], *arguments: Any, meanwhile: Callable[[], object] = _nothing) -> Result:
    """Call a function such that no signal handler runs inside it; forks wait until it has returned.

    `meanwhile` is called every now and then; what it raises ends the waiting, as an interrupt does. Where no thread can
    be started, the function runs in the calling one.
    """
    if _at_work._is_owned():  # type: ignore[attr-defined]
        return function(*arguments)
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

    try:
        start_new_thread(work, ())
    except (RuntimeError, MemoryError) as error:
        if of_a_handler(error):
            raise
        work()
    until = time.monotonic() + PATIENCE
    while not ended.acquire(timeout=STEP):
        meanwhile()
        if time.monotonic() > until:
            work()  # unless it has begun
    if len(outcome) != 2:
        raise MemoryError("no memory to load what a call needs")
    if outcome[1] is not None:
        try:
            raise outcome[1]
        finally:
            outcome.clear()  # which refers to this frame by now
    return outcome[0]  # type: ignore[no-any-return]
