"""The one place that knows instructions: integer dot products of codes with directions.

Codes lie in blocks of 16 vectors, so that 64 bytes hold four bytes of each of them. The instruction `vpdpbusd` (AVX-512
VNNI, or AVX-VNNI on half a register) multiplies such a register of uint8 by four int8 and adds into 16 int32 without
saturating; AMX does it for 16 directions at once. The portable form says the same in plain vector operations, which
LLVM lowers to `pmaddwd` or NEON.

Which of them are emitted, `halfspace.cpu.runtime.forms` says.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from halfspace.cpu.runtime.forms import AMX, AVX512, AVX_VNNI, FORM, PORTABLE
from halfspace.model.layout import BLOCK, TILE

__all__ = [
    "GROUP",
    "dot_step",
    "half_to_float",
    "matrix_begin",
    "matrix_dot",
    "matrix_end",
    "multiply_tile",
    "nibble_dot",
    "prefetch",
    "row_dot",
    "splat",
    "tile_dot",
]

GROUP = 16
"""Directions that `matrix_dot` takes at once."""

_I8, _I32, _I64 = (ir.IntType(bits) for bits in (8, 32, 64))
_LANES = ir.VectorType(_I32, BLOCK)
_BYTES = ir.VectorType(_I8, 4 * BLOCK)
_POINTER = ir.PointerType(_I8)


# -- pieces of code ----------------------------------------------------------------------------------------------------


def _number(value: int, bits: Any = _I64) -> Any:
    return ir.Constant(bits, value)


def _at(builder: Any, address: Any, offset: Any) -> Any:
    return builder.add(address, offset if isinstance(offset, ir.Value) else _number(offset))


def _read(builder: Any, address: Any, element: Any, align: int = 1) -> Any:
    return builder.load(builder.inttoptr(address, element.as_pointer()), align=align)


def _write(builder: Any, value: Any, address: Any, align: int = 4) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def splat(builder: Any, scalar: Any, count: int) -> Any:
    """Repeat a scalar in all lanes of a vector."""
    undefined = ir.Constant(ir.VectorType(scalar.type, 1), ir.Undefined)
    lanes = ir.Constant(ir.VectorType(_I32, count), [0] * count)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, _number(0, _I32)), undefined, lanes)


def _pick(builder: Any, one: Any, other: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


def _instruction(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def _avx512_step(builder: Any, total: Any, codes: Any, digits: Any) -> Any:
    return _instruction(builder, "llvm.x86.avx512.vpdpbusd.512", _LANES, total, builder.bitcast(codes, _LANES), digits)


def _avx_vnni_step(builder: Any, total: Any, codes: Any, digits: Any) -> Any:
    half = ir.VectorType(_I32, BLOCK // 2)
    codes = builder.bitcast(codes, _LANES)
    halves = []
    for first in (0, BLOCK // 2):
        lanes = list(range(first, first + BLOCK // 2))
        parts = [_pick(builder, value, value, lanes) for value in (total, codes, digits)]
        halves.append(_instruction(builder, "llvm.x86.avx512.vpdpbusd.256", half, *parts))
    return _pick(builder, halves[0], halves[1], list(range(BLOCK)))


def _portable_step(builder: Any, total: Any, codes: Any, digits: Any) -> Any:
    wide = ir.VectorType(_I32, 4 * BLOCK)
    products = builder.mul(builder.zext(codes, wide), builder.sext(builder.bitcast(digits, _BYTES), wide))
    for lanes in (2 * BLOCK, BLOCK):  # add neighbours, twice: the four bytes of each vector
        even = _pick(builder, products, products, [2 * i for i in range(lanes)])
        odd = _pick(builder, products, products, [2 * i + 1 for i in range(lanes)])
        products = builder.add(even, odd)
    return builder.add(total, products)


_STEPS = {PORTABLE: _portable_step, AVX_VNNI: _avx_vnni_step, AVX512: _avx512_step, AMX: _avx512_step}


def dot_step(builder: Any, total: Any, codes: Any, digits: Any) -> Any:
    """Add the products of four uint8 of each of 16 vectors with four int8 to int32 (16,)."""
    return _STEPS[FORM](builder, total, codes, digits)


def _prefetch(builder: Any, address: Any) -> None:
    flags = [_number(value, _I32) for value in (0, 3, 1)]  # a read, worth keeping, of data
    _instruction(builder, "llvm.prefetch.p0", ir.VoidType(), builder.inttoptr(address, _POINTER), *flags)


class _Sums:
    """Running sums in registers."""

    def __init__(self, builder: Any, count: int) -> None:
        self._builder = builder
        self._places = [cgutils.alloca_once(builder, _LANES) for _ in range(count)]
        for place in self._places:
            builder.store(ir.Constant(_LANES, [0] * BLOCK), place)

    def add(self, at: int, codes: Any, digits: Any) -> None:
        place = self._places[at]
        self._builder.store(dot_step(self._builder, self._builder.load(place), codes, digits), place)

    def __getitem__(self, at: int) -> Any:
        return self._builder.load(self._places[at])


def _blocks_of(builder: Any, places: Any) -> list[Any]:
    return [_read(builder, _at(builder, places, 8 * block), _I64, 8) for block in range(TILE // BLOCK)]


def _broadcast(builder: Any, address: Any) -> Any:
    return splat(builder, _read(builder, address, _I32, 4), BLOCK)


def _nibbles(builder: Any, codes: Any) -> tuple[Any, Any]:
    """Low and high halves of bytes."""
    low = builder.and_(codes, ir.Constant(_BYTES, [15] * 4 * BLOCK))
    words = builder.lshr(builder.bitcast(codes, _LANES), ir.Constant(_LANES, [4] * BLOCK))
    high = builder.and_(builder.bitcast(words, _BYTES), ir.Constant(_BYTES, [15] * 4 * BLOCK))
    return low, high


# -- dot products ------------------------------------------------------------------------------------------------------


@intrinsic
def tile_dot(typingctx: Any, places: Any, digits: Any, steps: Any, out: Any) -> Any:
    """Dot products of four blocks of codes of 8 bits with both digits of a direction, exact in int32.

    places : address of int64 (4,), the addresses of the blocks: uint8 (steps, 16 vectors, 4 dimensions)
    digits : address of int8 (steps, 2 digits, 4 dimensions)
    out : address of int32 (2 digits, 64 vectors)
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places, digits, steps, out = args

        starts = _blocks_of(builder, places)
        sums = _Sums(builder, 8)
        with cgutils.for_range(builder, steps) as loop:
            here = _at(builder, digits, builder.mul(loop.index, _number(8)))
            pair = [_broadcast(builder, _at(builder, here, 4 * digit)) for digit in range(2)]
            column = builder.mul(loop.index, _number(4 * BLOCK))
            for block, start in enumerate(starts):
                codes = _read(builder, _at(builder, start, column), _BYTES)
                for digit in range(2):
                    sums.add(4 * digit + block, codes, pair[digit])
        for at in range(8):
            _write(builder, sums[at], _at(builder, out, 4 * BLOCK * at))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), codegen


@intrinsic
def nibble_dot(typingctx: Any, places: Any, digits: Any, stride: Any, words: Any, out: Any) -> Any:
    """Dot products of four blocks of codes of 4 bits with both digits of a direction, exact in int32.

    places : address of int64 (5,), the addresses of the blocks: uint8 (words, 16 vectors, 4), where byte b of word w
        holds dimension 8 w + b in its low half, and 8 w + 4 + b in its high half; and one from which as much is fetched
    digits : address of int8 (2 digits, stride), of which 8 `words` dimensions are used
    out : address of int32 (2 digits, 64 vectors)
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places, digits, stride, words, out = args

        starts, soon = _blocks_of(builder, places), _read(builder, _at(builder, places, 8 * TILE // BLOCK), _I64, 8)
        sums = _Sums(builder, 8)
        with cgutils.for_range(builder, words) as loop:
            here = _at(builder, digits, builder.mul(loop.index, _number(8)))
            there = _at(builder, here, stride)
            four = [_broadcast(builder, _at(builder, part, 4 * half)) for part in (here, there) for half in (0, 1)]
            column = builder.mul(loop.index, _number(4 * BLOCK))
            line = _at(builder, soon, builder.mul(loop.index, _number(4 * TILE)))
            for block, start in enumerate(starts):
                _prefetch(builder, _at(builder, line, 4 * BLOCK * block))
                halves = _nibbles(builder, _read(builder, _at(builder, start, column), _BYTES))
                for at in range(4):
                    sums.add(4 * (at // 2) + block, halves[at % 2], four[at])
        for at in range(8):
            _write(builder, sums[at], _at(builder, out, 4 * BLOCK * at))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), codegen


@intrinsic
def row_dot(typingctx: Any, row: Any, digits: Any, stride: Any, words: Any) -> Any:
    """Dot product of one vector's codes of 4 bits with a direction, 256 * high digits + low digits, exact in int64.

    row : address of uint8 (words, 4), laid out as in a block of `nibble_dot`; 64 bytes at a time are read, also beyond
        its end
    digits : address of int8 (2 digits, stride): for each 128 dimensions first those that lie in low halves, then those
        in high halves; zero beyond the direction's last dimension
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row, digits, stride, words = args
        sums = _Sums(builder, 4)
        with cgutils.for_range(builder, builder.udiv(_at(builder, words, 15), _number(16))) as loop:
            halves = _nibbles(builder, _read(builder, _at(builder, row, builder.mul(loop.index, _number(64))), _BYTES))
            here = _at(builder, digits, builder.mul(loop.index, _number(128)))
            for digit, start in enumerate((here, _at(builder, here, stride))):
                for half in range(2):
                    own = _read(builder, _at(builder, start, 64 * half), _LANES, 4)
                    sums.add(2 * digit + half, halves[half], own)
        high, low = (builder.add(sums[2 * digit], sums[2 * digit + 1]) for digit in range(2))
        total = builder.add(builder.shl(high, ir.Constant(_LANES, [8] * BLOCK)), low)
        total = builder.sext(total, ir.VectorType(_I64, BLOCK))  # a lane has a sixteenth of the sum: that fits
        for lanes in (8, 4, 2, 1):
            total = builder.add(*[_pick(builder, total, total, list(range(at, at + lanes))) for at in (0, lanes)])
        return builder.extract_element(total, _number(0, _I32))

    return types.int64(*[types.intp] * 4), codegen


# -- the integer matrix product ----------------------------------------------------------------------------------------

_TILE_SHAPES = bytes([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8])
"""Palette 1: eight tile registers of 16 rows of 64 bytes."""


def _tile_instruction(builder: Any, name: str, *arguments: Any) -> None:
    _instruction(builder, f"llvm.x86.{name}", ir.VoidType(), *arguments)


def _place(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _POINTER)


@intrinsic
def matrix_begin(typingctx: Any) -> Any:
    """Make ready for `matrix_dot`: where there are tile registers, shape them."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if FORM == AMX:
            shapes = cgutils.global_constant(
                builder, "tile_shapes", ir.Constant(ir.ArrayType(_I8, 64), bytearray(_TILE_SHAPES))
            )
            _tile_instruction(builder, "ldtilecfg", builder.bitcast(shapes, _POINTER))
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def matrix_end(typingctx: Any) -> Any:
    """Give back what `matrix_begin` took."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if FORM == AMX:
            _tile_instruction(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), codegen


def _by_tiles(builder: Any, tile: Any, digits: Any, shape: Any, out: Any) -> None:
    """Emit `matrix_dot` in tile registers."""
    steps, columns = shape
    stride = builder.mul(columns, _number(64))
    registers = [_number(register, _I8) for register in range(8)]
    for block in range(4):
        _tile_instruction(builder, "tilezero", registers[block])
    with cgutils.for_range(builder, builder.udiv(_at(builder, steps, 15), _number(16))) as loop:
        here = _at(builder, digits, builder.mul(loop.index, _number(64)))
        _tile_instruction(builder, "tileloadd64", registers[4], _place(builder, here), stride)
        for block in range(4):
            start = _at(builder, tile, builder.mul(columns, _number(1024 * block)))
            codes = _place(builder, _at(builder, start, builder.mul(loop.index, _number(1024))))
            own = registers[5 + block % 3]
            _tile_instruction(builder, "tileloadd64", own, codes, _number(64))
            _tile_instruction(builder, "tdpbsud", registers[block], registers[4], own)
    for block in range(4):
        place = _place(builder, _at(builder, out, 4 * BLOCK * block))
        _tile_instruction(builder, "tilestored64", registers[block], place, _number(4 * TILE))


def _by_vectors(builder: Any, tile: Any, digits: Any, shape: Any, use: Any) -> None:
    """Emit `matrix_dot` with sums in vector registers, and what takes them from there: see `multiply_tile`."""
    steps, columns = shape
    stride = builder.mul(columns, _number(64))
    starts = [_at(builder, tile, builder.mul(columns, _number(1024 * block))) for block in range(4)]
    count = 4 if FORM == AVX512 else 1
    with cgutils.for_range(builder, _number(GROUP // count)) as group:
        first = _at(builder, digits, builder.mul(group.index, builder.mul(stride, _number(count))))
        sums = _Sums(builder, 4 * count)
        with cgutils.for_range(builder, steps) as loop:
            column = builder.mul(loop.index, _number(4 * BLOCK))
            codes = [_read(builder, _at(builder, start, column), _BYTES) for start in starts]
            here = _at(builder, first, builder.mul(loop.index, _number(4)))
            for direction in range(count):
                own = _broadcast(builder, _at(builder, here, builder.mul(stride, _number(direction))))
                for block in range(4):
                    sums.add(4 * direction + block, codes[block], own)
        for direction in range(count):
            number = builder.add(builder.mul(group.index, _number(count)), _number(direction))
            use(number, [sums[4 * direction + block] for block in range(4)])


def multiply_tile(builder: Any, tile: Any, digits: Any, shape: Any, use: Any) -> None:
    """Emit dot products as `matrix_dot` forms them, and what becomes of them.

    shape : steps of four dimensions, beyond which all digits are zero, and columns
    use : called for one direction after another, with its number and its products, int32 (16,) of each block
    """
    if FORM != AMX:
        _by_vectors(builder, tile, digits, shape, use)
        return
    out = builder.ptrtoint(cgutils.alloca_once(builder, _LANES, size=GROUP * TILE // BLOCK), _I64)
    _by_tiles(builder, tile, digits, shape, out)
    with cgutils.for_range(builder, _number(GROUP)) as loop:
        own = _at(builder, out, builder.mul(loop.index, _number(4 * TILE)))
        use(loop.index, [_read(builder, _at(builder, own, 4 * BLOCK * block), _LANES, 4) for block in range(4)])


@intrinsic
def matrix_dot(typingctx: Any, tile: Any, digits: Any, columns: Any, out: Any) -> Any:
    """Dot products of the 64 vectors of a tile with 16 directions of one digit, exact in int32.

    tile : address of uint8 (4 blocks, 16 columns, 16 vectors, 4 dimensions), so that a column has 64 dimensions
    digits : address of int8 (16 directions, 64 columns)
    out : address of int32 (16 directions, 64 vectors)

    Call between `matrix_begin` and `matrix_end`, in the same thread.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        tile, digits, columns, out = args
        shape = builder.mul(columns, _number(16)), columns

        def write(direction: Any, products: list[Any]) -> None:
            row = _at(builder, out, builder.mul(direction, _number(4 * TILE)))
            for block, product in enumerate(products):
                _write(builder, product, _at(builder, row, 4 * BLOCK * block))

        if FORM == AMX:
            _by_tiles(builder, tile, digits, shape, out)
        else:
            _by_vectors(builder, tile, digits, shape, write)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), codegen


# -- other instructions ------------------------------------------------------------------------------------------------


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at an address that will be read soon: a hint, which never faults."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _prefetch(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@intrinsic
def half_to_float(typingctx: Any, bits: Any, portable: Any) -> Any:
    """Widen the float16 with these bits (uint16) by the host's own instruction, or, without one, return `portable`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        triple, _, features = context.codegen().magic_tuple()
        if "+f16c" in features.split(",") or triple.startswith(("aarch64", "arm64")):
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())
        return args[1]

    return types.float32(types.uint16, types.float32), codegen
