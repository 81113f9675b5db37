// Verification: decide single vectors, exactly, and round their scores once. The twin of halfspace/cpu/stored.py and
// halfspace/cpu/filters/scan.py; what depends on the metric is in metrics/.
//
// Sums in float64 with their proven error bounds decide nearly every vector; what lies within the bound of tau, or of a
// boundary between two float32 scores, is decided by a whole warp without error.
#include "exact.cuh"
#include "emit.cuh"
#include "metrics/item.cuh"
#if METRIC != IP
#include "naturals.cuh"
#endif
#if METRIC == IP
#include "metrics/inner_product.cuh"
#elif METRIC == COSINE
#include "metrics/cosine.cuh"
#else
#include "metrics/euclidean.cuh"
#endif

#define AT_ONCE (FORMAT == 0 ? 4 : 8)  // stored values in 16 bytes
#define AHEAD 4                        // such pieces of a row that a lane has on their way

// What 16 bytes of a row add to its sums.
__device__ __forceinline__ void add_piece(Sums& total, const uint4& piece, const float* direction) {
    const unsigned words[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
    for (int k = 0; k < AT_ONCE; k += 4) {
        const float4 four = *reinterpret_cast<const float4*>(direction + k);
        const float own[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
#if FORMAT == 0
            const float value = __uint_as_float(words[i]);
#else
            const float value = widen((stored_t)(words[(k + i) / 2] >> (i % 2 * 16) & 0xffff));
#endif
            total.add(exact64(own[i]), exact64(value));
        }
    }
}

// The first pieces of a row, shared out among LANES lanes that follow one another; dimensions beyond them are read later.
template <int LANES>
struct Row {
    uint4 pieces[AHEAD];

    __device__ __forceinline__ void load(const stored_t* row, long long dim) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const long long j = AT_ONCE * (i * LANES + lane_number() % LANES);
            pieces[i] = j < dim ? *reinterpret_cast<const uint4*>(row + j) : make_uint4(0, 0, 0, 0);
        }
    }

    // Sum over the dimensions in float64; all lanes get the sums.
    __device__ __forceinline__ Sums sum_up(const stored_t* row, const float* direction, long long dim) const {
        Sums total = {};
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const long long j = AT_ONCE * (i * LANES + lane_number() % LANES);
            if (j < dim) add_piece(total, pieces[i], direction + j);
        }
#pragma unroll 4
        for (long long j = AT_ONCE * (AHEAD * LANES + lane_number() % LANES); j < dim; j += AT_ONCE * LANES)
            add_piece(total, *reinterpret_cast<const uint4*>(row + j), direction + j);
        for (int step = LANES / 2; step > 0; step /= 2) total.join(step);
        return total;
    }
};

// The same, of rows that do not begin at multiples of 16 bytes.
template <int LANES>
__device__ __forceinline__ Sums sum_singly(const stored_t* row, const float* direction, long long dim) {
    Sums total = {};
    for (long long j = lane_number() % LANES; j < dim; j += LANES) total.add(exact64(direction[j]), widen64(row[j]));
    for (int step = LANES / 2; step > 0; step /= 2) total.join(step);
    return total;
}

// Decide the items of a warp, one for each lane; LANES lanes share the sums of a vector, while the next ones are on their
// way. Lanes without an item have a copy of another's, which nobody asks for.
template <int LANES>
__device__ bool decide_all(const Call& call, const Item& item, float& score) {
    const long long dim = call.dim;
    const int lane = lane_number();
    const int at_once = WARP / LANES;
    const bool whole = dim % AT_ONCE == 0;
    const int upto = WARP - __clz(__ballot_sync(FULL, item.valid));
    const auto row_of = [&](const Item& one) { return static_cast<const stored_t*>(one.segment->vectors) + one.row * dim; };
    Sums own = {};
    Item next = item.of_lane(lane / LANES);
    Row<LANES> ahead;
    if (whole) ahead.load(row_of(next), dim);
    for (int first = 0; first < upto; first += at_once) {
        const Item other = next;
        const Row<LANES> row = ahead;
        if (first + at_once < upto) {
            next = item.of_lane(first + at_once + lane / LANES);
            if (whole) ahead.load(row_of(next), dim);
        }
        const float* direction = call.directions + other.direction * dim;
        const Sums total =
            whole ? row.sum_up(row_of(other), direction, dim) : sum_singly<LANES>(row_of(other), direction, dim);
        const Sums mine = total.of_lane(lane % at_once * LANES);
        if (lane / at_once == first / at_once) own = mine;
    }
    Decision decision = {false, true, 0.0f};
    if (item.valid) decision = decide(call, item, own);
    unsigned doubtful = __ballot_sync(FULL, !decision.certain);
    if (lane == 0) count_work(call, EXACT_STAGE, TESTED, __popc(doubtful));
    while (doubtful != 0) {
        const int source = __ffs(doubtful) - 1;
        doubtful &= doubtful - 1;
        float exactly = 0.0f;
        const Item other = item.of_lane(source);
        const bool reaches = decide_hairline(*other.segment, other.row, call.directions + other.direction * dim,
                                             call.plans[other.direction], dim, call.wanted == SCORES, exactly);
        if (lane == source) {
            decision.hit = reaches;
            decision.score = exactly;
            count_work(call, EXACT_STAGE, reaches ? TAKEN : DROPPED, 1);
        }
    }
    score = decision.score;
    return decision.hit;
}

// Decide the items of a warp, and hold the hits.
__device__ void settle(const Call& call, Item item, unsigned long long pair) {
    const unsigned asked = __ballot_sync(FULL, item.valid);
    if (asked == 0) return;
    // lanes without an item lend a hand with the first one
    const int first = __ffs(asked) - 1;
    const Item other = item.of_lane(first);
    if (!item.valid) item = Item{false, other.direction, other.segment, other.row};
    float score;
    bool hit;
    if (call.dim <= 8) {
        hit = decide_all<1>(call, item, score);
    } else if (call.dim <= 512) {
        hit = decide_all<8>(call, item, score);
    } else {
        hit = decide_all<32>(call, item, score);
    }
    hit = hit && item.valid;
    if (hit) mark_hit(call, *item.segment, item.direction, item.row);
    if (call.wanted == SCORES) list_hits(call, hit, pair, score);
    const unsigned hits = __ballot_sync(FULL, hit);
    if (lane_number() == 0) {
        count_work(call, VERIFY_STAGE, TESTED, __popc(asked));
        count_work(call, VERIFY_STAGE, TAKEN, __popc(hits));
    }
}

// Decide the candidates that the filters listed: as many a warp at once as leave no other idle, up to one a lane. A grid of
// any size; blocks of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS, 2) verify_pairs(Call call) {
    let_next_begin();
    wait_for_previous();
    const unsigned long long listed = min(call.header->pairs, (unsigned long long)call.pair_room);
    const unsigned long long warps = (unsigned long long)gridDim.x * (THREADS / WARP);
    const unsigned each = listed > 16 * warps ? WARP : listed > 4 * warps ? 16 : 4;
    for (unsigned long long first = (blockIdx.x * (unsigned long long)(THREADS / WARP) + threadIdx.x / WARP) * each;
         first < listed; first += warps * each) {
        const unsigned long long at = first + lane_number();
        Item item = {lane_number() < each && at < listed, 0, nullptr, 0};
        unsigned long long pair = 0;
        if (item.valid) {
            pair = call.pairs[at];
            item.direction = direction_of(pair);
            item.segment = &segment_of(call, item.direction, chunk_of(pair));
            item.row = row_in_segment(*item.segment, pair);
        }
        settle(call, item, pair);
    }
}

// Decide every vector of the chunks in a list, which have no codes. Grid: x chunks, y strides over the directions; blocks
// of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS, 2) scan_rows(Call call, const int* listed) {
    const long long chunk = listed[blockIdx.x];
    for (long long k = blockIdx.y; k < call.count; k += gridDim.y) {
        if (call.plans[k].bad != 0.0) continue;
        const Segment& segment = segment_of(call, k, chunk);
        for (int i = threadIdx.x; i < CHUNK; i += THREADS) {
            const long long row = ((chunk - segment.first) << 10) + i;
            const bool valid = row < segment.rows && !is_excluded(segment, row);
            settle(call, Item{valid, k, &segment, row}, pair_of(k, chunk, i));
        }
    }
}
