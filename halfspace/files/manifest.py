"""The manifest of a folder of index files: which of them count, and which of their ids are dead.

It is replaced in one step. Files are never changed and never called like another one before them, so whoever has read
a manifest finds its files until they are removed, and then reads the newer manifest.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfspace.files import container
from halfspace.files.atomic import locked, replacing
from halfspace.runtime.interrupts import of_a_handler

__all__ = ["Manifest", "Shard", "changing", "read", "read_dead", "write", "write_dead"]

NAME, LOCK = "shards.json", ".lock"
KIND, DEAD = "halfspace shards", "halfspace dead ids"


@dataclass(frozen=True)
class Shard:
    """One index file."""

    file: str
    vectors: int  # that are not dead
    dead: str | None = None  # the file of ids that are dead


@dataclass(frozen=True)
class Manifest:
    """What a folder holds."""

    about: dict[str, Any]  # the arguments of every index
    shard_rows: int
    next_id: int = 0
    next_file: int = 0
    shards: tuple[Shard, ...] = ()
    building: dict[str, Any] | None = field(default=None)  # where a build stands that is not finished

    @property
    def files(self) -> set[str]:
        """Names of the files that count."""
        return {name for shard in self.shards for name in (shard.file, shard.dead) if name is not None}

    def name(self, kind: str) -> str:
        """Return the name of the next file."""
        return f"{kind}-{self.next_file:06d}.{'index' if kind == 'shard' else 'ids'}"


def read(folder: Path) -> Manifest:
    """Read the manifest of a folder; ValueError says what is wrong with it."""
    path = folder / NAME
    try:
        document = json.loads(path.read_text())
        if document.pop("kind") != KIND or document.pop("version") != 1:
            raise ValueError("it is of another kind or version")
        document["shards"] = tuple(Shard(**shard) for shard in document["shards"])
        return Manifest(**document)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if of_a_handler(error):
            raise
        raise ValueError(f"{path}: is no manifest of shards ({error!s:.200})") from error


def write(folder: Path, manifest: Manifest) -> None:
    """Make a manifest that of the folder, in one step, and remove files that no manifest names any more."""
    document = {"kind": KIND, "version": 1} | asdict(manifest)
    with replacing(folder / NAME) as file:
        file.write(json.dumps(document, indent=1).encode())
    for path in folder.iterdir():
        ours = path.name.startswith(("shard-", "dead-")) and path.suffix in (".index", ".ids")
        if ours and path.name not in manifest.files:
            path.unlink(missing_ok=True)


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Be the only one who changes a folder, among all processes; others wait."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        locked(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def read_dead(folder: Path, shard: Shard) -> npt.NDArray[np.int64]:
    """Read the ids (k,) of a shard that are dead."""
    if shard.dead is None:
        return np.empty(0, np.int64)
    stored = container.read(folder / shard.dead)
    if stored.metadata != {"kind": DEAD}:
        raise ValueError(f"{stored.name}: holds no dead ids")
    return stored.arrays["ids"]


def write_dead(folder: Path, name: str, ids: npt.NDArray[np.int64]) -> None:
    """Write the ids (k,) of a shard that are dead."""
    container.write(folder / name, {"kind": DEAD}, {"ids": ids})
