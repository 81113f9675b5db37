"""A file of the container's format that grows array by array, over several lives of a process.

It grows beside its target, as ``NAME.building``, after room for the header. What is finished is told by a journal,
``NAME.building.json``, which is replaced in one step once the arrays are on the disk: whoever goes on cuts off what
follows. At the end comes the header, and the file takes its place.
"""

import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfspace.files.atomic import locked, regular_mode, replacing, sync_folder
from halfspace.files.container import Section, head, layout, store

__all__ = ["Growing"]

ROOM = 1 << 20
"""Bytes that are left for the header at first: those of some 400 segments."""


class Growing:
    """A file on its way.

    Attributes
    ----------
    told : dict, or None
        What `keep` was told last, by this process or by one before it; None where nothing was finished.
    """

    def __init__(self, path: str | os.PathLike[str], plan: dict[str, Any]) -> None:
        """Begin, or go on where a process with the same plan was stopped.

        Raises
        ------
        ValueError
            If a file was begun by another plan, or another process is at it.
        """
        self._target = Path(os.path.realpath(path))
        self._path = self._target.with_name(f"{self._target.name}.building")
        self._journal = self._target.with_name(f"{self._target.name}.building.json")
        self._plan = plan
        if self._target.exists():
            regular_mode(self._target)
        self._sections: list[Section] = []
        self._file = self._opened()
        try:
            self.told = self._found()
        except BaseException:
            self._file.close()
            raise

    def _opened(self) -> io.BufferedRandom:
        """Open the file, and lock it: that which has the name now, and not one that was put in its place meanwhile."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            if locked(descriptor) is False:
                os.close(descriptor)
                raise ValueError(f"{self._path}: another process is at it: wait for it, or end it")
            if self._path.exists() and os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                return os.fdopen(descriptor, "r+b")
            os.close(descriptor)

    def _found(self) -> dict[str, Any] | None:
        """Read the journal, and cut off what it does not tell of."""
        journal: dict[str, Any] = {}
        if os.fstat(self._file.fileno()).st_size and self._journal.exists():
            journal = json.loads(self._journal.read_text())
        if not journal:
            self._file.truncate(0)
            return None
        for name, value in self._plan.items():
            if journal["plan"].get(name) != value:
                raise ValueError(
                    f"{self._path}: was begun with {name} {journal['plan'].get(name)!r:.200}, not {value!r:.200}; "
                    "remove it to begin anew"
                )
        self._sections = layout(dict(zip(Section._fields, entry, strict=True)) for entry in journal["sections"])
        self._file.truncate(ROOM + self._nbytes)
        told: dict[str, Any] = journal["told"]
        return told

    @property
    def _nbytes(self) -> int:
        return self._sections[-1].end if self._sections else 0

    def add(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write arrays behind those that are there."""
        for name, array in arrays.items():
            entry = Section(name, array.dtype.name, list(array.shape), 0, 0, "00000000")._asdict()
            section = layout([entry])[0]._replace(offset=self._nbytes)
            self._file.seek(ROOM + section.offset)
            self._sections.append(store(section, array, self._file.write))

    def keep(self, told: dict[str, Any]) -> None:
        """Finish what was added: it is there, and `told`, whatever becomes of this process."""
        self._file.flush()
        os.fsync(self._file.fileno())
        text = json.dumps({"plan": self._plan, "sections": self._sections, "told": told})
        with replacing(self._journal) as file:
            file.write(text.encode())
        self.told = told

    def array(self, name: str) -> NDArray[Any]:
        """Map an array that is there, in memory order."""
        self._file.flush()
        section = next(section for section in self._sections if section.name == name)
        dtype = np.dtype(section.dtype).newbyteorder("<")
        if not section.nbytes:
            return np.empty(section.shape, dtype)
        return np.memmap(self._path, dtype, "r", ROOM + section.offset, tuple(section.shape))

    def finish(self, metadata: dict[str, Any], places: Mapping[int, int]) -> None:
        """Write the header, and put the file in its place; the number that a name begins with becomes its place."""
        sections = []
        for section in self._sections:
            number, rest = section.name.split("/", 1)
            sections.append(section._replace(name=f"{places[int(number)]}/{rest}"))
        begin = head(metadata, sections, ROOM + self._nbytes, ROOM)
        if len(begin) > ROOM:  # a longer header: everything moves
            begin = head(metadata, sections, len(begin) + self._nbytes)
            with replacing(self._target) as file:
                file.write(begin)
                self._file.seek(ROOM)
                shutil.copyfileobj(self._file, file, 1 << 22)
            self._path.unlink()
        else:
            self._file.seek(0)
            self._file.write(begin)
            self._file.flush()
            if self._target.exists():
                self._path.chmod(regular_mode(self._target))
            os.fsync(self._file.fileno())
            os.replace(self._path, self._target)
            sync_folder(self._target.parent)
        self._journal.unlink(missing_ok=True)

    def __enter__(self) -> "Growing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.told is None:  # nothing of it is finished
            self._path.unlink(missing_ok=True)
        self._file.close()
