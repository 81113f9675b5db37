"""The container a second time, from the description of its format alone; and what its files are made of."""

import json
import struct
import zlib

import numpy as np
from hypothesis import strategies as st

SIGNATURE = b"\x89halfspace\r\n\x1a\n\0\0"
METADATA = {"rows": 3, "note": "é\n", "nested": {"x": [1.5, None, True]}}
ARRAYS = {"ids": np.arange(3, dtype=np.int16), "none": np.zeros((0, 2)), "rows": np.eye(5, 4, dtype=np.float32)}


def entry(name, array, offset, crc32):
    fields = {"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "offset": offset}
    return fields | {"nbytes": array.nbytes, "crc32": crc32}


def padded(data, fill=b"\0"):
    return data + fill * (-len(data) % 64)


def sealed(header, data=b"", *, version=1, header_nbytes=None, file_nbytes=None):
    """A preamble whose checksums are right, whatever the header and the lengths are."""
    header_nbytes = len(header) if header_nbytes is None else header_nbytes
    file_nbytes = 64 + len(header) + len(data) if file_nbytes is None else file_nbytes
    preamble = SIGNATURE + struct.pack("<IIQQ20x", version, zlib.crc32(header), header_nbytes, file_nbytes)
    return preamble + struct.pack("<I", zlib.crc32(preamble)) + header + data


def encode(metadata, arrays):
    table, data = [], b""
    for name, array in arrays.items():
        section = padded(array.astype(array.dtype.newbyteorder("<")).tobytes())
        table.append(entry(name, array, len(data), f"{zlib.crc32(section):08x}"))
        data += section
    return sealed(header_of({"metadata": metadata, "sections": table}), data)


def header_of(content):
    return padded(json.dumps(content, separators=(",", ":")).encode(), b" ")


def same(stored, metadata, arrays):
    assert stored.metadata == metadata
    assert list(stored.arrays) == list(arrays)
    for name, array in arrays.items():
        ours = stored.arrays[name]
        assert (type(ours), ours.shape, ours.dtype) == (np.ndarray, array.shape, array.dtype.newbyteorder("="))
        assert ours.dtype.isnative
        assert ours.flags.c_contiguous
        assert not ours.flags.writeable
        assert ours.ctypes.data % 64 == 0 or ours.size == 0
        assert ours.tobytes() == array.astype(ours.dtype).tobytes()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
