// Rows of float16 or bfloat16 in attention: scores and sums of values by the tensor cores; by a warp, 16 rows at a time.
//
// Both products have eight columns: heads by turns in two parts, a number of the format and what it leaves. With
// g = lane / 4 and t = lane % 4, lane (g, t) gets the scores of rows g and g + 8 with head t, and, of each 16 dimensions,
// the sums of dimensions g and g + 8 for head t. A warp's ring holds 16 keys and 16 values; the former make room for the
// next ones before the latter are looked at.
#pragma once

constexpr int BATCH = 16;                     // rows at a time
constexpr int ROW_STAGES = 1;                 // batches that are on their way
constexpr int TILES = (HEAD_DIM + 15) / 16;   // of dimensions: so many products make a score

// What a warp has gathered.
struct Gathered {
    Weighed weighed;
    float values[TILES][4] = {};  // of two dimensions, each in two parts
};

// Which row of a batch the lane looks up.
__device__ __forceinline__ int slot_of_lane() { return lane_number() % BATCH; }

// Where a piece of a row lies: rows follow each other, pieces in an order that spreads columns over all banks. The place
// of piece p ^ q is that of p, ^ 16 q.
__device__ __forceinline__ unsigned place_of(int row, int piece) {
    return (unsigned)(row * LANES * 16 | (piece ^ (row & 7)) * 16);
}

// Where the pieces of a tile lie that a lane names, given the place of the first one. A piece beyond the last is another
// one: it is multiplied by zero, or not used.
__device__ __forceinline__ const unsigned char* pieces_of(const unsigned char* rows, unsigned place, int tile, bool second) {
    const int piece = PIECES % 2 != 0 && tile == TILES - 1 && second ? 2 * tile + 1 : 0;
    return rows + (place ^ (unsigned)(2 * tile ^ piece) * 16);
}

// Begin to copy a batch of keys, or values; the lane knows of row `row`, or -1, which are zeros.
__device__ __forceinline__ void begin_rows(const stored_t* source, int row, unsigned char* rows) {
    constexpr int AT_ONCE = WARP / LANES;  // rows
    const int piece = lane_number() % LANES, first = lane_number() / LANES;
    const unsigned place = place_of(first, piece);
#pragma unroll
    for (int k = 0; k < BATCH / AT_ONCE; k++) {
        const long long other = __shfl_sync(FULL, row, k * AT_ONCE + first);
        if (piece < PIECES)
            copy_async16_if(other >= 0, rows + k * (AT_ONCE * LANES * 16) + (place ^ (unsigned)(k * AT_ONCE & 7) * 16),
                            source + (other >= 0 ? other : 0) * HEAD_DIM + 8 * piece);
    }
    copy_async_commit();
}

__device__ __forceinline__ void multiply_halves(float (&sums)[4], const unsigned (&rows)[4], unsigned b0, unsigned b1) {
#if FORMAT == 1
    mma_f16(sums, rows, b0, b1);
#else
    mma_bf16(sums, rows, b0, b1);
#endif
}

__device__ __forceinline__ unsigned short to_stored(float value) {
#if FORMAT == 1
    return float_to_half(value);
#else
    return float_to_bfloat16(value);
#endif
}

// Multiply a batch of keys with the heads.
__device__ __forceinline__ void multiply_keys(const unsigned char* keys, const Shared& shared, float (&sums)[4]) {
    const int lane = lane_number();
    const unsigned place = place_of(lane % 16, lane / 16);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        unsigned rows[4];
        load_matrix(rows, pieces_of(keys, place, tile, lane >= 16));
        const uint2 heads = shared.operands[0][tile][lane];
        multiply_halves(sums, rows, heads.x, heads.y);
        if (OPERANDS > 1 && shared.wide) {
            const uint2 rest = shared.operands[OPERANDS - 1][tile][lane];
            multiply_halves(sums, rows, rest.x, rest.y);
        }
    }
}

// The part of a weight that the lane's column has.
__device__ __forceinline__ unsigned part_of(float weight) {
    const unsigned short whole = to_stored(weight);
    return lane_number() / 4 % 2 == 0 ? whole : to_stored(weight - widen((stored_t)whole));
}

// Add a batch of values by their weights.
__device__ __forceinline__ void add_values(const unsigned char* values, const float (&weights)[2], Gathered& own) {
    const int lane = lane_number(), first = 8 * (lane % 4) + lane / 8;  // row 2 t, of the column's head
    const unsigned place = place_of(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    unsigned parts[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float one = __shfl_sync(FULL, weights[i], first), two = __shfl_sync(FULL, weights[i], first + 4);
        parts[i] = part_of(one) | part_of(two) << 16;
    }
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        unsigned columns[4];
        load_matrix_turned(columns, pieces_of(values, place, tile, (lane & 8) != 0));
        multiply_halves(own.values[tile], columns, parts[0], parts[1]);
    }
}

// Attend a batch, and begin to copy the next one.
__device__ __forceinline__ void gather(const Space& space, Shared& shared, unsigned char* ring, const Chosen& chosen,
                                       int next, Room& room, int& doubts, Gathered& own) {
    const int lane = lane_number(), g = lane / SET, t = lane % SET;
    unsigned char *keys = ring, *values = ring + EIGHT;
    float sums[4] = {};
    copy_async_wait<1>();
    __syncwarp();
    multiply_keys(keys, shared, sums);
    __syncwarp();
    begin_rows(space.keys, next, keys);
    Scores<2> scores;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        scores.rows[i] = __shfl_sync(FULL, chosen.row, g + 8 * i);
        scores.values[i] = (sums[2 * i] + sums[2 * i + 1]) * shared.lowered[t];
    }
    if (chosen.decided) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            scores.values[i] = __shfl_sync(FULL, chosen.score, g + 8 * i);
            scores.keep[i] = __shfl_sync(FULL, chosen.head, g + 8 * i) == t && scores.rows[i] >= 0;
        }
    } else {
        judge(space, shared, scores, room, doubts);
    }
    float weights[2], shrink = 1.0f;
    const bool any = weigh(space, scores, own.weighed, weights, shrink);
    if (any && __any_sync(FULL, shrink != 1.0f)) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++) own.values[tile][i] *= shrink;
        }
    }
    copy_async_wait<1>();
    __syncwarp();
    if (any) add_values(values, weights, own);
    __syncwarp();
    begin_rows(space.values, next, values);
}

// Begin to copy the first batch; `row_at(k)` is the row of batch k that the lane looks up.
template <typename Row>
__device__ __forceinline__ void begin_batches(const Space& space, unsigned char* ring, Row row_at) {
    const int row = row_at(0);
    begin_rows(space.keys, row, ring);
    begin_rows(space.values, row, ring + EIGHT);
}

// Write down what a warp has gathered, (SET, d).
__device__ __forceinline__ void put_gathered(const Gathered& own, float* place) {
    const int g = lane_number() / SET;
    float* head = place + lane_number() % SET * HEAD_DIM;
    __syncwarp();  // rows lie where this is written: all lanes have read theirs
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (16 * tile + 8 * i < HEAD_DIM)
                head[16 * tile + 8 * i + g] = own.values[tile][2 * i] + own.values[tile][2 * i + 1];
    }
}
