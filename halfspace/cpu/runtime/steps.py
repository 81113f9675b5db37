"""Steps of the mathematics, as parts of a kernel: written by Numba, and optimised where they are used alone.

Numba optimises each function that it compiles, together with all that this calls, and makes machine code of it, before
its caller is compiled, and optimised with all of it once more. A step is never called by Python. So its code is kept as
it is written, linked into the kernels that call it, and optimised once, in each of them.
"""

from collections.abc import Callable
from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

__all__ = ["StepCompiler"]


class _NothingRuns:
    """In the place of the code generator of a step, whose own code is never run."""

    @staticmethod
    def set_env(name: str, env: Any) -> None:
        """Leave the environment to the kernel."""


class _Step(JITCodeLibrary):  # type: ignore[misc]
    """The code of a step, to be linked into that of kernels."""

    codegen = _NothingRuns

    def _optimize_final_module(self) -> None:
        """Leave that to the kernels."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0: there is no machine code."""
        return 0


class StepCompiler(Compiler):  # type: ignore[misc]
    """Compiles steps."""

    def compile_extra(self, func: Callable[..., Any]) -> Any:
        """Compile a function into a library of its own."""
        self.state.library = _Step(self.state.targetctx.codegen(), func.__qualname__)
        return super().compile_extra(func)
