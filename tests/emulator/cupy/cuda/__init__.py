"""``cupy.cuda``: devices, streams and events where everything is done at once."""

# ruff: noqa: F401, TID251, TID252
import ctypes
import itertools
import threading
import time
from types import SimpleNamespace

from .. import _memory, emulator
from .._memory import (
    MemoryPointer,
    MemoryPool,
    OutOfMemoryError,
    PinnedMemory,
    PinnedMemoryPointer,
    PinnedMemoryPool,
    UnownedMemory,
    alloc_pinned_memory,
)

__all__ = ["Device", "Event", "ExternalStream", "MemoryPointer", "MemoryPool", "Stream", "UnownedMemory"]

_current = threading.local()


class CUDARuntimeError(RuntimeError):
    def __init__(self, status, text="error"):
        self.status = status
        super().__init__(text)


class CUDADriverError(RuntimeError):
    def __init__(self, status, text="error"):
        self.status = status
        super().__init__(text)


class CompileException(Exception):
    """What the compiler said about a module."""


class Device:
    def __init__(self, device=None):
        self.id = getattr(_current, "device", 0) if device is None else int(device)
        if not 0 <= self.id < emulator.devices:
            raise CUDARuntimeError(101, "cudaErrorInvalidDevice: invalid device ordinal")

    compute_capability = "90"

    @property
    def attributes(self):
        return {
            "MultiProcessorCount": emulator.processors,
            "MaxSharedMemoryPerBlockOptin": 227 << 10,
            "MaxSharedMemoryPerBlock": 48 << 10,
            "MaxSharedMemoryPerMultiprocessor": 228 << 10,
            "MaxThreadsPerBlock": 1024,
            "MaxThreadsPerMultiProcessor": 2048,
            "WarpSize": 32,
            "L2CacheSize": 50 << 20,
        }

    @property
    def mem_info(self):
        return runtime.memGetInfo()

    def use(self):
        _current.device = self.id

    def synchronize(self):
        pass

    def __int__(self):
        return self.id

    def __enter__(self):
        _current.devices = [*getattr(_current, "devices", []), getattr(_current, "device", 0)]
        self.use()
        return self

    def __exit__(self, *_):
        _current.device = _current.devices.pop()

    def __eq__(self, other):
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self):
        return hash(self.id)

    def __repr__(self):
        return f"<CUDA Device {self.id}>"


class Stream:
    _numbers = itertools.count(0x5000)
    null: "Stream"

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.ptr = 0 if null else next(self._numbers)
        self.device_id = Device().id
        self._outer = []

    done = True

    def use(self):
        _current.stream = self
        return self

    def __enter__(self):
        self._outer.append(get_current_stream())
        return self.use()

    def __exit__(self, *_):
        self._outer.pop().use()

    def __eq__(self, other):
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self):
        return hash(self.ptr)

    def synchronize(self):
        pass

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        pass

    def add_callback(self, callback, arg):
        callback(self, 0, arg)

    def launch_host_func(self, callback, arg):
        callback(arg)

    def is_capturing(self):
        return False

    def begin_capture(self, mode=None):
        raise NotImplementedError("there are no graphs in the emulator")

    end_capture = begin_capture


class ExternalStream(Stream):
    def __init__(self, ptr, device_id=-1):
        super().__init__()
        self.ptr = ptr


Stream.null = Stream(null=True)


def get_current_stream(device_id=-1):
    return getattr(_current, "stream", Stream.null)


class Event:
    def __init__(self, block=True, disable_timing=False, interprocess=False):
        self._time = None

    done = True
    ptr = 1

    def record(self, stream=None):
        self._time = time.perf_counter()

    def synchronize(self):
        pass


def get_elapsed_time(start_event, end_event):
    return (end_event._time - start_event._time) * 1000


def get_device_id():
    return Device().id


def is_available():
    return emulator.devices > 0


def alloc(size):
    return _memory.pool.malloc(size)


def _set_device(device):
    Device(device).use()


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    is_hip=False,
    getDeviceCount=lambda: emulator.devices,
    getDevice=get_device_id,
    setDevice=_set_device,
    deviceSynchronize=lambda: None,
    streamSynchronize=lambda stream: None,
    memGetInfo=lambda: (emulator.memory - _memory.pool.used_bytes(), emulator.memory),
    runtimeGetVersion=lambda: 13000,
    driverGetVersion=lambda: 13000,
    getDeviceProperties=lambda device: {
        "name": b"emulated device",
        "totalGlobalMem": emulator.memory,
        "multiProcessorCount": emulator.processors,
        "major": 9,
        "minor": 0,
    },
    memcpy=lambda to, source, size, kind: ctypes.memmove(to, source, size),
    memcpyAsync=lambda to, source, size, kind, stream: ctypes.memmove(to, source, size),
    memset=ctypes.memset,
    memsetAsync=lambda to, value, size, stream: ctypes.memset(to, value, size),
    memcpyHostToHost=0,
    memcpyHostToDevice=1,
    memcpyDeviceToHost=2,
    memcpyDeviceToDevice=3,
    memcpyDefault=4,
)
memory = SimpleNamespace(
    OutOfMemoryError=OutOfMemoryError,
    MemoryPointer=MemoryPointer,
    MemoryPool=MemoryPool,
    UnownedMemory=UnownedMemory,
)
pinned_memory = SimpleNamespace(
    PinnedMemory=PinnedMemory, PinnedMemoryPointer=PinnedMemoryPointer, PinnedMemoryPool=PinnedMemoryPool
)
driver = SimpleNamespace(CUDADriverError=CUDADriverError)
compiler = SimpleNamespace(CompileException=CompileException)
device = SimpleNamespace(Device=Device)
stream = SimpleNamespace(
    Stream=Stream, Event=Event, get_current_stream=get_current_stream, ExternalStream=ExternalStream
)
