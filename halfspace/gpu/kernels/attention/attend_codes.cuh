// The filter of attention: each warp goes over the codes of its own tiles and lists the rows that any of the block's
// query heads may keep.
//
// Tiles come through a ring in shared memory. With g = lane / 4 and t = lane % 4, a lane takes, of the rows from 4 g on
// to 4 g + 3 of a tile, the words from STEPS t on: a fragment of the tensor cores. Columns are high and low digits of
// the heads by turns, so that lane (g, t) gets the products with head t.
#pragma once

#include "attention/attend.cuh"

// Words that are read at once.
constexpr int WIDE = WORDS != 4 * STEPS ? 1 : STEPS % 4 == 0 ? 4 : STEPS % 2 == 0 ? 2 : 1;

// The word, of the lane's own, that step i takes: lanes side by side take theirs in another order where they would
// read the same banks of shared memory otherwise.
__device__ __forceinline__ int word_of(int i) { return STEPS % 2 == 0 ? i ^ (lane_number() & 1) : i; }

// Whether the lane has word i of its own.
__device__ __forceinline__ bool has_word(int i) { return WORDS == 4 * STEPS || lane_number() % 4 * STEPS + i < WORDS; }

// The tiles of a warp, and its ring.
struct Walk {
    int at;            // the next tile
    int total;
    unsigned parity;   // of each stage: how often it was used
    unsigned char* ring;
    unsigned long long* barriers;
};

// Copy a tile into a stage: the high words, the low ones if they are wanted, scales, radii of whole codes, and those of
// high ones if they are wanted.
template <bool BOTH>
__device__ __forceinline__ void copy_tile(const Space& space, const Walk& walk, long long tile, int slot) {
    const int lane = lane_number();
    const long long two = tile * ROWS + lane % 16 * 2;
    unsigned char* stage = walk.ring + slot * (BOTH ? BOTH_BYTES : HIGH_BYTES);
    unsigned char* bounds = stage + (BOTH ? 2 : 1) * PLANE + 4 * lane;
    unsigned long long* barrier = walk.barriers + slot;
    tile_begin(barrier, (BOTH ? 2 : 1) * PLANE);
    tile_copy(stage, space.high + tile * PLANE, PLANE, barrier);
    if (BOTH) tile_copy(stage + PLANE, space.low + tile * PLANE, PLANE, barrier);
    copy_async4(bounds, (lane < 16 ? space.scales : space.low_radii) + two);
    if (!BOTH && lane < 16) copy_async4(bounds + 128, space.high_radii + two);
}

// Begin to copy a tile of a walk, if there is one.
template <bool BOTH>
__device__ __forceinline__ void begin_tile(const Space& space, const Walk& walk, int at, int slot) {
    if (at < walk.total) copy_tile<BOTH>(space, walk, tile_of(space, at, threadIdx.x / WARP), slot);
    copy_async_commit();
}

// Wait for the tile in a stage; returns the stage.
template <bool BOTH>
__device__ __forceinline__ const unsigned char* wait_for_tile(Walk& walk, int slot) {
    copy_async_wait<(BOTH ? BOTH_STAGES : HIGH_STAGES) - 1>();
    tile_wait(walk.barriers + slot, walk.parity >> slot & 1);
    walk.parity ^= 1u << slot;
    return walk.ring + slot * (BOTH ? BOTH_BYTES : HIGH_BYTES);
}

// Scales and radii of the lane's four rows of a tile, as bfloat16: radii of whole codes, and of high ones if they are
// wanted.
struct Bounds {
    uint2 scales, low_radii, high_radii;
};

// Number k of four bfloat16, and its bits.
__device__ __forceinline__ unsigned bits_of(uint2 four, int k) {
    return (k < 2 ? four.x : four.y) >> k % 2 * 16 & 0xffff;
}
__device__ __forceinline__ float number_of(uint2 four, int k) {
    const unsigned two = k < 2 ? four.x : four.y;
    return __uint_as_float(k % 2 == 0 ? two << 16 : two & 0xffff0000u);
}

template <bool BOTH>
__device__ __forceinline__ Bounds read_bounds(const unsigned char* stage) {
    const uint2* own = reinterpret_cast<const uint2*>(stage + (BOTH ? 2 : 1) * PLANE) + lane_number() / 4;
    return Bounds{own[0], own[8], BOTH ? own[8] : own[16]};
}

// Read the lane's words of one row, in the order of its memory.
__device__ __forceinline__ void read_words(const unsigned char* address, unsigned (&words)[STEPS]) {
    address += lane_number() % 4 * (4 * STEPS);
#pragma unroll
    for (int i = 0; i < STEPS; i += WIDE) {
        const unsigned char* own = address + 4 * i;
        if (WIDE == 4) {
            const uint4 four = *reinterpret_cast<const uint4*>(own);
            words[i] = four.x, words[i + 1] = four.y, words[i + 2] = four.z, words[i + 3] = four.w;
        } else if (WIDE == 2) {
            const uint2 two = *reinterpret_cast<const uint2*>(own);
            words[i] = two.x, words[i + 1] = two.y;
        } else {
            words[i] = has_word(i) ? *reinterpret_cast<const unsigned*>(own) : 0;
        }
    }
}

// Bring words from the order of memory into that of steps.
__device__ __forceinline__ void order_words(unsigned (&words)[STEPS]) {
#pragma unroll
    for (int i = 0; i + 1 < STEPS; i += 2) {
        const unsigned one = words[i], two = words[i + 1];
        words[i] = word_of(0) == 0 ? one : two;
        words[i + 1] = word_of(0) == 0 ? two : one;
    }
}

// Read the digits of the lane's column.
__device__ __forceinline__ void read_digits(const signed char (&shared)[SET][2][STRIDE], uint2 (&digits)[STEPS]) {
#pragma unroll
    for (int i = 0; i < STEPS; i++)
        digits[i] = *reinterpret_cast<const uint2*>(shared[lane_number() / 8][lane_number() / 4 % 2] +
                                                    8 * (lane_number() % 4 * STEPS + word_of(i)));
}

// Multiply a tile with the digits; lane (g, t) gets the products of its four rows with head t.
template <bool BOTH>
__device__ __forceinline__ void multiply_tile(const unsigned char* stage, const uint2 (&digits)[STEPS],
                                              int (&products)[4]) {
    const int g = lane_number() / 4, t = lane_number() % 4;
    int sums[2][4] = {};
    unsigned low[4][STEPS];
    const unsigned char* fours = stage + ((g / 4 * WORDS + t * STEPS) * BLOCK + g % 4 * 4) * 4;  // four rows of a word
    if (BOTH) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            read_words(stage + PLANE + (4 * g + k) * (4 * WORDS), low[k]);
            order_words(low[k]);
        }
    }
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const int word = word_of(i);
        const uint4 four =
            has_word(word) ? *reinterpret_cast<const uint4*>(fours + word * (4 * BLOCK)) : make_uint4(0, 0, 0, 0);
        const unsigned high[4] = {four.x, four.y, four.z, four.w};
        unsigned codes[4][2];  // of four dimensions, and of the next four
#pragma unroll
        for (int k = 0; k < 4; k++) {
            if (BOTH) {
                codes[k][0] = (high[k] << 4 & ~NIBBLES) | (low[k][i] & NIBBLES);
                codes[k][1] = (high[k] & ~NIBBLES) | (low[k][i] >> 4 & NIBBLES);
            } else {
                codes[k][0] = high[k] & NIBBLES;
                codes[k][1] = high[k] >> 4 & NIBBLES;
            }
        }
        mma_u8(sums[0], codes[0][0], codes[1][0], codes[0][1], codes[1][1], digits[i].x, digits[i].y);
        mma_u8(sums[1], codes[2][0], codes[3][0], codes[2][1], codes[3][1], digits[i].x, digits[i].y);
    }
#pragma unroll
    for (int k = 0; k < 4; k++)
        products[k] = (int)(256u * (unsigned)sums[k / 2][k % 2 * 2] + (unsigned)sums[k / 2][k % 2 * 2 + 1]);
}

// Whether the row of the lane's own number in a tile is left: votes of lane (g, t) are on its four rows and head t.
__device__ __forceinline__ bool is_left(const Space& space, const unsigned (&votes)[4], int tile) {
    const int lane = lane_number();
    const unsigned mine = lane & 2 ? (lane & 1 ? votes[3] : votes[2]) : (lane & 1 ? votes[1] : votes[0]);
    const int row = tile * ROWS + lane;
    return row < space.rows && ((mine >> (lane & ~3) & 15) != 0 || is_forced(space, row));
}

// Test a tile; returns whether the row of the lane's own number may be kept by any head.
__device__ __forceinline__ bool test_tile(const Space& space, const Test32& test, const int (&products)[4],
                                          uint2 scales, uint2 radii, int tile) {
    unsigned votes[4];
#pragma unroll
    for (int k = 0; k < 4; k++)
        votes[k] = __ballot_sync(FULL, may_reach(test, products[k], number_of(scales, k), number_of(radii, k)));
    return is_left(space, votes, tile);
}

// Add the rows that lanes have to a warp's list, by their distance from its first tile.
__device__ __forceinline__ void add_rows(unsigned short* list, int& found, bool own, int entry) {
    const unsigned lanes = __ballot_sync(FULL, own);
    if (own) list[found + __popc(lanes & lanes_below())] = (unsigned short)entry;
    found += __popc(lanes);
}

// Begin the first tiles of a walk, as many as there are stages.
template <bool BOTH>
__device__ __forceinline__ void begin_walk(const Space& space, const Walk& walk) {
#pragma unroll 1
    for (int k = 0; k < (BOTH ? BOTH_STAGES : HIGH_STAGES); k++) begin_tile<BOTH>(space, walk, walk.at + k, k);
}

// Tell the block what a warp has listed since tile `first`. Tiles that have begun are waited for, and will begin anew.
template <bool BOTH>
__device__ __forceinline__ void end_walk(Shared& shared, Walk& walk, int first, int found, int slot) {
    const int warp = threadIdx.x / WARP, stages = BOTH ? BOTH_STAGES : HIGH_STAGES;
#pragma unroll 1
    for (int at = walk.at; at < min(walk.at + stages, walk.total); at++) {
        wait_for_tile<BOTH>(walk, slot);
        slot = slot + 1 == stages ? 0 : slot + 1;
        copy_async_commit();
    }
    if (lane_number() == 0)
        shared.found[warp] = found, shared.first[warp] = first, shared.going[warp] = walk.at < walk.total;
}

// Go over tiles with both planes until there are no more, or the list is full.
__device__ __forceinline__ void filter_both(const Space& space, Shared& shared, const uint2 (&digits)[STEPS],
                                            Walk& walk) {
    const int warp = threadIdx.x / WARP, lane = lane_number(), first = walk.at, bias = shared.biases[lane % SET];
    const Test32 test = shared.whole[lane % SET];
    int found = 0, slot = 0;
#pragma unroll 1
    while (walk.at < walk.total && found + ROWS <= SEGMENT && (walk.at - first) * ROWS < 0x10000) {
        const unsigned char* stage = wait_for_tile<true>(walk, slot);
        const Bounds own = read_bounds<true>(stage);
        int products[4];
        multiply_tile<true>(stage, digits, products);
#pragma unroll
        for (int k = 0; k < 4; k++) products[k] -= bias;
        const bool left =  // votes: all have read the stage
            test_tile(space, test, products, own.scales, own.low_radii, tile_of(space, walk.at, warp));
        begin_tile<true>(space, walk, walk.at + BOTH_STAGES, slot);
        add_rows(shared.list[warp], found, left, (walk.at - first) * ROWS + lane);
        walk.at++;
        slot = slot + 1 == BOTH_STAGES ? 0 : slot + 1;
    }
    end_walk<true>(shared, walk, first, found, slot);
}

// Rows that the high codes left, in a ring: their products with the heads, their places in the list and 2^16 times
// their scales, and 2^16 times the radii of their whole codes. All products of a tile lie beside it for a moment.
struct Queue {
    unsigned sums[2 * ROWS][SET];
    uint2 left[2 * ROWS];
    int products[SET][ROWS];
};
static_assert(sizeof(Queue) == QUEUE, "it has its place in the ring");

// Up to 16 of them, from place `first` on, whose low codes are being read into registers: lane (g, t) has its words of
// the rows at places g and g + 8 from there on.
struct Pending {
    int first;
    int count;
    unsigned words[2][STEPS];
};

// Add the rows of a tile that are left, of lanes their own; returns how many. `entry` is the place of row 0 of the tile in
// the list.
__device__ __forceinline__ int add_left(Queue& queue, int end, const int (&products)[4], const unsigned char* stage,
                                        bool left, int entry) {
    const int lane = lane_number();
    const unsigned lanes = __ballot_sync(FULL, left);
    if (lanes == 0) return 0;
    *reinterpret_cast<int4*>(queue.products[lane % SET] + lane / SET * 4) =
        make_int4(products[0], products[1], products[2], products[3]);
    __syncwarp();
    if (left) {
        const int place = (end + __popc(lanes & lanes_below())) % (2 * ROWS);
        const unsigned short* bounds = reinterpret_cast<const unsigned short*>(stage + PLANE) + lane;
        *reinterpret_cast<int4*>(queue.sums[place]) = make_int4(queue.products[0][lane], queue.products[1][lane],
                                                               queue.products[2][lane], queue.products[3][lane]);
        queue.left[place] = make_uint2((unsigned)bounds[0] << 16 | (unsigned)(entry + lane), (unsigned)bounds[ROWS] << 16);
    }
    __syncwarp();
    return __popc(lanes);
}

__device__ __forceinline__ void ask_for_low(const Space& space, const Queue& queue, int first_tile, Pending& pending) {
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int at = 8 * k + lane_number() / 4;
        if (at < pending.count) {
            const int entry = (int)(queue.left[(pending.first + at) % (2 * ROWS)].x & 0xffff);
            const long long row = row_of(space, entry, first_tile, threadIdx.x / WARP);
            read_words(space.low + row * (4 * WORDS), pending.words[k]);
        }
    }
}

// Test the rows whose low codes were asked for by their whole codes, and list what is left.
__device__ __forceinline__ void test_low(const Space& space, Shared& shared, const Queue& queue,
                                         const uint2 (&digits)[STEPS], int first_tile, Pending& pending, int& found) {
    const int warp = threadIdx.x / WARP, lane = lane_number(), g = lane / 4, t = lane % 4;
    int sums[4] = {};
    order_words(pending.words[0]);
    order_words(pending.words[1]);
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const unsigned one = pending.words[0][i], two = pending.words[1][i];
        mma_s8(sums, one & NIBBLES, two & NIBBLES, one >> 4 & NIBBLES, two >> 4 & NIBBLES, digits[i].x, digits[i].y);
    }
    unsigned votes[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int at = 8 * k + g, place = (pending.first + at) % (2 * ROWS);
        bool may = false;
        if (at < pending.count) {
            const unsigned low = (unsigned)(256 * sums[2 * k] + sums[2 * k + 1]);
            const unsigned product = 16 * queue.sums[place][t] + low - (unsigned)shared.biases[t];
            const uint2 left = queue.left[place];
            may = may_reach(shared.whole[t], (int)product, __uint_as_float(left.x & 0xffff0000u),
                            __uint_as_float(left.y));
        }
        votes[k] = __ballot_sync(FULL, may);
    }
    bool keep = lane < pending.count;
    int entry = 0;
    if (keep) {
        entry = (int)(queue.left[(pending.first + lane) % (2 * ROWS)].x & 0xffff);
        keep = ((lane < 8 ? votes[0] : votes[1]) >> (lane % 8 * 4) & 15) != 0 ||
               is_forced(space, row_of(space, entry, first_tile, warp));
    }
    add_rows(shared.list[warp], found, keep, entry);
}

// Go over tiles with the high plane, and ask for the low codes of what it leaves, 16 rows at a time, until there are no
// more, or the list is full. Rows that were asked for are tested when the next ones are to be asked for.
__device__ __forceinline__ void filter_in_turn(Shared& shared, const uint2 (&digits)[STEPS], Walk& walk) {
    const Space& space = shared.space;  // read again and again: registers are short
    const int warp = threadIdx.x / WARP, lane = lane_number(), first = walk.at;
    Queue& queue = *reinterpret_cast<Queue*>(walk.ring + HIGH_STAGES * HIGH_BYTES);
    const Test32 test = shared.high[lane % SET];
    int found = 0, slot = 0, end = 0, asked = 0;
    Pending pending;
    pending.first = pending.count = 0;
#pragma unroll 1
    for (bool more = true; more;) {
        more = walk.at < walk.total && found + 2 * ROWS <= SEGMENT && (walk.at - first) * ROWS < 0x10000;
        if (more) {
            const int tile = tile_of(space, walk.at, warp);
            const unsigned char* stage = wait_for_tile<false>(walk, slot);
            const Bounds bounds = read_bounds<false>(stage);
            int products[4];
            multiply_tile<false>(stage, digits, products);
            const bool left =  // votes: all have read the stage
                test_tile(space, test, products, bounds.scales, bounds.high_radii, tile);
            end += add_left(queue, end, products, stage, left, (walk.at - first) * ROWS);
            begin_tile<false>(space, walk, walk.at + HIGH_STAGES, slot);
            walk.at++;
            slot = slot + 1 == HIGH_STAGES ? 0 : slot + 1;
        }
#pragma unroll 1
        while (end - asked >= (more ? 16 : 1) || (!more && pending.count > 0)) {
            if (pending.count > 0) test_low(space, shared, queue, digits, first, pending, found);
            pending.first = asked, pending.count = min(16, end - asked);
            asked += pending.count;
            ask_for_low(space, queue, first, pending);
        }
    }
    end_walk<false>(shared, walk, first, found, slot);
}

// Go over tiles of codes, in one plane and then the other if `in_turn`, or in both.
__device__ __forceinline__ void filter_codes(const Space& space, Shared& shared, bool in_turn, Walk& walk) {
    uint2 digits[STEPS];
    read_digits(shared.digits, digits);
    if (in_turn) {
        filter_in_turn(shared, digits, walk);
    } else {
        filter_both(space, shared, digits, walk);
    }
}
