// The answer: count, scan, fill. Hits were counted by direction and chunk, in order of ids; here they get their places in
// rows, one row for each direction. The twin of halfspace/cpu/collect.py.
#include "runtime/ptx.cuh"
#include "emit.cuh"

// Sum over a block; all threads get it.
__device__ long long block_sum(long long value) {
    __shared__ long long room[THREADS / WARP];
    value = warp_sum(value);
    __syncthreads();
    if (lane_number() == 0) room[threadIdx.x / WARP] = value;
    __syncthreads();
    long long total = 0;
    for (int warp = 0; warp < THREADS / WARP; warp++) total += room[warp];
    return total;
}

__device__ __forceinline__ int sum_of_bytes(unsigned long long bytes) {
    const unsigned long long pairs = (bytes & 0x00ff00ff00ff00ffull) + (bytes >> 8 & 0x00ff00ff00ff00ffull);
    return (int)(pairs * 0x0001000100010001ull >> 48);
}

// Hits of a direction and chunk, from their count.
__device__ __forceinline__ int hits_in(const Call& call, unsigned long long count) {
    return call.wanted == COUNT ? (int)count : sum_of_bytes(count);
}

// Note how many hits a direction has, and if it cannot be answered, by one thread.
__device__ __forceinline__ void note_total(const Call& call, long long k, long long total) {
    call.totals[k] = total;
    if (call.plans[k].bad != 0.0) atomicMin(&call.header->bad, (unsigned long long)k);
}

// Count the hits of each direction, one a block.
extern "C" __global__ void __launch_bounds__(THREADS) count_hits(Call call) {
    let_next_begin();
    wait_for_previous();
    const long long k = blockIdx.x;
    long long total = 0;
#pragma unroll 4
    for (long long chunk = threadIdx.x; chunk < call.chunks; chunk += THREADS)
        total += hits_in(call, call.counts[k * call.chunks + chunk]);
    total = block_sum(total);
    if (threadIdx.x == 0) note_total(call, k, total);
}

// Find where the hits of each direction and chunk begin; the last one tells the host. A single direction has not been counted
// before. Grid: x directions, y parts of their chunks, each of which sums up those before it.
extern "C" __global__ void __launch_bounds__(THREADS) place_hits(Call call) {
    __shared__ int sums[THREADS / WARP];
    let_next_begin();
    wait_for_previous();
    const long long k = blockIdx.x;
    const unsigned long long* counts = call.counts + k * call.chunks;
    const long long each = ((call.chunks + gridDim.y - 1) / gridDim.y + THREADS - 1) / THREADS * THREADS;
    const long long begin = min(blockIdx.y * each, call.chunks), end = min(begin + each, call.chunks);
    long long before = 0;
#pragma unroll 8
    for (long long chunk = threadIdx.x; chunk < begin; chunk += THREADS) before += hits_in(call, counts[chunk]);
    for (long long other = threadIdx.x; other < k; other += THREADS) before += call.totals[other];
    before = block_sum(before);
    for (long long first = begin; first < end; first += THREADS) {
        const long long chunk = first + threadIdx.x;
        const unsigned long long count = chunk < end ? counts[chunk] : 0;
        const int own = hits_in(call, count);
        int upto = warp_prefix(own);
        if (lane_number() == WARP - 1) sums[threadIdx.x / WARP] = upto;
        __syncthreads();
        int all = 0;
        for (int warp = 0; warp < THREADS / WARP; warp++) {
            if (warp < threadIdx.x / WARP) upto += sums[warp];
            all += sums[warp];
        }
        if (count != 0 && call.wanted != COUNT) call.starts[k * call.chunks + chunk] = Placed{before + upto - own, count};
        before += all;
        __syncthreads();
    }
    if (threadIdx.x == 0 && blockIdx.y == gridDim.y - 1) {
        if (k == 0) call.offsets[0] = 0;
        call.offsets[k + 1] = before;
        if (call.count == 1) note_total(call, k, before);
        if (k + 1 < call.count) return;
        call.header->hits = before;
        if (call.status != nullptr) *call.status = *call.header;
    }
}

// Write the ids of all hits, from their bits: a warp for each direction and chunk. A grid of any size.
extern "C" __global__ void __launch_bounds__(THREADS) fill_ids(Call call) {
    wait_for_previous();
    const long long warps = (long long)gridDim.x * (THREADS / WARP);
    for (long long at = (long long)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP; at < call.count * call.chunks;
         at += warps) {
        if (call.counts[at] == 0) continue;
        const long long chunk = at % call.chunks;
        const Segment& segment = segment_of(call, at / call.chunks, chunk);
        unsigned word = call.bits[32 * at + lane_number()];
        long long out = call.starts[at].before + warp_prefix(__popc(word)) - __popc(word);
        for (; word != 0; word &= word - 1, out++) {
            const long long place = ((chunk - segment.first) << 10) + 32 * lane_number() + __ffs(word) - 1;
            if (out >= call.answer_room) break;
            call.ids[out] = segment.ids[segment.by_id == nullptr ? place : segment.by_id[place]];
        }
    }
}

// Those of the first `count` places that a word has; below 0 none, from 32 on all.
__device__ __forceinline__ unsigned first_places(unsigned word, int count) {
    return count <= 0 ? 0 : count >= WARP ? word : word & ((1u << count) - 1);
}

// Write the ids and scores of the hits among the candidates, and of those listed, each at the place that its bit has among
// all: after the hits of eighths before its own, and those before it in there. A grid of any size.
extern "C" __global__ void __launch_bounds__(THREADS) fill_scored(Call call) {
    wait_for_previous();
    const unsigned long long pairs = min(call.header->pairs, (unsigned long long)call.pair_room);
    const unsigned long long listed = min(call.header->listed, (unsigned long long)call.listed_room);
    const unsigned long long threads = (unsigned long long)gridDim.x * THREADS;
    for (unsigned long long i = (unsigned long long)blockIdx.x * THREADS + threadIdx.x; i < pairs + listed; i += threads) {
        const bool own = i < pairs;
        const unsigned bits = __float_as_uint(call.scores[own ? i : call.pair_room + (i - pairs)]);
        if ((bits & 0x7fffffffu) > 0x7f800000u) continue;
        const unsigned long long pair = own ? call.pairs[i] : call.listed[i - pairs];
        const long long direction = direction_of(pair);
        const Segment& segment = segment_of(call, direction, chunk_of(pair));
        const long long row = row_in_segment(segment, pair);
        const long long place = segment.places == nullptr ? row : segment.places[row];
        const long long at = direction * call.chunks + segment.first + (place >> 10);
        const int eighth = (int)(place >> 7 & 7), within = (int)(place & 127);
        const Placed placed = call.starts[at];
        const uint4 four = reinterpret_cast<const uint4*>(call.bits)[8 * at + eighth];
        const long long out = placed.before + sum_of_bytes(placed.eighths & ((1ull << 8 * eighth) - 1)) +
                              __popc(first_places(four.x, within)) + __popc(first_places(four.y, within - 32)) +
                              __popc(first_places(four.z, within - 64)) + __popc(first_places(four.w, within - 96));
        if (out >= call.answer_room) continue;
        call.ids[out] = segment.ids[row];
        call.values[out] = __uint_as_float(call.without_sign ? bits & 0x7fffffffu : bits);
    }
}

// Tell the host how many hits were listed, where they may come in any order; by one block.
extern "C" __global__ void __launch_bounds__(THREADS) tell_listed(Call call) {
    wait_for_previous();
    for (long long k = threadIdx.x; k < call.count; k += THREADS)
        if (call.plans[k].bad != 0.0) atomicMin(&call.header->bad, (unsigned long long)k);
    __syncthreads();
    if (threadIdx.x == 0) *call.status = *call.header;
}

// Name the hits that were listed: ids (count,) of the directions, then one and other (hits,), of a direction and a vector.
// A thread for each.
extern "C" __global__ void __launch_bounds__(THREADS) name_pairs(Call call, const long long* ids, long long* one,
                                                                 long long* other) {
    const unsigned long long i = (unsigned long long)blockIdx.x * THREADS + threadIdx.x;
    if (i >= call.header->listed) return;
    const unsigned long long pair = call.listed[i];
    const long long direction = direction_of(pair);
    const Segment& segment = segment_of(call, direction, chunk_of(pair));
    one[i] = ids[direction];
    other[i] = segment.ids[row_in_segment(segment, pair)];
}
