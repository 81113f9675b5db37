"""Threads for the kernels: plain Python threads over functions that release the GIL.

Numba's own parallel regions are not used. Its `workqueue` layer aborts the process when two threads enter a region at
once, its OpenMP layer aborts a child after `fork`, and which layer is installed is not ours to choose. Nor is
`concurrent.futures`: starting one of its threads waits until the thread has begun, which one without memory never does.
"""

import os
import threading
from _thread import LockType, allocate_lock, start_new_thread
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from queue import SimpleQueue
from typing import TypeVar

from halfspace.cpu.runtime.cpus import available
from halfspace.runtime.interrupts import of_a_handler

__all__ = ["Abandoned", "available", "go_on", "run", "spans"]

Task = TypeVar("Task")
Result = TypeVar("Result")


class _Offer:
    """Work that a thread may begin unless it is withdrawn before, and whose end can be waited for.

    Each side writes its own mark before it reads the other's, so that one of the two sees it. No step allocates, so it
    cannot fail where memory is out, and each may be repeated after an exception.
    """

    __slots__ = ("begun", "ended", "work")

    def __init__(self, work: Callable[[], None]) -> None:
        self.work: Callable[[], None] | None = work
        self.begun = False
        self.ended: LockType = allocate_lock()
        self.ended.acquire()

    def accept(self) -> None:
        """Do the work, in a thread of the pool."""
        self.begun = True
        try:
            work = self.work
            if work is not None:
                work()
        finally:
            self.ended.release()

    def settle(self) -> None:
        """Withdraw the work, or wait for its end; to be called again after an exception, until it returns."""
        self.work = None
        if self.begun:
            with self.ended:
                pass


class _Pool:
    """Threads that are started when they are first needed, and then wait for more work.

    No signal is heard while its counts change, and waiting workers take from a queue of C: a signal handler that raises
    loses no thread.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.started = 0
        self._idle: deque[None] = deque()  # one for each thread that waits
        self._offers: SimpleQueue[_Offer] = SimpleQueue()

    def give(self, offer: _Offer) -> None:
        """Let a thread have an offer; where none can be started, nobody takes it."""
        if self._offers.qsize() >= len(self._idle) and self.started < self.most:
            self.started += 1
            try:
                start_new_thread(self._serve, ())
            except (RuntimeError, MemoryError) as error:
                if of_a_handler(error):
                    raise
                self.started -= 1  # no thread can be started
        if self.started:
            self._offers.put(offer)

    def _serve(self) -> None:
        try:
            while True:
                self._idle.append(None)
                offer = self._offers.get()
                self._idle.pop()
                with suppress(BaseException):  # whoever made the offer raises it
                    offer.accept()
                del offer  # and what its work refers to
        finally:
            self.started -= 1


_pool = _Pool(max(1, available() - 1))


def _renew() -> None:
    global _pool
    _pool = _Pool(_pool.most)


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_renew)


_here = threading.local()


class Abandoned(Exception):
    """What ends a task whose result nobody waits for any more."""


def go_on() -> None:
    """Raise `Abandoned` where the call that this thread works for has been given up.

    A task that takes several kernels asks between them, so that an interrupt of the main thread is not held up by the
    others, for which that thread waits.
    """
    if getattr(_here, "given_up", None):
        raise Abandoned


def spans(size: int, parts: int, step: int = 1) -> list[tuple[int, int]]:
    """Cut ``range(size)`` into at most `parts` runs of about equal length, at multiples of `step`."""
    steps = -(-size // step)
    parts = min(parts, steps)
    if parts <= 1:
        return [(0, size)]
    cuts = [min(size, steps * k // parts * step) for k in range(parts + 1)]
    return list(pairwise(cuts))


def _settle(offers: list[_Offer]) -> None:
    """Withdraw all offers or wait for their end, whatever is raised meanwhile; the first of that is raised then."""
    late: BaseException | None = None
    for offer in offers:
        while True:
            try:
                offer.settle()
                break
            except BaseException as error:
                late = late or error
    if late is not None:
        raise late


def run(function: Callable[[Task], Result], tasks: Sequence[Task], threads: int) -> list[Result]:
    """Apply `function` to every task on at most `threads` threads, this one included; results keep the tasks' order.

    A thread takes the next task when it has done one. When this returns or raises, no thread is at work for it any
    more: what they may write is then the caller's alone. Where threads cannot be started, this one does all.
    """
    if len(tasks) == 1 or threads == 1:
        return [function(task) for task in tasks]
    todo = deque(range(len(tasks)))
    results: dict[int, Result] = {}
    failures: list[BaseException] = []
    given_up: list[bool] = []

    def work() -> None:
        before, _here.given_up = getattr(_here, "given_up", None), given_up
        try:
            while True:
                try:
                    at = todo.popleft()
                except IndexError:
                    return
                results[at] = function(tasks[at])
        except BaseException as error:
            failures.append(error)
            given_up.append(True)
            todo.clear()
            raise
        finally:
            _here.given_up = before

    offers = [_Offer(work) for _ in range(min(threads, len(tasks)) - 1)]
    try:
        for offer in offers:
            _pool.give(offer)
        work()
    except BaseException as error:
        given_up.append(True)
        todo.clear()
        if isinstance(error, Abandoned):
            raise failures[0] from None  # why it was
        raise
    finally:
        _settle(offers)
    if len(results) < len(tasks):
        raise failures[0] if failures else MemoryError("no memory to search with several threads: pass threads=1")
    return [results[at] for at in range(len(tasks))]
