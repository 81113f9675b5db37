"""How many CPUs this process may use: its affinity, and the quota of the container that it runs in."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from math import ceil
from pathlib import Path, PurePosixPath

__all__ = ["available"]

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


@cache
def available() -> int:
    """Count the CPUs that this process may use, at least 1.

    A container's quota is that of its control group (``cpu.max``, or ``cpu.cfs_quota_us`` in version 1) and of all
    groups around it, rounded up: a process with the time of one and a half CPUs keeps two of them busy.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([count, *map(ceil, _quotas(_OWN, _GROUPS))]))


def _quotas(own: Path, groups: Path) -> Iterator[float]:
    """Yield the limits, in CPUs, of all control groups that hold this process."""
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = groups / controllers if controllers else groups
            inside = PurePosixPath(path.lstrip("/"))
            for folder in {root / inside, *(root / parent for parent in inside.parents), root, groups / "cpu"}:
                yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    """Yield the limit of one control group, if it has one."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        yield from [int(quota) / int(period)] if quota != "max" and int(period) > 0 else []
    with suppress(OSError, ValueError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        yield from [int(quota) / int(period)] if int(quota) > 0 and int(period) > 0 else []
