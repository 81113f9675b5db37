"""Locks: one writer of an index at a time. Readers of a `HalfspaceIndex` take none: they read one snapshot.

A signal handler may raise between any two bytecodes of Python. A lock is therefore entered by ``with`` itself, whose
acquisition and release are single steps of the interpreter: a method of ours in between could be left with the lock
taken, and every later writer would wait for ever.
"""

import os
import threading
from typing import Any

__all__ = ["Lock"]

_forks = 0
_renewing = threading.RLock()  # a handler inside it may use another index


def _forked() -> None:
    global _forks, _renewing
    _forks += 1
    _renewing = threading.RLock()  # a handler inside it may use another index


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Lock:
    """A lock that a thread may enter again inside itself, free again in a forked child.

    (The thread that held it does not exist in the child. The lock is renewed when it is next used there: a list of all
    locks, for the fork to renew, would need finalisers, and those swallow the exceptions of signal handlers.)
    """

    __slots__ = ("_lock", "_of")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._of = _forks

    @property
    def held(self) -> Any:
        """What ``with lock.held:`` enters."""
        if self._of != _forks:
            with _renewing:
                if self._of != _forks:
                    self._lock = threading.RLock()
                    self._of = _forks
        return self._lock

    @property
    def once(self) -> Any:
        """What ``with lock.once:`` enters; a RuntimeError inside itself.

        A signal handler or a finaliser that writes may run in the middle of another write of the same thread; it can
        neither wait for that one nor go ahead of it.
        """
        lock = self.held
        if lock._is_owned():
            raise RuntimeError(
                "this thread is changing the index already: a signal handler, finaliser or progress function must not"
            )
        return lock
