// Many directions at once: cells times directions as an integer matrix product, thresholds applied to it as it comes. The
// twin of halfspace/cpu/filters/matrix.py.
//
// Both halves of a code are joined into one byte, and multiplied with the high digits of the directions. A pair is left if
//
//     A c  >=  level / s - ratio r - offset
//
// and a hit for certain if A c >= sure_level / s + ratio r + offset, where r is the radius in units of the scale s: the
// bounds of the cells, solved for the integer product, in float32, with the slack of halfspace.model.rounding.pair_margin
// on either side. With other metrics than "ip", lift e / s is added on the right, where e is the length of the vector.
#include "runtime/ptx.cuh"
#include "formats.cuh"
#include "emit.cuh"
#include "filters/terms.cuh"

#define ROWS 128      // of vectors in a tile: 32 for each of four warps, a block of codes for each of eight
#define COLUMNS_AT_ONCE 64  // of directions: 32 for each of two
#define PADDING 16    // bytes between rows in shared memory, so that eight of them lie in different banks
#define LIST 2048     // pairs that a block holds before it lists them
#define TAKE 0x80000000u
#define NOTHING 0xffffffffu  // in the list: beyond the last row or direction

struct Shared {
    Level levels[2][COLUMNS_AT_ONCE];
    float inverses[ROWS];  // 1 / s
    float ratios[ROWS];    // r / s
#if METRIC != IP
    Lift lifts[2][COLUMNS_AT_ONCE];
    float rises[ROWS];     // e / s
#endif
    unsigned list[LIST];   // a row, plus ROWS times a direction, plus TAKE
    unsigned listed;
};

// Join the codes of a tile's rows into bytes, a block of them by a warp; rows : (ROWS, pitch) in shared memory.
__device__ void pack_rows(const Segment& segment, long long row, int words, int pitch, unsigned char* rows,
                          Shared& shared) {
    const int within = threadIdx.x / WARP, lane = lane_number() % BLOCK;
    const long long block = row / BLOCK + within;
    const bool held = block < (segment.rows + 63) / 64 * 4;
    const unsigned* high = reinterpret_cast<const unsigned*>(segment.high) + block * words * BLOCK + lane;
    const unsigned* low = reinterpret_cast<const unsigned*>(segment.low) + (block * BLOCK + lane) * words;
    unsigned char* out = rows + (within * BLOCK + lane) * pitch;
#pragma unroll 4
    for (int word = lane_number() / BLOCK; word < (pitch - PADDING) / 8; word += WARP / BLOCK) {
        uint2 codes = make_uint2(0, 0);
        if (held && word < words) codes = joined(stream32(high + word * BLOCK), low[word]);
        *reinterpret_cast<uint2*>(out + 8 * word) = codes;
    }
    for (int i = threadIdx.x; i < ROWS; i += THREADS) {
        const Terms own = terms_of(segment, row + i);
        shared.inverses[i] = own.inverse;
        shared.ratios[i] = own.ratio;
#if METRIC != IP
        shared.rises[i] = own.rise;
#endif
    }
}

// Begin to bring a tile of directions, from number `first` on, into shared memory, where it has its own half.
__device__ void fetch_columns(const Call& call, long long first, long long last, long long which, int half,
                              unsigned char* columns, Shared& shared) {
    const int pitch = (int)call.stride + PADDING;
    const int each = THREADS / COLUMNS_AT_ONCE;  // threads for a direction
    const int own = threadIdx.x / each;
    const signed char* digits =
        call.digits + 2 * (min(first + own, last - 1) * call.segment_count + which) * call.stride;
    for (int at = 16 * (threadIdx.x % each); at < pitch - PADDING; at += 16 * each)
        copy_async16(columns + own * pitch + at, digits + at);
    for (int column = threadIdx.x; column < COLUMNS_AT_ONCE; column += THREADS) {
        Level own = {INFINITY, INFINITY, 0.0f, 0.0f};
        const bool asked = first + column < last && call.plans[first + column].bad == 0.0;
        const View& view = call.views[(asked ? first + column : first) * call.segment_count + which];
        if (asked) own = view.levels[1];
        shared.levels[half][column] = own;
#if METRIC != IP
        shared.lifts[half][column] = asked ? view.lifts[1] : Lift{0.0f, 0.0f};
#endif
    }
    copy_async_commit();
}

// Multiply 32 rows and 32 columns of the tiles.
__device__ __forceinline__ void multiply(const unsigned char* rows, const unsigned char* columns, int pitch,
                                         int (&sums)[2][4][4]) {
    const int lane = lane_number();
    const unsigned char* left = rows + (lane / 8 % 2 * 8 + lane % 8) * pitch + lane / 16 * 16;
    const unsigned char* right = columns + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 16;
#pragma unroll 2
    for (int k = 0; k < pitch - PADDING; k += 32) {
        unsigned a[2][4], b[2][4];
        load_matrix(a[0], left + k);
        load_matrix(a[1], left + 16 * pitch + k);
        load_matrix(b[0], right + k);
        load_matrix(b[1], right + 16 * pitch + k);
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int n = 0; n < 4; n++)
                mma_s8(sums[m][n], a[m][0], a[m][1], a[m][2], a[m][3], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
}

// Add an entry that the block's list has no room for to the list of all.
__device__ void list_one(const Call& call, const Segment& segment, long long chunk, long long row,
                                      long long direction, bool take) {
    if (take) {
        mark_hit(call, segment, direction, row);
        return;
    }
    const unsigned long long at = atomicAdd(&call.header->pairs, 1ull);
    if (at < (unsigned long long)call.pair_room) call.pairs[at] = pair_of(direction, chunk, (int)(row & (CHUNK - 1)));
}

// Empty the block's list.
__device__ void flush(const Call& call, const Segment& segment, long long chunk, long long row, long long space,
                      Shared& shared) {
    __syncthreads();
    const unsigned listed = min(shared.listed, (unsigned)LIST);
    for (unsigned first = threadIdx.x / WARP * WARP; first < listed; first += THREADS) {
        const unsigned at = first + lane_number();
        const unsigned entry = at < listed ? shared.list[at] : NOTHING;
        const long long found = row + entry % ROWS, direction = space * call.batch + (entry & ~TAKE) / ROWS;
        const bool own = entry != NOTHING && !is_excluded(segment, found), take = (entry & TAKE) != 0;
        if (own && take) mark_hit(call, segment, direction, found);
        list_pairs(call, own && !take, pair_of(direction, chunk, (int)(found & (CHUNK - 1))));
    }
    __syncthreads();
    if (threadIdx.x == 0) shared.listed = 0;
    __syncthreads();
}

// Rows and columns of which a warp has the sums.
struct Window {
    long long space;
    long long chunk;
    long long row;    // the first of the tile
    long long first;  // direction of the tile
    int low_row;      // the first of the warp, in the tile
    int low_column;
    int half;         // of shared memory, in which the tile's directions are
};

// Apply the thresholds to the sums of a warp's 32 rows and 32 columns, and hold the pairs that are left.
__device__ __forceinline__ void apply(const Call& call, const Segment& segment, const Window& window,
                                      const int (&sums)[2][4][4], Shared& shared) {
    const long long row = window.row, first = window.first;
    const int low_row = window.low_row, low_column = window.low_column;
    const int g = lane_number() / 4, t = lane_number() % 4;
    unsigned left = 0, sure = 0;
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int side = 0; side < 2; side++) {
            const Level level = shared.levels[window.half][low_column + 8 * n + 2 * t + side];
#if METRIC == IP
            const Lift lift = {};
#else
            const Lift lift = shared.lifts[window.half][low_column + 8 * n + 2 * t + side];
#endif
#pragma unroll
            for (int m = 0; m < 2; m++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const int own = low_row + 16 * m + 8 * half + g;
#if METRIC == IP
                    const Terms terms = {shared.inverses[own], shared.ratios[own]};
#else
                    const Terms terms = {shared.inverses[own], shared.ratios[own], shared.rises[own]};
#endif
                    const Bounds bounds = bounds_of(level, lift, terms);
                    const float sum = (float)sums[m][n][2 * half + side];
                    const unsigned bit = 1u << (((m * 2 + half) * 4 + n) * 2 + side);
                    if (!(sum < bounds.needed)) left |= bit;
                    if (sum >= bounds.enough) sure |= bit;
                }
        }
    if (call.wanted == SCORES) sure = 0;
    sure &= left;
    if (!__any_sync(FULL, left != 0)) return;
    const int upto = warp_prefix(__popc(left));
    unsigned at = 0;
    if (lane_number() == WARP - 1) at = atomicAdd(&shared.listed, (unsigned)upto);
    at = __shfl_sync(FULL, at, WARP - 1) + upto - __popc(left);
    for (; left != 0; left &= left - 1, at++) {
        const int bit = __ffs(left) - 1;
        const int own = low_row + 8 * (bit / 8) + g, column = low_column + bit / 2 % 4 * 8 + 2 * t + bit % 2;
        const bool take = (sure >> bit & 1) != 0;
        const long long direction = first + column - window.space * call.batch;
        const bool there = row + own < segment.rows && direction < call.batch;
        if (at < LIST) {
            shared.list[at] = there ? own + ROWS * (unsigned)direction + (take ? TAKE : 0) : NOTHING;
        } else if (there && !is_excluded(segment, row + own)) {
            list_one(call, segment, window.chunk, row + own, first + column, take);
        }
    }
}

// Grid: x is eight times the chunks in the list, which have cells; y is the number of spaces times that of parts that the
// directions are cut into. Blocks of THREADS; shared memory: Shared, then ROWS + 2 COLUMNS_AT_ONCE rows of a pitch of the
// digits' stride + PADDING.
extern "C" __global__ void __launch_bounds__(THREADS, 2) multiply_cells(Call call, const int* listed) {
    extern __shared__ unsigned char dynamic_shared[];
    Shared& shared = *reinterpret_cast<Shared*>(dynamic_shared);
    unsigned char* rows = dynamic_shared + (sizeof(Shared) + 15) / 16 * 16;
    const int pitch = (int)call.stride + PADDING, words = (int)((call.dim + 7) / 8);
    unsigned char* columns[2] = {rows + ROWS * pitch, rows + (ROWS + COLUMNS_AT_ONCE) * pitch};
    const long long chunk = listed[blockIdx.x / (CHUNK / ROWS)], which = call.owners[chunk];
    const long long spaces = call.count / call.batch, space = blockIdx.y % spaces;
    const long long parts = gridDim.y / spaces, part = blockIdx.y / spaces;
    const long long tiles = (call.batch + COLUMNS_AT_ONCE - 1) / COLUMNS_AT_ONCE;
    const Segment& segment = call.segments[space * call.segment_count + which];
    const long long row = ((chunk - segment.first) << 10) + blockIdx.x % (CHUNK / ROWS) * ROWS;
    if (row >= segment.rows) return;
    const long long last = (space + 1) * call.batch;
    const int warp = threadIdx.x / WARP, low_row = warp % 4 * 32, low_column = warp / 4 * 32;
    pack_rows(segment, row, words, pitch, rows, shared);
    if (threadIdx.x == 0) shared.listed = 0;
    long long tile = part;
    if (tile < tiles)
        fetch_columns(call, space * call.batch + tile * COLUMNS_AT_ONCE, last, which, 0, columns[0], shared);
    for (int turn = 0; tile < tiles; tile += parts, turn ^= 1) {
        const long long first = space * call.batch + tile * COLUMNS_AT_ONCE, next = first + parts * COLUMNS_AT_ONCE;
        if (tile + parts < tiles) {
            fetch_columns(call, next, last, which, turn ^ 1, columns[turn ^ 1], shared);
            copy_async_wait<1>();
        } else {
            copy_async_wait<0>();
        }
        __syncthreads();
        int sums[2][4][4] = {};
        multiply(rows + low_row * pitch, columns[turn] + low_column * pitch, pitch, sums);
        apply(call, segment, Window{space, chunk, row, first, low_row, low_column, turn}, sums, shared);
        __syncthreads();
        if (shared.listed > LIST / 2) flush(call, segment, chunk, row, space, shared);
    }
    flush(call, segment, chunk, row, space, shared);
}
