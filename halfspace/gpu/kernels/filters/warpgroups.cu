// The same products as in matrix.cu by warp groups, which only GPUs of compute capability 9.0 have: four warps multiply
// 64 rows and 128 directions at once, of operands that lie in shared memory.
//
// A block keeps the codes of its rows. One of its groups of warps has the copy engine bring the digits of the directions,
// slab after slab; two others multiply, each its own half of the rows, so that one tests what it has while the other one
// multiplies. Sums begin at minus what they must reach, and so are left where they end above it: one addition and
// half a maximum for each. What a sum begins at lies in the bits of a float32 near MIDDLE, whose last place is 1. It is no
// higher than the bound of the row in float32, which is formed of the few sums that are left.
#include "filters/warpgroups.cuh"

#ifndef __CUDA_ARCH_FEAT_SM90_ALL
#error "warp groups are compiled for sm_90a alone"
#endif

// Decide the sums that a warp holds: by the high digits of the directions, and what these leave by both.
template <int ROWS>
__device__ __forceinline__ void decide_held(const Call& call, const Work& work, Shared& shared, const unsigned char* rows,
                                            const uint2* held, int& count) {
    const Segment& segment = call.segments[work.space * call.segment_count + work.which];
    for (int first = 0; first < count; first += WARP) {
        const bool there = first + lane_number() < count;
        const uint2 entry = held[there ? first + lane_number() : 0];
        const long long direction = work.space * call.batch + (entry.x & 0xffffff), row = work.row + (entry.x >> 24);
        bool left = there && row < segment.rows && !is_excluded(segment, row), take = false;
        if (left) {
            const long long seen = direction * call.segment_count + work.which;
            const View& view = call.views[seen];
            const Terms terms = shared.terms[entry.x >> 24];
            const float sum = (float)(int)entry.y;
            left = !(sum < bounds_of(view.levels[1], view.lifts[1], terms).needed);
            if (left) {
                const signed char* low = call.digits + (2 * seen + 1) * call.stride;
                const float both = fmaf(sum, 256.0f, (float)multiply_low(call, rows, ROWS, entry.x >> 24, low));
                const Bounds bounds = bounds_of(view.levels[0], view.lifts[0], terms);
                left = !(both < bounds.needed);
                take = left && both >= bounds.enough && call.wanted != SCORES;
            }
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

// Take the sums of n-th eight columns, where n is the same for all lanes: registers have no index.
template <int HIGH, int FIRST>
__device__ __forceinline__ void take(const int (&sums)[HIGH][64], int n, int (&own)[HIGH][4]) {
    if (n == FIRST) {
#pragma unroll
        for (int m = 0; m < HIGH; m++)
#pragma unroll
            for (int k = 0; k < 4; k++) own[m][k] = sums[m][4 * FIRST + k];
    } else if constexpr (FIRST + 1 < COLUMNS / 8) {
        take<HIGH, FIRST + 1>(sums, n, own);
    }
}

// Multiply the tiles of directions as they come, and test the sums: by one of the warps that do.
template <int HIGH>
__device__ void multiply(const Call& call, const Work& work, Shared& shared, const unsigned char* rows, int stages) {
    const int warp = threadIdx.x / WARP, g = lane_number() / 4, t = lane_number() % 4;
    constexpr int height = HIGH * 64 * GROUPS_OF_WARPS;
    const int first_row = warp / 4 * HIGH * 64 + warp % 4 * 16 + g;
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
        unsigned some = any_always ? (1u << COLUMNS / 8) - 1 : 0;  // a bit for each eight columns
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
        for (; some != 0; some &= some - 1) {
            const int n = __ffs(some) - 1, column = 8 * n + 2 * t;
            const long long direction = tile * COLUMNS + column;
            int own[HIGH][4];
            take<HIGH, 0>(sums, n, own);
            const float4 two = *reinterpret_cast<const float4*>(&shared.starts[slot][column]);
            float2 lifts = make_float2(0.0f, 0.0f);
#if METRIC != IP
            lifts = *reinterpret_cast<const float2*>(&shared.lifts[slot][column]);
#endif
#pragma unroll
            for (int m = 0; m < HIGH; m++) {
                if (count > HELD - 4 * WARP) decide_held<height>(call, work, shared, rows, held, count);
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    const bool left = (own[m][k] >= REACHED || lane.always[m][k / 2]) && direction + k % 2 < call.batch;
                    const unsigned lanes = __ballot_sync(FULL, left);
                    if (lanes == 0) continue;
                    const int begun = k % 2 == 0 ? lane.begin(m, k / 2, two.x, lifts.x, two.y)
                                                 : lane.begin(m, k / 2, two.z, lifts.y, two.w);
                    if (left)
                        held[count + __popc(lanes & lanes_below())] =
                            make_uint2((unsigned)(direction + k % 2) | (unsigned)(first_row + 64 * m + k / 2 * 8) << 24,
                                       own[m][k] - begun);
                    count += __popc(lanes);
                }
                __syncwarp();
            }
        }
        arrive_at(&shared.read[slot]);
        if (++slot == SLOTS) slot = 0, turn++;
    }
    decide_held<height>(call, work, shared, rows, held, count);
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
            make_gate(&shared.ready[slot], WARP);
            make_gate(&shared.read[slot], WARP * MULTIPLYING);
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
