"""Progress of work that has stages: each has its share of the whole, and counts what it has done of its own."""

from collections.abc import Callable
from threading import Lock

__all__ = ["SILENT", "Advance", "Meter", "Progress", "ignore"]

Progress = Callable[[int, int], object]
"""Told how much is done, and of how much, one call at a time but from any thread."""

Advance = Callable[[float], object]
"""Told how many more components have been worked on, from any thread; what it raises ends the work."""


def ignore(more: float) -> None:
    """Take progress that nobody asked for."""


class _Listener:
    """The one who asked; after an exception of its own it is not called again."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._most, self._lock = progress, total, 0, Lock()
        self._gone = False

    def tell(self, share: float) -> None:
        with self._lock:
            if self._gone:
                return
            self._most = max(self._most, min(int(share * self._total), self._total))
            self._gone = True  # unless the call returns
            self._progress(self._most, self._total)
            self._gone = False


class Meter:
    """A share of some work, from `low` to `high` of the whole.

    `total` is what the whole counts as. Calls of ``progress(done, total)`` never go back, and `total` stays the same.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._listener = None if progress is None else _Listener(progress, total)
        self._low, self._high = 0.0, 1.0
        self._tell(0.0)

    def split(self, *costs: float) -> list["Meter"]:
        """Cut this share into shares of stages that follow one another, by what they cost."""
        whole, parts, low = sum(costs), [], self._low
        for cost in costs:
            part = Meter(None, 0)
            part._listener, part._low = self._listener, low
            low += (self._high - self._low) * cost / whole if whole > 0 else 0.0
            part._high = low
            parts.append(part)
        return parts

    def over(self, components: int) -> Advance:
        """Return what a stage calls that takes this whole share for so many components."""
        if self._listener is None or components <= 0:
            return ignore
        done, lock = 0.0, Lock()

        def advance(more: float) -> None:
            nonlocal done
            with lock:
                done += more
                share = done / components
            self._tell(self._low + (self._high - self._low) * share)

        return advance

    def finish(self) -> None:
        """Say that this share is done."""
        self._tell(self._high)

    def _tell(self, share: float) -> None:
        if self._listener is not None:
            self._listener.tell(share)


SILENT = Meter(None, 0)
"""The share of those who did not ask."""
