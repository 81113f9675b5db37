"""Which devices there are, and which stages each has.

A backend is a module of plain functions: ``store`` and ``measure`` bring vectors into the stored format, ``encode``,
``enclose_groups`` and ``enclose`` derive cells and balls, ``partition`` finds rows that lie close together,
``tabulate`` makes a segment known to the kernels, ``search`` runs the query stages, ``collect``, ``best`` and
``sort_by_score`` shape the answer.
"""

from types import ModuleType

from halfspace import checks

__all__ = ["load"]


def load(device: str) -> ModuleType:
    """Import the backend of a device."""
    checks.one_of(device, "device", ("cpu",))
    from halfspace import cpu

    return cpu
