"""Threads for the kernels: plain Python threads over functions that release the GIL.

Numba's own parallel regions are not used. Its `workqueue` layer aborts the process when two threads enter a region at
once, its OpenMP layer aborts a child after `fork`, and which layer is installed is not ours to choose.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from time import sleep
from typing import TypeVar

__all__ = ["available", "run", "spans"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def available() -> int:
    """Count the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=max(1, available() - 1), thread_name_prefix="halfspace")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def spans(size: int, parts: int, step: int = 1) -> list[tuple[int, int]]:
    """Cut ``range(size)`` into at most `parts` runs of about equal length, at multiples of `step`."""
    steps = -(-size // step)
    parts = min(parts, steps)
    if parts <= 1:
        return [(0, size)]
    cuts = [min(size, steps * k // parts * step) for k in range(parts + 1)]
    return list(pairwise(cuts))


def run(function: Callable[[Task], Result], tasks: Sequence[Task], threads: int) -> list[Result]:
    """Apply `function` to every task on at most `threads` threads, this one included; results keep the tasks' order.

    A thread takes the next task when it has done one. When this returns or raises, no thread is at work for it any
    more. `function` must nevertheless own all memory that it reads: a second exception may come while the first one
    waits for the others.
    """
    if len(tasks) == 1 or threads == 1:
        return [function(task) for task in tasks]
    todo = deque(range(len(tasks)))
    results: dict[int, Result] = {}
    failures: list[BaseException] = []

    def work() -> None:
        while True:
            try:
                at = todo.popleft()
            except IndexError:
                return
            try:
                results[at] = function(tasks[at])
            except BaseException as error:
                failures.append(error)
                todo.clear()
                raise

    futures: list[Future[None]] = []
    stray = False
    try:
        try:
            for _ in range(min(threads, len(tasks)) - 1):
                futures.append(_pool().submit(work))
        except RuntimeError:  # no thread could be started; `work` is queued nevertheless, for any that there are
            stray = True
        work()
    finally:
        wait([future for future in futures if not future.cancel()])
    while stray and not failures and len(results) < len(tasks):
        sleep(0.001)
    if failures:
        raise failures[0]
    return [results[at] for at in range(len(tasks))]
