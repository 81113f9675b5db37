"""What a test may set about the device that there is not."""

import os

ADDRESSES = bool(os.environ.get("EMULATOR_ADDRESSES"))
"""Have every address that a kernel reads or writes checked by AddressSanitizer: see README.md."""

devices = 1
"""How many devices ``cupy.cuda.runtime.getDeviceCount`` reports."""

memory = 8 << 30
"""Bytes of memory of a device."""

processors = 2
"""Its multiprocessors."""

flush = False
"""Flush subnormals in kernels, as CuPy's -ftz=true does; here float64 is flushed as well, which no GPU does."""

fences = True
"""After each launch look whether the kernel wrote right before or behind the arrays that it was given."""
