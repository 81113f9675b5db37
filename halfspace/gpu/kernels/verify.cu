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

#define RESIDENT 3  // blocks of a multiprocessor that verify: with more, registers are too few

// Four stored values that follow one another, from an address that is a multiple of their size.
__device__ __forceinline__ void load4(const stored_t* address, float (&out)[4]) {
#if FORMAT == 0
    const float4 four = *reinterpret_cast<const float4*>(address);
    out[0] = four.x, out[1] = four.y, out[2] = four.z, out[3] = four.w;
#else
    const uint2 four = *reinterpret_cast<const uint2*>(address);
    out[0] = widen((stored_t)(four.x & 0xffff)), out[1] = widen((stored_t)(four.x >> 16));
    out[2] = widen((stored_t)(four.y & 0xffff)), out[3] = widen((stored_t)(four.y >> 16));
#endif
}

// Sum over the dimensions in float64, by LANES lanes that follow one another and all get the sums.
template <int LANES>
__device__ __forceinline__ Sums sum_up(const stored_t* row, const float* direction, long long dim) {
    const int part = lane_number() % LANES;
    Sums total = {};
    if (dim % 4 == 0) {
#pragma unroll 4
        for (long long j = 4 * part; j < dim; j += 4 * LANES) {
            float values[4];
            load4(row + j, values);
            const float4 own = *reinterpret_cast<const float4*>(direction + j);
            total.add(exact64(own.x), widen_by_shifts(values[0]));
            total.add(exact64(own.y), widen_by_shifts(values[1]));
            total.add(exact64(own.z), widen_by_shifts(values[2]));
            total.add(exact64(own.w), widen_by_shifts(values[3]));
        }
    } else {
        for (long long j = part; j < dim; j += LANES) total.add(exact64(direction[j]), widen64(row[j]));
    }
    for (int step = LANES / 2; step > 0; step /= 2) total.join(step);
    return total;
}

// The sums of a warp's items, one for each lane; LANES lanes share those of a vector.
template <int LANES>
__device__ __forceinline__ Sums sums_of(const Call& call, const Item& item) {
    const long long dim = call.dim;
    const int lane = lane_number();
    const int at_once = WARP / LANES;
    Sums own = {};
    const unsigned asked = __ballot_sync(FULL, item.valid);
    for (int first = 0; first < WARP; first += at_once) {
        if ((asked >> first & (at_once == WARP ? FULL : (1u << at_once) - 1)) == 0) continue;
        const Item other = item.of_lane(first + lane / LANES);
        // the last lanes may have nothing: they repeat what is there, and nobody asks for it
        const Sums total = sum_up<LANES>(static_cast<const stored_t*>(other.segment->vectors) + other.row * dim,
                                         call.directions + other.direction * dim, dim);
        const Sums mine = total.of_lane(lane % at_once * LANES);
        if (lane / at_once == first / at_once) own = mine;
    }
    return own;
}

// Decide the items of a warp by their sums. It is there once for all: registers are few.
__device__ __forceinline__ bool decide_all(const Call& call, const Item& item, const Sums& own, float& score) {
    const long long dim = call.dim;
    const int lane = lane_number();
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

// Decide the items of a warp, and hold the hits: a lane that has one gets whether it is one, and the score.
__device__ __forceinline__ bool settle(const Call& call, Item item, float& score) {
    const unsigned asked = __ballot_sync(FULL, item.valid);
    if (asked == 0) return false;
    // lanes without an item lend a hand with the first one
    const int first = __ffs(asked) - 1;
    const Item other = item.of_lane(first);
    if (!item.valid) item = Item{false, other.direction, other.segment, other.row};
    Sums own;
    if (call.dim <= 8) {
        own = sums_of<1>(call, item);
    } else if (call.dim <= 512) {
        own = sums_of<8>(call, item);
    } else {
        own = sums_of<32>(call, item);
    }
    const bool hit = decide_all(call, item, own, score) && item.valid;
    if (hit) mark_hit(call, *item.segment, item.direction, item.row);
    const unsigned hits = __ballot_sync(FULL, hit);
    if (lane_number() == 0) {
        count_work(call, VERIFY_STAGE, TESTED, __popc(asked));
        count_work(call, VERIFY_STAGE, TAKEN, __popc(hits));
    }
    return hit;
}

// Decide the candidates that the filters listed: as many a warp at once as leave no other idle, up to one a lane. Scores
// are written beside them, but where hits may come in any order, are listed with these. A grid of any size; blocks of
// THREADS.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) verify_pairs(Call call) {
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
        float score = 0.0f;
        const bool hit = settle(call, item, score);
        if (call.wanted != SCORES) continue;
        if (call.counts == nullptr) list_hits(call, hit, pair, score);
        else if (item.valid) call.scores[at] = hit ? score : __int_as_float(0x7fffffff);
    }
}

// Decide every vector of the chunks in a list, which have no codes. Grid: x chunks, y strides over the directions; blocks
// of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS) scan_rows(Call call, const int* listed) {
    const long long chunk = listed[blockIdx.x];
    for (long long k = blockIdx.y; k < call.count; k += gridDim.y) {
        if (call.plans[k].bad != 0.0) continue;
        const Segment& segment = segment_of(call, k, chunk);
        for (int i = threadIdx.x; i < CHUNK; i += THREADS) {
            const long long row = ((chunk - segment.first) << 10) + i;
            const bool valid = row < segment.rows && !is_excluded(segment, row);
            float score = 0.0f;
            const bool hit = settle(call, Item{valid, k, &segment, row}, score);
            if (call.wanted == SCORES) list_hits(call, hit, pair_of(k, chunk, i), score);
        }
    }
}
