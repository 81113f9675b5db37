"""Thresholds that meet integer dot products in registers: those of a tile with 16 directions, of a block with one."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from halfspace.cpu.runtime.lanes import joined, load
from halfspace.cpu.runtime.simd import dot_step, multiply_tile, splat
from halfspace.model.layout import BLOCK

__all__ = ["block_reaching", "tile_reaching"]

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_WIDE = ir.VectorType(ir.FloatType(), BLOCK)
CHAINS = 8
"""Sums of a block that are added at once: an instruction takes four cycles, and two of them begin in each."""


def _number_of(builder: Any, address: Any) -> Any:
    """Repeat a float32 in 16 lanes."""
    return splat(builder, builder.load(builder.inttoptr(address, ir.FloatType().as_pointer()), align=4), BLOCK)


def _reaches(builder: Any, product: Any, rows: list[Any], numbers: list[Any]) -> Any:
    """Bits of the 16 vectors whose products, int32 (16,), are not below what is needed: see `tile_reaching`.

    rows : addresses of float32 (16,); numbers : float32 (16,)
    """
    kind = ir.FunctionType(_WIDE, [_WIDE] * 3)
    fused = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{BLOCK}f32")
    inverse, ratio, *rises = (load(builder, row, ir.FloatType()) for row in rows)
    level, factor, needed, *lifts = numbers
    terms = [(builder.fneg(factor), ratio), (level, inverse), *zip(lifts, rises, strict=True)]
    for one, other in terms:
        needed = builder.call(fused, [one, other, needed])
    return builder.fcmp_unordered(">=", builder.sitofp(product, _WIDE), needed)


@intrinsic
def tile_reaching(typingctx: Any, tile: Any, digits: Any, shape: Any, rows: Any, numbers: Any, out: Any) -> Any:
    """Find the vectors of a tile whose product with each of 16 directions is not below what is needed, in float32.

    tile, digits : as for `matrix_dot`, and to be called where that may be
    shape : steps of four dimensions, beyond which all digits are zero, and columns
    rows : addresses of inverses and ratios, float32 (64,), and of any number of rises
    numbers : addresses of levels, factors and offsets, float32 (16,), and of as many lifts
    out : address of int64 (16,), gets a bit for each vector

    Returns a bit for each direction that has any.

    What is needed is level * inverse - factor * ratio + offset, and lift * rise more for each lift; terms are added
    with or without fused multiply-add. Products need not leave registers for it.
    """
    signature = types.int64(
        *[types.intp] * 2,
        types.UniTuple(types.intp, 2),
        types.UniTuple(types.intp, len(rows)),
        types.UniTuple(types.intp, len(numbers)),
        types.intp,
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        tile, digits, *tuples, out = args
        shape, rows, numbers = (cgutils.unpack_tuple(builder, part) for part in tuples)
        some = cgutils.alloca_once_value(builder, ir.Constant(_I64, 0))

        def compare(direction: Any, products: list[Any]) -> None:
            at = builder.mul(direction, ir.Constant(_I64, 4))
            own = [_number_of(builder, builder.add(address, at)) for address in numbers]
            mask = ir.Constant(_I64, 0)
            for block, product in enumerate(products):
                here = [builder.add(row, ir.Constant(_I64, 4 * BLOCK * block)) for row in rows]
                mask = joined(builder, mask, _reaches(builder, product, here, own), block)
            place = builder.add(out, builder.mul(direction, ir.Constant(_I64, 8)))
            builder.store(mask, builder.inttoptr(place, _I64.as_pointer()), align=8)
            there = builder.zext(builder.icmp_signed("!=", mask, ir.Constant(_I64, 0)), _I64)
            builder.store(builder.or_(builder.load(some), builder.shl(there, direction)), some)

        multiply_tile(builder, tile, digits, shape, compare)
        return builder.load(some)

    return signature, codegen


@intrinsic
def block_reaching(typingctx: Any, codes: Any, digits: Any, steps: Any, rows: Any, numbers: Any) -> Any:
    """Bits of the 16 vectors of a block of a tile whose product with one direction is not below what is needed.

    codes : address of uint8 (steps, 16 vectors, 4); digits : address of int8 (steps, 4); both zero up to a multiple of
        eight steps
    rows, numbers : as for `tile_reaching`, the block's and the direction's
    """
    signature = types.int64(
        *[types.intp] * 3, types.UniTuple(types.intp, len(rows)), types.UniTuple(types.intp, len(numbers))
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        codes, digits, steps, *tuples = args
        rows, numbers = (cgutils.unpack_tuple(builder, part) for part in tuples)
        lanes, number = ir.VectorType(_I32, BLOCK), ir.Constant
        sums = [cgutils.alloca_once(builder, lanes) for _ in range(CHAINS)]
        for place in sums:
            builder.store(number(lanes, [0] * BLOCK), place)
        groups = builder.udiv(builder.add(steps, number(_I64, CHAINS - 1)), number(_I64, CHAINS))
        with cgutils.for_range(builder, groups) as loop:
            here = builder.add(codes, builder.mul(loop.index, number(_I64, 4 * BLOCK * CHAINS)))
            there = builder.add(digits, builder.mul(loop.index, number(_I64, 4 * CHAINS)))
            for step, place in enumerate(sums):
                own = load(builder, builder.add(here, number(_I64, 4 * BLOCK * step)), _I8, 4 * BLOCK)
                four = builder.inttoptr(builder.add(there, number(_I64, 4 * step)), _I32.as_pointer())
                spread = splat(builder, builder.load(four, align=4), BLOCK)
                builder.store(dot_step(builder, builder.load(place), own, spread), place)
        product = builder.load(sums[0])
        for place in sums[1:]:
            product = builder.add(product, builder.load(place))
        bits = _reaches(builder, product, rows, [_number_of(builder, address) for address in numbers])
        return builder.zext(builder.bitcast(bits, _I16), _I64)

    return signature, codegen
