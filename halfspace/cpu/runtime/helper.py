"""Another process that compiles kernels into the cache on disk, and ends with this one at the latest.

It is a plain interpreter that imports this package alone, never the user's main module. It ends at once when its
standard input does, which no signal and no crash of this process can keep from it. Interrupts of the terminal do not
reach it. At exit this process waits for it, so that short programs get their kernels, too; unless an exception or an
interrupt ends the program.
"""

import atexit
import os
import subprocess
import sys
import time
from _thread import start_new_thread
from collections.abc import Callable
from contextlib import suppress
from threading import Event

from halfspace.runtime.interrupts import of_a_handler
from halfspace.runtime.notices import tell, waited
from halfspace.runtime.patience import VARIABLE, WAIT

__all__ = ["Helper", "available"]

LONGEST = 300.0
"""Seconds after which nobody waits for it any more: something keeps it from getting on, and it is ended."""
PATIENCE = 2.0
"""Seconds that it has to end when it is told to; it may be writing a file."""

_CODE = "import sys; sys.path[:] = {path!r}; from halfspace.cpu.ahead import main; main(*{asked!r})"


def available() -> bool:
    """Whether there is an interpreter to start: a frozen program, or one that embeds Python, has none."""
    interpreter = os.path.basename(sys.executable or "").lower()
    return interpreter.startswith("python") and not getattr(sys, "frozen", False)


class Helper:
    """Compiles what reads vectors in a stored format for a metric, and then the search kernel of a filter."""

    def __init__(self, name: str, dtype: str, metric: int) -> None:
        self.name, self.reads = name, (dtype, metric)
        self.reading, self.ended = Event(), Event()
        code = _CODE.format(path=[path for path in sys.path if isinstance(path, str)], asked=(name, dtype, metric))
        options = ["-P", *["-E"] * bool(sys.flags.ignore_environment), *["-O"] * sys.flags.optimize]
        self._begin = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *options, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {VARIABLE: WAIT},
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        start_new_thread(self._await, ())
        _helpers.append(self)
        tell(f"another process compiles the kernels of {name} (once; kept on disk); until then a scan answers")

    @classmethod
    def start(cls, name: str, dtype: str, metric: int) -> "Helper | None":
        """Start one, or return None where that cannot be."""
        try:
            return cls(name, dtype, metric)
        except (OSError, RuntimeError, MemoryError) as error:  # no process, or no thread to wait for it
            if of_a_handler(error):
                raise
            return None

    def _await(self) -> None:
        with suppress(OSError, ValueError):
            self._process.stdout.readline()  # type: ignore[union-attr]
        self.reading.set()
        self._process.wait()
        self.ended.set()
        if self._process.returncode == 0:
            tell(f"the kernels of {self.name} are compiled, in {time.monotonic() - self._begin:.0f} s", line=False)

    def wait(self, meanwhile: Callable[[], object], event: Event) -> None:
        """Wait for one of its events, and tell of it."""

        def has_ended(seconds: float) -> bool:
            if time.monotonic() - self._begin > LONGEST:
                self._process.kill()
            return event.wait(seconds)

        waited(f"the kernels of {self.name}", " in another process (once; kept on disk)", has_ended, meanwhile)

    def end(self) -> None:
        """End it now."""
        self._close()
        if not self.ended.wait(PATIENCE):
            self._process.kill()
            self.ended.wait(PATIENCE)

    def disown(self) -> None:
        """Leave it to the parent of this process."""
        self._process.returncode = 0
        self._close()

    def _close(self) -> None:
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]


_helpers: list[Helper] = []


def _in_child() -> None:
    for helper in _helpers:
        helper.disown()
    _helpers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


@atexit.register
def _finish() -> None:
    """Wait for the helpers, or end them where the program does not end in peace."""
    try:
        with suppress(KeyboardInterrupt):
            for helper in _helpers:
                if not hasattr(sys, "last_type"):
                    helper.wait(lambda: None, helper.ended)
    finally:
        for helper in _helpers:
            helper.end()
