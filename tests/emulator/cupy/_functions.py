"""NumPy's functions on the emulated device, with the differences that code trips over."""

# ruff: noqa: TID251
import functools

import numpy as np

from . import _dlpack, _memory
from ._array import call, check_keywords, check_kind, check_operands, compute, ndarray, unwrap, wrap

_SEQUENCES = {"stack"}


class ufunc:
    def __init__(self, function):
        self._function, self.__name__, self.name = function, function.__name__, f"cupy_{function.__name__}"
        self.nin, self.nout, self.nargs = function.nin, function.nout, function.nargs

    def __call__(self, *args, **kwargs):
        check_operands(args[: self.nin])
        if len(args) > self.nin:
            *args, kwargs["out"] = args
        if isinstance(kwargs.get("out"), tuple):
            (kwargs["out"],) = kwargs["out"]
        if kwargs.get("out") is not None and not isinstance(kwargs["out"], ndarray):
            raise TypeError(f"return arrays must be of ArrayType, not {type(kwargs['out'])}")
        return compute(self._function, tuple(args), kwargs)


def _require(value):
    if not isinstance(value, ndarray):
        raise TypeError(f"Unsupported type {type(value)}")


def adopt(name, function):
    """CuPy's version of a function of NumPy."""
    if isinstance(function, np.ufunc):
        return ufunc(function)

    @functools.wraps(function, updated=())
    def adopted(*args, **kwargs):
        check_keywords(name, kwargs)
        if args and isinstance(args[0], list | tuple) and (name in _SEQUENCES):
            for item in args[0]:
                _require(item)
        return call(function, args, kwargs)

    return adopted


# Creation. `empty` leaves the poison of new memory, so that nobody counts on zeros.


def empty(shape, dtype=float, order="C"):
    return ndarray(unwrap(shape) if not isinstance(shape, ndarray) else shape.tolist(), dtype, order=order)


def full(shape, fill_value, dtype=None, order="C"):
    dtype = np.asarray(unwrap(fill_value)).dtype if dtype is None else dtype
    result = empty(shape, dtype, order)
    result[...] = fill_value
    return result


def zeros(shape, dtype=float, order="C"):
    return full(shape, 0, dtype, order)


def ones(shape, dtype=float, order="C"):
    return full(shape, 1, dtype, order)


def full_like(a, fill_value, dtype=None, order="K", subok=None, shape=None):
    result = empty_like(a, dtype, order, subok, shape)
    result[...] = fill_value
    return result


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    _require(prototype)
    result = wrap(np.empty_like(prototype._array, dtype, order, shape=shape))
    result._array.view(np.uint8 if result.ndim and result.flags.c_contiguous else None)[...] = _memory.POISON
    return result


def zeros_like(a, dtype=None, order="K", subok=None, shape=None):
    return full_like(a, 0, dtype, order, subok, shape)


def _array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if isinstance(obj, ndarray):
        result = obj.astype(obj.dtype if dtype is None else dtype, order, copy=copy)
        if not copy and order == "C" and not result.flags.c_contiguous:
            result = result.copy()
    elif hasattr(obj, "__cuda_array_interface__"):
        result = _from_interface(obj)
        result = result.astype(result.dtype if dtype is None else dtype, copy=copy)
    else:
        result = wrap(np.array(_host(obj), dtype, order=order).copy(order))
    return result.reshape((1,) * (ndmin - result.ndim) + result.shape) if result.ndim < ndmin else result


def _host(obj):
    """Nested lists may hold arrays of the device."""
    if isinstance(obj, ndarray):
        return obj._array
    return [_host(item) for item in obj] if isinstance(obj, list | tuple) else obj


def _from_interface(obj):
    interface = obj.__cuda_array_interface__
    return _borrow(
        interface["data"][0] or 0, interface["shape"], np.dtype(interface["typestr"]), interface.get("strides"), obj
    )


def _borrow(pointer, shape, dtype, strides, owner, device=-1):
    """An array over memory that ``owner`` keeps alive."""
    extent = dtype.itemsize * int(np.prod(shape))
    if strides is not None and extent:
        extent = dtype.itemsize + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    memory = _memory.UnownedMemory(pointer, extent, owner, device)
    return ndarray(shape, dtype, _memory.MemoryPointer(memory, 0), strides)


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return _array(a, dtype, bool(copy), order or "K")


def ascontiguousarray(a, dtype=None):
    result = _array(a, dtype, False, "C")
    return result if result.ndim else result.reshape(1)


def from_dlpack(array, *, device=None, copy=None):
    kind, number = array.__dlpack_device__()
    if kind != _dlpack.CUDA:
        raise BufferError(
            "CPU arrays cannot be directly imported to CuPy. Use `cupy.array(numpy.from_dlpack(input))` instead."
        )
    view = _dlpack.load(array)
    result = _borrow(view.ctypes.data, view.shape, view.dtype, view.strides, view, number)
    return result.copy() if copy else result


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(order=order, out=out) if isinstance(a, ndarray) else np.asarray(a, order=order)


# Functions with another signature than NumPy's.


def packbits(a, axis=None, bitorder="big"):
    if a.dtype.kind not in "biu":
        raise TypeError("Expected an input array of integer or boolean data type")
    if axis is not None:
        raise NotImplementedError("axis option is not supported yet")
    return call(np.packbits, (a,), {"bitorder": bitorder})


def unpackbits(a, axis=None, bitorder="big"):
    if a.dtype != np.uint8:
        raise TypeError("Expected an input array of unsigned byte data type")
    if axis is not None:
        raise NotImplementedError("axis option is not supported yet")
    return call(np.unpackbits, (a,), {"bitorder": bitorder})


def sort(a, axis=-1, kind=None):
    check_kind(kind)
    return call(np.sort, (a, axis), {"kind": kind})


def argsort(a, axis=-1, kind=None):
    check_kind(kind)
    return a.argsort(axis, kind)


def lexsort(keys):
    if not isinstance(keys, ndarray):
        raise TypeError("lexsort takes one array of keys")
    return wrap(np.lexsort(tuple(keys._array) if keys.ndim > 1 else keys._array))


def partition(a, kth, axis=-1):
    return call(np.partition, (a, kth, axis), {})


def searchsorted(a, v, side="left", sorter=None):
    if not isinstance(a, ndarray):
        raise NotImplementedError("Only int or ndarray are supported for a")
    if not isinstance(v, ndarray | int | float | complex):
        raise NotImplementedError("Only python scalars or ndarrays are supported for v")
    return call(np.searchsorted, (a, v, side, sorter), {})


def where(condition, x=None, y=None):
    return call(np.where, (condition,) if x is None and y is None else (condition, x, y), {})


def concatenate(tup, axis=0, out=None, *, dtype=None, casting="same_kind"):
    for item in tup:
        _require(item)
    return call(np.concatenate, (list(tup), axis), {"out": out, "dtype": dtype, "casting": casting})
