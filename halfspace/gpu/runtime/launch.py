"""Launching kernels. CuPy checks nothing that it hands to one; this checks dtype, layout, device and grid."""

import re
from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files
from typing import Any

import cupy as cp
import numpy as np

from halfspace.gpu.runtime.overlap import Launch, can_overlap
from halfspace.model.formats import FORMATS
from halfspace.model.metrics import METRICS, Metric
from halfspace.runtime.notices import compiling, watched

__all__ = ["FORMAT_NUMBERS", "STORED", "WARP_GROUPS", "Kernel", "format_of", "has_warp_groups"]

STORED = "stored"
"""Stands for the dtype of stored bits in the declaration of a parameter."""

FORMAT_NUMBERS = {np.dtype(np.float32): 0, np.dtype(np.uint16): 1, np.dtype(np.int16): 2}
"""Of the bits of each stored format, its number in the kernels."""

WARP_GROUPS = "-arch=sm_90a"
"""What kernels are compiled with that use instructions of warp groups: those of one generation of GPUs."""
_CAPABILITY = "90"
_PROBE = """
#ifndef __CUDA_ARCH_FEAT_SM90_ALL
#error
#endif
extern "C" __global__ void probe() {}
"""

_INCLUDE = re.compile(r'^#include "([\w/]+\.cuh)"\n', re.MULTILINE)
_MAX_GRID = (2**31 - 1, 65535, 65535)
_DEFAULT_SHARED = 48 << 10


def format_of(bits: np.dtype[Any]) -> int:
    """Return the number of a stored format, from the dtype of its bits."""
    return FORMAT_NUMBERS[np.dtype(bits)]


@cache
def _source(name: str) -> str:
    """Return a kernel's source with its headers in place, each once: what is compiled, and what a cache may go by."""
    seen = {name}

    def expand(file: str) -> str:
        def included(match: re.Match[str]) -> str:
            header = match[1]
            if header in seen:
                return ""
            seen.add(header)
            return f"// begin {header}\n{expand(header)}// end {header}\n"

        text = files("halfspace.gpu").joinpath("kernels", file).read_text().replace("#pragma once\n", "")
        return _INCLUDE.sub(included, text)

    return expand(name)


@cache
def has_warp_groups(device: int) -> bool:
    """Whether the current device has instructions of warp groups, and its compiler those alone where it is asked.

    CuPy names an architecture of its own to the compiler; that of CUDA 12 takes no second one.
    """
    if cp.cuda.Device(device).compute_capability != _CAPABILITY:
        return False
    try:
        cp.RawModule(code=_PROBE, options=(WARP_GROUPS,)).compile()
    except cp.cuda.compiler.CompileException:
        return False
    return True


@cache
def _module(
    name: str, variant: tuple[int, int, int | None], device: int, options: tuple[str, ...] = ()
) -> cp.RawModule:
    """Compile a file for a stored format, a metric and the current device; CuPy keeps the binary on disk."""
    format, metric, head_dim = variant
    options = (*options, "-std=c++17", "--fmad=false", f"-DFORMAT={format}")
    if metric != Metric.IP:
        options += (f"-DMETRIC={metric}",)
    if head_dim is not None:
        options += (f"-DHEAD_DIM={head_dim}",)
    return cp.RawModule(code=_source(name), options=options)


def _nothing() -> None:
    """Launch a grid without blocks, or do nothing while another thread compiles."""


def _load(
    file: str, name: str, variant: tuple[int, int, int | None], device: int, options: tuple[str, ...] = ()
) -> Any:
    """Compile a kernel, or load it, in whatever thread."""
    cp.cuda.Device(device).use()
    with compiling(_named(file, *variant[:2]), " (once; kept on disk)"):
        return _module(file, variant, device, options).get_function(name)


def _named(file: str, format: int, metric: int) -> str:
    """Name a file as one of many; those of no format or metric are compiled as if for the first."""
    family = "GPU attention" if file.startswith("attention/") else "GPU kernels"
    purposes = [list(FORMATS)[format]] * (format > 0) + [METRICS[metric]] * (metric > 0)
    return f"{family} for {' and '.join(purposes)}" if purposes else family


class Kernel:
    """One kernel, and what it takes.

    Parameters
    ----------
    file : str
        Its source, by its path in ``halfspace/gpu/kernels`` or an absolute one; includes are paths in there, too.
    name : str
    *parameters : tuple
        ``(name, dtype)`` for a contiguous device array, ``(name, dtype, None)`` for one that may be None,
        ``(name, int)`` and ``(name, float)`` for numbers of 64 bits, ``(name, record)`` with a structured dtype for a
        NumPy array of one record, which is passed by value. The dtype `STORED` is that of the format.
    options : tuple of str
        What the compiler is told besides: `WARP_GROUPS`, for one.
    """

    def __init__(self, file: str, name: str, *parameters: tuple[Any, ...], options: tuple[str, ...] = ()) -> None:
        self._file, self._name, self._options = file, name, options
        self._parameters = [
            (own, kind if kind in (int, float) or kind is STORED else np.dtype(kind), len(optional) == 1)
            for own, kind, *optional in parameters
        ]
        self._functions: dict[tuple[int, int, int | None, int], Any] = {}

    def __call__(
        self,
        grid: tuple[int, ...],
        block: int,
        *arguments: Any,
        shared: int = 0,
        format: int = 0,
        metric: int = 0,
        head_dim: int | None = None,
        overlap: bool = False,
    ) -> None:
        """Launch on the current stream: grid of blocks of `block` threads, with `shared` bytes for each block.

        With `overlap`, it begins while the one before it ends, where that is possible, and waits for that one itself.
        """
        if overlap:
            options: dict[str, Any] = {"format": format, "metric": metric, "head_dim": head_dim}
            self.bind(grid, block, *arguments, shared=shared, overlap=True, **options)()
        elif (ready := self._ready(grid, arguments, (format, metric, head_dim), shared)) is not None:
            function, packed = ready
            function.kernel(grid, (block,), packed, shared_mem=shared)

    def bind(
        self,
        grid: tuple[int, ...],
        block: int,
        *arguments: Any,
        shared: int = 0,
        format: int = 0,
        metric: int = 0,
        head_dim: int | None = None,
        overlap: bool = False,
    ) -> Callable[[], None]:
        """Check everything now, and return what launches on the stream that is current then, again and again.

        A record that is passed by value is read then as well. Some files are compiled for one `head_dim` each, and some
        for one `metric`.
        """
        ready = self._ready(grid, arguments, (format, metric, head_dim), shared)
        if ready is None:
            return _nothing
        function, packed = ready
        if can_overlap(cp.cuda.runtime.getDevice()):
            return Launch(function.kernel, grid, block, packed, shared, overlap)
        return partial(function.kernel, grid, (block,), packed, shared_mem=shared)

    def _ready(
        self, grid: tuple[int, ...], arguments: tuple[Any, ...], variant: tuple[int, int, int | None], shared: int
    ) -> tuple[Any, tuple[Any, ...]] | None:
        """Check everything; returns the function and what it is passed, or None where there are no blocks."""
        device = cp.cuda.runtime.getDevice()
        if len(arguments) != len(self._parameters):
            raise TypeError(f"{self._name} takes {len(self._parameters)} arguments, got {len(arguments)}")
        if 0 in grid:
            return None
        for blocks, most in zip(grid, _MAX_GRID, strict=False):
            if not 0 < blocks <= most:
                raise ValueError(f"{self._name}: a grid of {grid} blocks is beyond {_MAX_GRID}")
        packed = tuple(
            self._packed(argument, *parameter, variant[0], device)
            for argument, parameter in zip(arguments, self._parameters, strict=True)
        )
        function = self._functions.get((*variant, device)) or self._function(variant, device)
        beyond = shared + function.shared_size_bytes > _DEFAULT_SHARED
        if beyond and function.max_dynamic_shared_size_bytes < shared:
            function.max_dynamic_shared_size_bytes = shared
        return function, packed

    def _function(self, variant: tuple[int, int, int | None], device: int) -> Any:
        function = watched(_load, self._file, self._name, variant, device, self._options, meanwhile=_nothing)
        self._functions[*variant, device] = function
        return function

    def _packed(self, argument: Any, name: str, kind: Any, optional: bool, format: int, device: int) -> Any:
        """Check an argument, and bring it into the form that CuPy passes on as it is declared."""
        if kind is int or kind is float:
            return kind(argument)
        if kind is STORED:  # NumPy takes long to find that a dtype is no such name
            kind = list(FORMAT_NUMBERS)[format]
        elif kind.names is not None:
            if argument.dtype is not kind or argument.size != 1:
                raise TypeError(f"{self._name}: {name} must be one record {kind}, got {argument!r:.80}")
            return argument.view(f"V{kind.itemsize}")  # CuPy would spell the fields of a record out at every launch
        if argument is None and optional:
            return 0  # a null pointer: integers are passed in 64 bits
        if not isinstance(argument, cp.ndarray) or argument.dtype != kind:
            raise TypeError(f"{self._name}: {name} must be a device array of {kind}, got {argument!r:.80}")
        if not argument.flags.c_contiguous:
            raise ValueError(f"{self._name}: {name} must be contiguous, got strides {argument.strides}")
        if (own := argument.data.device_id) != device:
            raise ValueError(f"{self._name}: {name} is on GPU {own}, the current one is {device}")
        return argument
