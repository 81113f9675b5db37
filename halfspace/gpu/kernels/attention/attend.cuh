// What the stages of attention share: the question, the sizes, what a block of threads knows of its query heads.
//
// A block answers up to four query heads (a set) that share the keys of a space, for a part (a split) of the rows.
// First a filter goes over codes and lists the rows that any of the heads may keep (attend_codes.cuh), or none does;
// then rows are decided exactly and weighed (attend_rows.cuh); at last the splits are joined (attend.cu).
#pragma once

#include "exact.cuh"
#include "attention/heads.cuh"

#define WARPS (THREADS / WARP)
#define SET 4         // query heads of a set
#define ROWS 32       // keys of a tile: two blocks of codes
#define SEGMENT 896   // rows that a warp lists before rows are attended
#define DOUBTS 64     // scores that a warp leaves for later, as only exact sums can tell

constexpr int WORDS = HEAD_DIM / 8;                  // of 4 bytes, in each plane of codes
constexpr int STEPS = (WORDS + 3) / 4;               // products of a tile: lane t of four takes words from STEPS t on
constexpr int STRIDE = 32 * STEPS;                   // dimensions, as digits are padded
constexpr int PIECES = HEAD_DIM / 8;                 // of a row: a lane takes 8 dimensions
constexpr int LANES = PIECES > 16 ? 32 : PIECES > 8 ? 16 : 8;  // lanes that share a row
constexpr int BLOCKS = STEPS > 4 ? 1 : 2;            // of threads, on a multiprocessor

constexpr int most_of(int a, int b) { return a > b ? a : b; }
constexpr int least_of(int a, int b) { return a < b ? a : b; }

// Rings: few stages, as what is on its way to one block keeps others waiting.
constexpr int PLANE = 2 * BLOCK * 4 * WORDS;          // bytes of a tile in one plane of codes
constexpr int BOTH_BYTES = 2 * PLANE + 4 * ROWS;      // codes, scales and radii of a tile
constexpr int HIGH_BYTES = PLANE + 6 * ROWS;          // without the low plane, and with the radii of high codes
constexpr int QUEUE = 24 * 2 * ROWS + 4 * SET * ROWS;  // bytes of a Queue, which lies behind the latter
constexpr int EIGHT = 16 * 8 * LANES * (int)sizeof(stored_t);  // eight keys and eight values, or 16 of either
constexpr int ROWS_BYTES = FORMAT != 0 ? 2 * EIGHT : most_of(least_of(2 * EIGHT, 8 << 10), EIGHT);
constexpr int BOTH_STAGES = 2;
constexpr int HIGH_STAGES = 4;
constexpr int CODES_BYTES = most_of(BOTH_STAGES * BOTH_BYTES, HIGH_STAGES * HIGH_BYTES + QUEUE);
constexpr int RING = most_of(CODES_BYTES, ROWS_BYTES);  // bytes, for each warp

// Queries as operands of the tensor cores: two parts of each number, and of float32 with bfloat16 keys a third.
constexpr int OPERANDS = FORMAT;
constexpr int RAISED = FORMAT == 1 ? 14 : 0;  // weights are larger by this power of two, so that their parts are normal

static_assert(HEAD_DIM % 8 == 0 && HEAD_DIM <= 256, "heads have a multiple of 8 dimensions, at most 256");
static_assert(RING >= EIGHT && RING >= 4 * SET * (HEAD_DIM + 4), "a warp's rows, and what it makes of them, have room");

#define BELOW (-32768)  // the lower end of a bracket of a score that has none, see choose.cuh
#define ABOVE 32767     // the upper end

// What is known of a set from call to call, where thresholds are chosen.
struct Turn {
    unsigned long long skipped;  // how many more times all keys are kept without a look; `attend` counts
    unsigned long long looked;   // whether this call looked
    double rows;                 // of all heads together, as it expected to list them, or 0 if it listed none
};

#define SKIPPED 31  // so many calls keep all keys of a set without a look, where most are of use

// A question, and room for the answer: the twin of ATTEND in halfspace/gpu/attention/attend.py.
// All fields have 8 bytes.
struct Attend {
    const void* queries;      // (batch, query heads, d), stored bits, or float32 where they are wide
    const double* tau;        // (batch, query heads)
    void* output;             // (batch, query heads, d), as the queries
    float* log_sum_exp;       // (batch, query heads)
    long long* kept;          // (batch, query heads)
    float* weighted;          // (blocks, SET, d): what each split found
    float4* parts;            // (blocks, SET): largest logit, sum of weights, rows kept, rows looked at
    unsigned* arrived;        // (spaces sets,), zero between launches
    float* shares;            // (spaces sets,), of rows: what any head kept, or codes left, in the last step
    long long query_heads;
    long long wide;
    long long recent;
    long long sinks;
    double scale;             // of logits in powers of two
    double cap;               // to which they are bent, in the same; 0: they are not
    long long few;            // a space of fewer rows is read whole
    long long many;           // a split of as many rows is read in one plane of codes first
    double dense_share;       // a space is read whole where more of it was of use in the last step
    double cascade_share;     // both planes of codes are read at once where more was of use
    const short* uppers;      // (spaces sets, capacity, SET), what `scan_scores` left, or null: then codes are not read
    const int* limits;        // see struct Choose in choose.cuh
    const float* works;       // and how much there is to do for each set, negative where it is read whole
    Turn* turns;              // (spaces sets,), or null
    double rest_share;        // all keys of a set are kept for a while where more of them were of use
    long long blocks;         // that sets share by that, one for each aside
    long long most;           // splits of a set, at most
};

// What a block of threads goes over.
struct Space {
    const stored_t* keys;      // (rows, d)
    const stored_t* values;    // (rows, d)
    const unsigned char* high;
    const unsigned char* low;
    const unsigned short* scales;
    const unsigned short* high_radii;
    const unsigned short* low_radii;
    double grain;
    int rows;
    int sinks;   // rows before this one are kept whatever their score
    int recent;  // and rows from this one on
    int count;   // query heads
    int set;     // of all
    int first;   // block of the set, among all blocks
    int split;   // of those that share the rows
    int splits;
    float scale;
    float cap;
};

// A score that is left for later, or has been decided: then its row is -1 if it is no hit.
struct Doubt {
    int row;  // times SET, plus the head
    float score;
};

// What a warp needs while rows are attended.
struct Room {
    __align__(16) float weights[WARP];
    Doubt doubts[DOUBTS];
};

struct Shared {
    Space space;
    __align__(16) signed char digits[SET][2][STRIDE];
    __align__(16) float queries[SET][8 * LANES];
    uint2 operands[most_of(OPERANDS, 1)][FORMAT == 0 ? 1 : (HEAD_DIM + 15) / 16][WARP];  // see rows_half.cuh
    float lowered[SET];  // what a product with them is to be multiplied by
    Room rooms[WARPS];
    Test32 high[SET];
    Test32 whole[SET];
    Plan plans[SET];
    int biases[SET];   // 128 times the sum of the digits
    float sure[SET];   // a float32 score from here on is a hit for certain
    float never[SET];  // and one below this is none
    float peak;        // the largest norm of a key
    int wide;          // whether there is a third operand
    int found[WARPS];   // rows that each warp lists
    int first[WARPS];   // its first tile that the list is about
    int going[WARPS];   // whether it has tiles left
    int rest[WARPS];    // whether it has rows left
    int doubts[WARPS];  // scores that it leaves for later
    int last;
    unsigned long long barriers[WARPS][HIGH_STAGES];  // of the stages of rings
    unsigned short list[WARPS][SEGMENT];
};

static_assert(BLOCKS == 1 || sizeof(Shared) <= 27 << 10, "halfspace/gpu/attention/attend.py counts on it");

// The tile that a warp meets as its `at`-th: consecutive tiles go to different splits, as keys that are kept cluster.
__device__ __forceinline__ int tile_of(const Space& space, int at, int warp) {
    return (at * WARPS + warp) * space.splits + space.split;
}

// The row of an entry in the list of a warp, which begins at its tile `first`.
__device__ __forceinline__ int row_of(const Space& space, int entry, int first, int warp) {
    return tile_of(space, first + entry / ROWS, warp) * ROWS + entry % ROWS;
}

__device__ __forceinline__ bool is_forced(const Space& space, int row) {
    return row < space.sinks || row >= space.recent;
}

// Say where the keys of a space lie.
__device__ __forceinline__ void place_space(const Cache& cache, long long own, Space& space) {
    space.keys = cache.keys + own * cache.capacity * HEAD_DIM;
    space.values = cache.values + own * cache.capacity * HEAD_DIM;
    space.high = cache.high + own * cache.capacity * (4 * WORDS);
    space.low = cache.low + own * (cache.capacity * (4 * WORDS) + 64);
    space.scales = cache.scales + own * cache.capacity;
    space.high_radii = cache.radii + own * 2 * cache.capacity;
    space.low_radii = space.high_radii + cache.capacity;
}

// What a block is to do: its set, its split of the rows, and whether all of them are read; set -1 if there is nothing.
struct Task {
    int set, first, split, splits;
    bool whole;
};

// Find it, where sets share blocks by what there is to do for each: set 0 gets the first ones.
__device__ __forceinline__ Task find_task(const Attend& call, int sets) {
    const int lane = lane_number();
    float all = 0.0f;
    for (int set = lane; set < sets; set += WARP) all += fabsf(call.works[set]);
    for (int step = WARP / 2; step > 0; step /= 2) all += __shfl_xor_sync(FULL, all, step);
    int before = 0;  // blocks of the sets before these
    for (int first = 0; first < sets; first += WARP) {
        const int set = first + lane;
        const float own = set < sets ? call.works[set] : 0.0f;
        const float share = fabsf(own) / all * (1.0f - 0x1p-12f);  // so that rounding makes no more of all than there are
        const int splits = set < sets ? min((int)call.most, 1 + (int)(share * (float)call.blocks)) : 0;
        const int end = before + warp_prefix(splits);
        const unsigned after = __ballot_sync(FULL, end > (int)blockIdx.x);
        if (after != 0) {
            const int found = __ffs((int)after) - 1;
            const int count = __shfl_sync(FULL, splits, found), start = __shfl_sync(FULL, end, found) - count;
            return Task{first + found, start, (int)blockIdx.x - start, count, __shfl_sync(FULL, own, found) < 0.0f};
        }
        before = __shfl_sync(FULL, end, WARP - 1);
    }
    return Task{-1, 0, 0, 0, false};
}
