"""Files are written as a whole or not at all, and only regular files are read, written or replaced.

A new file grows beside its target under the name ``.halfspace-*.tmp`` and is renamed over it at the end.
A killed process leaves such a file behind; the next writer in that folder removes it.
That it belongs to no living writer shows in a lock, which a writer holds until its file has the final name.
The system releases the lock when the last process that shares it ends, forked children included.
"""

import contextlib
import errno
import io
import math
import os
import re
import secrets
import stat
import zlib
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where no other process can remove or rename a file that is open
    fcntl = None  # type: ignore[assignment]

from halfspace.runtime.interrupts import of_a_handler, undisturbed

__all__ = ["locked", "regular_mode", "replacing", "sync_folder"]

_TEMPORARY = re.compile(r"\.halfspace-([0-9a-f]{8})-[0-9a-f]{16}\.tmp")
_ABANDONED = 3600.0
"""Seconds without a write after which an unlocked file counts as abandoned, where locks might be invisible."""


def regular_mode(path: str | os.PathLike[str]) -> int:
    """Return the permissions of a regular file.

    Raises
    ------
    OSError
        If there is no such file, or it is a folder, a pipe or a device. It is not opened, which could block.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "Not a regular file", str(path))
    return stat.S_IMODE(mode)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[io.BufferedWriter]:
    """Open a new file that takes the place of `path`, in one step, when the block ends without an error.

    A crash, a full disk or a kill at any moment leaves the old file or the new one, whole. The new one is synchronised
    before it is renamed; those who have the old one open or mapped keep it.

    Parameters
    ----------
    path : str or path-like
        The file; behind a symbolic link, the file it points to. A replaced file keeps its permissions.

    Yields
    ------
    BufferedWriter
        The new file, which may be sought in. The block leaves it open.

    Raises
    ------
    OSError
        If the folder is missing, `path` is no regular file, or the disk fails or is full; the old file is untouched.
        Only if the last step fails, synchronising the folder, is the new file in place: a power cut might undo it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/greeting") as file:
    ...         _ = file.write(b"hello")
    ...     os.listdir(folder)
    ['greeting']
    """
    target = Path(undisturbed(os.path.realpath, path))  # it takes what a handler raises for a file that is not there
    temporary = None
    try:
        try:
            permissions = regular_mode(target)
        except FileNotFoundError:
            permissions = None
        file = None
        while file is None:
            # Named before it is made: wherever an interrupt falls, it is known what to remove.
            own = temporary = target.with_name(f".halfspace-{_kernel()}-{secrets.token_hex(8)}.tmp")
            # At no moment can anyone read what the old file did not let them read.
            file = _create(own, 0o666 if permissions is None else 0o600)
        with file:
            _remove_abandoned(own)
            yield file
            if permissions is not None:
                own.chmod(permissions)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows renames no open file; elsewhere the lock is held until the name has changed
            os.replace(own, target)
    except BaseException as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not of_a_handler(error):
            error.filename = str(target)
        raise
    sync_folder(target.parent)


def _create(path: Path, mode: int) -> io.BufferedWriter | None:
    """Create a file, and lock it where the file system has locks.

    Returns None where another writer took it for abandoned before the lock was there.
    """
    file = open(path, "xb", opener=partial(os.open, mode=mode))  # noqa: SIM115 (the caller closes it)
    if locked(file.fileno()) is not False and undisturbed(path.exists):
        return file
    file.close()
    return None


def locked(descriptor: int, *, wait: bool = False) -> bool | None:
    """Lock a file, without waiting unless told: False if another holds the lock, None where there are no locks.

    These locks belong to the opening of a file, not to a process as those of ``fcntl.lockf`` do.
    Threads therefore see each other's, and closing another descriptor of the file releases nothing.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if of_a_handler(error):
            raise
        return None
    return True


@cache
def _kernel() -> str:
    """Name the running kernel, whose locks all its processes see; zeros where it tells no name."""
    try:
        return f"{zlib.crc32(Path('/proc/sys/kernel/random/boot_id').read_bytes()):08x}"
    except OSError:
        return f"{0:08x}"


@contextlib.contextmanager
def _courteous() -> Iterator[None]:
    """Let what the system refuses go: to clean is a courtesy, and never a reason not to write."""
    try:
        yield
    except OSError as error:
        if of_a_handler(error):
            raise


def _remove_abandoned(own: Path) -> None:
    """Remove what killed writers left in the folder of a writer's `own` file.

    A file made under this kernel is abandoned if it can be locked. On a network file system, locks of another machine
    may be invisible; a file of another kernel must have been left alone for an hour as well, by that system's clock.
    """
    with _courteous():
        now = own.stat().st_mtime
        for name in os.listdir(own.parent):
            match = _TEMPORARY.fullmatch(name)
            if match and name != own.name:
                ours = match[1] == _kernel() != f"{0:08x}"
                with _courteous():
                    _remove_if_abandoned(own.with_name(name), math.inf if ours else now - _ABANDONED)


def _remove_if_abandoned(path: Path, latest: float) -> None:
    """Remove a file that no writer holds and that was last written at the time `latest` or before."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_mtime > latest:
        return
    if fcntl is None:
        path.unlink()  # refused while it is open
        return
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        if locked(descriptor) and os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            path.unlink()
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the renaming survive a power cut, where a folder can be opened (not on Windows) and synchronised."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise
