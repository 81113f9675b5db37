"""The cascade of a chunk with cells: norms, principal axes, high codes, low codes; each tests what the one before left.

Norms come first (length pruning). After the first blocks of a chunk the rest of it goes on with the steps that paid
there, by counted bytes.
"""

import numpy as np

from halfspace.cpu.by_chunk import scan_blocks
from halfspace.cpu.filters.records import CELLS
from halfspace.cpu.formats import widen16
from halfspace.cpu.job import (
    AXES,
    BYTES,
    DROPPED,
    HIGH,
    LEFT,
    LOOK,
    LOW,
    NORMS,
    TAKE,
    TAKEN,
    TESTED,
    bits_between,
    fetch,
    keep,
    list_blocks,
)
from halfspace.cpu.rounding import longest_product
from halfspace.cpu.runtime.jit import inlined, pointer, record_at
from halfspace.cpu.runtime.lanes import cell_verdicts, lowest_bit_of
from halfspace.cpu.runtime.simd import nibble_dot, row_dot
from halfspace.model.layout import BLOCK, CHUNK, HIGH_MIDDLE, LOW_MIDDLE

__all__ = ["cascade", "classify_cells", "out_of_reach"]

SAMPLE = 8
"""Blocks of a chunk after which it is judged which steps pay."""
AHEAD = 3 << 12
"""Bytes ahead that codes are fetched: four blocks at a time are more streams than a processor follows by itself."""

MEANWHILE = 1 << 9
"""Bytes of the high codes to come that are fetched with each low code: memory would wait else."""


@inlined
def out_of_reach(cells, chunk, norm, tau):
    """Whether no vector of a chunk is long enough: |q| |x| < tau for all."""
    return longest_product(norm, np.float64(pointer(cells.peaks, np.float32)[chunk])) < tau


@inlined
def classify_cells(job, segment, seen, direction, low, high):
    """Test the cells of rows [low, high) of a chunk; what the codes do not pay for is scanned.

    Returns how many rows are left, and how many hits were counted instead where ``job.counting``.
    """
    cells, view = record_at(segment.data, CELLS), seen.views[direction.number]
    left, counted, after = cascade(job, segment, cells, view, direction, low, high)
    if after < high:
        left = scan_blocks(job, segment, direction, list_blocks(job, after, high), left)
    return left, counted


@inlined
def cascade(job, segment, cells, view, direction, low, high):
    """Test the cells of rows [low, high) of a chunk.

    Returns how many rows are left, how many hits were counted instead, and the row from which on the vectors had better
    be scanned, where the job may.
    """
    work = job.work
    work[NORMS, TESTED] += high - low
    work[NORMS, BYTES] += 4
    if cells.lengths == 0 and out_of_reach(cells, low // CHUNK, direction.norm, direction.tau):
        work[NORMS, DROPPED] += high - low
        return 0, 0, high
    work[NORMS, LEFT] += high - low
    high_bytes, low_bytes, vector_bytes = 4 * job.words + 4, 4 * job.words + 2, job.row_bytes + 4
    use_axes, use_low = cells.axes != 0, True
    left, counted, first = 0, 0, low
    while first < high:
        last = min(first + SAMPLE * BLOCK, high) if first == low else high
        listed = list_blocks(job, first, last)
        before_axes, before_high = work[AXES, BYTES], work[HIGH, BYTES]
        before_low, dropped_low, kept = work[LOW, TESTED], work[LOW, DROPPED], left
        if use_axes:
            listed = _classify_axes(job, segment, cells, view, low, listed)
        found, hits = _classify_high(job, segment, cells, view, low, listed)
        if use_low:
            soon = 0 if use_axes else cells.high + last // BLOCK * (4 * BLOCK * job.words) + AHEAD
            left, more = _classify_low(job, segment, cells, view, low, found, left, soon)
        else:
            left, more = _keep_candidates(job, segment, found, left), 0
        counted += hits + more
        rows = last - first
        first = last
        if first < high:
            spent = work[AXES, BYTES] - before_axes + work[HIGH, BYTES] - before_high
            use_axes = use_axes and spent < rows * high_bytes
            candidates = work[LOW, TESTED] - before_low
            use_low = (work[LOW, DROPPED] - dropped_low) * vector_bytes >= candidates * low_bytes
            if job.may_scan and spent + candidates * low_bytes + (left - kept) * vector_bytes >= rows * vector_bytes:
                return left, counted, first
    return left, counted, high


@inlined
def _locate(job, codes, words, at, count):
    """Say where the blocks job.blocks[at:at + count] lie, the first one again for those that lack of four."""
    for b in range(4):
        job.places[b] = codes + job.blocks[at + (b if b < count else 0)] * (4 * BLOCK * words)
    job.places[4] = job.places[0] + AHEAD


@inlined
def _rows(segment, block):
    """How many rows a block has."""
    return min(BLOCK, segment.rows - BLOCK * block)


@inlined
def _length_bytes(cells):
    return 4 if cells.lengths != 0 else 0


@inlined
def _classify_axes(job, segment, cells, view, low, listed):
    """Test the listed blocks along the first half of the axes, then along all; returns how many are still listed."""
    half = cells.axes // 2
    words = half // 8
    products, values, blocks = job.products.ctypes.data, job.values.ctypes.data - 8 * low, job.blocks.ctypes.data
    work = job.work
    alive = 0
    for part in range(2):
        codes, bias = cells.axes_codes[part], LOW_MIDDLE * view.axes_sums[part]
        own = (values, cells.axes_scales, cells.axes_radii[part], cells.axes_rests[part], cells.lengths)
        widths = view.axes_slack, view.axes_factors[part], view.axes_remainders[part]
        numbers = (view.axes_unit, bias, *widths, view.below, np.inf, view.lift_below, view.lift_above)
        digits = view.axes_digits + part * half
        rows, kept, alive = 0, 0, 0
        for at in range(0, listed, 4):
            count = min(4, listed - at)
            _locate(job, codes, words, at, count)
            nibble_dot(job.places.ctypes.data, digits, view.axes_stride, words, products)
            bits, _ = cell_verdicts((blocks + 8 * at, products, *own), numbers, count, part == 1)
            for b in range(count):
                block = job.blocks[at + b]
                present = _rows(segment, block)
                rows += present
                if (bits >> (BLOCK * b)) & 0xFFFF:
                    job.blocks[kept] = block
                    kept += 1
                    alive += present
                    if part == 1:
                        fetch(cells.high + block * (4 * BLOCK * job.words), 4 * BLOCK * job.words)
        if part == 0:
            work[AXES, TESTED] += rows
        work[AXES, DROPPED] += rows - alive
        work[AXES, BYTES] += rows * (4 * words + (6 + _length_bytes(cells) if part == 0 else 4))
        listed = kept
    work[AXES, LEFT] += alive
    return listed


@inlined
def _classify_high(job, segment, cells, view, low, listed):
    """Test the high codes of the listed blocks.

    Lists the candidates; returns how many there are, and how many hits were counted instead where ``job.counting``.
    """
    products, values, blocks = job.products.ctypes.data, job.values.ctypes.data - 8 * low, job.blocks.ctypes.data
    bias, words, radii = HIGH_MIDDLE / 16.0 * view.digit_sum, job.words, cells.high_radii
    own = (values, cells.scales, radii, radii, cells.lengths)
    numbers = (16.0 * view.unit, bias, view.high_slack, view.factor, 0.0)
    limits = view.below, view.above, view.lift_below, view.lift_above
    counting = job.counting
    found, rows, looks, taken = 0, 0, 0, 0
    for at in range(0, listed, 4):
        count = min(4, listed - at)
        _locate(job, cells.high, words, at, count)
        nibble_dot(job.places.ctypes.data, view.digits, view.stride, words, products)
        remaining, hits = cell_verdicts((blocks + 8 * at, products, *own), (*numbers, *limits), count, False)
        present = BLOCK * (count - 1) + _rows(segment, job.blocks[at + count - 1])
        rows += present
        remaining &= bits_between(0, present)
        while remaining:
            i = lowest_bit_of(remaining)
            remaining &= remaining - 1
            row = BLOCK * job.blocks[at + (i >> 4)] + (i & 15)
            hit = (hits >> i) & 1
            taken += hit
            looks += 1 - hit
            if not (hit and counting):
                job.candidates[found] = 2 * row + hit
                found += 1
                if not hit:
                    fetch(cells.low + 4 * words * row, 4 * words)
    work = job.work
    work[HIGH, TESTED] += rows
    work[HIGH, DROPPED] += rows - looks - taken
    work[HIGH, TAKEN] += taken
    work[HIGH, LEFT] += looks
    work[HIGH, BYTES] += rows * (4 * words + 4 + _length_bytes(cells))
    return found, taken if counting else 0


@inlined
def _keep_candidates(job, segment, found, left):
    """List the candidates as they are; returns how many rows are left."""
    for at in range(found):
        left = keep(job, segment, job.candidates[at] >> 1, TAKE if job.candidates[at] & 1 else LOOK, left)
    return left


@inlined
def _classify_low(job, segment, cells, view, low, found, left, soon):
    """Test the low codes of the candidates; returns how many rows are left, and how many hits were counted instead.

    soon : address of the high codes that come next, to be fetched meanwhile, or 0
    """
    bias, words, counting = LOW_MIDDLE * view.digit_sum, job.words, job.counting
    scales, radii = pointer(cells.scales, np.uint16), pointer(cells.low_radii, np.uint16)
    tested, dropped, taken, counted = 0, 0, 0, 0
    for at in range(found):
        row, hit = job.candidates[at] >> 1, job.candidates[at] & 1
        verdict = TAKE if hit else LOOK
        if not hit:
            tested += 1
            if soon != 0 and at * MEANWHILE < 4 * CHUNK * words:
                fetch(soon + at * MEANWHILE, MEANWHILE)
            product = row_dot(cells.low + 4 * words * row, view.row_digits, view.stride, words)
            scale = widen16(scales[row])
            value = job.values[row - low] + scale * (view.unit * (np.float64(product) - bias))
            width = scale * view.low_slack + view.factor * widen16(radii[row])
            below, above = view.below, view.above
            if cells.lengths != 0:
                length = np.float64(pointer(cells.lengths, np.float32)[row])
                below, above = below + view.lift_below * length, above + view.lift_above * length
            if value + width < below:
                dropped += 1
                continue
            if value - width >= above:
                taken += 1
                verdict = TAKE
                if counting:
                    counted += 1
                    continue
        left = keep(job, segment, row, verdict, left)
    work = job.work
    work[LOW, TESTED] += tested
    work[LOW, DROPPED] += dropped
    work[LOW, TAKEN] += taken
    work[LOW, LEFT] += tested - dropped - taken
    work[LOW, BYTES] += tested * (4 * words + 2)
    return left, counted
