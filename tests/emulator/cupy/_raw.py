"""``cupy.RawModule`` with g++ as the compiler: kernels become functions of a shared library."""

# ruff: noqa: TID251
import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from . import _memory, emulator
from ._array import ndarray
from ._errors import CompileException, CUDADriverError

_HERE = Path(__file__).resolve().parent.parent
_HEADERS = [_HERE / name for name in ("cuda.h", "fibers.h", "launch.h", "ptx.cuh")]
_CHECKS = "alignment,null,bounds,shift-exponent,float-cast-overflow"
_FLAGS = "-std=c++17 -fPIC -w -ffp-contract=off -fno-strict-aliasing -fno-gnu-unique -fwrapv "
_FLAGS += f"-fvisibility=hidden -fsanitize={_CHECKS} -fno-sanitize-recover=all"
_ADDRESSES = " -fsanitize=address -g"
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\s*\(\s*\d+\s*\)\s*)?([\w:\s]+?)\s*\b(\w+)\s*\[\s*\]\s*;")
_PTX = re.compile(r"// begin runtime/ptx\.cuh.*?// end runtime/ptx\.cuh[^\n]*", re.DOTALL)
_KERNEL = re.compile(r"(template\s*<[^;{]*>\s*)?(?:extern\s+\"C\"\s+)?__global__([^;{]*)\{")
_SHARED_BY_DEFAULT, _SHARED_AT_MOST = 48 << 10, 227 << 10
_stacks = ctypes.c_void_p()


def _kernels(code):
    """The names of the kernels in ``code``, templates aside."""
    plain = re.sub(r"//[^\n]*|/\*.*?\*/", " ", code, flags=re.DOTALL)
    names = []
    for template, head in _KERNEL.findall(plain):
        head = re.sub(r"__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)", " ", head)
        if found := re.search(r"(\w+)\s*\(", head) if not template else None:
            names.append(found[1])
    return names


def translate(code):
    """What g++ is given instead of ``code``: all but launchers is local, so that no symbol meets another module's."""
    if found := _PTX.search(code):
        own = _HEADERS[-1].read_text().replace("#pragma once", "")
        line = code[: found.end()].count("\n") + 1  # so that what follows keeps its number
        before, after = code[: found.start()], code[found.end() :]
        code = f'{before}\n#line 1 "runtime/ptx.cuh"\n{own}\n#line {line} "module"\n{after}'
    code = _DYNAMIC.sub(r"static \1*& \2 = reinterpret_cast<\1*&>(emulator::dynamic_memory);", code)
    code = re.sub(r'extern\s+"C"\s+__global__', "__global__", code)  # else `select` would be that of libc
    launchers = "\n".join(f"EMULATE({name})" for name in _kernels(code))
    return f'namespace {{\n#line 1 "module"\n{code}\n}}\n#line 1 "launchers"\n{launchers}\n'


@functools.cache
def _folder():
    """Where what is compiled is kept, for all checkouts: names are digests of contents."""
    folder = Path(tempfile.gettempdir()) / f"cuda-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _digest(parts):
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@functools.cache
def _header(flags):
    """The path of the emulator's header, with what g++ keeps of it beside it."""
    texts = {header.name: header.read_text() for header in _HEADERS}
    place = _folder() / f"headers-{_digest([flags, *texts.values()])}"
    if not place.exists():
        own = Path(tempfile.mkdtemp(dir=_folder()))
        for name, text in texts.items():
            (own / name).write_text(text)
        subprocess.run(["g++", *flags.split(), "-x", "c++-header", str(own / "cuda.h")], check=True)
        try:
            own.rename(place)
        except OSError:  # another process was faster
            shutil.rmtree(own)
    return f"{place}/cuda.h"


def compile(code, options):
    """The path of the library; made once for the same source, options and emulator."""
    defines = [option for option in options if option.startswith(("-D", "-U", "-I"))]
    level = "-O1 " if any(name.startswith("-DHEAD_DIM") for name in defines) else "-O2 "  # many that run little
    flags = level + _FLAGS + (_ADDRESSES if emulator.ADDRESSES else "")
    source, header = translate(code), _header(flags)
    key = _digest([Path(header).parent.name, *defines, source])
    library = _folder() / f"{key}.so"
    if not library.exists():
        own = _folder() / f"{key}.{os.getpid()}.so"
        command = ["g++", "-shared", *flags.split(), *defines, "-include", header, "-o", str(own), "-x", "c++", "-"]
        run = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
        if run.returncode:
            raise CompileException(run.stderr)
        own.replace(library)
    return library


class RawModule:
    """Source of kernels, compiled when the first is asked for."""

    def __init__(self, code=None, *, path=None, options=(), backend="nvrtc", **_):
        self.code = Path(path).read_text() if code is None else code
        self.options, self.backend = tuple(options), backend
        self._library = None

    def compile(self, log_stream=None):
        if self._library is None:
            self._library = ctypes.PyDLL(str(compile(self.code, self.options)))

    def get_function(self, name):
        self.compile()
        try:
            return Kernel(self._library, name)
        except AttributeError:
            raise CUDADriverError(500, "CUDA_ERROR_NOT_FOUND: named symbol not found") from None


class Kernel:
    """A kernel of a module; called with grid, block and arguments."""

    def __init__(self, library, name):
        self.name, self._launch = name, getattr(library, f"{name}_launch")
        self._launch.restype = ctypes.c_char_p
        describe = getattr(library, f"{name}_parameters")
        describe.restype = ctypes.c_char_p
        self._parameters = [(item[0], int(item[1:])) for item in describe().decode().split()]
        self._limit = _SHARED_BY_DEFAULT
        self.max_threads_per_block, self.shared_size_bytes, self.local_size_bytes, self.num_regs = 1024, 0, 0, 32

    @property
    def kernel(self):
        return self

    @property
    def attributes(self):
        return {"max_threads_per_block": 1024, "max_dynamic_shared_size_bytes": self._limit}

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._limit

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size):
        if size > _SHARED_AT_MOST:
            raise CUDADriverError(1, f"CUDA_ERROR_INVALID_VALUE: {size} bytes of shared memory for {self.name}")
        self._limit = size

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None, **_):
        grid, block = ((*map(int, sizes), 1, 1)[:3] for sizes in (grid, block))
        self._check(grid, block, shared_mem)
        if len(args) != len(self._parameters):
            raise TypeError(f"kernel {self.name} has {len(self._parameters)} parameters, not {len(args)}")
        held = [self._pack(k, value) for k, value in enumerate(args)]
        values = (ctypes.c_void_p * max(len(held), 1))(*map(ctypes.addressof, held))
        sizes = (ctypes.c_uint * 6)(*grid, *block)
        problem = self._launch(
            values, sizes, ctypes.c_size_t(shared_mem), ctypes.byref(_stacks), ctypes.c_int(emulator.flush)
        )
        if problem:
            raise RuntimeError(f"kernel {self.name}: {problem.decode()}")
        if emulator.fences:
            self._check_fences(args)

    def _check(self, grid, block, shared):
        threads = block[0] * block[1] * block[2]
        if not (1 <= threads <= 1024 and block[2] <= 64 and min(block) >= 1):
            raise CUDADriverError(1, f"CUDA_ERROR_INVALID_VALUE: kernel {self.name}: block {block}")
        if not (min(grid) >= 1 and grid[0] < 2**31 and max(grid[1:]) < 2**16):
            raise CUDADriverError(1, f"CUDA_ERROR_INVALID_VALUE: kernel {self.name}: grid {grid}")
        if not 0 <= shared <= self._limit:
            raise CUDADriverError(1, f"CUDA_ERROR_INVALID_VALUE: kernel {self.name}: {shared} bytes of shared memory")

    def _pack(self, k, value):
        """The bytes that CuPy would hand to CUDA for an argument; CuPy does not compare them with the parameter."""
        kind, size = self._parameters[k]
        if isinstance(value, ndarray | _memory.MemoryPointer):
            pointer = value.data.ptr if isinstance(value, ndarray) else value.ptr
            dtype = getattr(value, "dtype", None)
            if kind not in "pP" or (kind == "P" and dtype is not None and (dtype.kind, dtype.itemsize) != ("f", size)):
                raise TypeError(f"kernel {self.name}: argument {k} is an array of {dtype}")
            return ctypes.c_void_p(pointer)
        if isinstance(value, np.ndarray):
            packed, fits = value, kind == "V"
        elif type(value) in (bool, int, float):
            packed = {bool: np.bool_, int: np.int64, float: np.float64}[type(value)](value)
            fits = packed.dtype.kind == kind or (kind in "iupP" and type(value) is int)
        elif isinstance(value, np.number | np.bool_):
            packed, fits = value, value.dtype.kind == kind or kind + value.dtype.kind in ("iu", "ui")
        else:
            raise TypeError(f"Unsupported type {type(value)}")
        size = 8 if kind in "pP" else size
        if not fits or packed.nbytes != size:
            raise TypeError(
                f"kernel {self.name}: argument {k}, {value!r}, for a parameter of kind {kind!r}, {size} bytes"
            )
        return ctypes.create_string_buffer(packed.tobytes(), max(size, 1))

    def _check_fences(self, args):
        if any(kind == "V" for kind, _ in self._parameters):  # there may be addresses in a struct
            blocks = [(None, block) for block in _memory.blocks()]
        else:
            blocks = [(k, value._block) for k, value in enumerate(args) if isinstance(value, ndarray)]
        for k, block in blocks:
            if not block.intact():
                raise RuntimeError(
                    f"kernel {self.name} wrote before or behind {'an array' if k is None else f'argument {k}'}"
                )
