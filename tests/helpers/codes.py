"""Cells and axes, read from their description alone, and the bounds as they are evaluated: no kernel is called."""

import numpy as np

from helpers import reference


def units(array):
    """Finite numbers of any stored format as Python ints: multiples of 2**-149."""
    integers, exponent = reference.whole(array)
    return integers << (exponent + 149)


def bfloat16(bits):
    """The float32 that these bits of bfloat16 stand for."""
    assert bits.dtype == np.uint16
    return (bits.astype(np.uint32) << 16).view(np.float32)


def halves(words):
    """Codes of 4 bits (n, 8 words) of words (n, words, 4)."""
    return np.stack([words & 15, words >> 4], axis=2).reshape(len(words), -1)


def from_blocks(blocks):
    """Words (n, words, 4) of blocks (blocks, words, 16, 4)."""
    return blocks.transpose(0, 2, 1, 3).reshape(-1, blocks.shape[1], 4)


def planes(cells, n, d):
    """High and low codes (n, d) of the first space; what pads them is zero where it must be."""
    words = cells.high.shape[2]
    assert words == -(-d // 8)
    low = cells.low[0, : 4 * words * 16 * cells.high.shape[1]].reshape(-1, words, 4)
    assert not cells.low[0, low.size :].any()
    assert cells.low[0].size == low.size + 64
    both = [halves(part)[:n, :d].astype(np.int64) for part in (from_blocks(cells.high[0]), low)]
    for part in (cells.scales[0], *cells.radii[0]):
        assert not part[n:].any()
    return both


def parts_of(axes, n):
    """Codes (n, h) along the axes, both parts."""
    return np.concatenate([halves(from_blocks(part))[:n] for part in axes.codes[0]], axis=1).astype(np.int64)


def whole_digits(digits, count):
    """Integers A (count,) of two digits (2, stride)."""
    assert not digits[:, count:].any()
    return digits[:, :count].astype(np.int64).T @ [256, 1]


def by_halves(digits):
    """Digits (2, stride) with those of low halves of bytes first, and of high halves then, in each 128 dimensions."""
    return digits.reshape(2, -1, 16, 2, 4).transpose(0, 1, 3, 2, 4).reshape(2, -1)


def bounds_of_cells(cells, view, digits, n, d):
    """Values and widths (2, n) after the high codes, and after both."""
    (high, low), integers = planes(cells, n, d), whole_digits(digits, d)
    scale = bfloat16(cells.scales[0, :n]).astype(np.float64)
    radii = bfloat16(cells.radii[0, :, :n]).astype(np.float64)
    with np.errstate(all="ignore"):
        first = 0.0 + scale * (
            16.0 * view["unit"] * ((high @ integers).astype(np.float64) - 120.5 / 16 * integers.sum())
        )
        second = first + scale * (view["unit"] * ((low @ integers).astype(np.float64) - 7.5 * integers.sum()))
        widths = [
            scale * view[slack] + view["factor"] * radius
            for slack, radius in zip(("high_slack", "low_slack"), radii, strict=True)
        ]
    return np.stack([first, second]), np.stack(widths)


def bounds_along_axes(axes, view, digits, n):
    """Values and widths (2, n) after half of the axes, and after all."""
    codes = parts_of(axes, n)
    half = codes.shape[1] // 2
    integers = whole_digits(digits, 2 * half)
    scale = bfloat16(axes.scales[0, :n]).astype(np.float64)
    radii, rests = (bfloat16(part[0, :, :n]).astype(np.float64) for part in (axes.radii, axes.rests))
    values, widths = [np.zeros(n)], []
    with np.errstate(all="ignore"):
        for part in range(2):
            own = slice(part * half, (part + 1) * half)
            product = (codes[:, own] @ integers[own]).astype(np.float64) - 7.5 * integers[own].sum()
            values.append(values[-1] + scale * (view["axes_unit"] * product))
            width = scale * view["axes_slack"] + view["axes_factors"][part] * radii[part]
            widths.append(width + view["axes_remainders"][part] * rests[part])
    return np.stack(values[1:]), np.stack(widths)


def beyond(bounds, products):
    """How many finite float64 ``bounds`` lie below the real ``products``, which are multiples of 2**-298."""
    finite = np.isfinite(bounds)
    integers, exponent = reference.whole(np.ascontiguousarray(bounds[finite]))
    least = min(exponent, -298)
    return np.count_nonzero((integers << (exponent - least)) < (products[finite] << (-298 - least)))
