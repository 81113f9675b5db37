"""One file for metadata and named arrays: replaced in one step, checked to the last bit, mapped without a copy.

File objects and bytes hold the same. The file is little-endian and has three parts, each a multiple of 64 bytes long:

- preamble, 64 bytes: signature (16), format version (u32), CRC-32 of the header (u32), length of the header (u64),
  length of the file (u64), zeros (20), CRC-32 of these 60 bytes (u32). Its layout is the same in every format version.
- header: JSON in ASCII, filled up with spaces: ``{"metadata": {...}, "sections": [...]}``. A section has ``name``,
  ``dtype``, ``shape``, ``offset`` (from the end of the header), ``nbytes`` and ``crc32`` (of the padding as well).
- sections: the arrays in C order, one after the other, each filled up with zeros.

Every byte is covered by the signature or by a checksum. Nothing in the file is code: there is no pickle.
"""

import json
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from halfspace.files.atomic import replacing
from halfspace.files.streams import Reader, Source, Target, Writer, opened
from halfspace.model.arrays import host, is_array
from halfspace.runtime.interrupts import of_a_handler
from halfspace.runtime.progress import Advance, ignore

__all__ = ["FORMAT_VERSION", "Section", "StoredFile", "head", "layout", "read", "store", "write"]

FORMAT_VERSION = 1

# As in PNG, each byte gives one kind of mangling away: the first a 7-bit or UTF-8 conversion, CR LF and LF a change of
# line endings, 1A an end of file on DOS, the zeros their loss. What such conversions leave is matched by _MANGLED.
_SIGNATURE = b"\x89halfspace\r\n\x1a\n\0\0"
_MANGLED = re.compile(rb"(\x89|\x09|\xc2\x89|\xef\xbf\xbd|\?)halfspace")
_PREAMBLE = struct.Struct("<16sIIQQ20x")
_PREAMBLE_NBYTES = _PREAMBLE.size + 4
_ALIGNMENT = 64
_CHUNK = 2**18  # elements per write: at most 2 MiB
_PIECE = 2**24  # bytes per read or checksum, between which a signal is heard
_DTYPES = "bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, float32, float64"


class Section(NamedTuple):
    """One line of the section table."""

    name: str
    dtype: str
    shape: list[int]
    offset: int
    nbytes: int
    crc32: str

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + self.nbytes + -self.nbytes % _ALIGNMENT


@dataclass(frozen=True, eq=False)
class StoredFile:
    """What `read` found in a file.

    Attributes
    ----------
    name : str
        The path that was given to `read`, or what stands for a file object or bytes.
    metadata : dict
        The metadata given to `write`.
    arrays : dict of str to ndarray
        The arrays given to `write`, in that order: same shape and dtype, C order, native byte order, read-only, aligned
        to 64 bytes. Each keeps its own memory (or the mapping of the file) alive, so they may outlive this object.
    """

    name: str
    metadata: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    _contents: list[tuple[Section, NDArray[np.uint8]]] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all sections."""
        return sum(data.size for _, data in self._contents)

    def verify(self, advance: Advance = ignore) -> None:
        """Recompute the checksum of every section from the bytes that were loaded or are mapped.

        `advance` is called with how many bytes were read.

        Raises
        ------
        ValueError
            If a checksum differs; the text names the file and the section.
        """
        for section, data in self._contents:
            crc = 0
            for first in range(0, data.size, _PIECE):
                part = data[first : first + _PIECE].data
                crc = zlib.crc32(part, crc)
                advance(part.nbytes)
            if f"{crc:08x}" != section.crc32:
                raise ValueError(f"{self.name}: damaged section {section.name!r} (checksum mismatch)")


def write(target: Target, metadata: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write metadata and arrays to a file, or replace that file, in one step.

    A crash, a full disk or a kill at any moment leaves the old file or the new one, whole: the new one is written in
    the same folder, synchronised, and renamed over the old one, which lives on for those who have it open or mapped.
    Only a killed process leaves its unfinished file behind, under the name ``.halfspace-*.tmp``.
    The next write in that folder removes it.

    A file object gets the same bytes, one after the other from where it stands, all of them or an error. It need not
    be one that can be sought in, so checksums are made first: arrays are read twice.

    Parameters
    ----------
    target : str, path-like, or binary file object
        The file; behind a symbolic link, the file it points to. A replaced file keeps its permissions.
    metadata : dict
        Anything that JSON returns unchanged: string keys, lists, finite numbers.
    arrays : mapping of str to ndarray
        Bool, integers and floats of at most 64 bits, in any shape, memory order and byte order. They are written piece
        by piece, not copied as a whole, and must not change meanwhile. Arrays of a GPU come to the host one by one.

    Raises
    ------
    TypeError, ValueError
        If a dtype or the metadata cannot be stored, or the target is no file. Nothing was written.
    OSError
        If the folder is missing, `path` is no regular file, or the disk fails or is full; the old file is untouched.
        Only if the last step fails, synchronising the folder, is the new file in place: a power cut might undo it.
    """
    sources = {name: array if is_array(array) else np.asarray(array) for name, array in arrays.items()}
    sections = layout(
        {"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "crc32": "00000000"}
        for name, array in sources.items()
    )
    # The copy is what is stored: no thread can change it, and with it the length of the header, while the file grows.
    copy = json.loads(json.dumps(metadata, allow_nan=False))
    if not isinstance(copy, dict) or copy != metadata:
        raise ValueError("JSON would change the metadata: it must be a dict of string keys, lists and plain values")

    def stored(write: Callable[[Any], object]) -> list[Section]:
        return [store(section, host(sources[section.name]), write) for section in sections]

    if isinstance(target, (str, os.PathLike)):
        with replacing(target) as file:
            file.seek(len(head(copy, sections, 0)))
            sections = stored(file.write)
            file_nbytes = file.tell()
            file.seek(0)
            file.write(head(copy, sections, file_nbytes))
        return
    writer = Writer(target)
    sections = stored(_nowhere)
    start = len(head(copy, sections, 0))
    writer.write(head(copy, sections, start + (sections[-1].end if sections else 0)))
    if stored(writer.write) != sections:
        raise ValueError("an array changed while it was written")


def _nowhere(data: Any) -> None:
    """Write nothing, where checksums are all that is wanted."""


def read(source: Source, *, mmap: bool = False) -> StoredFile:
    """Read what `write` wrote.

    Parameters
    ----------
    source : str, path-like, bytes, or binary file object
        The file, or what is in it. A file object is read from where it stands to the end of what was written, and
        stands there afterwards, whatever follows.
    mmap : bool
        Map the arrays instead of loading them: it takes milliseconds, and processes share the pages. All is checked but
        the checksums of the arrays, which are left to `StoredFile.verify`. A big-endian machine copies them.

    Returns
    -------
    StoredFile

    Raises
    ------
    ValueError
        If the file is foreign, mangled by text mode, truncated, longer than expected, of an unsupported format version,
        or damaged in its preamble, its header or a section. The text names the file and says which. If what is no path
        is to be mapped.
    OSError
        If the file is missing or cannot be read, or is a folder, a pipe or a device.
    """
    if mmap and not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"mmap=True maps a file by its path, got {type(source).__name__}: pass its path, or no mmap")
    with opened(source) as reader:
        try:
            stored = _read(reader, mmap)
        except ValueError as error:
            if of_a_handler(error):
                raise
            raise ValueError(f"{reader.name}: {error}") from error
    if not mmap:
        stored.verify()
    return stored


def layout(entries: Iterable[Any]) -> list[Section]:
    """Place sections one after the other; each entry has at least a name, a dtype, a shape and a checksum."""
    sections: list[Section] = []
    offset = 0
    for entry in entries:
        match entry:
            case {"name": str(name), "dtype": str(dtype), "shape": list(shape), "crc32": str(crc32)} if (
                dtype in _DTYPES.split(", ") and all(type(length) is int and length >= 0 for length in shape)
            ):
                nbytes = math.prod(shape) * np.dtype(dtype).itemsize
                sections.append(Section(name, dtype, shape, offset, nbytes, crc32))
                offset = sections[-1].end
            case _:
                raise TypeError(f"cannot store {entry!r:.200}: a name is a string, a dtype one of {_DTYPES}")
    return sections


def head(metadata: dict[str, Any], sections: list[Section], file_nbytes: int, room: int = 0) -> bytes:
    """Encode preamble and header; their length depends neither on the checksums nor on the length of the file.

    They are filled up to `room` bytes, a multiple of 64, where they are shorter.
    """
    content = {"metadata": metadata, "sections": [section._asdict() for section in sections]}
    header = json.dumps(content, separators=(",", ":")).encode("ascii")
    header += b" " * max(-len(header) % _ALIGNMENT, room - _PREAMBLE_NBYTES - len(header))
    preamble = _PREAMBLE.pack(_SIGNATURE, FORMAT_VERSION, zlib.crc32(header), len(header), file_nbytes)
    return preamble + zlib.crc32(preamble).to_bytes(4, "little") + header


def store(section: Section, array: NDArray[Any], write: Callable[[Any], object]) -> Section:
    """Write an array in C order, and its padding; return its section with the checksum."""
    little_endian = np.dtype(section.dtype).newbyteorder("<")
    crc = 0
    for chunk in np.nditer(array, ["external_loop", "buffered", "zerosize_ok"], order="C", buffersize=_CHUNK):
        data = np.ascontiguousarray(chunk, little_endian).view(np.uint8).data
        crc = zlib.crc32(data, crc)
        write(data)
    padding = bytes(-section.nbytes % _ALIGNMENT)
    write(padding)
    return section._replace(crc32=f"{zlib.crc32(padding, crc):08x}")


def _read(reader: Reader, mmap: bool) -> StoredFile:
    """Read all but the checksums of the sections; a ValueError says what is wrong, and `read` adds where."""
    header_nbytes, header_crc, file_nbytes = _parse_preamble(reader.read(_PREAMBLE_NBYTES), reader.nbytes)
    start = _PREAMBLE_NBYTES + header_nbytes
    header = reader.take(header_nbytes, file_nbytes)
    if zlib.crc32(header) != header_crc:
        raise ValueError("damaged header (checksum mismatch)")
    with _of_the_header():
        metadata, sections = _parse_header(header, file_nbytes - start)
    if mmap:
        mapped = np.asarray(np.memmap(reader.file, np.uint8, "r"))[start:]
        contents = [(section, mapped[section.offset : section.end]) for section in sections]
    else:
        contents = [(section, _load(reader, section.end - section.offset, file_nbytes)) for section in sections]
    with _of_the_header():
        arrays = {section.name: _array(section, data) for section, data in contents}
    return StoredFile(reader.name, metadata, arrays, contents)


@contextmanager
def _of_the_header() -> Iterator[None]:
    """Say of errors that the header is the cause."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        if of_a_handler(error):
            raise
        raise ValueError(f"damaged header ({error})") from error


def _parse_preamble(preamble: bytes, found_nbytes: int | None) -> tuple[int, int, int]:
    """Return the length of the header, its checksum, and the length of the file, which can hold that header."""
    signature = preamble[: len(_SIGNATURE)]
    if not signature or not _SIGNATURE.startswith(signature):
        if _MANGLED.match(preamble):
            raise ValueError("mangled by text mode: its signature shows a conversion of line endings or characters")
        raise ValueError("not a halfspace file")
    if len(preamble) < _PREAMBLE_NBYTES:
        raise ValueError(f"truncated: expected at least {_PREAMBLE_NBYTES} bytes, found {len(preamble)}")
    if zlib.crc32(preamble[:-4]) != int.from_bytes(preamble[-4:], "little"):
        raise ValueError("damaged preamble (checksum mismatch)")
    _, version, header_crc, header_nbytes, file_nbytes = _PREAMBLE.unpack_from(preamble)
    if version != FORMAT_VERSION:
        raise ValueError(f"unsupported format version {version}: this release reads version {FORMAT_VERSION}")
    if found_nbytes is not None and found_nbytes != file_nbytes:
        kind = "truncated" if found_nbytes < file_nbytes else "longer than expected"
        raise ValueError(f"{kind}: expected {file_nbytes} bytes, found {found_nbytes}")
    if header_nbytes % _ALIGNMENT or header_nbytes > file_nbytes - _PREAMBLE_NBYTES:
        raise ValueError(f"damaged preamble (a header of {header_nbytes} bytes in a file of {file_nbytes})")
    return header_nbytes, header_crc, file_nbytes


def _parse_header(header: bytes, sections_nbytes: int) -> tuple[dict[str, Any], list[Section]]:
    """Decode the header. The sections it returns tile exactly what follows it in the file."""
    match json.loads(header):
        case {"metadata": dict() as metadata, "sections": list() as table}:
            sections = layout(table)
        case _:
            raise ValueError("no metadata or no section table")
    # Name, dtype and shape already say where each section lies; a table that says otherwise is wrong.
    end = sections[-1].end if sections else 0
    names = {section.name for section in sections}
    if [section._asdict() for section in sections] != table or len(names) != len(table) or end != sections_nbytes:
        raise ValueError("its section table does not fit the file")
    return metadata, sections


def _load(reader: Reader, nbytes: int, expected: int) -> NDArray[np.uint8]:
    buffer = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    data = buffer[start : start + nbytes]
    for first in range(0, nbytes, _PIECE):
        reader.fill(data[first : first + _PIECE].data, expected)
    return data


def _array(section: Section, data: NDArray[np.uint8]) -> NDArray[Any]:
    """View the bytes of a section as its array; a big-endian machine has to copy them."""
    native = np.dtype(section.dtype)
    array = data[: section.nbytes].view(native.newbyteorder("<")).reshape(section.shape).astype(native, copy=False)
    array.flags.writeable = False
    return array
