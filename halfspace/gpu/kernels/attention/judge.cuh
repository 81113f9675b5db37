// Scores of rows in attention, by a warp: which of them are hits, exactly, and what these weigh.
//
// Lane l has the scores of head l % SET; rows are spread over lanes with the same head.
#pragma once

#include "attention/attend.cuh"

// What a lane knows of a row of a batch.
struct Chosen {
    int row;       // or -1
    bool decided;  // whether only one head of it is meant, which is kept with this score
    int head;
    float score;
};

// Scores of a lane's rows with its head.
template <int N>
struct Scores {
    int rows[N];  // or -1
    float values[N];
    bool keep[N];
};

// What a warp has weighed: each lane of the rows and the head of its scores.
struct Weighed {
    float top = -INFINITY;  // the largest logit of the head, in powers of two
    float sum = 0.0f;       // of weights relative to it, times 2^RAISED
    int kept = 0;
    int useful = 0;         // rows that any head kept
};

// Decide the scores that a warp left for later, by exact sums, and replace those that float32 could not hold.
__device__ __noinline__ void decide_doubts(const Shared& shared, Room& room, int count) {
    const Space& space = shared.space;
    for (int k = 0; k < count; k++) {
        const int row = room.doubts[k].row / SET, head = room.doubts[k].row % SET;
        float score;
        const bool hit = compare_exactly(space.keys + (long long)row * HEAD_DIM, shared.queries[head], HEAD_DIM,
                                         shared.plans[head].tau, score);
        __syncwarp();
        if (lane_number() == 0) {
            if (!hit && !is_forced(space, row)) room.doubts[k].row = -1;
            if (!(fabsf(room.doubts[k].score) < INFINITY)) room.doubts[k].score = score;
        }
        __syncwarp();
    }
}

// Decide scores of lanes that are in doubt, in float64; returns those of them that are hits. Those that only exact sums can
// tell are left for later. A function of its own: few keys come here, and code that is not run is not to be in the way.
__device__ __noinline__ unsigned settle(const Shared& shared, unsigned doubtful, int row, float score, Room& room,
                                        int& doubts) {
    unsigned hits = 0;
    const int lane = lane_number();
#pragma unroll 1
    for (; doubtful != 0; doubtful &= doubtful - 1) {
        const int which = __ffs((int)doubtful) - 1, its = __shfl_sync(FULL, row, which);
        const bool finite_score = fabsf(__shfl_sync(FULL, score, which)) < INFINITY;
        const Parts parts = compare_parts(shared.space.keys + (long long)its * HEAD_DIM, shared.peak, shared.space.grain,
                                          shared.queries[which % SET], HEAD_DIM, shared.plans[which % SET]);
        const bool known = parts.known && finite_score;
        if (known) {
            hits |= (parts.hit ? 1u : 0u) << which;
        } else {
            if (lane == which) room.doubts[doubts] = Doubt{SET * row + lane % SET, score};
            doubts++;
        }
    }
    return hits;
}

// Find which scores are hits; those that only exact sums can tell are left for later.
template <int N>
__device__ __forceinline__ void judge(const Space& space, Shared& shared, Scores<N>& own, Room& room, int& doubts) {
    const int lane = lane_number(), head = lane % SET;
    const float sure = shared.sure[head], never = shared.never[head];
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int row = own.rows[i];
        const float score = own.values[i];
        const bool there = row >= 0 && head < space.count;
        bool keep = there && (is_forced(space, row) || score >= sure);
        const bool settled = (keep || score < never) && fabsf(score) < INFINITY;
        const bool doubt = there && !settled;
        const unsigned doubtful = __ballot_sync(FULL, doubt);
        if (doubtful != 0) {
            const unsigned hits = settle(shared, doubtful, row, score, room, doubts);
            if (doubt) keep = (hits >> lane & 1) != 0;
        }
        own.keep[i] = keep;
    }
}

// A function of its own, too.
__device__ __noinline__ float bend(float logit, float cap) { return cap * tanhf(logit / cap); }

// Weigh what is kept, and find by what weights of before shrink; returns false if nothing is kept by any lane.
template <int N>
__device__ __forceinline__ bool weigh(const Space& space, const Scores<N>& own, Weighed& weighed, float (&weights)[N],
                                      float& shrink) {
    unsigned any = 0;
    float logits[N], top = -INFINITY;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const unsigned lanes = __ballot_sync(FULL, own.keep[i]), pairs = lanes | lanes >> 1;
        any |= lanes;
        weighed.useful += __popc((pairs | pairs >> 2) & 0x11111111u);
        weighed.kept += own.keep[i] ? 1 : 0;
        logits[i] = own.keep[i] ? own.values[i] * space.scale : -INFINITY;
        if (own.keep[i] && space.cap > 0.0f) logits[i] = bend(logits[i], space.cap);
        top = fmaxf(top, logits[i]);
    }
    if (any == 0) return false;
#pragma unroll
    for (int step = SET; step < WARP; step *= 2) top = fmaxf(top, __shfl_xor_sync(FULL, top, step));
    const bool higher = top > weighed.top;
    shrink = higher ? exp2f(weighed.top - top) : 1.0f;
    if (higher) weighed.top = top;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        weights[i] = own.keep[i] ? exp2f(logits[i] - weighed.top + (float)RAISED) : 0.0f;
        sum += weights[i];
    }
    weighed.sum = fmaf(weighed.sum, shrink, sum);
    return true;
}
