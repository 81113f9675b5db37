"""Which devices there are, and which stages each has.

A backend is a module of plain functions: ``store`` and ``measure`` bring vectors into the stored format, ``encode``
derives cells, ``prepare`` readies directions, ``search`` runs the query stages, ``collect``, ``best`` and
``sort_by_score`` shape the answer.
"""

from types import ModuleType

__all__ = ["load"]


def load(device: str) -> ModuleType:
    """Import the backend of a device."""
    if not isinstance(device, str):
        raise TypeError(f"device must be a string such as 'cpu', got {device!r}")
    if device != "cpu":
        raise ValueError(f"device must be 'cpu', got {device!r}")
    from halfspace import cpu

    return cpu
