"""What a machine leaves to a measurement: processors that others take make times long and ratios wrong."""

from __future__ import annotations

import hashlib
import time
from threading import Barrier, Thread

__all__ = ["BUSY", "processors", "warning"]

BUSY = 0.85
"""The share of the wanted processors below which a measurement is not to be trusted."""
_SECONDS = 0.1
_BLOCK = bytes(1 << 20)
"""What threads digest: as long as that takes, they do not hold Python's lock."""


def processors(threads: int, seconds: float = _SECONDS) -> float:
    """Measure how many processors so many threads get, by the time that they ran over the time that passed.

    Parameters
    ----------
    threads : int
        At least 1.
    seconds : float
        How long to look.

    Returns
    -------
    float
        About `threads` where nobody else is at work.
    """
    shares: list[float] = []
    begin = Barrier(threads)

    def work() -> None:
        begin.wait()
        start, own = time.perf_counter(), time.thread_time()
        while time.perf_counter() - start < seconds:
            hashlib.sha256(_BLOCK).digest()
        shares.append((time.thread_time() - own) / (time.perf_counter() - start))

    workers = [Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(shares)


def warning(wanted: int, least: float, waited: float) -> str | None:
    """Say what is wrong with a measurement, None if nothing is.

    Parameters
    ----------
    wanted : int
        Threads of everyone.
    least : float
        The fewest processors that these got, of all times that `processors` was asked.
    waited : float
        The largest share of its time in which a call had no processor at all.
    """
    found = []
    if least < BUSY * wanted:
        found.append(f"{wanted} threads got no more than {least:.1f} processors")
    if waited > 1 - BUSY:
        found.append(f"calls waited for a processor in up to {100 * waited:.0f} % of their time")
    if not found:
        return None
    what = ", and ".join(found)
    return f"Other programs were at work: {what}. These times say nothing: measure again."
