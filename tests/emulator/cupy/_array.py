"""``cupy.ndarray``: a NumPy array that refuses to be taken for one."""

# ruff: noqa: SIM905, TID251
import operator

import numpy as np

from . import _dlpack, _memory, emulator


def unwrap(value):
    """The NumPy arrays inside of ``value``; arrays of the host are refused, as CuPy does."""
    if isinstance(value, ndarray):
        return value._array
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"Unsupported type {type(value)}")
    if type(value) in (list, tuple):
        return type(value)(unwrap(item) for item in value)
    if type(value) is dict:
        return {key: unwrap(item) for key, item in value.items()}
    return value


def wrap(value):
    """What NumPy returned, with arrays and scalars on the device. Views stay views, the rest gets memory of its own."""
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        block = _memory.block_of(value)
        if block is None:
            block = _memory.Block(value.nbytes)
            held = np.ndarray(value.shape, value.dtype, block.bytes, strides=_packed(value))
            held[...] = value
            value = held
        return ndarray._over(value, block)
    if isinstance(value, tuple | list):
        items = map(wrap, value)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _packed(array):
    """Strides of an array without gaps, in the order of axes of ``array``."""
    if array.flags.c_contiguous or not array.flags.f_contiguous:
        return None
    return array.strides


def call(function, args, kwargs):
    """Call a function of NumPy on the arrays inside of the arguments."""
    out = kwargs.get("out")
    with np.errstate(all="ignore"):
        result = function(*unwrap(args), **unwrap(kwargs))
    return wrap(result) if out is None else out


def flushed(value):
    """Float32 as CuPy's own kernels read and write it: without subnormals."""
    if emulator.flush and getattr(value, "dtype", None) == np.float32:
        return np.where(np.abs(value) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), value), value)
    return value


def compute(function, operands, kwargs):
    """`call` for a function of elements."""
    if not emulator.flush:
        return call(function, operands, kwargs)
    out = kwargs.pop("out", None)
    with np.errstate(all="ignore"):
        result = function(*map(flushed, unwrap(tuple(operands))), **unwrap(kwargs))
    result = tuple(map(flushed, result)) if isinstance(result, tuple) else flushed(result)
    if out is None:
        return wrap(result)
    out[...] = wrap(result)
    return out


def check_operands(values):
    for value in values:
        if isinstance(value, list | tuple | str):
            raise TypeError(f"Unsupported type {type(value)}")


class Flags:
    def __init__(self, flags, owndata):
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, owndata
        self.forc, self.fnc = flags.forc, flags.fnc

    def __getitem__(self, name):
        short = {"C_CONTIGUOUS": "c_contiguous", "F_CONTIGUOUS": "f_contiguous", "OWNDATA": "owndata"}
        return getattr(self, short[name])


class ndarray:
    __hash__ = None
    __array_priority__ = 100

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        dtype, shape = np.dtype(dtype), tuple(map(int, shape)) if np.iterable(shape) else (int(shape),)
        if memptr is None:
            memptr = _memory.MemoryPointer(_memory.Block(dtype.itemsize * int(np.prod(shape, dtype=object))), 0)
        offset = memptr.ptr - memptr.mem.ptr
        self._array = np.ndarray(shape, dtype, memptr.mem.bytes, offset, strides, order)
        self._block = memptr.mem

    @classmethod
    def _over(cls, array, block):
        self = cls.__new__(cls)
        self._array, self._block = array, block
        return self

    shape = property(lambda self: self._array.shape, lambda self, shape: setattr(self._array, "shape", shape))
    T = property(lambda self: wrap(self._array.T))
    mT = property(lambda self: wrap(self._array.mT))
    real = property(lambda self: wrap(self._array.real))
    imag = property(lambda self: wrap(self._array.imag))
    flags = property(lambda self: Flags(self._array.flags, self._array.nbytes == self._block.size))
    device = property(lambda self: self._block.device)
    flat = property(lambda self: (wrap(item) for item in self._array.flat))

    @property
    def data(self):
        offset = self._array.ctypes.data - self._block.ptr if self._block.ptr else 0
        return _memory.MemoryPointer(self._block, offset if self.size else 0)

    @property
    def base(self):
        return None if self.flags.owndata else wrap(self._block.bytes)

    @property
    def __cuda_array_interface__(self):
        array = self._array
        return {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "descr": array.dtype.descr,
            "stream": 1,
            "version": 3,
            "strides": None if array.flags.c_contiguous else array.strides,
            "data": (self.data.ptr if array.size else 0, False),
        }

    def __dlpack__(self, stream=None, max_version=None, dl_device=None, copy=None):
        if dl_device is not None and dl_device[0] == _dlpack.CPU:
            return self.get().__dlpack__()
        return _dlpack.export(self._array)

    def __dlpack_device__(self):
        return _dlpack.CUDA, self.device.id

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, function, method, *args, **kwargs):
        from ._functions import ufunc

        return ufunc(function)(*args, **kwargs) if method == "__call__" else NotImplemented

    def __array_function__(self, function, types, args, kwargs):
        import cupy

        if not all(issubclass(kind, ndarray) for kind in types):
            return NotImplemented
        return getattr(cupy, function.__name__)(*args, **kwargs)

    # Copies, and the way to the host.

    def get(self, stream=None, order="C", out=None, blocking=True):
        if out is None:
            return self._array.copy(order)
        if not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        if out.dtype != self.dtype or out.shape != self.shape:
            raise ValueError(
                f"Shape or dtype mismatch. Expected: {self.shape} {self.dtype}, got {out.shape} {out.dtype}"
            )
        out[...] = self._array
        return out

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{self.dtype} array cannot be set to {arr.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        self._array[...] = arr

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if not copy and self.dtype == np.dtype(dtype):
            return self
        with np.errstate(all="ignore"):
            if self.dtype == np.dtype(dtype):
                return wrap(self._array.astype(dtype, order))
            return wrap(flushed(flushed(self._array).astype(dtype, order, casting or "unsafe")))

    def copy(self, order="C"):
        return wrap(self._array.copy(order))

    def __deepcopy__(self, memo):
        return self.copy()

    __copy__ = copy

    def __reduce__(self):
        import cupy

        return cupy.asarray, (self.get(),)

    def view(self, dtype=None, type=None):
        return wrap(self._array.view() if dtype is None else self._array.view(dtype))

    def reshape(self, *shape, order="C", copy=None):
        return wrap(self._array.reshape(*unwrap(shape), order=order))

    def ravel(self, order="C"):
        return wrap(self._array.ravel(order))

    def fill(self, value):
        self._array.fill(unwrap(value))

    def item(self):
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self._array.item()

    def sort(self, axis=-1, kind=None):
        check_kind(kind)
        self._array.sort(axis=axis, kind=kind)

    def argsort(self, axis=-1, kind=None):
        check_kind(kind)
        return wrap(self._array.argsort(axis=axis, kind=kind))

    def put(self, indices, values, mode="wrap"):
        self._array.put(unwrap(indices), unwrap(values), mode)

    def partition(self, kth, axis=-1):
        self._array.partition(kth, axis)

    # Items. An index that names one item still makes a view, of no dimension.

    def __getitem__(self, index):
        index = unwrap(index)
        index = index if isinstance(index, tuple) else (index,)
        return wrap(self._array[index if any(item is Ellipsis for item in index) else (*index, Ellipsis)])

    def __setitem__(self, index, value):
        check_operands([value])
        with np.errstate(all="ignore"):
            self._array[unwrap(index)] = unwrap(value)

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return (self[k] for k in range(len(self)))

    def __repr__(self):
        return repr(self._array)

    def __str__(self):
        return str(self._array)


def check_kind(kind):
    if kind not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable'")


def check_keywords(name, kwargs):
    for keyword in ("where", "initial"):
        if keyword in kwargs:
            raise TypeError(f"{name}() got an unexpected keyword argument '{keyword}'")


def _attribute(name):
    return property(lambda self: getattr(self._array, name))


def _method(name):
    def method(self, *args, **kwargs):
        check_keywords(name, kwargs)
        return call(getattr(self._array, name), args, kwargs)

    return method


def _scalar(name):
    return lambda self: getattr(self._array, name)()


def _function(name):
    return divmod if name == "divmod" else getattr(operator, name)


def _operator(name):
    def method(self, *others):
        check_operands(others)
        return compute(_function(name), (self, *others), {})

    return method


def _reflected(name):
    def method(self, other):
        check_operands([other])
        return compute(_function(name), (other, self), {})

    return method


def _in_place(name):
    def method(self, other):
        check_operands([other])
        with np.errstate(all="ignore"):
            self._array = _function(name)(self._array, unwrap(other))
            if emulator.flush and self.dtype == np.float32:
                self._array[...] = flushed(self._array)
        return self

    return method


for _name in "dtype ndim size nbytes itemsize strides".split():
    setattr(ndarray, _name, _attribute(_name))
for _name in (
    "all any max min sum prod mean std var cumsum cumprod argmax argmin argpartition nonzero take repeat "
    "squeeze swapaxes transpose flatten diagonal trace compress choose searchsorted clip round dot conj "
    "conjugate tolist tobytes byteswap"
).split():
    setattr(ndarray, _name, _method(_name))
for _name in "__bool__ __int__ __float__ __index__ __complex__".split():
    setattr(ndarray, _name, _scalar(_name))
for _name in "neg pos abs invert eq ne lt le gt ge".split():
    setattr(ndarray, f"__{_name}__", _operator(_name))
for _name in "add sub mul truediv floordiv mod divmod pow matmul lshift rshift and_ or_ xor".split():
    _dunder = _name.rstrip("_")
    setattr(ndarray, f"__{_dunder}__", _operator(_name))
    setattr(ndarray, f"__r{_dunder}__", _reflected(_name))
    if _name != "divmod":
        setattr(ndarray, f"__i{_dunder}__", _in_place(f"i{_dunder}"))
