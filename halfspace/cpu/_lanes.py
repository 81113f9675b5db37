"""Tests on the 16 vectors of a block, or the 64 of a tile, at once: plain vector arithmetic; and the bits it leaves."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from halfspace.cpu._simd import BLOCK, TILE, splat

__all__ = ["block_verdicts", "cell_verdicts", "count_bits", "lowest_bit_of", "pairs_reaching"]

_I16, _I32, _I64 = (ir.IntType(bits) for bits in (16, 32, 64))
_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()


def _load(builder: Any, address: Any, element: Any, count: int = BLOCK) -> Any:
    return builder.load(builder.inttoptr(address, ir.VectorType(element, count).as_pointer()), align=1)


def _product(builder: Any, products: Any) -> Any:
    """256 * high + low, in float64, of what a dot product of both digits wrote for a block."""
    wide = ir.VectorType(_DOUBLE, BLOCK)
    low = builder.sitofp(_load(builder, builder.add(products, ir.Constant(_I64, 4 * TILE)), _I32), wide)
    high = builder.sitofp(_load(builder, products, _I32), wide)
    return builder.fadd(builder.fmul(high, ir.Constant(wide, [256.0] * BLOCK)), low)


def _short(builder: Any, address: Any) -> Any:
    """16 bfloat16, in float64."""
    bits = builder.zext(_load(builder, address, _I16), ir.VectorType(_I32, BLOCK))
    numbers = builder.bitcast(builder.shl(bits, ir.Constant(bits.type, [16] * BLOCK)), ir.VectorType(_FLOAT, BLOCK))
    return builder.fpext(numbers, ir.VectorType(_DOUBLE, BLOCK))


def _bits(builder: Any, value: Any, width: Any, below: Any, above: Any) -> Any:
    """Bits 0 to 15 where value + width < below is not so, bits 16 to 31 where value - width >= above."""
    kept = builder.not_(builder.fcmp_ordered("<", builder.fadd(value, width), below))
    taken = builder.fcmp_ordered(">=", builder.fsub(value, width), above)
    kept, taken = (builder.zext(builder.bitcast(bits, _I16), _I64) for bits in (kept, taken))
    return builder.or_(kept, builder.shl(taken, ir.Constant(_I64, BLOCK)))


@intrinsic
def block_verdicts(
    typingctx: Any,
    products: Any,
    scales: Any,
    radii: Any,
    unit: Any,
    bias: Any,
    slack: Any,
    factor: Any,
    below: Any,
    above: Any,
) -> Any:
    """Test the 16 balls of a block; returns bits 0 to 15 where a ball is not dropped, bits 16 to 31 where it is taken.

    products : address of what `tile_dot` wrote for the block; scales, radii : addresses of float32 (16,)

    With value = scale * (unit * (256 * high + low - bias)) and width = scale * slack + factor * radius, all in float64,
    a ball is dropped where value + width < below, and taken where value - width >= above; neither where one is NaN.
    """
    signature = types.int64(*[types.intp] * 3, *[types.float64] * 6)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.VectorType(_DOUBLE, BLOCK)
        products, scales, radii, *numbers = args
        unit, bias, slack, factor, below, above = (splat(builder, number, BLOCK) for number in numbers)
        scale, radius = (builder.fpext(_load(builder, part, _FLOAT), wide) for part in (scales, radii))
        offset = builder.fsub(_product(builder, products), bias)
        value = builder.fmul(scale, builder.fmul(unit, offset))
        width = builder.fadd(builder.fmul(scale, slack), builder.fmul(factor, radius))
        return _bits(builder, value, width, below, above)

    return signature, codegen


@intrinsic
def cell_verdicts(
    typingctx: Any,
    products: Any,
    values: Any,
    scales: Any,
    radii: Any,
    rests: Any,
    unit: Any,
    bias: Any,
    slack: Any,
    factor: Any,
    remainder: Any,
    below: Any,
    above: Any,
) -> Any:
    """Test 16 vectors by part of their codes; returns bits as `block_verdicts` does.

    products : address of what `nibble_dot` wrote for the block; scales, radii, rests : addresses of bfloat16 (16,)
    values : address of float64 (16,), what the parts before came to; this one is added

    To each value comes scale * (unit * (256 * high + low - bias)); the width is scale * slack + factor * radius +
    remainder * rest.
    """
    signature = types.int64(*[types.intp] * 5, *[types.float64] * 7)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        products, values, scales, radii, rests, *numbers = args
        unit, bias, slack, factor, remainder, below, above = (splat(builder, number, BLOCK) for number in numbers)
        scale, radius, rest = (_short(builder, part) for part in (scales, radii, rests))
        offset = builder.fsub(_product(builder, products), bias)
        value = builder.fadd(_load(builder, values, _DOUBLE), builder.fmul(scale, builder.fmul(unit, offset)))
        builder.store(value, builder.inttoptr(values, value.type.as_pointer()), align=8)
        width = builder.fadd(builder.fmul(scale, slack), builder.fmul(factor, radius))
        width = builder.fadd(width, builder.fmul(remainder, rest))
        return _bits(builder, value, width, below, above)

    return signature, codegen


@intrinsic
def pairs_reaching(
    typingctx: Any, products: Any, inverses: Any, ratios: Any, level: Any, factor: Any, offset: Any
) -> Any:
    """Bits of a tile's vectors whose int32 product is not below level * inverse - factor * ratio + offset, in float32.

    products : address of int32 (64,); inverses, ratios : addresses of float32 (64,)
    """
    signature = types.int64(*[types.intp] * 3, *[types.float32] * 3)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        products, inverses, ratios, *numbers = args
        level, factor, offset = (splat(builder, number, BLOCK) for number in numbers)
        mask = ir.Constant(_I64, 0)
        for block in range(TILE // BLOCK):
            shift = ir.Constant(_I64, 4 * BLOCK * block)
            product, inverse, ratio = (
                _load(builder, builder.add(place, shift), element)
                for place, element in ((products, _I32), (inverses, _FLOAT), (ratios, _FLOAT))
            )
            needed = builder.fsub(builder.fmul(level, inverse), builder.fmul(factor, ratio))
            needed = builder.fadd(needed, offset)
            reaches = builder.fcmp_unordered(">=", builder.sitofp(product, needed.type), needed)
            bits = builder.zext(builder.bitcast(reaches, _I16), _I64)
            mask = builder.or_(mask, builder.shl(bits, ir.Constant(_I64, BLOCK * block)))
        return mask

    return signature, codegen


@intrinsic
def lowest_bit_of(typingctx: Any, mask: Any) -> Any:
    """Place of the lowest set bit of a nonzero int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], context.get_constant(types.boolean, True))

    return types.int64(types.int64), codegen


@intrinsic
def count_bits(typingctx: Any, mask: Any) -> Any:
    """Count the set bits of an int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen
