// Rows in attention: exact decisions, weights, sums of values; by a warp, eight rows at a time.
//
// LANES lanes share a row, 8 dimensions each, so that the scores of eight rows for four heads are one for each lane:
// lane l has row l / 4 and head l % 4.
#pragma once

#include "attention/attend.cuh"

// What a lane reads of a row: 8 dimensions.
struct Piece {
    uint4 bits[sizeof(stored_t) / 2];
};

// Where the lane's piece of key (or of value) k of a batch lies in a stage: lanes side by side.
__device__ __forceinline__ unsigned char* address_of(unsigned char* stage, int k, int part) {
    return stage + ((k * ((int)sizeof(Piece) / 16) + part) * WARP + lane_number()) * 16;
}

__device__ __forceinline__ void copy_piece(unsigned char* stage, int k, const stored_t* source) {
#pragma unroll
    for (int part = 0; part < (int)sizeof(Piece) / 16; part++)
        copy_async16(address_of(stage, k, part), reinterpret_cast<const uint4*>(source) + part);
}

__device__ __forceinline__ Piece read_piece(unsigned char* stage, int k, bool there) {
    Piece piece = {};
#pragma unroll
    for (int part = 0; part < (int)sizeof(Piece) / 16; part++)
        if (there) piece.bits[part] = *reinterpret_cast<const uint4*>(address_of(stage, k, part));
    return piece;
}

__device__ __forceinline__ void widen_piece(const Piece& piece, float (&wide)[8]) {
#pragma unroll
    for (int k = 0; k < (int)sizeof(stored_t) / 2; k++) {
        const unsigned words[4] = {piece.bits[k].x, piece.bits[k].y, piece.bits[k].z, piece.bits[k].w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
#if FORMAT == 0
            wide[4 * k + i] = __uint_as_float(words[i]);
#else
            wide[2 * i] = widen((stored_t)(words[i] & 0xffff));
            wide[2 * i + 1] = widen((stored_t)(words[i] >> 16));
#endif
        }
    }
}

// What a warp has gathered: each lane of its dimensions, and of the rows and the head of its scores.
struct Gathered {
    float weighted[SET][8];
    float top;   // the largest logit of the head, in powers of two
    float sum;   // of weights relative to it
    int kept;
    int useful;  // rows that any head kept
};

// Sum what all lanes of a row have, value k for each k; lane k of them gets the sum of value k.
template <int STEP>
__device__ __forceinline__ float sum_apart(float (&values)[2 * STEP]) {
    const bool upper = (lane_number() & STEP) != 0;
    float halves[STEP];
#pragma unroll
    for (int k = 0; k < STEP; k++) {
        const float own = upper ? values[k + STEP] : values[k], other = upper ? values[k] : values[k + STEP];
        halves[k] = own + __shfl_xor_sync(FULL, other, STEP);
    }
    if constexpr (STEP == 1) {
        return halves[0];
    } else {
        return sum_apart<STEP / 2>(halves);
    }
}

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

// Begin to copy the keys and values of eight rows into a stage: of lane l, row l / 4 of them, or -1. Always one group.
__device__ __forceinline__ void begin_rows(const Space& space, int row, unsigned char* stage) {
    const int part = lane_number() % LANES, group = lane_number() / LANES;
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const long long other = __shfl_sync(FULL, row, SET * (group * EACH + k));
        if (other < 0 || part >= PIECES) continue;
        copy_piece(stage, k, space.keys + other * HEAD_DIM + 8 * part);
        copy_piece(stage, EACH + k, space.values + other * HEAD_DIM + 8 * part);
    }
    copy_async_commit();
}

// What a lane knows of its row among eight.
struct Chosen {
    int row;       // of lane l, row l / 4 of the eight, or -1
    bool decided;  // whether only one head of it is meant, which is kept with this score
    int head;
    float score;
};

// Attend eight rows whose keys and values are there.
__device__ __forceinline__ void gather(const Space& space, Shared& shared, unsigned char* stage, const Chosen& chosen,
                                       Room& room, int& doubts, Gathered& own) {
    const int row = chosen.row;
    const bool decided = chosen.decided;
    const int lane = lane_number(), part = lane % LANES, group = lane / LANES, head = lane % SET;
    const unsigned rows = __ballot_sync(FULL, row >= 0);
    const auto is_there = [&](int k) { return part < PIECES && (rows >> SET * (group * EACH + k) & 1) != 0; };
    float products[LANES];
    float wide[EACH][8];
#pragma unroll
    for (int k = 0; k < EACH; k++) widen_piece(read_piece(stage, k, is_there(k)), wide[k]);
#pragma unroll
    for (int h = 0; h < SET; h++) {
        const float4* query = reinterpret_cast<const float4*>(shared.queries[h] + 8 * part);
        const float4 one = query[0], two = query[1];
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            float sum = wide[k][0] * one.x;
            sum = fmaf(wide[k][1], one.y, sum);
            sum = fmaf(wide[k][2], one.z, sum);
            sum = fmaf(wide[k][3], one.w, sum);
            sum = fmaf(wide[k][4], two.x, sum);
            sum = fmaf(wide[k][5], two.y, sum);
            sum = fmaf(wide[k][6], two.z, sum);
            products[SET * k + h] = fmaf(wide[k][7], two.w, sum);
        }
    }
    float score = sum_apart<LANES / 2>(products);
    const bool there = row >= 0 && head < space.count, forced = is_forced(space, row);
    bool keep = there && (forced || score >= shared.sure[head]);
    const bool settled = (keep || score < shared.never[head]) && fabsf(score) < INFINITY;
    unsigned doubtful = decided ? 0 : __ballot_sync(FULL, there && !settled);
    for (; doubtful != 0; doubtful &= doubtful - 1) {  // a few keys in a million
        const int which = __ffs((int)doubtful) - 1, its = __shfl_sync(FULL, row, which);
        const bool finite_score = fabsf(__shfl_sync(FULL, score, which)) < INFINITY;
        const Parts parts = compare_parts(space.keys + (long long)its * HEAD_DIM, shared.peak, space.grain,
                                          shared.queries[which % SET], HEAD_DIM, shared.plans[which % SET]);
        const bool known = parts.known && finite_score;
        if (lane == which) {
            keep = known && parts.hit;
            if (!known) room.doubts[doubts] = Doubt{SET * row + head, score};
        }
        doubts += known ? 0 : 1;
    }
    if (decided) {
        keep = row >= 0 && head == chosen.head;
        score = chosen.score;
    }
    const unsigned lanes = __ballot_sync(FULL, keep);
    if (lanes == 0) return;
    const unsigned pairs = lanes | lanes >> 1;
    own.useful += __popc((pairs | pairs >> 2) & 0x11111111u);
    own.kept += keep ? 1 : 0;

    float logit = keep ? score * space.scale : -INFINITY;
    if (keep && space.cap > 0.0f) logit = space.cap * tanhf(logit / space.cap);
    float top = logit;
#pragma unroll
    for (int step = SET; step < WARP; step *= 2) top = fmaxf(top, __shfl_xor_sync(FULL, top, step));
    const bool higher = top > own.top;
    const float shrink = higher ? exp2f(own.top - top) : 1.0f;
    if (higher) own.top = top;
    const float weight = keep ? exp2f(logit - own.top) : 0.0f;
    own.sum = fmaf(own.sum, shrink, weight);
    if (__any_sync(FULL, higher)) {
#pragma unroll
        for (int h = 0; h < SET; h++) {
            const float factor = __shfl_sync(FULL, shrink, h);
#pragma unroll
            for (int i = 0; i < 8; i++) own.weighted[h][i] *= factor;
        }
    }
    room.weights[lane] = weight;
    __syncwarp();
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        const float4 weights = *reinterpret_cast<const float4*>(room.weights + SET * (group * EACH + k));
        float value[8];
        widen_piece(read_piece(stage, EACH + k, is_there(k)), value);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            own.weighted[0][i] = fmaf(weights.x, value[i], own.weighted[0][i]);
            own.weighted[1][i] = fmaf(weights.y, value[i], own.weighted[1][i]);
            own.weighted[2][i] = fmaf(weights.z, value[i], own.weighted[2][i]);
            own.weighted[3][i] = fmaf(weights.w, value[i], own.weighted[3][i]);
        }
    }
    __syncwarp();
}

enum Source { ALL_ROWS, LISTED_ROWS, DECIDED_ROWS };

// The rows that a warp goes over, in batches of eight. Batches of all rows go to the warps of all blocks by turns; rows
// that the warps of a block have listed are shared out one by one; what a warp has left for later, and then decided, is
// its own.
struct Batches {
    Source source;
    int total;
    int start;  // the first row of the next batch
    int step;   // from batch to batch

    // The row of this lane in the batch that starts at `at`, or -1; what is decided has a head and a score.
    __device__ __forceinline__ int find(const Shared& shared, const Room& room, int at, int& head, float& score) const {
        const int slot = lane_number() / SET, row = at + (source == LISTED_ROWS ? slot * WARPS : slot);
        if (row >= total) return -1;
        if (source == ALL_ROWS) return row;
        if (source == LISTED_ROWS) {
            int rest = row, lister = 0, end = 0;
#pragma unroll
            for (int k = 1; k < WARPS; k++) {
                end += shared.found[k - 1];
                if (row >= end) rest = row - end, lister = k;
            }
            return row_of(shared.space, shared.list[lister][rest], shared.first[lister], lister);
        }
        const Doubt doubt = room.doubts[row];
        head = doubt.row % SET, score = doubt.score;
        return doubt.row < 0 ? -1 : doubt.row / SET;
    }

    // Begin to copy the first batches, as many as there are stages.
    __device__ __forceinline__ void begin(const Space& space, const Shared& shared, const Room& room,
                                          unsigned char* ring) const {
        int head;
        float score;
#pragma unroll 1
        for (int k = 0; k < ROW_STAGES; k++)
            begin_rows(space, find(shared, room, start + k * step, head, score), ring + k * EIGHT);
    }

    // Attend rows, whose first batches have begun, until there are no more, or there is no room for doubts.
    __device__ __forceinline__ void gather_rows(const Space& space, Shared& shared, Room& room, unsigned char* ring,
                                                Gathered& own) {
        int doubts = 0, head = 0, slot = 0;
        float score = 0.0f;
#pragma unroll 1
        for (; start < total && doubts <= DOUBTS - WARP; start += step) {
            copy_async_wait<ROW_STAGES - 1>();
            unsigned char* stage = ring + slot * EIGHT;
            const int row = find(shared, room, start, head, score);
            gather(space, shared, stage, Chosen{row, source == DECIDED_ROWS, head, score}, room, doubts, own);
            begin_rows(space, find(shared, room, start + ROW_STAGES * step, head, score), stage);
            slot = slot + 1 == ROW_STAGES ? 0 : slot + 1;
        }
        copy_async_wait<0>();
        if (lane_number() == 0) shared.doubts[threadIdx.x / WARP] = doubts;
    }
};
