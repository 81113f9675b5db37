"""Tests on the 16 vectors of a block, or the 64 of a tile, at once: plain vector arithmetic; and the bits it leaves."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from halfspace.cpu.runtime.simd import splat
from halfspace.model.layout import BLOCK, TILE

__all__ = [
    "along_axes",
    "block_verdicts",
    "cell_verdicts",
    "count_bits",
    "digits_reaching",
    "join_block",
    "joined",
    "lifted_block_verdicts",
    "load",
    "lowest_bit_of",
]

_I16, _I32, _I64 = (ir.IntType(bits) for bits in (16, 32, 64))
_FLOAT, _DOUBLE = ir.FloatType(), ir.DoubleType()


def load(builder: Any, address: Any, element: Any, count: int = BLOCK) -> Any:
    """Load a vector of so many elements from an address."""
    return builder.load(builder.inttoptr(address, ir.VectorType(element, count).as_pointer()), align=1)


def _product(builder: Any, products: Any) -> Any:
    """256 * high + low, in float64, of what a dot product of both digits wrote for a block."""
    wide = ir.VectorType(_DOUBLE, BLOCK)
    low = builder.sitofp(load(builder, builder.add(products, ir.Constant(_I64, 4 * TILE)), _I32), wide)
    high = builder.sitofp(load(builder, products, _I32), wide)
    return builder.fadd(builder.fmul(high, ir.Constant(wide, [256.0] * BLOCK)), low)


def _short(builder: Any, address: Any) -> Any:
    """16 bfloat16, in float64."""
    bits = builder.zext(load(builder, address, _I16), ir.VectorType(_I32, BLOCK))
    numbers = builder.bitcast(builder.shl(bits, ir.Constant(bits.type, [16] * BLOCK)), ir.VectorType(_FLOAT, BLOCK))
    return builder.fpext(numbers, ir.VectorType(_DOUBLE, BLOCK))


def _bits(builder: Any, upper: Any, lower: Any, below: Any, above: Any) -> Any:
    """Bits 0 to 15 where upper < below is not so, bits 16 to 31 where lower >= above."""
    kept = builder.not_(builder.fcmp_ordered("<", upper, below))
    taken = builder.fcmp_ordered(">=", lower, above)
    return _both(builder, kept, taken)


def _both(builder: Any, kept: Any, taken: Any) -> Any:
    kept, taken = (builder.zext(builder.bitcast(bits, _I16), _I64) for bits in (kept, taken))
    return builder.or_(kept, builder.shl(taken, ir.Constant(_I64, BLOCK)))


@intrinsic
def block_verdicts(typingctx: Any, addresses: Any, numbers: Any) -> Any:
    """Test the 16 balls of a block; returns bits 0 to 15 where a ball is not dropped, bits 16 to 31 where it is taken.

    addresses : of what `tile_dot` wrote for the block, and of its scales and radii, float32 (16,)
    numbers : unit, bias, slack, factor, below, above

    With value = scale * (unit * (256 * high + low - bias)) and width = scale * slack + factor * radius, all in float64,
    a ball is dropped where value + width < below, and taken where value - width >= above; neither where one is NaN.
    """
    signature = types.int64(types.UniTuple(types.intp, 3), types.UniTuple(types.float64, 6))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.VectorType(_DOUBLE, BLOCK)
        products, scales, radii = cgutils.unpack_tuple(builder, args[0])
        numbers = [splat(builder, number, BLOCK) for number in cgutils.unpack_tuple(builder, args[1])]
        unit, bias, slack, factor, below, above = numbers
        scale, radius = (builder.fpext(load(builder, part, _FLOAT), wide) for part in (scales, radii))
        offset = builder.fsub(_product(builder, products), bias)
        value = builder.fmul(scale, builder.fmul(unit, offset))
        width = builder.fadd(builder.fmul(scale, slack), builder.fmul(factor, radius))
        return _bits(builder, builder.fadd(value, width), builder.fsub(value, width), below, above)

    return signature, codegen


@intrinsic
def lifted_block_verdicts(typingctx: Any, addresses: Any, numbers: Any) -> Any:
    """Test 16 balls with lengths, as `halfspace.cpu.filters.lifts` says; returns bits as `block_verdicts` does.

    addresses : as there, and of the lengths, float32 (16,)
    numbers : unit, bias, slack, factor_below, factor_above, widest, below, above, lift_below, lift_above
    """
    signature = types.int64(types.UniTuple(types.intp, 4), types.UniTuple(types.float64, 10))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.VectorType(_DOUBLE, BLOCK)
        products, *parts = cgutils.unpack_tuple(builder, args[0])
        numbers = [splat(builder, number, BLOCK) for number in cgutils.unpack_tuple(builder, args[1])]
        unit, bias, slack, factor_below, factor_above, widest, *limits = numbers
        scale, radius, length = (builder.fpext(load(builder, part, _FLOAT), wide) for part in parts)
        value = builder.fmul(scale, builder.fmul(unit, builder.fsub(_product(builder, products), bias)))
        coded = builder.fmul(scale, slack)
        upper = builder.fadd(value, builder.fadd(coded, builder.fmul(factor_below, radius)))
        lower = builder.fsub(value, builder.fadd(coded, builder.fmul(factor_above, radius)))
        below, above = _lifted(builder, length, limits)
        kept = builder.not_(builder.fcmp_ordered("<", upper, below))
        taken = builder.fcmp_ordered(">=", lower, above)
        return _both(builder, kept, builder.and_(taken, builder.fcmp_ordered("<=", radius, widest)))

    return signature, codegen


def _lifted(builder: Any, length: Any, limits: list[Any]) -> tuple[Any, Any]:
    """Thresholds below and above, each lifted by so much for each unit of a length."""
    below, above, lift_below, lift_above = limits
    lifted = [builder.fadd(a, builder.fmul(b, length)) for a, b in ((below, lift_below), (above, lift_above))]
    return lifted[0], lifted[1]


@intrinsic
def cell_verdicts(typingctx: Any, addresses: Any, numbers: Any, count: Any, adds: Any) -> Any:
    """Test the 16 vectors of up to four blocks by part of their codes; returns bits of those left, and of those taken.

    addresses : of the numbers of the blocks, int64 (count,); of what `nibble_dot` wrote for them; and of the first row
        of a segment: its value, float64, which gets what the parts so far come to, scale, radius and rest, bfloat16,
        and its length, float32, or 0 where rows have none
    numbers : unit, bias, slack, factor, remainder, below, above, lift_below, lift_above
    adds : whether there are parts before, to whose values this one is added

    To each value comes scale * (unit * (256 * high + low - bias)); the width is scale * slack + factor * radius +
    remainder * rest. A vector is dropped where value + width < below + lift_below * length, and taken where value -
    width >= above + lift_above * length; neither where one is NaN.
    """
    pair = types.UniTuple(types.int64, 2)
    signature = pair(types.UniTuple(types.intp, 7), types.UniTuple(types.float64, 9), types.intp, types.boolean)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        blocks, products, *rows, lengths = cgutils.unpack_tuple(builder, args[0])
        *numbers, lift_below, lift_above = [
            splat(builder, number, BLOCK) for number in cgutils.unpack_tuple(builder, args[1])
        ]
        limits, lifts, count, adds = numbers[-2:], (lift_below, lift_above), args[2], args[3]
        masks = [cgutils.alloca_once_value(builder, ir.Constant(_I64, 0)) for _ in range(2)]
        lifted = [cgutils.alloca_once(builder, limits[0].type) for _ in range(2)]
        lengthy = builder.icmp_unsigned("!=", lengths, ir.Constant(_I64, 0))
        with cgutils.for_range(builder, count) as loop:
            place = builder.add(blocks, builder.mul(loop.index, ir.Constant(_I64, 8)))
            row = builder.mul(builder.load(builder.inttoptr(place, _I64.as_pointer())), ir.Constant(_I64, BLOCK))
            first = builder.mul(loop.index, ir.Constant(_I64, BLOCK))
            own = [
                builder.add(address, builder.mul(at, ir.Constant(_I64, size)))
                for address, at, size in zip((products, *rows), (first, *[row] * 4), (4, 8, 2, 2, 2), strict=True)
            ]
            upper, lower = _cells(builder, own, numbers[:-2], adds)
            for limit, to in zip(limits, lifted, strict=True):
                builder.store(limit, to)
            with builder.if_then(lengthy):
                at = builder.add(lengths, builder.mul(row, ir.Constant(_I64, 4)))
                length = builder.fpext(load(builder, at, _FLOAT), limits[0].type)
                for limit, to in zip(_lifted(builder, length, [*limits, *lifts]), lifted, strict=True):
                    builder.store(limit, to)
            kept = builder.not_(builder.fcmp_ordered("<", upper, builder.load(lifted[0])))
            taken = builder.fcmp_ordered(">=", lower, builder.load(lifted[1]))
            for mask, bits in zip(masks, (kept, taken), strict=True):
                own_bits = builder.shl(builder.zext(builder.bitcast(bits, _I16), _I64), first)
                builder.store(builder.or_(builder.load(mask), own_bits), mask)
        return context.make_tuple(builder, signature.return_type, [builder.load(mask) for mask in masks])

    return signature, codegen


def _cells(builder: Any, addresses: list[Any], numbers: list[Any], adds: Any) -> tuple[Any, Any]:
    """Bounds of 16 vectors, as `cell_verdicts` says."""
    products, values, scales, radii, rests = addresses
    unit, bias, slack, factor, remainder = numbers
    scale, radius, rest = (_short(builder, part) for part in (scales, radii, rests))
    value = builder.fmul(scale, builder.fmul(unit, builder.fsub(_product(builder, products), bias)))
    before = builder.select(adds, load(builder, values, _DOUBLE), ir.Constant(value.type, [0.0] * BLOCK))
    value = builder.fadd(before, value)
    builder.store(value, builder.inttoptr(values, value.type.as_pointer()), align=8)
    width = builder.fadd(builder.fmul(scale, slack), builder.fmul(factor, radius))
    width = builder.fadd(width, builder.fmul(remainder, rest))
    return builder.fadd(value, width), builder.fsub(value, width)


def joined(builder: Any, mask: Any, bits: Any, block: int) -> Any:
    """Put the bits of a block into the mask of a tile."""
    own = builder.zext(builder.bitcast(bits, _I16), _I64)
    return builder.or_(mask, builder.shl(own, ir.Constant(_I64, BLOCK * block)))


@intrinsic
def digits_reaching(
    typingctx: Any, products: Any, inverses: Any, ratios: Any, level: Any, factor: Any, offset: Any
) -> Any:
    """Bits of a tile's vectors whose product is not below level * inverse - factor * ratio + offset, in float32.

    products : address of int32 (2 digits, 64), which stand for 256 * high + low; inverses, ratios : of float32 (64,)
    """
    signature = types.int64(*[types.intp] * 3, *[types.float32] * 3)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        products, inverses, ratios, *numbers = args
        level, factor, offset = (splat(builder, number, BLOCK) for number in numbers)
        wide = ir.VectorType(_FLOAT, BLOCK)
        mask = ir.Constant(_I64, 0)
        for block in range(TILE // BLOCK):
            at = ir.Constant(_I64, 4 * BLOCK * block)
            high, inverse, ratio = (builder.add(place, at) for place in (products, inverses, ratios))
            low = load(builder, builder.add(high, ir.Constant(_I64, 4 * TILE)), _I32)
            product = builder.fmul(builder.sitofp(load(builder, high, _I32), wide), ir.Constant(wide, [256.0] * BLOCK))
            product = builder.fadd(product, builder.sitofp(low, wide))
            inverse, ratio = (load(builder, place, _FLOAT) for place in (inverse, ratio))
            needed = builder.fsub(builder.fmul(level, inverse), builder.fmul(factor, ratio))
            reaches = builder.fcmp_unordered(">=", product, builder.fadd(needed, offset))
            mask = joined(builder, mask, reaches, block)
        return mask

    return signature, codegen


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Swap rows and lanes of 16 registers of 16 lanes: pairs of lanes, pairs of pairs, then quarters."""
    interleave = [
        [4 * q + k + at + BLOCK * other for q in range(4) for k in (0, 1) for other in (0, 1)] for at in (0, 2)
    ]
    pairs = [
        [4 * q + 2 * at + k + BLOCK * other for q in range(4) for other in (0, 1) for k in (0, 1)] for at in (0, 1)
    ]
    quarters = [
        [4 * q + k + BLOCK * other for other in (0, 1) for q in (at, at + 2) for k in range(4)] for at in (0, 1)
    ]

    def pick(one: Any, other: Any, lanes: list[int]) -> Any:
        return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_I32, BLOCK), lanes))

    # after two steps, quarter q of fours[g][k] holds lane 4 q + k of rows 4 g to 4 g + 3
    fours = []
    for g in range(4):
        a, b, c, d = rows[4 * g : 4 * g + 4]
        low, high = ([pick(x, y, lanes) for x, y in ((a, b), (c, d))] for lanes in interleave)
        fours.append([pick(half[0], half[1], lanes) for half in (low, high) for lanes in pairs])
    columns = [None] * BLOCK
    for k in range(4):
        one, two, three, four = (group[k] for group in fours)
        for at in (0, 1):
            first, second = pick(one, two, quarters[at]), pick(three, four, quarters[at])
            columns[4 * at + k], columns[4 * (at + 2) + k] = (
                pick(first, second, [4 * q + j + BLOCK * o for o in (0, 1) for q in (p, p + 2) for j in range(4)])
                for p in (0, 1)
            )
    return columns


@intrinsic
def join_block(typingctx: Any, high: Any, low: Any, words: Any, out: Any) -> Any:
    """Join both halves of the codes of a block's 16 vectors.

    high : address of uint8 (words, 16, 4), see `halfspace.model.segment.Cells`
    low : address of uint8 (16, words, 4), the first of the block's vectors; up to 64 bytes beyond the end are read
    out : address of uint8 (2 words, 16, 4), on a boundary of 64 bytes: steps of 4 dimensions
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        high, low, words, out = args
        lanes, number = ir.VectorType(_I32, BLOCK), ir.Constant
        turned = cgutils.alloca_once(builder, lanes, size=BLOCK)
        small, large, four = (number(lanes, [value] * BLOCK) for value in (0x0F0F0F0F, -0x0F0F0F10, 4))
        stride = builder.mul(words, number(_I64, 4))
        groups = builder.udiv(builder.add(words, number(_I64, BLOCK - 1)), number(_I64, BLOCK))

        def join(word: Any, lower: Any) -> None:
            upper = load(builder, builder.add(high, builder.mul(word, number(_I64, 4 * BLOCK))), _I32)
            even = builder.or_(builder.shl(builder.and_(upper, small), four), builder.and_(lower, small))
            odd = builder.or_(builder.and_(upper, large), builder.and_(builder.lshr(lower, four), small))
            place = builder.add(out, builder.mul(word, number(_I64, 8 * BLOCK)))
            for codes, offset in ((even, 0), (odd, 4 * BLOCK)):
                address = builder.add(place, number(_I64, offset))
                builder.store(codes, builder.inttoptr(address, lanes.as_pointer()), align=4 * BLOCK)

        with cgutils.for_range(builder, groups) as group:
            first = builder.mul(group.index, number(_I64, BLOCK))
            start = builder.add(low, builder.mul(first, number(_I64, 4)))
            rows = [
                load(builder, builder.add(start, builder.mul(stride, number(_I64, row))), _I32) for row in range(BLOCK)
            ]
            columns = _transposed(builder, rows)
            count = builder.sub(words, first)
            whole = builder.icmp_signed(">=", count, number(_I64, BLOCK))
            with builder.if_else(whole) as (all_words, some):
                with all_words:
                    for word, column in enumerate(columns):
                        join(builder.add(first, number(_I64, word)), column)
                with some:
                    for word, column in enumerate(columns):
                        builder.store(column, builder.gep(turned, [number(_I32, word)]))
                    with cgutils.for_range(builder, count) as loop:
                        join(builder.add(first, loop.index), builder.load(builder.gep(turned, [loop.index])))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), codegen


@intrinsic
def along_axes(typingctx: Any, rows: Any, columns: Any, dim: Any, count: Any, out: Any) -> Any:
    """Products of 8 rows with axes in float32, each the sum of rounded products in order of dimensions.

    rows : address of float32 (8, d); columns : address of float32 (d, count), the axes, a multiple of 16
    out : address of float32 (8, count)
    """
    eight = 8

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, columns, dim, count, out = args
        number, wide = ir.Constant, ir.VectorType(_FLOAT, BLOCK)
        size, stride = (builder.mul(value, number(_I64, 4)) for value in (dim, count))
        starts = [builder.add(rows, builder.mul(size, number(_I64, row))) for row in range(eight)]
        sums = [cgutils.alloca_once(builder, wide) for _ in range(eight)]
        with cgutils.for_range(builder, builder.udiv(count, number(_I64, BLOCK))) as group:
            first = builder.mul(group.index, number(_I64, 4 * BLOCK))
            for place in sums:
                builder.store(number(wide, [0.0] * BLOCK), place)
            with cgutils.for_range(builder, dim) as loop:
                at = builder.mul(loop.index, number(_I64, 4))
                axis = load(builder, builder.add(builder.add(columns, first), builder.mul(loop.index, stride)), _FLOAT)
                for start, place in zip(starts, sums, strict=True):
                    value = builder.load(builder.inttoptr(builder.add(start, at), _FLOAT.as_pointer()), align=4)
                    product = builder.fmul(axis, splat(builder, value, BLOCK))
                    builder.store(builder.fadd(builder.load(place), product), place)
            for row, place in enumerate(sums):
                to = builder.add(builder.add(out, first), builder.mul(stride, number(_I64, row)))
                builder.store(builder.load(place), builder.inttoptr(to, wide.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5), codegen


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
