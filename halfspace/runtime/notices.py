"""Long waits are told of: what is being compiled, in the log, and on a terminal for how long.

Whoever compiles notes what is at work (`compiling`). Whoever waits for it looks there every now and then (`watched`),
and tells. So what is drawn ends with the waiting, be it by an interrupt; no lock is held that a fork could catch, and
no signal handler falls into the user's logging, which would swallow what it raises.
"""

import logging
import os
import sys
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from halfspace.runtime.interrupts import STEP, of_a_handler, undisturbed

__all__ = ["compiling", "shown_by", "tell", "waited", "watched"]

Result = TypeVar("Result")

_LOGGER = logging.getLogger("halfspace")
LONG = 1.0
"""Seconds of compilation in all that nobody is told of."""


class _Work(NamedTuple):
    """What is compiled, a remark on it, and since when."""

    what: str
    remark: str
    begin: float


_now: _Work | None = None
_spent: dict[str, float] = {}
_told: set[str] = set()
_stayed: set[str] = set()
_watching: dict[None, "_Watch"] = {}
"""The one that tells, where several threads wait."""
_show: Callable[[str], object] | None = None
_draws = True


def _in_child() -> None:
    """Leave the terminal to the parent; what it has told of is told."""
    global _now, _show, _draws
    _now, _show, _draws = None, None, False
    _watching.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


@contextmanager
def compiling(what: str, remark: str = "") -> Iterator[None]:
    """Note that something is compiled; what is compiled in the midst of it is a part of it.

    what : in the plural, as in "compiling kernels for float32"; it is told of once in a process
    remark : what else to say, with a blank before it
    """
    global _now
    if _now is not None:
        yield
        return
    _now = _Work(what, remark, time.monotonic())
    begin = _now.begin
    try:
        yield
    finally:
        _now = None
        _spent[what] = _spent.get(what, 0.0) + time.monotonic() - begin


@contextmanager
def shown_by(show: Callable[[str], object]) -> Iterator[None]:
    """Have another display show what is compiled, in the place of a line of its own; "" means that it has ended."""
    global _show
    before, _show = _show, show
    try:
        yield
    finally:
        _show = before


def watched(function: Callable[..., Result], *arguments: Any, meanwhile: Callable[[], object]) -> Result:
    """Call a function `undisturbed`, and tell of what is compiled while the calling thread waits."""
    watch = _Watch()

    def look() -> None:
        meanwhile()
        _harmless(watch.look)

    try:
        return undisturbed(function, *arguments, meanwhile=look)
    finally:
        _harmless(watch.close)


def waited(what: str, remark: str, ended: Callable[[float], bool], meanwhile: Callable[[], object]) -> None:
    """Wait until something has ended that another process compiles, and tell of it; what `meanwhile` raises ends it.

    ended : waits for so many seconds at most, and returns whether it has
    """
    watch = _Watch()
    try:
        with compiling(what, remark):
            while not ended(STEP):
                meanwhile()
                _harmless(watch.look)
    finally:
        _harmless(watch.close)


def tell(text: str, line: bool = True) -> None:
    """Log what goes on beside the program, and say so on the terminal, unless something else is shown there."""
    if not _unwanted():
        _record(text)
        if line and _show is None and not _watching:
            _harmless(lambda: _write(f"halfspace: {text}\n"))


def _harmless(function: Callable[[], None]) -> None:
    """Let nothing come out but what a signal handler raises: stderr may be closed, or its terminal be gone."""
    try:
        function()
    except Exception as error:
        if of_a_handler(error):
            raise


class _Watch:
    """What one waiting thread shows: a line, which stays if it is the first to last long, and else goes at the end."""

    def __init__(self) -> None:
        self._what = self._line = self._time = ""
        self._begin = 0.0
        self._show: Callable[[str], object] | None = None

    def look(self) -> None:
        """Tell of what is compiled, if it is time to."""
        work = _now
        if work is None or _watching.setdefault(None, self) is not self or _unwanted():
            return
        if work.what not in _told:
            if _seconds(work.what) >= LONG:
                _told.add(work.what)
                _record(f"compiling {work.what}{work.remark}")
        elif work.what == self._what:
            self._count()
        else:
            self.close()
            _watching[None] = self
            self._open(work)

    def close(self) -> None:
        """End the line."""
        if self._what and self._show is not None:
            self._show("")
        elif self._what and self._what not in _stayed and time.monotonic() - self._begin >= LONG:
            _stayed.add(self._what)
            self._count()
            _write("\n")
        elif self._what:
            size = len(self._line) + len(self._time)
            _write("\b" * size + " " * size + "\b" * size)
        self._what = self._time = ""
        if _watching.get(None) is self:
            _watching.clear()

    def _open(self, work: _Work) -> None:
        self._what, self._begin, self._show = work.what, work.begin, _show
        if self._show is not None:
            self._show(f"compiling {work.what}")
            return
        self._line = f"halfspace: compiling {work.what}{'' if work.what in _stayed else work.remark} ... "
        _write(self._line)
        self._count()

    def _count(self) -> None:
        """Bring the seconds up to date, in place: a longer line may be wrapped."""
        text = f"{_seconds(self._what):.0f} s"
        if self._show is None and text != self._time:
            _write("\b" * len(self._time) + text)
            self._time = text


def _seconds(what: str) -> float:
    """Return how long something has been compiled, in all."""
    work, spent = _now, _spent.get(what, 0.0)
    return spent if work is None or work.what != what else spent + time.monotonic() - work.begin


def _unwanted() -> bool:
    """Whether the user's logging says no, or there is nobody to tell."""
    refused = _LOGGER.disabled or logging.root.manager.disable >= logging.INFO or _LOGGER.level > logging.INFO
    return refused or _LOGGER.getEffectiveLevel() > logging.WARNING or sys.is_finalizing()


def _record(text: str) -> None:
    """Log in a thread of its own, where no signal is heard; where none can be started there is no record."""

    def log() -> None:
        with suppress(Exception):  # of the user's handlers
            _LOGGER.info("%s", text)

    try:
        start_new_thread(log, ())
    except (RuntimeError, MemoryError) as error:
        if of_a_handler(error):
            raise


def _write(text: str) -> None:
    """Write on the terminal, if stderr is one that nobody has taken over.

    By the system's own call: a signal handler that prints must not meet a buffer that is being written.
    """
    stream = sys.__stderr__
    if _draws and stream is not None and sys.stderr is stream and stream.isatty():
        os.write(stream.fileno(), text.encode())
