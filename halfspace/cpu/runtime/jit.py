"""How the kernels are compiled: two decorators and the few operations that Numba has no spelling for.

Floating-point policy: no kernel uses ``fastmath``. The one licence to reassociate is `multiply_add`, used only where a
bound in `halfspace.model.rounding` holds for every order of summation.
"""

import gc
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import ffi
from numba import jit, types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic, overload
from numba.np.arrayobj import _empty_nd_impl, make_array, np_cfarray

from halfspace.cpu.runtime.kernel_cache import KernelCache
from halfspace.cpu.runtime.naming import named
from halfspace.cpu.runtime.steps import StepCompiler
from halfspace.cpu.runtime.threads import go_on
from halfspace.runtime.interrupts import held_over_forks, undisturbed
from halfspace.runtime.notices import compiling, watched

__all__ = [
    "address_of",
    "always_inlined",
    "array_at",
    "bit_length",
    "bits_of",
    "blank",
    "borrowed",
    "by_type",
    "call",
    "called",
    "cleared",
    "compiled",
    "compiled_for",
    "fetch_add",
    "float32_of",
    "float64_of",
    "hold",
    "inlined",
    "is_called_kept",
    "is_kept",
    "multiply_add",
    "pointer",
    "record_at",
    "specialised",
    "trailing_zeros",
    "zeros",
]


_POLICY: dict[str, Any] = {"nopython": True, "nogil": True, "error_model": "numpy"}
_STEP = _POLICY | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": StepCompiler}

# Other threads may be inside Numba or LLVM when one forks: a program's own kernels are compiled, or the garbage
# collector gives up what is not used any more. A child would wait for ever for the locks that they hold.
held_over_forks.append(global_compiler_lock)
held_over_forks.append(ffi.lib._lock._lock)  # the innermost of all; it has no public name

inlined = jit(**_STEP)
"""Compile a step of the mathematics, to be called from compiled code alone: wrappers for Python take long."""

always_inlined = jit(forceinline=True, **_STEP)
"""Like `inlined`, of a step that is called for each row: LLVM may think it too large to be worth it."""

by_type = partial(overload, jit_options=_STEP)
"""Choose a step by the types of its arguments, as `numba.extending.overload` does."""


def compiled(function: Callable[..., Any], sources: tuple[str, ...] | None = None) -> Any:
    """Compile a function that Python calls: kept on disk, and the GIL released while it runs.

    It takes arrays, tuples and numbers, fills arrays that Python owns, and returns numbers or nothing. Where compiled
    code makes Python objects of arrays, the exception of a signal handler comes out as another one, or not at all.

    It runs for some 50 ms at most, since an interrupt takes effect when it returns; longer work is cut into spans.

    It is loaded or compiled as `halfspace.runtime.interrupts` says; `halfspace.runtime.notices` tells of it where that
    takes long. Where no folder can be written (a read-only installation, no home), kernels are compiled anew in each
    process.

    sources : files beside those of this package that it takes code from; if there are none, it is not kept on disk
    """
    dispatcher = _kept(jit(no_cfunc_wrapper=True, **_POLICY)(function), sources)
    compile_for_args = partial(_uncollected, dispatcher._compile_for_args)
    dispatcher._compile_for_args = partial(watched, compile_for_args, meanwhile=go_on)
    dispatcher.typeof_pyval = partial(undisturbed, dispatcher.typeof_pyval, meanwhile=go_on)  # of tuples not yet seen
    return dispatcher


def compiled_for(dispatcher: Any, signature: tuple[Any, ...]) -> None:
    """Load or compile what `compiled` has made, for types of arguments, before it is called."""
    if signature not in dispatcher.overloads:
        watched(_uncollected, dispatcher.compile, signature, meanwhile=go_on)


def called(function: Callable[..., Any], count: int) -> tuple[int, object]:
    """Compile a function of `count` int64 that compiled code calls by its address, by `call`; kept on disk.

    It must not allocate: nobody would hear of an exception. Returns the address, and what keeps its code alive.
    """
    dispatcher, signature = _to_be_called(function, count)
    watched(_uncollected, dispatcher.compile, signature, meanwhile=go_on)
    made = dispatcher.overloads[signature.args]
    return made.library.get_pointer_to_function(made.fndesc.llvm_cfunc_wrapper_name), dispatcher


def _to_be_called(function: Callable[..., Any], count: int) -> tuple[Any, Any]:
    """Return what compiles a function for `called`, and the signature."""
    dispatcher = _kept(jit(no_cpython_wrapper=True, **_POLICY)(function), None)
    return dispatcher, types.int64(*(types.int64,) * count)


def is_kept(dispatcher: Any, signature: Any) -> bool:
    """Whether compiled code is on disk."""
    cache = dispatcher._cache
    return isinstance(cache, KernelCache) and cache.holds(signature, dispatcher.targetctx)


def is_called_kept(function: Callable[..., Any], count: int) -> bool:
    """Whether what `called` would compile is on disk."""
    return is_kept(*_to_be_called(function, count))


def _kept(dispatcher: Any, sources: tuple[str, ...] | None) -> Any:
    """Have what is compiled kept on disk, and notice what is not there."""
    function = dispatcher.py_func
    cache = None if sources == () else KernelCache.of(function, sources or ())
    if cache is not None:
        dispatcher._cache = cache
    compile, remark = dispatcher._compiler.compile, "" if cache is None else " (once; kept on disk)"

    def noted(signature: tuple[Any, ...], result: Any) -> Any:
        with compiling(named(function, signature), remark):
            return compile(signature, result)

    dispatcher._compiler.compile = noted  # called where the cache has nothing
    return dispatcher


def _uncollected(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, and look for no garbage meanwhile.

    A compiler's objects are many and in use: looking takes a sixth of its time, and finds next to nothing.
    """
    if not gc.isenabled():
        return function(*arguments)
    gc.disable()
    try:
        return function(*arguments)
    finally:
        gc.enable()


def specialised(template: Callable[..., Any], name: str | None = None, **parts: Any) -> Callable[..., Any]:
    """Return a function like `template`, in which the names of `parts` stand for what is given.

    They are globals of it, and so constants of the compiled code. (As variables of a closure they would be part of the
    key under which the code is kept on disk, and functions are never the same there in another process.)
    """
    names = template.__globals__ | parts
    function = FunctionType(template.__code__, names, name or template.__name__, template.__defaults__)
    function.__qualname__ = name or template.__qualname__
    return function


@intrinsic
def blank(typingctx: Any, shape: Any, like: Any) -> Any:
    """Make an array, as `numpy.empty` does, whose code Numba compiles anew for each kind of shape and dtype."""
    target = types.Array(like.dtype, len(shape) if isinstance(shape, types.BaseTuple) else 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sizes: Any = (args[0],)
        kinds: Any = (signature.args[0],)
        if isinstance(kinds[0], types.BaseTuple):
            sizes, kinds = cgutils.unpack_tuple(builder, sizes[0]), tuple(kinds[0])
        sizes = [context.cast(builder, *both, types.intp) for both in zip(sizes, kinds, strict=True)]
        return _empty_nd_impl(context, builder, target, sizes)._getvalue()

    return target(shape, like), codegen


@intrinsic
def _clear(typingctx: Any, array: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        own = make_array(signature.args[0])(context, builder, args[0])
        cgutils.memset(builder, own.data, builder.mul(own.itemsize, own.nitems), 0)
        return context.get_dummy_value()

    return types.void(array), codegen


@inlined
def cleared(shape, like):
    """Make an array of zeros."""
    array = blank(shape, like)
    _clear(array)
    return array


@intrinsic
def bits_of(typingctx: Any, value: Any) -> Any:
    """Reinterpret a float32 as int32, a float64 as int64."""
    target = {types.float32: types.int32, types.float64: types.int64}[value]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(target))

    return target(value), codegen


def _reinterpret(source: Any, target: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = context.cast(builder, args[0], signature.args[0], source)
        return builder.bitcast(bits, context.get_value_type(target))

    return codegen


@intrinsic
def array_at(typingctx: Any, address: Any, like: Any, shape: Any) -> Any:
    """View an array in C order at a machine address, which it does not own; like : as for `pointer`."""
    target = types.Array(like.dtype, len(shape) if isinstance(shape, types.BaseTuple) else 1, "C")
    place = types.CPointer(like.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start = builder.inttoptr(args[0], context.get_value_type(place))
        return np_cfarray(context, builder, target(place, signature.args[2]), (start, args[2]))

    return target(address, like, shape), codegen


@intrinsic
def record_at(typingctx: Any, address: Any, like: Any) -> Any:
    """Take what lies at a machine address as a record; like : its dtype."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(like.dtype))

    return like.dtype(address, like), codegen


@intrinsic
def address_of(typingctx: Any, record: Any) -> Any:
    """Tell where a record lies."""
    if not isinstance(record, types.Record):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], context.get_value_type(types.int64))

    return types.int64(record), codegen


@intrinsic
def call(typingctx: Any, address: Any, arguments: Any) -> Any:
    """Call what `called` has compiled, at its address, with a tuple of int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers = cgutils.unpack_tuple(builder, args[1])
        number = context.get_value_type(types.int64)
        function = ir.FunctionType(number, [number] * len(numbers))
        return builder.call(builder.inttoptr(args[0], function.as_pointer()), numbers)

    return types.int64(types.int64, types.UniTuple(types.int64, len(arguments))), codegen


@intrinsic
def fetch_add(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at an address, whichever threads do so at once; returns what was there before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(args[0], args[1].type.as_pointer())
        return builder.atomic_rmw("add", place, args[1], "seq_cst")

    return types.int64(types.intp, types.int64), codegen


@intrinsic
def float32_of(typingctx: Any, bits: Any) -> Any:
    """Reinterpret the low 32 bits of an integer as float32."""
    return types.float32(bits), _reinterpret(types.int32, types.float32)


@intrinsic
def float64_of(typingctx: Any, bits: Any) -> Any:
    """Reinterpret an int64 as float64."""
    return types.float64(types.int64), _reinterpret(types.int64, types.float64)


@intrinsic
def bit_length(typingctx: Any, value: Any) -> Any:
    """Count the bits of a non-negative int64, 0 for 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        width = context.get_constant(types.int64, 64)
        return builder.sub(width, builder.ctlz(args[0], context.get_constant(types.boolean, False)))

    return types.int64(types.int64), codegen


@intrinsic
def hold(typingctx: Any, value: Any) -> Any:
    """Use a value, and do nothing: what is read by address must live until here.

    Numba drops an array after the last use of its variable, though its address, or a record in it, be in use still.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_dummy_value()

    return types.void(value), codegen


@intrinsic
def trailing_zeros(typingctx: Any, value: Any) -> Any:
    """Count the zero bits below the lowest set bit of an int32, 32 for 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = context.cast(builder, args[0], signature.args[0], types.int32)
        return builder.cttz(bits, context.get_constant(types.boolean, False))

    return types.int32(value), codegen


@intrinsic
def multiply_add(typingctx: Any, total: Any, a: Any, b: Any) -> Any:
    """``total + a * b`` where the compiler may contract and sum in any order (so that reductions vectorise)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        product = builder.fmul(args[1], args[2], flags=("contract",))
        return builder.fadd(args[0], product, flags=("reassoc", "contract", "nsz"))

    return total(total, total, total), codegen


@intrinsic
def pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """Point to elements of the dtype of `like` (an array or a NumPy scalar type) at a machine address."""
    target = types.CPointer(like.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(target))

    return target(address, like), codegen


@inlined
def borrowed(array):
    """View an array that outlives the view, so that a slice of it costs no counting of references."""
    return array_at(array.ctypes.data, array, array.shape)


def zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Like `numpy.zeros`, on a 64-byte boundary: a cache line, and the widest register."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    array: np.ndarray = raw[start : start + size].view(dtype).reshape(shape)
    return array
