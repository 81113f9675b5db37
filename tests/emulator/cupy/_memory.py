"""Device memory: blocks of host memory with poisoned fences around them, and the sum of their sizes."""

# ruff: noqa: TID251
import ctypes
import weakref

import numpy as np

from . import emulator

POISON = 0xA5
FENCE = 256
_ALIGNMENT = 512  # of every allocation, as in CuPy's pool
_UNTOUCHED = bytes([POISON]) * FENCE
_blocks = weakref.WeakValueDictionary()  # id of the NumPy array that owns the bytes -> its Block


class OutOfMemoryError(MemoryError):
    """Out-of-memory error."""

    def __init__(self, size, total, limit=0):
        self._args = size, total, limit
        limited = f", limit set to: {limit:,} bytes" if limit else ""
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes{limited}).")


class MemoryPool:
    """The one pool there is; it never keeps what was freed."""

    def __init__(self, allocator=None):
        self._used = self._limit = 0

    def malloc(self, size):
        return MemoryPointer(Block(size), 0)

    def take(self, size):
        for limit in filter(None, (self._limit, emulator.memory)):
            if self._used + size > limit:
                raise OutOfMemoryError(size, self._used, self._limit)
        self._used += size

    def give_back(self, size):
        self._used -= size

    def set_limit(self, size=None, fraction=None):
        self._limit = int(emulator.memory * fraction) if size is None else size

    def get_limit(self):
        return self._limit

    def used_bytes(self):
        return self._used

    total_bytes = used_bytes

    def free_bytes(self):
        return 0

    n_free_blocks = free_bytes

    def free_all_blocks(self, stream=None):
        pass


class PinnedMemoryPool:
    def free_all_blocks(self):
        pass

    def n_free_blocks(self):
        return 0


pool, pinned_pool = MemoryPool(), PinnedMemoryPool()


def _forbid(fence):
    """Let AddressSanitizer report whoever touches a fence."""
    ctypes.CDLL(None).__asan_poison_memory_region(ctypes.c_void_p(fence.ctypes.data), ctypes.c_size_t(fence.nbytes))


class Block:
    """``size`` bytes that were allocated together."""

    def __init__(self, size):
        from .cuda import Device

        rounded = -(-size // _ALIGNMENT) * _ALIGNMENT
        pool.take(rounded)
        weakref.finalize(self, pool.give_back, rounded)
        self.owner = np.empty(size + _ALIGNMENT + 2 * FENCE, np.uint8)
        start = -(self.owner.ctypes.data + FENCE) % _ALIGNMENT + FENCE
        self.owner[start - FENCE : start + size + FENCE] = POISON
        self.bytes = self.owner[start : start + size]
        self._fences = self.owner[start - FENCE : start], self.owner[start + size : start + size + FENCE]
        self.size, self.device = size, Device()
        self.device_id = self.device.id
        self.ptr = self.bytes.ctypes.data if size else 0
        if emulator.ADDRESSES:
            for fence in self._fences:
                _forbid(fence)
        _blocks[id(self.owner)] = self

    def intact(self):
        """Whether nobody wrote right before it or behind it; where AddressSanitizer tells, it forbids to look."""
        return emulator.ADDRESSES or all(fence.tobytes() == _UNTOUCHED for fence in self._fences)


class UnownedMemory:
    """Memory that something else keeps alive."""

    def __init__(self, ptr, size, owner, device_id=-1):
        from .cuda import Device

        self.ptr, self.size, self._owner = ptr, size, owner
        self.device_id = Device().id if device_id < 0 else device_id
        self.device = Device(self.device_id)
        if size:
            self.bytes = np.frombuffer((ctypes.c_ubyte * size).from_address(ptr), np.uint8)
        else:
            self.bytes = np.empty(0, np.uint8)
        self.owner = self.bytes
        _blocks[id(self.owner)] = self

    def intact(self):
        return True


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.device, self.device_id, self.ptr = mem, mem.device, mem.device_id, mem.ptr + offset

    def __int__(self):
        return self.ptr

    def __add__(self, offset):
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)

    def bytes(self, size):
        start = self.ptr - self.mem.ptr
        return self.mem.bytes[start : start + size]

    def memset(self, value, size):
        ctypes.memset(self.ptr, value, size)

    def memset_async(self, value, size, stream=None):
        self.memset(value, size)


def block_of(array):
    """The block that the bytes of a NumPy array lie in, or None."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return _blocks.get(id(array))


def blocks():
    """All blocks in use."""
    return [block for block in (held() for held in list(_blocks.data.values())) if block is not None]


class PinnedMemoryPointer(bytearray):
    """Pinned memory: a buffer, for ``numpy.frombuffer``; as in CuPy it may be longer than was asked for."""

    @property
    def ptr(self):
        return ctypes.addressof(ctypes.c_char.from_buffer(self))

    @property
    def mem(self):
        return self

    def size(self):
        return len(self)


class PinnedMemory:
    """``size`` bytes of the host, which kernels reach under the same address; freed when nothing holds it any more."""

    def __init__(self, size, flags=0):
        self._owner = np.full(size + _ALIGNMENT, POISON, np.uint8)
        self.size, self.ptr = size, self._owner.ctypes.data + -self._owner.ctypes.data % _ALIGNMENT


def alloc_pinned_memory(size):
    return PinnedMemoryPointer(max(-(-size // _ALIGNMENT), 1) * _ALIGNMENT)
