// The same products as in matrix.cu by warp groups, which only GPUs of compute capability 9.0 have: four warps multiply
// 64 rows and 128 directions at once, of operands that lie in shared memory.
//
// A block keeps the codes of its rows. One of its groups of warps has the copy engine bring the digits of the directions,
// slab after slab; two others multiply, each its own half of the rows, so that one tests what it has while the other one
// multiplies. Sums begin at minus what they must reach, and so are left where they end above it: one addition and
// half a maximum for each. What a sum begins at lies in the bits of a float32 near MIDDLE, whose last place is 1. It is no
// higher than the bound of the row in float32, which is formed of the few sums that are left.
#include "runtime/ptx.cuh"
#include "formats.cuh"
#include "emit.cuh"
#include "filters/swizzled.cuh"
#include "filters/terms.cuh"

#ifndef __CUDA_ARCH_FEAT_SM90_ALL
#error "warp groups are compiled for sm_90a alone"
#endif

#define GROUPS_OF_WARPS 2
#define MULTIPLYING (4 * GROUPS_OF_WARPS)  // warps; others bring what they multiply with
#define BRINGING 4
#define TEAM (WARP * (MULTIPLYING + BRINGING))
#define MOST_ROWS 256
#define MOST_STAGES 8       // slabs on their way
#define BEGINNING (BRINGING - 1)  // of these, warps that bring thresholds, each of every third tile
#define SLOTS (2 * BEGINNING)     // tiles of which thresholds are there
#define HELD 192            // sums that a warp holds before it decides
#define AT_ONCE 6
#define MIDDLE 12582912.0f  // 1.5 * 2^23
#define REACHED 0x4b400000  // its bits
#define WITHIN 4194300.0f   // what sums must reach is exact within 2^22, and a little less is enough
#define ALWAYS 0x1p30f      // where sums begin that end above REACHED in any case
#define NEVER 0.0f          // and those that never do

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
        __syncwarp();
        if (lane_number() == 0) arrive_at(&shared.ready[slot]);
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

// Decide the sums that a warp holds.
__device__ __forceinline__ void decide_held(const Call& call, const Work& work, Shared& shared, const uint2* held,
                                            int& count) {
    const Segment& segment = call.segments[work.space * call.segment_count + work.which];
    for (int first = 0; first < count; first += WARP) {
        const bool there = first + lane_number() < count;
        const uint2 entry = held[there ? first + lane_number() : 0];
        const long long direction = work.space * call.batch + (entry.x & 0xffffff), row = work.row + (entry.x >> 24);
        bool left = there && row < segment.rows && !is_excluded(segment, row), take = false;
        if (left) {
            const View& view = call.views[direction * call.segment_count + work.which];
            const float sum = (float)(int)entry.y;
            const Bounds bounds = bounds_of(view.levels[1], view.lifts[1], shared.terms[entry.x >> 24]);
            left = !(sum < bounds.needed);
            take = left && sum >= bounds.enough && call.wanted != SCORES;
        }
        if (take) mark_hit(call, segment, direction, row);
        list_pairs(call, left && !take, pair_of(direction, work.chunk, (int)(row & (CHUNK - 1))));
    }
    count = 0;
    __syncwarp();
}

// The rows of which a lane has sums: 64 m + 8 half + what is the same for all.
template <int HIGH>
struct Lane {
    float inverse[HIGH][2];
#if METRIC != IP
    float rise[HIGH][2];
#endif
    bool always[HIGH][2];

    // Where a sum begins.
    __device__ __forceinline__ int begin(int m, int half, float level, float lift, float start) const {
#if METRIC != IP
        start = fmaf(lift, rise[m][half], start);
#endif
        return __float_as_int(fmaf(level, inverse[m][half], start));
    }
};

// Multiply the tiles of directions as they come, and test the sums: by one of the warps that do.
template <int HIGH>
__device__ void multiply(const Call& call, const Work& work, Shared& shared, const unsigned char* rows, int stages) {
    const int warp = threadIdx.x / WARP, g = lane_number() / 4, t = lane_number() % 4;
    const int height = HIGH * 64 * GROUPS_OF_WARPS, first_row = warp / 4 * HIGH * 64 + warp % 4 * 16 + g;
    const int slabs = (int)slabs_of(call);
    const unsigned char* ring = rows + slabs * height * DEPTH;
    const unsigned char* own_rows = rows + warp / 4 * HIGH * 64 * DEPTH;
    const long long last = min(work.row + height, call.segments[work.space * call.segment_count + work.which].rows);
    Lane<HIGH> lane;
    bool any_always = false;
#pragma unroll
    for (int m = 0; m < HIGH; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first_row + 64 * m + 8 * half;
            const Terms own = shared.terms[row];
            const bool plain = is_plain(own);
            lane.inverse[m][half] = plain ? own.inverse : 0.0f;
#if METRIC != IP
            lane.rise[m][half] = plain ? own.rise : 0.0f;
#endif
            lane.always[m][half] = !plain && work.row + row < last;
            any_always = any_always || lane.always[m][half];
        }
    uint2* held = shared.held[warp];
    int count = 0, stage = 0, slot = 0;
    unsigned round = 0, turn = 0;
    for (long long tile = work.tile; tile < work.tiles; tile += work.parts) {
        wait_at(&shared.ready[slot], turn & 1);
        int sums[HIGH][64];
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            const float4 two = *reinterpret_cast<const float4*>(&shared.starts[slot][8 * n + 2 * t]);
            float2 lifts = make_float2(0.0f, 0.0f);
#if METRIC != IP
            lifts = *reinterpret_cast<const float2*>(&shared.lifts[slot][8 * n + 2 * t]);
#endif
#pragma unroll
            for (int m = 0; m < HIGH; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    sums[m][4 * n + 2 * half] = lane.begin(m, half, two.x, lifts.x, two.y);
                    sums[m][4 * n + 2 * half + 1] = lane.begin(m, half, two.z, lifts.y, two.w);
                }
        }
        int before = 0;  // the stage whose products may still run
        for (int slab = 0; slab < slabs; slab++) {
            wait_at(&shared.full[stage], round & 1);
            const unsigned char* a = own_rows + slab * height * DEPTH;
            const unsigned char* b = ring + stage * SLAB;
            before_products();
#pragma unroll
            for (int k = 0; k < DEPTH; k += 32)
#pragma unroll
                for (int m = 0; m < HIGH; m++) multiply_group(sums[m], a + m * 64 * DEPTH + k, b + k);
            products_commit();
            products_wait<1>();
            if (slab > 0 && lane_number() == 0) arrive_at(&shared.empty[before]);
            before = stage;
            if (++stage == stages) stage = 0, round++;
        }
        products_wait<0>();
        if (lane_number() == 0) arrive_at(&shared.empty[before]);
#pragma unroll
        for (int m = 0; m < HIGH; m++) products_done(sums[m]);
        unsigned some = any_always ? FULL : 0;  // a bit for each eight columns
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            int most = 0;
#pragma unroll
            for (int m = 0; m < HIGH; m++)
#pragma unroll
                for (int k = 0; k < 4; k++) most = max(most, sums[m][4 * n + k]);
            if (most >= REACHED) some |= 1u << n;
        }
        some = __reduce_or_sync(FULL, some);
        if (some != 0) {
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; n++) {
                if ((some >> n & 1) == 0) continue;
#pragma unroll
                for (int m = 0; m < HIGH; m++) {
                    const int column = 8 * n + 2 * t;
                    const long long direction = tile * COLUMNS + column;
                    unsigned lanes[4];
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        lanes[k] = __ballot_sync(FULL, (sums[m][4 * n + k] >= REACHED || lane.always[m][k / 2]) &&
                                                           direction + k % 2 < call.batch);
                    if ((lanes[0] | lanes[1] | lanes[2] | lanes[3]) == 0) continue;
                    if (count > HELD - 4 * WARP) decide_held(call, work, shared, held, count);
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const float2 start = shared.starts[slot][column + k % 2];
                        float lift = 0.0f;
#if METRIC != IP
                        lift = shared.lifts[slot][column + k % 2];
#endif
                        if (lanes[k] >> lane_number() & 1)
                            held[count + __popc(lanes[k] & lanes_below())] =
                                make_uint2((unsigned)(direction + k % 2) | (unsigned)(first_row + 64 * m + k / 2 * 8) << 24,
                                           sums[m][4 * n + k] - lane.begin(m, k / 2, start.x, lift, start.y));
                        count += __popc(lanes[k]);
                    }
                    __syncwarp();
                }
            }
        }
        __syncwarp();
        if (lane_number() == 0) arrive_at(&shared.read[slot]);
        if (++slot == SLOTS) slot = 0, turn++;
    }
    decide_held(call, work, shared, held, count);
}

// Multiply the rows of a block, 128 HIGH of them, with the directions of its part.
template <int HIGH>
__device__ void multiply_block(const Call& call, const int* listed, int stages, unsigned char* room) {
    const int height = HIGH * 64 * GROUPS_OF_WARPS;
    const long long spaces = call.count / call.batch;
    Work work;
    work.chunk = listed[blockIdx.x / (CHUNK / height)];
    work.which = call.owners[work.chunk];
    work.space = blockIdx.y % spaces;
    work.parts = gridDim.y / spaces;
    work.tile = blockIdx.y / spaces;
    work.tiles = (call.batch + COLUMNS - 1) / COLUMNS;
    const Segment& segment = call.segments[work.space * call.segment_count + work.which];
    work.row = ((work.chunk - segment.first) << 10) + blockIdx.x % (CHUNK / height) * height;
    if (work.row >= segment.rows) return;
    Shared& shared = *reinterpret_cast<Shared*>(room + slabs_of(call) * height * DEPTH + stages * SLAB);
    if (threadIdx.x == 0) {
#pragma unroll 1
        for (int stage = 0; stage < stages; stage++) {
            make_gate(&shared.full[stage], 1);
            make_gate(&shared.empty[stage], MULTIPLYING);
        }
        for (int slot = 0; slot < SLOTS; slot++) {
            make_gate(&shared.ready[slot], 1);
            make_gate(&shared.read[slot], MULTIPLYING);
        }
    }
    if (threadIdx.x < WARP * MULTIPLYING) {
        measure_rows(segment, work.row, height, shared);
        pack_rows(segment, work.row, height, (int)call.dim, room);
    }
    before_copies();
    __syncthreads();
    if (threadIdx.x < WARP * MULTIPLYING) {
        more_registers<232>();
        multiply<HIGH>(call, work, shared, room, stages);
    } else {
        fewer_registers<40>();
        const int own = threadIdx.x / WARP - MULTIPLYING;
        if (own < BEGINNING) bring_thresholds(call, work, shared, own);
        else if (lane_number() == 0) bring_digits(call, work, shared, room + slabs_of(call) * height * DEPTH, stages);
    }
}

// Grid: x is the chunks in the list, which have cells, times the blocks of 256 rows in each; y is the number of spaces
// times that of parts that the directions are cut into. Blocks of TEAM. Shared memory: 256 rows of whole slabs, so many
// slabs of directions as there are stages, and Shared.
extern "C" __global__ void __launch_bounds__(TEAM, 1) multiply_tiles(Call call, const int* listed, long long stages) {
    extern __shared__ __align__(1024) unsigned char dynamic_shared[];
    multiply_block<2>(call, listed, (int)stages, dynamic_shared);
}

// The same in blocks of 128 rows, for more dimensions.
extern "C" __global__ void __launch_bounds__(TEAM, 1) multiply_long_tiles(Call call, const int* listed, long long stages) {
    extern __shared__ __align__(1024) unsigned char dynamic_shared[];
    multiply_block<1>(call, listed, (int)stages, dynamic_shared);
}
