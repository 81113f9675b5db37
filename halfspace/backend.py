"""Which devices there are, and which stages each has.

A backend is a module of plain functions. They take and return arrays of its device, of the module `xp` (NumPy or
CuPy), but tables of addresses, which are NumPy's:

- ``available`` counts threads; ``on`` makes the device the current one; ``finish`` waits until a state of an index is
  there, ``wait`` until all is that was begun; ``asarray``, ``as_tau`` and ``plain`` say what may be given to it.
- ``store`` and ``measure`` bring vectors into the stored format, ``encode``, ``enclose_groups`` and ``enclose`` derive
  cells and balls, ``partition`` finds rows that lie close together.
- ``tabulate`` makes a segment known to the kernels; ``room`` says how many directions are
  prepared at once, and `MOST_HITS` how many hits are held at once; ``search`` runs the query stages, named by `STAGES`.
  What it finds has a ``state`` (0, or `NOT_FINITE` or `OVERFULL`), the number of ``hits``, their
  ``counts`` (m,) and the counters of its ``work``; `COUNT`, `IDS` and `SCORES` say what is wanted.
- ``collect``, ``best``, ``sort_by_score`` and ``joined`` shape the answer; ``fill`` does it all without waiting. Of the
  questions that were answered, one in `REMEMBERED` is remembered.
"""

import re
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from halfspace.runtime.interrupts import undisturbed

__all__ = ["load"]

_loaded: dict[str, ModuleType] = {}


def load(device: Any) -> ModuleType:
    """Import the backend of a device: ``"cpu"``, ``"gpu"`` or ``"gpu:<number>"``."""
    expected = f"device must be 'cpu', 'gpu' or 'gpu:<number>', got {device!r}"
    if not isinstance(device, str):
        raise TypeError(expected)
    if re.fullmatch(r"cpu|gpu(:[0-9]+)?", device) is None:
        raise ValueError(expected)
    name = f"halfspace.{device[:3]}"
    module = _loaded.get(name)
    if module is None or sys.modules.get(name) is not module:
        module = _loaded[name] = undisturbed(import_module, name)
    return module
