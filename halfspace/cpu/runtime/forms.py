"""Which instructions kernels may contain: the best form that the host has, or the one that the environment names.

An instruction that the host lacks must never be emitted, since LLVM aborts. Which form is emitted, `FORM`, is chosen
when this module is imported, from the features that Numba compiles for; cached code is kept apart by it.
"""

import ctypes
import os
import platform
import sys
from functools import cache

import numba
from llvmlite import binding

__all__ = ["AMX", "AVX512", "AVX_VNNI", "FORM", "FORMS", "PORTABLE"]

PORTABLE, AVX_VNNI, AVX512, AMX = range(4)
FORMS = ("portable", "avxvnni", "avx512", "amx")
"""The forms of the kernels, each better than the one before."""


def _host_features() -> list[str]:
    name: str = numba.config.CPU_FEATURES or binding.get_host_cpu_features().flatten()
    return name.split(",")


def _offered(features: list[str]) -> list[int]:
    """Forms that code for a CPU with these features may contain."""
    offered = [PORTABLE]
    if "+avxvnni" in features:
        offered.append(AVX_VNNI)
    if {"+avx512vnni", "+avx512vl", "+avx512bw"} <= set(features):
        offered.append(AVX512)
        if {"+amx-int8", "+amx-tile"} <= set(features) and sys.platform == "linux":
            offered.append(AMX)
    return offered


@cache
def _may_use_amx() -> bool:
    """Ask Linux for the tile registers, which it gives to processes that want them."""
    if platform.machine() != "x86_64":
        return False
    arch_prctl, request, tile_data = 158, 0x1023, 18
    try:
        return bool(ctypes.CDLL(None).syscall(arch_prctl, request, tile_data) == 0)
    except (OSError, AttributeError):
        return False


def _choose() -> int:
    offered = _offered(_host_features())
    wanted = os.environ.get("HALFSPACE_SIMD", "auto")
    if wanted not in ("auto", *FORMS):
        raise ValueError(f"the environment variable HALFSPACE_SIMD must be 'auto' or one of {FORMS}, got {wanted!r}")
    if wanted != "auto" and FORMS.index(wanted) not in offered:
        names = [FORMS[form] for form in offered]
        raise ValueError(f"the environment variable HALFSPACE_SIMD is {wanted!r}, but this host has {names}")
    form = offered[-1] if wanted == "auto" else FORMS.index(wanted)
    if form == AMX and not _may_use_amx():
        if wanted != "auto":
            raise ValueError("the environment variable HALFSPACE_SIMD is 'amx', but the system does not grant it")
        form = AVX512
    return form


FORM = _choose()
"""Which form is used: the best that the host has, or what the environment variable ``HALFSPACE_SIMD`` names."""
