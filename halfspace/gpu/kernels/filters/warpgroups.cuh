// What warp groups multiply: codes of rows, digits of directions, and where their sums begin; see warpgroups.cu.
#pragma once

#include "runtime/ptx.cuh"
#include "formats.cuh"
#include "emit.cuh"
#include "filters/swizzled.cuh"
#include "filters/terms.cuh"

#define GROUPS_OF_WARPS 2
#define MULTIPLYING (4 * GROUPS_OF_WARPS)  // warps; others bring what they multiply with
#define BRINGING 4
#define BEGINNING (BRINGING - 1)  // of these, warps that bring thresholds, each of every third tile
#define SLOTS (2 * BEGINNING)     // tiles of which thresholds are there
#define TEAM (WARP * (MULTIPLYING + BRINGING))
#define MOST_ROWS 256
#define MOST_STAGES 8             // slabs on their way
#define HELD 192                  // sums that a warp holds before it decides
#define AT_ONCE 6                 // words that are read before any is waited for
#define MIDDLE 12582912.0f        // 1.5 * 2^23
#define REACHED 0x4b400000        // its bits
#define WITHIN 4194300.0f         // what sums must reach is exact within 2^22, and a little less is enough
#define ALWAYS 0x1p30f            // where sums begin that end above REACHED in any case
#define NEVER 0.0f                // and those that never do

// The least and the largest terms of some rows that have a place on the lattice.
struct Extremes {
    float least, most, ratio, lowest, highest;  // of 1 / s, of r / s, and of e / s
};

struct Shared {
    unsigned long long full[MOST_STAGES], empty[MOST_STAGES], ready[SLOTS], read[SLOTS];
    float2 starts[SLOTS][COLUMNS];  // minus the level, and where sums begin for a row with 1 / s = 0
#if METRIC != IP
    float lifts[SLOTS][COLUMNS];    // minus them
#endif
    Terms terms[MOST_ROWS];
    Extremes extremes[MULTIPLYING];
    uint2 held[MULTIPLYING][HELD];  // a direction of the space, plus 2^24 times a row, and their sum
};

// What a block multiplies.
struct Work {
    long long space;
    long long chunk;
    long long which;  // the segment
    long long row;    // the first
    long long tile;   // of directions, the first; it takes one of so many `parts`
    long long tiles;
    long long parts;
};

__device__ __forceinline__ float extreme(float a, float b, bool largest) { return largest ? fmaxf(a, b) : fminf(a, b); }

__device__ __forceinline__ float over_warp(float value, bool largest) {
    for (int step = WARP / 2; step > 0; step /= 2) value = extreme(value, __shfl_xor_sync(FULL, value, step), largest);
    return value;
}

// Whether float32 holds what a row must reach; all sums of other rows are left to be decided.
__device__ __forceinline__ bool is_plain(const Terms& own) {
    bool plain = own.inverse > 0.0f && own.inverse < 0x1p100f && own.ratio < 0x1p100f;
#if METRIC != IP
    plain = plain && fabsf(own.rise) < 0x1p100f;
#endif
    return plain;
}

// Bring the terms of a block's rows into shared memory, and the extremes of each warp's share.
__device__ void measure_rows(const Segment& segment, long long row, int rows, Shared& shared) {
    Extremes own = {INFINITY, 0.0f, 0.0f, INFINITY, -INFINITY};
    if (threadIdx.x < rows) {
        const Terms terms = terms_of(segment, row + threadIdx.x);
        shared.terms[threadIdx.x] = terms;
        if (is_plain(terms)) {
            own = {terms.inverse, terms.inverse, terms.ratio, 0.0f, 0.0f};
#if METRIC != IP
            own.lowest = own.highest = terms.rise;
#endif
        }
    }
    own = {over_warp(own.least, false), over_warp(own.most, true), over_warp(own.ratio, true),
           over_warp(own.lowest, false), over_warp(own.highest, true)};
    if (lane_number() == 0) shared.extremes[threadIdx.x / WARP] = own;
}

// Join the codes of a block's rows into bytes, 16 rows at a time by a warp; its halves take four words of each in turn,
// AT_ONCE times before they wait for what they read.
__device__ void pack_rows(const Segment& segment, long long row, int rows, int dim, unsigned char* packed) {
    const int words = (dim + 7) / 8, lane = lane_number() % BLOCK;
    for (int first = threadIdx.x / WARP * BLOCK; first < rows; first += MULTIPLYING * BLOCK) {
        const long long block = (row + first) / BLOCK;
        if (block >= (segment.rows + TILE - 1) / TILE * (TILE / BLOCK)) break;
        const unsigned* high = reinterpret_cast<const unsigned*>(segment.high) + block * words * BLOCK + lane;
        const unsigned* low = reinterpret_cast<const unsigned*>(segment.low) + (block * BLOCK + lane) * words;
        for (int begin = 4 * (lane_number() / BLOCK); begin < words; begin += 8 * AT_ONCE) {
            unsigned upper[AT_ONCE][4], lower[AT_ONCE][4];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const int word = begin + 8 * i;
                if (words % 4 == 0) {
                    const uint4 four = word < words ? stream128(low + word) : make_uint4(0, 0, 0, 0);
                    lower[i][0] = four.x, lower[i][1] = four.y, lower[i][2] = four.z, lower[i][3] = four.w;
                }
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    const bool there = word + k < words;
                    upper[i][k] = there ? stream32(high + (word + k) * BLOCK) : 0;
                    if (words % 4 != 0) lower[i][k] = there ? stream32(low + word + k) : 0;
                }
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                if (begin + 8 * i >= words) break;
                unsigned char* slab = packed + (begin + 8 * i) / (DEPTH / 8) * (rows * DEPTH);
#pragma unroll
                for (int k = 0; k < 4; k += 2) {
                    const uint2 left = joined(upper[i][k], lower[i][k]);
                    const uint2 right = joined(upper[i][k + 1], lower[i][k + 1]);
                    const int byte = (8 * (begin + 8 * i + k)) % DEPTH;
                    *reinterpret_cast<uint4*>(slab + swizzled(first + lane, byte)) =
                        make_uint4(left.x, left.y, right.x, right.y);
                }
            }
        }
    }
}

// The product of a row's codes with the low digits of a direction.
__device__ __forceinline__ int multiply_low(const Call& call, const unsigned char* packed, int rows, int row,
                                            const signed char* low) {
    int sum = 0;
#pragma unroll 4
    for (int at = 0; at < (int)call.stride; at += 16) {
        const uint4 codes = *reinterpret_cast<const uint4*>(packed + at / DEPTH * (rows * DEPTH) + swizzled(row, at % DEPTH));
        const uint4 digits = *reinterpret_cast<const uint4*>(low + at);
        sum = __dp4a((int)codes.x, (int)digits.x, sum);
        sum = __dp4a((int)codes.y, (int)digits.y, sum);
        sum = __dp4a((int)codes.z, (int)digits.z, sum);
        sum = __dp4a((int)codes.w, (int)digits.w, sum);
    }
    return sum;
}

// Where the sums of a direction begin for a row: at start - level / s - lift e / s, in bits.
struct Start {
    float level;
    float lift;
    float start;
};

__device__ Start start_of(const Level& level, const Lift& lift, const Extremes& rows) {
    const float width = level.ratio * rows.ratio + level.offset;
    const float one = level.level * rows.least, other = level.level * rows.most;
    float low = fminf(one, other) - width, high = fmaxf(one, other) - width;
    float size = fabsf(one) + fabsf(other) + fabsf(width);
#if METRIC != IP
    const float lowest = lift.below * rows.lowest, highest = lift.below * rows.highest;
    low += fminf(lowest, highest);
    high += fmaxf(lowest, highest);
    size += fabsf(lowest) + fabsf(highest);
#endif
    const float slack = 4.0f + size * 0x1p-20f;  // pays for the rounding of bounds, and of this
    if (!(size < 0x1p100f)) {  // infinite thresholds among others
        const bool beyond = level.level == INFINITY && fabsf(width) < 0x1p100f && fabsf(lift.below) < 0x1p100f;
        return {0.0f, 0.0f, beyond ? NEVER : ALWAYS};
    }
    if (low - slack < -WITHIN) return {0.0f, 0.0f, ALWAYS};
    if (high > WITHIN) return {0.0f, 0.0f, MIDDLE - fminf(low - slack, WITHIN)};
    return {-level.level, -lift.below, MIDDLE + width + slack};
}

// Say where the sums of a tile of directions begin, by one warp.
__device__ void begin_tile(const Call& call, const Work& work, long long tile, const Extremes& rows, Shared& shared,
                           int slot) {
    const long long first = tile * COLUMNS + lane_number();
    Level levels[COLUMNS / WARP];
    Lift lifts[COLUMNS / WARP];
    bool asked[COLUMNS / WARP];
#pragma unroll
    for (int i = 0; i < COLUMNS / WARP; i++) {
        const bool there = first + i * WARP < call.batch;
        const long long direction = work.space * call.batch + (there ? first + i * WARP : 0);
        const View& view = call.views[direction * call.segment_count + work.which];
        levels[i] = view.levels[1];
        lifts[i] = view.lifts[1];
        asked[i] = there && call.plans[direction].bad == 0.0;
    }
#pragma unroll
    for (int i = 0; i < COLUMNS / WARP; i++) {
        const Start own = asked[i] ? start_of(levels[i], lifts[i], rows) : Start{0.0f, 0.0f, NEVER};
        shared.starts[slot][lane_number() + i * WARP] = make_float2(own.level, own.start);
#if METRIC != IP
        shared.lifts[slot][lane_number() + i * WARP] = own.lift;
#endif
    }
}

// Bring thresholds of the directions, as long as there is room: by a warp, of every tile in so many.
__device__ void bring_thresholds(const Call& call, const Work& work, Shared& shared, int own) {
    Extremes rows = {INFINITY, 0.0f, 0.0f, INFINITY, -INFINITY};
    for (int warp = 0; warp < MULTIPLYING; warp++) {
        const Extremes other = shared.extremes[warp];
        rows = {fminf(rows.least, other.least), fmaxf(rows.most, other.most), fmaxf(rows.ratio, other.ratio),
                fminf(rows.lowest, other.lowest), fmaxf(rows.highest, other.highest)};
    }
    if (rows.most == 0.0f) rows = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    int slot = own;
    unsigned turn = 0;  // how often all slots were used
    for (long long tile = work.tile + own * work.parts; tile < work.tiles; tile += BEGINNING * work.parts) {
        if (turn > 0) wait_at(&shared.read[slot], (turn - 1) & 1);
        begin_tile(call, work, tile, rows, shared, slot);
        arrive_at(&shared.ready[slot]);
        slot += BEGINNING;
        if (slot >= SLOTS) slot -= SLOTS, turn++;
    }
}

// Have the digits of the directions brought, as long as there is room: by one thread.
__device__ void bring_digits(const Call& call, const Work& work, Shared& shared, unsigned char* ring, int stages) {
    const int slabs = (int)slabs_of(call);
    int stage = 0;
    unsigned round = 0;  // how often all stages were used
    for (long long tile = work.tile; tile < work.tiles; tile += work.parts) {
        const signed char* digits = call.tiles + first_slab(call, work.which, work.space, tile) * SLAB;
        for (int slab = 0; slab < slabs; slab++) {
            if (round > 0) wait_at(&shared.empty[stage], (round - 1) & 1);
            fetch_to(ring + stage * SLAB, digits + slab * SLAB, SLAB, &shared.full[stage]);
            if (++stage == stages) stage = 0, round++;
        }
    }
}
