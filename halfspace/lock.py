"""The lock of an index's writers. Readers take none: they read one snapshot."""

import os
import threading
import weakref
from types import TracebackType

__all__ = ["WriterLock"]

_locks: "weakref.WeakSet[WriterLock]" = weakref.WeakSet()


class WriterLock:
    """A lock for one writer at a time, free again in a forked child, that refuses a writer inside itself.

    A signal handler or a finaliser that writes may run in the middle of another write of the same thread; it can
    neither wait for that one nor go ahead of it.
    """

    def __init__(self) -> None:
        self._renew()
        _locks.add(self)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def __enter__(self) -> None:
        if self._owner == threading.get_ident():
            raise RuntimeError("this thread is changing the index already: a signal handler or finaliser must not")
        self._lock.acquire()
        self._owner = threading.get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._owner = None
        self._lock.release()


def _renew_all() -> None:
    for lock in list(_locks):
        lock._renew()


if hasattr(os, "register_at_fork"):  # the thread that held a lock does not exist in the child
    os.register_at_fork(after_in_child=_renew_all)
