"""``cupy.cuda``: devices, streams and events where everything is done at once."""

# ruff: noqa: F401, TID251, TID252
import itertools
import threading
import types

from .. import _memory
from .. import emulator as _emulator
from .._errors import CompileException as _CompileException
from .._errors import CUDARuntimeError as _CUDARuntimeError
from .._memory import MemoryPointer, PinnedMemory, UnownedMemory, alloc_pinned_memory
from .._memory import OutOfMemoryError as _OutOfMemoryError

_current = threading.local()


class Device:
    def __init__(self, device=None):
        self.id = getattr(_current, "device", 0) if device is None else int(device)
        if not 0 <= self.id < _emulator.devices:
            raise _CUDARuntimeError(101, "cudaErrorInvalidDevice: invalid device ordinal")

    compute_capability = "90"

    @property
    def attributes(self):
        return {
            "MultiProcessorCount": _emulator.processors,
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

    @classmethod
    def from_external(cls, stream):
        _, address = stream.__cuda_stream__()
        return ExternalStream(address)

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
        pass

    done = True
    ptr = 1

    def record(self, stream=None):
        pass

    def synchronize(self):
        pass


def alloc(size):
    return _memory.pool.malloc(size)


def _set_device(device):
    Device(device).use()


compiler = types.SimpleNamespace(CompileException=_CompileException)

runtime = types.SimpleNamespace(
    CUDARuntimeError=_CUDARuntimeError,
    getDeviceCount=lambda: _emulator.devices,
    getDevice=lambda: Device().id,
    setDevice=_set_device,
    deviceSynchronize=lambda: None,
    memGetInfo=lambda: (_emulator.memory - _memory.pool.used_bytes(), _emulator.memory),
    runtimeGetVersion=lambda: 13000,
    free=lambda pointer: None,
)
memory = types.SimpleNamespace(OutOfMemoryError=_OutOfMemoryError)
