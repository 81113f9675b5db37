"""The GPU as a device: what may be given to it, and when it is done."""

import sys
import threading
from typing import Any, NamedTuple

import cupy as cp
import numpy as np
import numpy.typing as npt

from halfspace.arguments import checks
from halfspace.arguments.columns import is_column
from halfspace.arguments.interop import exchanged, is_tensor, must_be_dense
from halfspace.model.formats import as_bits, as_numbers

__all__ = [
    "DEVICE",
    "REMEMBERED",
    "On",
    "as_tau",
    "asarray",
    "available",
    "capturing",
    "finish",
    "is_here",
    "is_kernel_ready",
    "keep_until_read",
    "named",
    "on",
    "over_memory",
    "release",
    "stream",
    "wait",
    "zeros",
]

DEVICE = "gpu"

REMEMBERED = 64
"""Of the questions that are answered, one in so many is remembered: a copy costs a launch."""
CAPABILITY = 80
"""The oldest GPU that has the instructions: Ampere, of 2020."""
ALIGNMENT = 16
"""Bytes that kernels read at once."""
CUDA = 2
"""The kind of device in DLPack."""
_PROTOCOLS = ("__dlpack_device__", "__cuda_array_interface__")
"""What arrays of a device have."""

_read: list[tuple[Any, object]] = []
"""What kernels may still read, and the event after them: nothing is freed before."""
_reading = threading.Lock()


class On:
    """Makes a GPU the current one while it is entered: any number of times, by any thread."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._before = threading.local()

    def __enter__(self) -> None:
        current = cp.cuda.runtime.getDevice()
        try:
            self._before.stack.append(current)
        except AttributeError:  # the first time in this thread
            self._before.stack = [current]
        if current != self.number:
            cp.cuda.runtime.setDevice(self.number)

    def __exit__(self, *exception: object) -> None:
        before = self._before.stack.pop()
        if before != self.number:
            cp.cuda.runtime.setDevice(before)


def on(device: str) -> On:
    """Return what makes a device the current one; ``"gpu"`` is the one that is current now.

    Raises
    ------
    RuntimeError
        If there is no such GPU, no driver for it, or it is too old.
    """
    try:
        count = cp.cuda.runtime.getDeviceCount()
    except cp.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(
            f"device {device!r} needs an NVIDIA GPU and a driver for CUDA {_cuda_version()}: {error}"
        ) from error
    number = cp.cuda.runtime.getDevice() if device == "gpu" else int(device.removeprefix("gpu:"))
    if number >= count:
        raise RuntimeError(f"device {device!r} is not there: {count} GPU{'s are' if count != 1 else ' is'} visible")
    capability = cp.cuda.Device(number).compute_capability
    if int(capability) < CAPABILITY:
        raise RuntimeError(
            f"device {device!r} has compute capability {capability[:-1]}.{capability[-1]}: "
            f"{CAPABILITY // 10}.{CAPABILITY % 10} (Ampere) or later is needed"
        )
    return On(number)


def named(device: str) -> str:
    """Return a name of a device as one that no other has: with the number of the GPU, also of the current one."""
    return f"{DEVICE}:{on(device).number}"


def _cuda_version() -> int:
    """Return the major version: drivers of one serve all its minor ones."""
    version: int = cp.cuda.runtime.runtimeGetVersion()
    return version // 1000


def available() -> int:
    """Count threads: one asks, the GPU does the rest."""
    return 1


def finish(snapshot: Any) -> None:
    """Wait until all that a `halfspace.state.snapshot.Snapshot` holds is there, and make it ready to be asked."""
    from halfspace.gpu.runtime.tables import upload

    upload(snapshot.table)
    wait()
    release()


def wait() -> None:
    """Wait for what was launched on the current stream."""
    cp.cuda.get_current_stream().synchronize()


def stream(handle: int) -> Any:
    """Return what makes a stream of another library, by its address, the current one while it is entered."""
    if hasattr(cp.cuda.Stream, "from_external"):  # CuPy 14.1
        return cp.cuda.Stream.from_external(_Foreign(handle))
    return cp.cuda.ExternalStream(handle)


class _Foreign(NamedTuple):
    """A stream of another library, by the protocol that CuPy knows."""

    handle: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def capturing() -> bool:
    """Whether what is launched on the current stream goes into a graph instead of being run."""
    answer: bool = cp.cuda.get_current_stream().is_capturing()
    return answer


def keep_until_read(what: object) -> None:
    """Keep alive what kernels on the current stream read, until they are done, without waiting for them."""
    event = cp.cuda.Event(disable_timing=True)
    event.record()
    release()
    with _reading:
        _read.append((event, what))


def release() -> None:
    """Forget what has been read, on whatever stream."""
    with _reading:
        _read[:] = [(event, what) for event, what in _read if not event.done]


def asarray(values: Any, name: str) -> Any:
    """Return an array on the current GPU: without a copy of anything that lies there, of any library.

    Numbers, lists, columns and tables of the host are copied; see `halfspace.arguments.interop.on_host`.

    Raises
    ------
    TypeError
        If it is an array in the host's memory, or no array of numbers.
    ValueError
        If it lies on another GPU.
    """
    if isinstance(values, cp.ndarray):
        array = values
    elif is_column(values):
        return _from_numbers(values, name)
    elif isinstance(values, (np.ndarray, np.generic)):
        must_be_dense(values, name)
        if values.ndim > 0:
            raise TypeError(_elsewhere(name))
        return _from_numbers(values, name)
    elif is_tensor(values):
        array = exchanged(values, name, lambda tensor: _of_tensor(tensor, name))
    elif hasattr(values, "__dlpack_device__"):
        array = _shared(values, name)
    elif hasattr(values, "__cuda_array_interface__"):
        array = cp.asarray(values)
    else:
        return _from_numbers(values, name)
    current, own = cp.cuda.runtime.getDevice(), array.data.device_id
    if own != current:
        raise ValueError(f"{name} is on GPU {own}, the index on GPU {current}: copy it there")
    return array


def is_here(values: Any) -> bool:
    """Whether values lie on a GPU, so that `asarray` copies nothing."""
    if hasattr(values, "__dlpack_device__"):
        try:
            return bool(values.__dlpack_device__()[0] == CUDA)
        except Exception:  # what columns and tables raise is their own
            return False
    return hasattr(values, "__cuda_array_interface__")


def _of_tensor(tensor: Any, name: str) -> Any:
    """Return an array over the memory of a tensor of PyTorch, after what its library has launched on its own stream.

    By its address, which takes a fraction of the time of DLPack; that serves tensors that are more than memory.
    """
    torch = sys.modules["torch"]
    if type(tensor) is not torch.Tensor or not tensor.is_cuda:
        return _shared(tensor, name)
    number = tensor.device.index
    quickly = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # what compiled models ask, without an object for it
    handle = torch.cuda.current_stream(number).cuda_stream if quickly is None else quickly(number)
    return over_memory(tensor, number, handle)


def over_memory(tensor: Any, number: int, handle: int) -> Any:
    """Return an array over the memory of what has a tensor's attributes, on that GPU, after all that a stream does."""
    own = cp.cuda.get_current_stream()
    if handle != own.ptr:
        event = cp.cuda.Event(disable_timing=True)
        event.record(stream(handle))
        own.wait_event(event)
    dtype, shape = np.dtype(str(tensor.dtype).removeprefix("torch.")), tuple(tensor.shape)
    size, strides = dtype.itemsize * tensor.numel(), None
    if size and not tensor.is_contiguous():
        strides = tuple(dtype.itemsize * step for step in tensor.stride())
        size = dtype.itemsize + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    memory = cp.cuda.UnownedMemory(tensor.data_ptr(), size, tensor, number)
    return cp.ndarray(shape, dtype, cp.cuda.MemoryPointer(memory, 0), strides)


def _shared(values: Any, name: str) -> Any:
    """Return an array over the memory of another library's, by DLPack."""
    if values.__dlpack_device__()[0] != CUDA:
        raise TypeError(_elsewhere(name))
    try:
        return cp.from_dlpack(values)
    except BufferError as error:  # what cannot be exchanged
        raise TypeError(f"{name}: {error}") from error


def _from_numbers(values: Any, name: str) -> Any:
    """Bring Python's numbers, lists of them, columns and tables to the device."""
    array = checks.asarray(values, name)
    checks.real(array, name)
    return as_numbers(cp.asarray(as_bits(array))) if array.dtype.name == "bfloat16" else cp.asarray(array)


def _elsewhere(name: str) -> str:
    return f"{name} is an array in the host's memory, the index is on a GPU: bring it there with cupy.asarray({name})"


def as_tau(tau: Any, count: int, single: bool, name: str = "tau") -> Any:
    """Return the thresholds: a float for all, or float64 (count,) on the device, where NaN is found by the kernels."""
    if type(tau) is float and tau == tau:
        return tau
    hosted = isinstance(tau, (np.ndarray, np.generic)) or not any(hasattr(tau, name) for name in _PROTOCOLS)
    if hosted and np.ndim(tau) == 0:
        return float(checks.as_tau(tau, 1, True, name)[0])
    if isinstance(tau, (list, tuple)) or is_column(tau):
        return cp.asarray(checks.as_tau(tau, count, single, name))
    array = asarray(tau, name)
    if array.ndim == 0:
        return float(checks.as_tau(array.get(), count, single, name)[0])
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    if single or array.shape != (count,):
        expected = "a scalar" if single else f"a scalar or have shape ({count},)"
        raise ValueError(f"{name} must be {expected}, got shape {array.shape}")
    if array.dtype == np.float64:
        return cp.ascontiguousarray(array)
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    return _widen(array.astype(np.float32))


def _widen(array: Any) -> Any:
    """Convert float32 to float64, subnormals by their bits: CuPy's own kernels flush them."""
    bits = array.view(np.int32)
    tiny = (bits & 0x7F800000) == 0
    by_bits = (bits & 0x7FFFFF).astype(np.float64) * 2.0**-149
    return cp.where(tiny, cp.where(bits < 0, -by_bits, by_bits), array.astype(np.float64))


def place(*arrays: npt.NDArray[Any]) -> tuple[Any, ...]:
    """Return arrays of the host on the device: in one piece, since each has its price."""
    starts, size = [], 0
    for array in arrays:
        starts.append(size)
        size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    packed = np.zeros(size, np.uint8)
    for start, array in zip(starts, arrays, strict=True):
        packed[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
    memory = cp.asarray(packed).data
    return tuple(
        cp.ndarray(array.shape, array.dtype, memory + start) for start, array in zip(starts, arrays, strict=True)
    )


def is_kernel_ready(array: Any) -> bool:
    """Whether kernels take an array as it is."""
    return bool(array.flags.c_contiguous) and array.data.ptr % ALIGNMENT == 0


def zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    """Make an array of zeros, aligned as kernels want it: CuPy aligns all memory."""
    return cp.zeros(shape, dtype)
