// Segments, questions and answers as the kernels see them: the twins of the records in halfspace/gpu/runtime/records.py,
// of the constants in halfspace/model/layout.py, and of the numbers in halfspace/model/counters.py. All fields have 8
// bytes, but for those of a Level and a Lift.
#pragma once

#define WARP 32
#define FULL 0xffffffffu
#define THREADS 256         // of a block, in the kernels that answer questions
#define BLOCK 16            // balls in a block of codes
#define TILE (4 * BLOCK)    // balls in a tile: arrays of codes hold whole tiles
#define CHUNK (TILE * BLOCK)  // rows that share a word of many things: a norm, a ball, a counter
#define HIGH_MIDDLE 120.5   // a code is (16 high - HIGH_MIDDLE) + (low - LOW_MIDDLE)
#define LOW_MIDDLE 7.5
#define MODERATE 0x1p60     // the largest norm for which float32 will do in products of codes, and in frames
#define NIBBLES 0x0f0f0f0fu  // of a word of codes, those of its first four dimensions

// Metrics, and the one that a file is compiled for: see halfspace/model/metrics.py.
#define IP 0
#define COSINE 1
#define L2 2
#ifndef METRIC
#define METRIC IP
#endif

enum Kind : long long { SCAN, CELLS, GROUPS, BALLS };
enum Want : long long { COUNT, IDS, SCORES };
enum Stage {
    NORMS_STAGE,
    AXES_STAGE,
    HIGH_STAGE,
    LOW_STAGE,
    CHUNKS_STAGE,
    GROUPS_STAGE,
    ROWS_STAGE,
    SWEEP_STAGE,
    GATES_STAGE,
    BALLS_STAGE,
    SCAN_STAGE,
    VERIFY_STAGE,
    EXACT_STAGE
};
enum Column { TESTED, DROPPED, TAKEN, LEFT, DOTS, BYTES, COLUMNS };

// Balls with coded centres, see halfspace.model.layout.Codes.
struct Codes {
    const unsigned char* codes;
    const float* scales;
    const float* radii;
    const float* lengths;  // or null with the metric "ip"
};

// One space of one segment.
struct Segment {
    long long kind;
    long long rows;
    long long first;              // its first chunk, among those of all segments
    const long long* ids;         // (rows,)
    const long long* by_id;       // (rows,), rows in order of ids, or null where they are
    const long long* places;      // (rows,), the place of each row in that order, or null
    const unsigned char* excluded;  // a bit a row, or null
    const void* vectors;          // stored (rows, d)
    const float* norms;           // (rows,)
    double grain;
    const float* centre;          // (d,)
    // cells
    const float* weights;         // (d,)
    const unsigned char* high;    // (blocks, words, 16, 4)
    const unsigned char* low;     // (16 blocks, words, 4)
    const unsigned short* scales;  // bfloat16 (16 blocks,)
    const unsigned short* high_radii;
    const unsigned short* low_radii;
    const float* peaks;           // (chunks,)
    double high_span;
    double low_span;
    const float* lengths;         // (16 blocks,), or null with the metric "ip"
    double slack;                 // how much lengths may lack, those of balls, too
    // groups
    Codes of_rows;
    Codes of_groups;
    Codes of_chunks;
    // balls
    long long subspaces;
    long long groups;             // in each subspace
    long long width;              // dimensions of the widest subspace
    const long long* columns;     // (subspaces + 1,)
    Codes of_subspaces;           // (subspaces, ...)
    const int* holders;           // (subspaces, rows)
};

// What is known of a direction, see halfspace.cpu.runtime.records.DIRECTION.
struct Plan {
    double norm;
    double grain;
    double slope;
    double intercept;
    double tau;        // the threshold, brought to where dot products are
    double bad;        // 0, or 1 where a component is not finite, or 2 where tau is NaN
};

// What thresholds are raised by for each unit of a length.
struct Lift {
    float below;
    float above;
};

// Thresholds of a direction in units of an integer product of whole codes, in float32: see halfspace.cpu.filters.matrix.
struct Level {
    float level;
    float sure_level;
    float ratio;
    float offset;
};

// The first test of high codes, in float32: a row is dropped if s (unit product + offset) + factor r, of its scale and
// radius, is below.
struct Glance {
    float unit;
    float offset;
    float factor;
    float below;
};

// A direction as one segment with cells or groups sees it, see halfspace.cpu.filters.views.VIEW; its digits lie beside.
struct View {
    double below;
    double above;
    double lift_below;    // what they are raised by for each unit of a length
    double lift_above;
    double norm;          // of what is coded: q, or q - m where distances are asked
    double factor;        // of a radius, in upper bounds
    double factor_above;  // and in lower ones
    double widest;        // the largest radius of a ball that may be taken
    double unit;
    double digit_sum;
    double high_slack;  // of groups: the slack of every level
    double low_slack;
    Level levels[2];    // of products with both digits, and with the high ones alone
    Lift lifts[3];      // and of the first test of high codes
    Glance glance;
};

// What a search found, in numbers.
struct Header {
    unsigned long long pairs;  // candidates listed, or that would have been
    unsigned long long listed;  // hits listed that were no candidates, or that would have been; where any order will do, all
    unsigned long long hits;
    unsigned long long bad;    // of directions that cannot be answered: the lowest, or the largest number
};

// Where the hits of a direction and chunk begin, and how many there are in each eighth of it, a byte for each.
struct __align__(16) Placed {  // read at once
    long long before;
    unsigned long long eighths;
};

// A question, and room for the answer: the one argument of the query kernels.
struct Call {
    // the question
    const float* directions;  // (count, d)
    const double* tau;        // (count,), or null where all have the same
    double one_tau;
    long long count;
    long long batch;          // directions in each space
    long long dim;
    long long wanted;
    // the table
    const Segment* segments;  // (spaces, segment_count)
    long long segment_count;
    long long chunks;
    const int* owners;        // (chunks,), the segment of each
    // prepared
    Plan* plans;              // (count,)
    View* views;              // (count, segment_count)
    signed char* digits;      // (count, segment_count, 2, stride)
    long long stride;         // dimensions, rounded up to a multiple of 32
    signed char* tiles;       // the high digits once more, see filters/swizzled.cuh, or null
    // candidates and hits: the direction times 2^40, plus 1,024 times the chunk, plus the row in it
    unsigned long long* pairs;
    long long pair_room;
    unsigned long long* listed;
    float* scores;            // of each candidate, NaN if it is no hit; then of each hit listed
    long long listed_room;
    unsigned* bits;           // (count, chunks, 32), a bit for each place in order of ids
    // (count, chunks), hits: of eighths, as in a Placed, or of all where only counts are wanted; null where they are listed alone
    unsigned long long* counts;
    Placed* starts;           // (count, chunks), of those that have hits
    long long* totals;        // (count,)
    long long* offsets;       // (count + 1,)
    Header* header;
    Header* status;           // a copy of it that the host reads, or null
    // the answer
    long long* ids;
    float* values;
    long long answer_room;
    long long without_sign;    // whether scores lose their sign: distances, as users have them
    unsigned long long* work;  // (stages, columns), or null
};

__device__ __forceinline__ const Segment& segment_of(const Call& call, long long direction, long long chunk) {
    const long long space = direction < call.batch ? 0 : direction / call.batch;  // a division takes its time
    return call.segments[space * call.segment_count + call.owners[chunk]];
}

__device__ __forceinline__ bool is_excluded(const Segment& segment, long long row) {
    return segment.excluded != nullptr && (segment.excluded[row >> 3] >> (row & 7) & 1) != 0;
}

// Add to a counter, where there are any; by one thread.
__device__ __forceinline__ void count_work(const Call& call, int stage, int column, long long amount) {
    if (call.work != nullptr && amount != 0) atomicAdd(call.work + stage * COLUMNS + column, (unsigned long long)amount);
}

__device__ __forceinline__ int lane_number() { return threadIdx.x & (WARP - 1); }

__device__ __forceinline__ unsigned lanes_below() { return (1u << lane_number()) - 1; }

// Sum over a warp.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
    for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(FULL, value, step);
    return value;
}

// Sums over a warp up to each lane, its own value included; so many steps are written out.
template <int UNROLLED = WARP, typename T>
__device__ __forceinline__ T warp_prefix(T value) {
#pragma unroll UNROLLED
    for (int step = 1; step < WARP; step *= 2) {
        const T other = __shfl_up_sync(FULL, value, step);
        if (lane_number() >= step) value += other;
    }
    return value;
}
