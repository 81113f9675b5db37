// Rows of float32 in attention: scores and sums of values by fused multiplications; by a warp, eight rows at a time.
//
// LANES lanes share a row, 8 dimensions each, so that the scores of eight rows for four heads are one for each lane:
// lane l has row l / 4 and head l % 4.
#pragma once

constexpr int BATCH = 8;                                // rows at a time
constexpr int ROW_STAGES = least_of(RING / EIGHT, 2);   // batches that are on their way
constexpr int EACH = LANES / SET;                       // rows of a batch that a lane has a piece of

// What a lane reads of a row: 8 dimensions.
struct Piece {
    float4 halves[2];
};

// Where a half of the lane's piece of key (or of value) k of a batch lies in a stage: lanes side by side.
__device__ __forceinline__ unsigned char* address_of(unsigned char* stage, int k, int half) {
    return stage + ((2 * k + half) * WARP + lane_number()) * 16;
}

__device__ __forceinline__ void copy_piece(unsigned char* stage, int k, const stored_t* source) {
#pragma unroll
    for (int half = 0; half < 2; half++) copy_async16(address_of(stage, k, half), source + 4 * half);
}

__device__ __forceinline__ void read_piece(unsigned char* stage, int k, bool there, float (&wide)[8]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float4 four =
            there ? *reinterpret_cast<const float4*>(address_of(stage, k, half)) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        wide[4 * half] = four.x, wide[4 * half + 1] = four.y;
        wide[4 * half + 2] = four.z, wide[4 * half + 3] = four.w;
    }
}

// What a warp has gathered.
struct Gathered {
    Weighed weighed;
    float values[SET][8] = {};  // each lane of its dimensions and rows
};

// Which row of a batch the lane looks up.
__device__ __forceinline__ int slot_of_lane() { return lane_number() / SET; }

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

// Begin to copy the keys and values of a batch into a stage; the lane knows of row `row`, or -1.
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

// Attend a batch, and begin to copy the one that takes its stage.
__device__ __forceinline__ void gather(const Space& space, Shared& shared, unsigned char* stage, const Chosen& chosen,
                                       int next, Room& room, int& doubts, Gathered& own) {
    copy_async_wait<ROW_STAGES - 1>();
    const int lane = lane_number(), part = lane % LANES, group = lane / LANES;
    const unsigned rows = __ballot_sync(FULL, chosen.row >= 0);
    const auto is_there = [&](int k) { return part < PIECES && (rows >> SET * (group * EACH + k) & 1) != 0; };
    float products[LANES], wide[EACH][8];
#pragma unroll
    for (int k = 0; k < EACH; k++) read_piece(stage, k, is_there(k), wide[k]);
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
    Scores<1> scores{{chosen.row}, {sum_apart<LANES / 2>(products)}, {false}};
    if (chosen.decided) {
        scores.values[0] = chosen.score;
        scores.keep[0] = chosen.row >= 0 && chosen.head == lane % SET;
    } else {
        judge(space, shared, scores, room, doubts);
    }
    float weights[1], shrink = 1.0f;
    if (weigh(space, scores, own.weighed, weights, shrink)) {
        if (__any_sync(FULL, shrink != 1.0f)) {
#pragma unroll
            for (int h = 0; h < SET; h++) {
                const float factor = __shfl_sync(FULL, shrink, h);
#pragma unroll
                for (int i = 0; i < 8; i++) own.values[h][i] *= factor;
            }
        }
        room.weights[lane] = weights[0];
        __syncwarp();
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            const float4 four = *reinterpret_cast<const float4*>(room.weights + SET * (group * EACH + k));
            float value[8];
            read_piece(stage, EACH + k, is_there(k), value);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                own.values[0][i] = fmaf(four.x, value[i], own.values[0][i]);
                own.values[1][i] = fmaf(four.y, value[i], own.values[1][i]);
                own.values[2][i] = fmaf(four.z, value[i], own.values[2][i]);
                own.values[3][i] = fmaf(four.w, value[i], own.values[3][i]);
            }
        }
        __syncwarp();
    }
    begin_rows(space, next, stage);
}

// Begin to copy the first batches, as many as there are stages; `row_at(k)` is the row of batch k that the lane looks up.
template <typename Row>
__device__ __forceinline__ void begin_batches(const Space& space, unsigned char* ring, Row row_at) {
#pragma unroll 1
    for (int k = 0; k < ROW_STAGES; k++) begin_rows(space, row_at(k), ring + k * EIGHT);
}

// Write down what a warp has gathered, (SET, d).
__device__ __forceinline__ void put_gathered(Gathered& own, float* place) {
#pragma unroll
    for (int h = 0; h < SET; h++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
#pragma unroll
            for (int step = LANES; step < WARP; step *= 2)
                own.values[h][i] += __shfl_xor_sync(FULL, own.values[h][i], step);
        }
    }
    __syncwarp();  // rows lie where this is written: all lanes have read theirs
    if (lane_number() >= PIECES) return;
#pragma unroll
    for (int h = 0; h < SET; h++) {
        float4* four = reinterpret_cast<float4*>(place + h * HEAD_DIM) + 2 * lane_number();
        four[0] = make_float4(own.values[h][0], own.values[h][1], own.values[h][2], own.values[h][3]);
        four[1] = make_float4(own.values[h][4], own.values[h][5], own.values[h][6], own.values[h][7]);
    }
}
