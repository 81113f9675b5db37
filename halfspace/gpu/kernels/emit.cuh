// Where stages leave what they find: candidates as pairs of a direction and a row, hits as bits in order of ids.
#pragma once

#include "runtime/records.cuh"

static_assert(CHUNK == 1 << 10, "shifts by 10 are by a chunk");

// A direction and a row in one number, see Call::pairs.
__device__ __forceinline__ unsigned long long pair_of(long long direction, long long chunk, int row) {
    return (unsigned long long)direction << 40 | (unsigned long long)chunk << 10 | (unsigned)row;
}

__device__ __forceinline__ long long direction_of(unsigned long long pair) { return (long long)(pair >> 40); }

__device__ __forceinline__ long long chunk_of(unsigned long long pair) { return pair >> 10 & 0x3fffffff; }

__device__ __forceinline__ long long row_in_segment(const Segment& segment, unsigned long long pair) {
    return ((chunk_of(pair) - segment.first) << 10) + (long long)(pair & 1023);
}

// Hold a hit for the answer: count it, and set its bit; where hits may come in any order, they are listed alone.
__device__ __forceinline__ void mark_hit(const Call& call, const Segment& segment, long long direction, long long row) {
    if (call.counts == nullptr) return;
    const long long place = segment.places == nullptr ? row : segment.places[row];
    const long long at = direction * call.chunks + segment.first + (place >> 10);
    atomicAdd(call.counts + at, call.wanted == COUNT ? 1ull : 1ull << 8 * (place >> 7 & 7));
    if (call.wanted != COUNT) atomicOr(call.bits + 32 * at + (place >> 5 & 31), 1u << (place & 31));
}

// Make room in a list for the lanes of a warp that have something to add; returns each one's place.
__device__ __forceinline__ unsigned long long places_in(unsigned long long* counter, bool own) {
    const unsigned lanes = __ballot_sync(FULL, own);
    unsigned long long first = 0;
    if (lanes != 0 && lane_number() == 0) first = atomicAdd(counter, (unsigned long long)__popc(lanes));
    return __shfl_sync(FULL, first, 0) + __popc(lanes & lanes_below());
}

// List the candidates of a warp. What does not fit is counted all the same, so that there is room for it the next time.
__device__ __forceinline__ void list_pairs(const Call& call, bool own, unsigned long long pair) {
    const unsigned long long at = places_in(&call.header->pairs, own);
    if (own && at < (unsigned long long)call.pair_room) call.pairs[at] = pair;
}

// List the hits of a warp with their scores, behind those of candidates.
__device__ __forceinline__ void list_hits(const Call& call, bool own, unsigned long long pair, float score) {
    const unsigned long long at = places_in(&call.header->listed, own);
    if (own && at < (unsigned long long)call.listed_room) {
        call.listed[at] = pair;
        call.scores[call.pair_room + at] = score;
    }
}
