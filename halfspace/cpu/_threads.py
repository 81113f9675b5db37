"""Threads for the kernels: plain Python threads over functions that release the GIL.

Numba's own parallel regions are not used. Its `workqueue` layer aborts the process when two threads enter a region at
once, its OpenMP layer aborts a child after `fork`, and which layer is installed is not ours to choose.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from itertools import pairwise
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

    def work() -> None:
        while True:
            try:
                at = todo.popleft()
            except IndexError:
                return
            try:
                results[at] = function(tasks[at])
            except BaseException:
                todo.clear()
                raise

    futures: list[Future[None]] = []
    try:
        with suppress(RuntimeError):  # the interpreter is about to exit, and starts no more threads
            for _ in range(min(threads, len(tasks)) - 1):
                futures.append(_pool().submit(work))
        work()
    finally:
        wait([future for future in futures if not future.cancel()])
    for future in futures:
        if not future.cancelled():
            future.result()
    return [results[at] for at in range(len(tasks))]
