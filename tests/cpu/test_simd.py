"""Every form of the instructions that this host has, against NumPy's int64; and the tests on whole blocks and tiles."""

from functools import cache

import numpy as np
import pytest
from helpers.codes import by_halves
from numba import njit, types

from halfspace.cpu.runtime import forms
from halfspace.cpu.runtime import simd as _simd
from halfspace.cpu.runtime.forms import FORMS
from halfspace.cpu.runtime.lanes import along_axes, block_verdicts, cell_verdicts, count_bits, lowest_bit_of
from halfspace.cpu.runtime.reaching import block_reaching, tile_reaching
from halfspace.cpu.runtime.simd import GROUP, matrix_begin, matrix_dot, matrix_end, nibble_dot, row_dot, tile_dot
from halfspace.model.layout import BLOCK, TILE

every_form = pytest.mark.parametrize("form", FORMS)
LARGEST = 65_536  # dimensions of cells at most
inf, nan = np.inf, np.nan


def _multiply(tile, digits, columns, out):
    matrix_begin()
    matrix_dot(tile, digits, columns, out)
    matrix_end()


def _compare(tile, digits, shape, rows, numbers, out):
    matrix_begin()
    some = tile_reaching(tile, digits, shape, rows, numbers, out)
    matrix_end()
    return some


def _reach(codes, digits, steps, rows, numbers):
    return block_reaching(codes, digits, steps, rows, numbers)


BODIES = {
    "tile_dot": (lambda places, digits, steps, out: tile_dot(places, digits, steps, out), types.void, 4),
    "nibble_dot": (lambda p, digits, stride, words, out: nibble_dot(p, digits, stride, words, out), types.void, 5),
    "row_dot": (lambda row, digits, stride, words: row_dot(row, digits, stride, words), types.int64, 4),
    "matrix_dot": (_multiply, types.void, 4),
    "tile_reaching": (_compare, types.int64, (1, 1, 2, 2, 3, 1)),
    "lifted_tile_reaching": (_compare, types.int64, (1, 1, 2, 3, 4, 1)),
    "block_reaching": (
        lambda c, digits, steps, r, n: block_reaching(c, digits, steps, r, n),
        types.int64,
        (1, 1, 1, 3, 4),
    ),
    "along_axes": (lambda rows, columns, dim, count, out: along_axes(rows, columns, dim, count, out), types.void, 5),
}


@cache
def _compiled(name, form):
    body, result, sizes = BODIES[name]  # how many arguments, or how many numbers each of them has
    sizes = sizes if isinstance(sizes, tuple) else (1,) * sizes
    assert FORMS[_simd.FORM] == form
    return njit(result(*[types.intp if size == 1 else types.UniTuple(types.intp, size) for size in sizes]))(body)


@pytest.fixture
def kernel(form, request, monkeypatch):
    """Compile an intrinsic in some form, which is looked up while code is emitted."""
    number = FORMS.index(form)
    if number not in forms._offered(forms._host_features()):
        pytest.skip(f"this host has no {form}")
    if form == "amx" and not forms._may_use_amx():
        pytest.skip("the system does not grant the tile registers")
    monkeypatch.setattr(_simd, "FORM", number)
    return lambda name: _compiled(name, form)


def aligned(shape, dtype):
    """Random memory on a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.full(size + 64, 0xA5, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def numbers(rng, low, high, shape, dtype, extreme):
    """Numbers from ``low`` up to ``high``, or these two alone in runs, so that sums reach as far as they can."""
    made = aligned(shape, dtype)
    if extreme:
        made[...] = np.where(rng.random(shape[0]) < 0.5, low, high).reshape(-1, *[1] * (len(shape) - 1))
    else:
        made[...] = rng.integers(low, high, shape, dtype, endpoint=True)
    return made


def split(nibbles):
    """Words of 4 bytes (n, words, 4), of codes of 4 bits (n, 8 words): dimensions 8 w + b, and 8 w + 4 + b above."""
    parts = nibbles.reshape(len(nibbles), -1, 2, 4)
    return parts[:, :, 0] | (parts[:, :, 1] << 4)


def exact(left, right):
    """Products as integers, of float64 where that is exact: NumPy multiplies integers slowly."""
    assert left.shape[-1] * 255 * 128 < 2**53
    return (left.astype(np.float64) @ right.astype(np.float64)).astype(np.int64)


# Dot products


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 31, 250, 1024, LARGEST // 4])
@every_form
def test_tile_dot(kernel, steps, extreme, rng):
    codes = numbers(rng, 0, 255, (9, steps, BLOCK, 4), np.uint8, extreme)
    digits = numbers(rng, -128, 127, (steps, 2, 4), np.int8, extreme)
    codes[0, :, 0], digits[:, 0] = 255, -128
    for blocks in ([0, 1, 2, 3], [8, 0, 5, 2], [7, 7, 7, 7]):
        places, out = codes.ctypes.data + np.array(blocks) * (64 * steps), np.full((2, TILE), -9, np.int32)
        kernel("tile_dot")(places.ctypes.data, digits.ctypes.data, steps, out.ctypes.data)
        rows = codes[blocks].transpose(0, 2, 1, 3).reshape(TILE, -1)
        np.testing.assert_array_equal(out, exact(digits.transpose(1, 0, 2).reshape(2, -1), rows.T))
        if steps == LARGEST // 4 and blocks[0] == 0:
            assert out[0, 0] == -128 * 255 * LARGEST  # which is near the end of int32


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("words", [1, 2, 3, 15, 16, 17, 125, LARGEST // 8])
@every_form
def test_nibble_dot(kernel, words, extreme, rng):
    codes = numbers(rng, 0, 15, (9 * BLOCK, 8 * words), np.uint8, extreme)
    codes[0] = 15
    stride = 8 * words + 24
    digits = numbers(rng, -128, 127, (2, stride), np.int8, extreme)
    digits[0, : 8 * words] = -128
    blocks = aligned((9, words, BLOCK, 4), np.uint8)
    blocks[...] = split(codes).reshape(9, BLOCK, words, 4).transpose(0, 2, 1, 3)
    for chosen in ([0, 1, 2, 3], [8, 0, 5, 2], [7, 7, 7, 7]):
        places, out = blocks.ctypes.data + np.array(chosen) * (64 * words), np.full((2, TILE), -9, np.int32)
        places = np.append(places, rng.choice([0, -64, 2**62, places[3]]))  # what is fetched need not be there
        kernel("nibble_dot")(places.ctypes.data, digits.ctypes.data, stride, words, out.ctypes.data)
        rows = codes.reshape(9, BLOCK, -1)[chosen].reshape(TILE, -1)
        np.testing.assert_array_equal(out, exact(digits[:, : 8 * words], rows.T))


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("dim", [1, 7, 8, 9, 100, 127, 128, 129, 1000, LARGEST])
@every_form
def test_row_dot(kernel, dim, extreme, rng):
    """What lies behind the row is read, but is multiplied with digits that are zero."""
    words = -(-dim // 8)
    stride = -(-dim // 128) * 128
    codes = numbers(rng, 0, 15, (3, 8 * words), np.uint8, extreme)
    codes[0] = 15
    digits = aligned((2, stride), np.int8)
    digits[...] = 0
    digits[:, :dim] = numbers(rng, -128, 127, (2, dim), np.int8, extreme)
    if extreme:
        digits[:, :dim] = -128
    expected = exact(codes[:, :dim], digits[:, :dim].T) @ [256, 1]
    digits[...] = by_halves(digits)
    for garbage in (0, 255, 0x5A):
        memory = np.full(3 * 4 * words + 64, garbage, np.uint8)
        memory[: 12 * words] = split(codes).reshape(-1)
        found = [
            kernel("row_dot")(memory.ctypes.data + 4 * words * row, digits.ctypes.data, stride, words)
            for row in range(3)
        ]
        assert found == expected.tolist()
    if extreme:
        assert found[0] == -128 * 257 * 15 * dim


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("columns", [1, 2, 3, 16, LARGEST // 64])
@every_form
def test_matrix_dot(kernel, columns, extreme, rng):
    codes = numbers(rng, 0, 255, (4, 16 * columns, BLOCK, 4), np.uint8, extreme)
    digits = numbers(rng, -128, 127, (GROUP, 64 * columns), np.int8, extreme)
    codes[0, :, 0], codes[1, :, 3], digits[0], digits[9] = 255, 0, -128, 127
    for _ in range(2):  # what tile registers held before does not matter
        out = np.full((GROUP, TILE), -9, np.int32)
        kernel("matrix_dot")(codes.ctypes.data, digits.ctypes.data, columns, out.ctypes.data)
        rows = codes.transpose(0, 2, 1, 3).reshape(TILE, -1)
        np.testing.assert_array_equal(out, exact(digits, rows.T))
    assert out[0, 0] == -128 * 255 * 64 * columns
    assert out[9, 0] == 127 * 255 * 64 * columns
    assert not out[:, BLOCK + 3].any()


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("columns", [1, 2, 7])
@every_form
def test_tile_reaching(kernel, columns, lifted, rng):
    """Numbers are integers that float32 adds without error, in any order; and what is no number leaves all."""
    name = "lifted_tile_reaching" if lifted else "tile_reaching"
    for number in range(20):
        codes = numbers(rng, 0, 255, (4, 16 * columns, BLOCK, 4), np.uint8, False)
        digits = numbers(rng, -128, 127, (GROUP, 64 * columns), np.int8, False)
        steps = 16 * columns - number % 16
        digits[:, 4 * steps :] = 0
        products = exact(digits, codes.transpose(0, 2, 1, 3).reshape(TILE, -1).T)
        rows = rng.integers(0, 64, (3 if lifted else 2, TILE)).astype(np.float32)
        own = rng.integers(-2048, 2048, (4 if lifted else 3, GROUP)).astype(np.float32)
        rows[0, 5], rows[1, 5], rows[1, 6] = 0, inf, nan  # a vector at the centre; and no number at all
        own[0, :4] = inf, -inf, nan, 0
        with np.errstate(invalid="ignore"):
            short = products[:, 9] - _needed(rows, own)[:, 9]
            own[2, 4:] += short[4:] + number % 3 - 1  # one of the products is what is needed, or next to it
            assert (abs(_needed(rows, own)[4:, 7:]) < 2**23).all()
            expected = ~(products < _needed(rows, own))
        assert 0.1 < expected[4:].mean() < 0.9
        out = np.full(GROUP, -9)
        places = (tuple(part.ctypes.data for part in parts) for parts in (rows, own))
        some = kernel(name)(codes.ctypes.data, digits.ctypes.data, (steps, columns), *places, out.ctypes.data)
        assert some == sum(int(row.any()) << direction for direction, row in enumerate(expected))
        for direction in range(GROUP):
            assert int(out[direction]) % 2**64 == sum(int(bit) << i for i, bit in enumerate(expected[direction]))


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 96])
@every_form
def test_block_reaching(kernel, steps, rng):
    for number in range(20):
        codes = numbers(rng, 0, 255, ((steps + 7) // 8 * 8, BLOCK, 4), np.uint8, False)
        digits = numbers(rng, -128, 127, ((steps + 7) // 8 * 8, 4), np.int8, False)
        digits[steps:] = 0
        products = exact(digits.reshape(1, -1), codes.transpose(1, 0, 2).reshape(BLOCK, -1).T)
        rows = rng.integers(0, 64, (3, BLOCK)).astype(np.float32)
        own = rng.integers(-2048, 2048, (4, 1)).astype(np.float32)
        own[2] += products[0, 9] - _needed(rows, own)[0, 9] + number % 3 - 1
        expected = ~(products < _needed(rows, own))[0]
        places = (tuple(part.ctypes.data for part in parts) for parts in (rows, own))
        bits = kernel("block_reaching")(codes.ctypes.data, digits.ctypes.data, steps, *places)
        assert bits == sum(int(bit) << i for i, bit in enumerate(expected))


@pytest.mark.parametrize(("dim", "count"), [(1, 16), (37, 48), (300, 96)])
@pytest.mark.parametrize("form", ["portable"])
def test_along_axes(kernel, dim, count, rng):
    """Each product is rounded, and added in order of dimensions."""
    rows, columns = aligned((8, dim), np.float32), aligned((dim, count), np.float32)
    rows[...], columns[...] = rng.standard_normal(rows.shape), rng.standard_normal(columns.shape)
    expected, out = np.zeros((8, count), np.float32), aligned((8, count), np.float32)
    for j in range(dim):
        expected += rows[:, j, None] * columns[j]
    kernel("along_axes")(rows.ctypes.data, columns.ctypes.data, dim, count, out.ctypes.data)
    np.testing.assert_array_equal(out, expected)


def _needed(rows, own):
    """What is needed of each product (16, 64), in float32."""
    level, factor, offset, *lift = own[:, :, None]
    needed = level * rows[0] - factor * rows[1] + offset
    return needed + lift[0] * rows[2] if lift else needed


def test_forms_that_the_host_lacks_are_refused(monkeypatch):
    offered = {FORMS[form] for form in forms._offered(forms._host_features())}
    assert "portable" in offered
    assert FORMS[forms.FORM] in offered
    assert forms._offered([]) == [0]
    assert forms._offered(["+avxvnni"]) == [0, 1]
    assert forms._offered(["+avx512vnni", "+avx512vl", "-avx512bw"]) == [0]
    monkeypatch.setattr(forms, "_host_features", lambda: ["+avx2"])
    for name in (*FORMS[1:], "sse", ""):
        monkeypatch.setenv("HALFSPACE_SIMD", name)
        with pytest.raises(ValueError, match="HALFSPACE_SIMD"):
            forms._choose()
    for name in ("portable", "auto"):
        monkeypatch.setenv("HALFSPACE_SIMD", name)
        assert FORMS[forms._choose()] == "portable"


def test_without_a_grant_there_are_no_tile_registers(monkeypatch):
    features = ["+avx512vnni", "+avx512vl", "+avx512bw", "+amx-int8", "+amx-tile"]
    monkeypatch.setattr(forms, "_host_features", lambda: features)
    monkeypatch.setattr(forms.sys, "platform", "linux")
    for granted, expected in ((True, "amx"), (False, "avx512")):
        monkeypatch.setattr(forms, "_may_use_amx", lambda granted=granted: granted)
        monkeypatch.setenv("HALFSPACE_SIMD", "auto")
        assert FORMS[forms._choose()] == expected
        monkeypatch.setenv("HALFSPACE_SIMD", "avx512")
        assert FORMS[forms._choose()] == "avx512"
    monkeypatch.setenv("HALFSPACE_SIMD", "amx")
    with pytest.raises(ValueError, match="does not grant"):
        forms._choose()


# Verdicts of blocks and tiles


@njit
def _block_verdicts(products, scales, radii, numbers):
    return block_verdicts((products.ctypes.data, scales.ctypes.data, radii.ctypes.data), numbers)


@njit
def _cell_verdicts(blocks, products, rows, numbers, adds):
    values, short, lengths = rows
    scales, radii, rests = short[0].ctypes.data, short[1].ctypes.data, short[2].ctypes.data
    own = values.ctypes.data, scales, radii, rests, lengths.ctypes.data if lengths.size else 0
    return cell_verdicts((blocks.ctypes.data, products.ctypes.data, *own), numbers, blocks.size, adds)


@njit
def _each_bit(masks, counts, lowest):
    for i in range(masks.size):
        counts[i] = count_bits(masks[i])
        lowest[i] = lowest_bit_of(masks[i])


def bits_of(kept, taken):
    return sum(int(bit) << i for i, bit in enumerate([*kept, *taken]))


def products_of(rng):
    """Products (2, 64) of both digits, and 256 times the high ones plus the low ones for the first 16."""
    products = rng.integers(-(2**31), 2**31, (2, TILE)).astype(np.int32)
    return products, (products[:, :BLOCK].astype(np.int64).T @ [256, 1]).astype(np.float64)


def limits(rng, value, width):
    """Thresholds on the values themselves, between them and beyond."""
    known = value[np.isfinite(value)]
    below = np.concatenate([value + width, value - width, known, [0.0, inf, -inf, nan]])
    return rng.permutation(below)[:20]


def test_block_verdicts(rng):
    for _ in range(20):
        products, whole = products_of(rng)
        scales, radii = rng.random((2, BLOCK)).astype(np.float32)
        scales[3], radii[4:7] = 0, [0, inf, nan]
        unit, bias, slack, factor = rng.standard_normal(4) * [2.0**-20, 2.0**30, 1, 1]
        with np.errstate(invalid="ignore"):
            value = scales * (unit * (whole - bias))
            width = scales * slack + factor * radii
            for below in limits(rng, value, width):
                for above in (below, below + 1, -inf, inf):
                    found = _block_verdicts(products, scales, radii, (unit, bias, slack, factor, below, above))
                    assert found == bits_of(~(value + width < below), value - width >= above)


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("lengthy", [False, True])
def test_cell_verdicts(lengthy, adds, rng):
    """Blocks of any number and order, with rows of a segment that they leave out."""
    for blocks in ([2], [0, 1], [1, 3, 4], [4, 0, 3, 2]):
        products = rng.integers(-(2**31), 2**31, (2, TILE)).astype(np.int32)
        whole = (products.T.astype(np.int64) @ [256, 1])[: BLOCK * len(blocks)].astype(np.float64)
        rows = (BLOCK * np.array(blocks)[:, None] + np.arange(BLOCK)).reshape(-1)
        before = rng.standard_normal(5 * BLOCK)
        if not adds:
            before[rng.integers(0, before.size, 20)] = nan  # whatever was there
        short = rng.random((3, before.size)).astype(np.float32)
        short[:, 3 * BLOCK + 3 :][:, :4] = [0, inf, nan, 2.0**-126]
        short[0, 3 * BLOCK + 4] = 1
        short = (short.view(np.uint32) >> 16).astype(np.uint16)
        scale, radius, rest = (short.astype(np.uint32) << 16).view(np.float32).astype(np.float64)[:, rows]
        lengths = rng.random(before.size if lengthy else 0).astype(np.float32)
        length = lengths[rows].astype(np.float64) if lengthy else 0.0
        unit, bias, slack, factor, remainder, *lifts = rng.standard_normal(7) * [2.0**-20, 2.0**30, 1, 1, 1, 1, 1]
        with np.errstate(invalid="ignore"):
            value = (before[rows] if adds else 0.0) + scale * (unit * (whole - bias))
            width = scale * slack + factor * radius + remainder * rest
            for below in limits(rng, value - lifts[0] * length, width):
                for above in (below, below + 1, -inf, inf):
                    values = before.copy()
                    args = unit, bias, slack, factor, remainder, below, above, *lifts
                    kept, taken = _cell_verdicts(np.array(blocks), products, (values, short, lengths), args, adds)
                    least, enough = below + lifts[0] * length, above + lifts[1] * length
                    assert kept % 2**64 == bits_of(~(value + width < least), [])
                    assert taken % 2**64 == bits_of(value - width >= enough, [])
                    np.testing.assert_array_equal(values[rows], value)
                    others = np.delete(np.arange(before.size), rows)
                    np.testing.assert_array_equal(values[others], before[others])


def test_bits_of_a_tile(rng):
    masks = rng.integers(-(2**63), 2**63, 1000) << rng.integers(0, 64, 1000)
    masks = np.concatenate([masks[masks != 0], [1, -1, -(2**63), 2**63 - 1]])
    counts, lowest = np.empty((2, masks.size), np.int64)
    _each_bit(masks, counts, lowest)
    for mask, count, bit in zip(masks.tolist(), counts, lowest, strict=True):
        assert count == (mask % 2**64).bit_count()
        assert mask % 2 ** (int(bit) + 1) == 2 ** int(bit)
