"""The one place that knows instructions: dot products of code blocks with a direction, and the widening of float16.

Codes lie in blocks of 16 vectors, four dimensions of each vector side by side, so that 64 bytes hold dimensions
4k..4k+3 of 16 vectors. The instruction `vpdpbusd` (AVX-512 VNNI) multiplies such a register of uint8 by four int8 and
adds into 16 int32 without saturating. The portable form says the same in plain vector operations, which LLVM lowers to
`pmaddwd` or NEON.
"""

import os
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "BLOCK",
    "PORTABLE",
    "TILE",
    "block_verdicts",
    "count_bits",
    "half_to_float",
    "lowest_bit_of",
    "prefetch",
    "tile_dot",
]

BLOCK = 16
"""Vectors in a block."""
TILE = 64
"""Vectors in a tile: four blocks, which `tile_dot` takes at once wherever they lie."""
_FORM = os.environ.get("HALFSPACE_SIMD", "auto")
if _FORM not in ("auto", "portable"):
    raise ValueError(f"the environment variable HALFSPACE_SIMD must be 'auto' or 'portable', got {_FORM!r}")
PORTABLE = _FORM == "portable"
"""Whether to use the portable form even where the host has better instructions (``HALFSPACE_SIMD=portable``)."""

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_LANES = ir.VectorType(_I32, BLOCK)
_VPDPBUSD = "llvm.x86.avx512.vpdpbusd.512"


def _has_vnni(context: Any) -> bool:
    """Whether Numba compiles for a CPU with AVX-512 VNNI (its cached code is keyed by the same features)."""
    features = context.codegen().magic_tuple()[2].split(",")
    return "+avx512vnni" in features and "+avx512f" in features


def _splat(builder: Any, scalar: Any, count: int) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, 1), ir.Undefined)
    return builder.shuffle_vector(
        builder.insert_element(undefined, scalar, ir.Constant(_I32, 0)),
        undefined,
        ir.Constant(ir.VectorType(_I32, count), [0] * count),
    )


def _vnni_step(builder: Any, total: Any, codes: Any, digits: Any) -> Any:
    module = builder.module
    function = module.globals.get(_VPDPBUSD) or ir.Function(
        module, ir.FunctionType(_LANES, [_LANES, _LANES, _LANES]), _VPDPBUSD
    )
    return builder.call(function, [total, builder.bitcast(codes, _LANES), digits])


def _portable_step(builder: Any, total: Any, codes: Any, digits: Any) -> Any:
    wide = ir.VectorType(_I32, 4 * BLOCK)
    products = builder.mul(
        builder.zext(codes, wide), builder.sext(builder.bitcast(digits, ir.VectorType(_I8, 4 * BLOCK)), wide)
    )
    for lanes in (2 * BLOCK, BLOCK):  # add neighbours, twice: the four dimensions of each vector
        undefined = ir.Constant(products.type, ir.Undefined)
        pick = ir.VectorType(_I32, lanes)
        even = builder.shuffle_vector(products, undefined, ir.Constant(pick, [2 * i for i in range(lanes)]))
        odd = builder.shuffle_vector(products, undefined, ir.Constant(pick, [2 * i + 1 for i in range(lanes)]))
        products = builder.add(even, odd)
    return builder.add(total, products)


def _emit(builder: Any, step: Any, places: Any, digits: Any, steps: Any, out: Any) -> None:
    blocks = TILE // BLOCK
    starts = []
    for block in range(blocks):
        place = builder.add(places, ir.Constant(_I64, 8 * block))
        starts.append(builder.load(builder.inttoptr(place, _I64.as_pointer())))
    totals = [[cgutils.alloca_once(builder, _LANES) for _ in range(blocks)] for _ in range(2)]
    for row in totals:
        for total in row:
            builder.store(ir.Constant(_LANES, [0] * BLOCK), total)
    with cgutils.for_range(builder, steps) as loop:
        here = builder.mul(loop.index, ir.Constant(_I64, 8))
        pair = []
        for digit in range(2):
            place = builder.add(builder.add(digits, here), ir.Constant(_I64, 4 * digit))
            pair.append(_splat(builder, builder.load(builder.inttoptr(place, _I32.as_pointer()), align=4), BLOCK))
        column = builder.mul(loop.index, ir.Constant(_I64, 4 * BLOCK))
        for block in range(blocks):
            place = builder.add(starts[block], column)
            vector = builder.load(builder.inttoptr(place, ir.VectorType(_I8, 4 * BLOCK).as_pointer()), align=1)
            for digit in range(2):
                total = totals[digit][block]
                builder.store(step(builder, builder.load(total), vector, pair[digit]), total)
    for digit in range(2):
        for block in range(blocks):
            place = builder.add(out, ir.Constant(_I64, 4 * (digit * TILE + block * BLOCK)))
            builder.store(builder.load(totals[digit][block]), builder.inttoptr(place, _LANES.as_pointer()), align=4)


@intrinsic
def tile_dot(typingctx: Any, places: Any, digits: Any, steps: Any, out: Any, portable: Any) -> Any:
    """Dot products of four blocks of codes with both digits of a direction, exact in int32.

    places : address of int64 (4,), the addresses of the blocks: uint8 (steps, 16 vectors, 4 dimensions)
    digits : address of int8 (steps, 2 digits, 4 dimensions)
    out : address of int32 (2 digits, 64 vectors)
    """
    signature = types.void(*[types.intp] * 4, types.boolean)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        *addresses, portable = args
        if _has_vnni(context):
            with builder.if_else(context.cast(builder, portable, types.boolean, types.boolean)) as (then, otherwise):
                with then:
                    _emit(builder, _portable_step, *addresses)
                with otherwise:
                    _emit(builder, _vnni_step, *addresses)
        else:
            _emit(builder, _portable_step, *addresses)
        return context.get_dummy_value()

    return signature, codegen


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
        wide = ir.VectorType(ir.DoubleType(), BLOCK)

        def load(address: Any, element: Any) -> Any:
            return builder.load(builder.inttoptr(address, ir.VectorType(element, BLOCK).as_pointer()), align=4)

        products, scales, radii, *numbers = args
        unit, bias, slack, factor, below, above = (_splat(builder, number, BLOCK) for number in numbers)
        high = builder.sitofp(load(products, _I32), wide)
        low = builder.sitofp(load(builder.add(products, ir.Constant(_I64, 4 * TILE)), _I32), wide)
        product = builder.fadd(builder.fmul(high, ir.Constant(wide, [256.0] * BLOCK)), low)
        scale = builder.fpext(load(scales, ir.FloatType()), wide)
        radius = builder.fpext(load(radii, ir.FloatType()), wide)
        value = builder.fmul(scale, builder.fmul(unit, builder.fsub(product, bias)))
        width = builder.fadd(builder.fmul(scale, slack), builder.fmul(factor, radius))
        kept = builder.not_(builder.fcmp_ordered("<", builder.fadd(value, width), below))
        taken = builder.fcmp_ordered(">=", builder.fsub(value, width), above)
        kept, taken = (builder.zext(builder.bitcast(bits, ir.IntType(BLOCK)), _I64) for bits in (kept, taken))
        return builder.or_(kept, builder.shl(taken, ir.Constant(_I64, BLOCK)))

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


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at an address that will be read soon: a hint, which never faults."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = ir.PointerType(_I8)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [place, _I32, _I32, _I32]), "llvm.prefetch.p0"
        )
        flags = [ir.Constant(_I32, value) for value in (0, 3, 1)]  # a read, worth keeping, of data
        builder.call(function, [builder.inttoptr(args[0], place), *flags])
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
