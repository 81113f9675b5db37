"""What CuPy raises of the runtime, the driver and the compiler."""


class CUDARuntimeError(RuntimeError):
    def __init__(self, status, text="error"):
        self.status = status
        super().__init__(text)


class CUDADriverError(RuntimeError):
    def __init__(self, status, text="error"):
        self.status = status
        super().__init__(text)


class CompileException(Exception):
    """What the compiler said about a module."""
