// Some directions at once: like matrix.cu, with both digits of each direction, so that hardly more than the hits are left.
// Few directions cost little arithmetic for the codes that are read: what counts is that reading never waits. So every warp
// goes through its own strips of 32 vectors, holds their codes in registers, and needs nobody else; the digits of the
// directions lie in shared memory all the time.
//
// A product has eight directions. A first pass multiplies with their high digits alone, a second one with both digits of
// those eights of which the first left anything. Where it leaves much, a warp does without it for a while.
#include "runtime/ptx.cuh"
#include "formats.cuh"
#include "emit.cuh"
#include "filters/terms.cuh"

#define ROWS 32     // vectors in a strip: two blocks of codes
#define MOST 64     // directions at once
#define UNIT (ROWS * (THREADS / WARP))  // vectors that a block takes at once, a strip for each warp
#define HELD 256    // candidates that a warp holds before it lists them
#define EIGHT 8     // directions of a product
#define EIGHTS 2    // eights that the first pass multiplies by turns: a product takes long, and the next one can begin
#define MANY 5      // of eight eights: where the first pass leaves more, it takes longer than it spares
#define PAUSE 15    // strips without it from then on: a try that was in vain adds a quarter to a strip's time

// What the warps of a block share, and the candidates of each.
struct Shared {
    Level levels[2][MOST];  // of products with both digits, and with the high ones alone
#if METRIC != IP
    Lift lifts[2][MOST];
#endif
    unsigned long long held[THREADS / WARP][HELD];
};

// The codes of a strip as operands of products, and the terms of the four rows that a lane has sums of.
//
// With g = lane / 4 and t = lane % 4, these rows are those from 4 g on; codes[i] holds their words 4 i + t, each joined from
// both halves, four dimensions in [0] to [3] and the next four in [4] to [7]. In sums of eight directions, [k / 2][k % 2 * 2
// + side] is of row k and of direction 2 t + side.
template <int STEPS>
struct Strip {
    unsigned codes[STEPS][8];
    float inverses[4];
    float ratios[4];
    float widest;  // of the ratios
#if METRIC != IP
    float rises[4];
#endif

    __device__ __forceinline__ void load(const Segment& segment, long long row, int words) {
        const int g = lane_number() / 4, t = lane_number() % 4;
        const uint4* high = reinterpret_cast<const uint4*>(segment.high + (row / BLOCK + g / 4) * words * (4 * BLOCK));
        const unsigned* low = reinterpret_cast<const unsigned*>(segment.low) + (row + 4 * g) * words;
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const int word = 4 * i + t;
            const bool there = word < words;
            const uint4 four = there ? stream128(high + word * (BLOCK / 4) + g % 4) : make_uint4(0, 0, 0, 0);
            const unsigned upper[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const uint2 both = joined(upper[k], there ? low[k * words + word] : 0);
                codes[i][k] = both.x;
                codes[i][4 + k] = both.y;
            }
        }
        const Terms own = terms_of(segment, row + lane_number());  // of one row, for those lanes that have its sums
        widest = 0.0f;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            inverses[k] = __shfl_sync(FULL, own.inverse, 4 * g + k);
            ratios[k] = __shfl_sync(FULL, own.ratio, 4 * g + k);
            widest = fmaxf(widest, ratios[k]);
#if METRIC != IP
            rises[k] = __shfl_sync(FULL, own.rise, 4 * g + k);
#endif
        }
    }

    // Multiply with digits of COUNT times eight directions, rows of `pitch` bytes; eights are `apart` bytes from each other.
    template <int COUNT>
    __device__ __forceinline__ void multiply(const unsigned char* digits, int pitch, int apart,
                                             int (&sums)[COUNT][2][4]) const {
        const unsigned char* own = digits + lane_number() / 4 * pitch + lane_number() % 4 * 8;
#pragma unroll
        for (int i = 0; i < STEPS; i++)
#pragma unroll
            for (int j = 0; j < COUNT; j++) {
                const uint2 both = *reinterpret_cast<const uint2*>(own + j * apart + 32 * i);
                mma_s8(sums[j][0], codes[i][0], codes[i][1], codes[i][4], codes[i][5], both.x, both.y);
                mma_s8(sums[j][1], codes[i][2], codes[i][3], codes[i][6], codes[i][7], both.x, both.y);
            }
    }

    // Whether high digits leave any of the lane's rows for its two directions from `first` on. The widest radius stands for
    // all rows, which lowers bounds, and spares a few of them.
    __device__ __forceinline__ bool is_any_left(const Shared& shared, int first, const int (&sums)[2][4]) const {
        bool any = false;
#pragma unroll
        for (int side = 0; side < 2; side++) {
            const Level level = shared.levels[1][first + side];
            const float width = fmaf(level.ratio, widest, level.offset);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                float needed = fmaf(level.level, inverses[k], -width);
#if METRIC != IP
                needed = fmaf(shared.lifts[1][first + side].below, rises[k], needed);
#endif
                any = any || !((float)sums[k / 2][k % 2 * 2 + side] < needed);
            }
        }
        return any;
    }

    // What both digits leave of the same, or, with SURE, which are hits for certain: bit 4 side + k is row k. The sums are
    // those of the high digits, then those of the low ones.
    template <bool SURE>
    __device__ __forceinline__ unsigned reached(const Shared& shared, int first, const int (&sums)[2][2][4]) const {
        unsigned bits = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int k = i % 4, side = i / 4, m = k / 2, at = k % 2 * 2 + side;
            const Level level = shared.levels[0][first + side];
            const float product = (float)(256 * sums[0][m][at] + sums[1][m][at]);  // d <= 384: below 2^31
            const float width = fmaf(level.ratio, ratios[k], level.offset);
            float bound = fmaf(SURE ? level.sure_level : level.level, inverses[k], SURE ? width : -width);
#if METRIC != IP
            const Lift lift = shared.lifts[0][first + side];
            bound = fmaf(SURE ? lift.above : lift.below, rises[k], bound);
#endif
            if (SURE ? product >= bound : !(product < bound)) bits |= 1u << i;
        }
        return bits;
    }
};

// List the candidates that a warp holds.
__device__ __forceinline__ void list_held(const Call& call, const unsigned long long* held, int& count) {
    __syncwarp();
    unsigned long long first = 0;
    if (lane_number() == 0) first = atomicAdd(&call.header->pairs, (unsigned long long)count);
    first = __shfl_sync(FULL, first, 0);
    for (int at = lane_number(); at < count; at += WARP)
        if (first + at < (unsigned long long)call.pair_room) call.pairs[first + at] = held[at];
    count = 0;
    __syncwarp();
}

// What a lane's bits stand for: the row in the last two, and a direction in the rest, two of every eight.
struct Origin {
    long long first;  // direction
    long long chunk;
    int row;          // in the chunk

    __device__ __forceinline__ long long direction(int bit) const {
        return first + bit / 8 * EIGHT + lane_number() % 4 * 2 + bit / 4 % 2;
    }
};

// The lowest of some bits.
__device__ __forceinline__ int lowest(unsigned long long bits) { return __ffsll((long long)bits) - 1; }

// Add the candidates of a strip, which are bits of each lane, to those that a warp holds; too many are listed at once.
__device__ __forceinline__ void hold(const Call& call, const Origin& origin, unsigned long long left,
                                     unsigned long long* held, int& count) {
    const int own = __popc((unsigned)left) + __popc((unsigned)(left >> 32));
    const int upto = warp_prefix(own);
    const int all = __shfl_sync(FULL, upto, WARP - 1);
    if (all == 0) return;
    if (count + all > HELD) list_held(call, held, count);
    const bool direct = all > HELD;
    unsigned long long first = 0;
    if (direct && lane_number() == 0) first = atomicAdd(&call.header->pairs, (unsigned long long)all);
    first = __shfl_sync(FULL, first, 0);
    unsigned long long* target = direct ? call.pairs + first : held + count;
    const long long room = direct ? call.pair_room - (long long)first : HELD;
    for (int at = upto - own; left != 0; left &= left - 1, at++) {
        const int bit = lowest(left);
        if (at < room) target[at] = pair_of(origin.direction(bit), origin.chunk, origin.row + bit % 4);
    }
    if (!direct) count += all;
}

// Some of the directions of a space.
struct Set {
    long long first;
    int count;
};

// Bring digits of a set in the frame of a segment, and what their sums must reach, into shared memory. Digits lie in rows of
// `pitch` bytes: the high ones of eight directions, then their low ones, and so on.
__device__ void show(const Call& call, const Set& set, long long which, int pitch, unsigned char* digits, Shared& shared) {
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < 2 * MOST * (pitch / 16); i += THREADS) {
        const int column = i / (pitch / 16), byte = i % (pitch / 16) * 16;
        const int direction = column / (2 * EIGHT) * EIGHT + column % EIGHT, low = column / EIGHT % 2;
        const long long own = 2 * ((set.first + direction) * call.segment_count + which) + low;
        const bool there = direction < set.count && byte < call.stride;
        copy_async16_if(there, digits + column * pitch + byte, call.digits + (there ? own * call.stride + byte : 0));
    }
    copy_async_commit();
#pragma unroll 1
    for (int i = threadIdx.x; i < 2 * MOST; i += THREADS) {
        const int kind = i / MOST, own = i % MOST;
        const View& view = call.views[(set.first + min(own, set.count - 1)) * call.segment_count + which];
        shared.levels[kind][own] = own < set.count ? view.levels[kind] : Level{INFINITY, INFINITY, 0.0f, 0.0f};
#if METRIC != IP
        shared.lifts[kind][own] = view.lifts[kind];
#endif
    }
    copy_async_wait<0>();
    __syncthreads();
}

// The eights of directions of which high digits leave something in a strip: a bit each.
template <int STEPS>
__device__ __forceinline__ unsigned left_by_high(const Shared& shared, const Strip<STEPS>& own, int eights, int pitch,
                                                 const unsigned char* digits) {
    const int pair = lane_number() % 4 * 2;
    unsigned some = 0;
#pragma unroll 1
    for (int n = 0; n < eights; n += EIGHTS) {
        int sums[EIGHTS][2][4] = {};
        own.multiply(digits + 2 * EIGHT * n * pitch, pitch, 2 * EIGHT * pitch, sums);
#pragma unroll
        for (int j = 0; j < EIGHTS; j++)
            if (own.is_any_left(shared, EIGHT * (n + j) + pair, sums[j])) some |= 1u << (n + j);
    }
    return __reduce_or_sync(FULL, some);
}

// Test the strips of the chunks in a list for the directions of one set.
template <int STEPS>
__device__ void classify_strips(const Call& call, const int* listed, long long chunks, unsigned char* room) {
    Shared& shared = *reinterpret_cast<Shared*>(room);
    unsigned char* digits = room + sizeof(Shared);
    const int pitch = STEPS * 32 + 32, words = (int)((call.dim + 7) / 8);
    const int warp = threadIdx.x / WARP, pair = lane_number() % 4 * 2;  // the lane's directions of every eight
    const long long sets = (call.batch + MOST - 1) / MOST;  // of directions, in each space
    const long long space = blockIdx.y / sets, first = space * call.batch + blockIdx.y % sets * MOST;
    const Set set = {first, (int)min((long long)MOST, (space + 1) * call.batch - first)};
    const int eights = (set.count + EIGHT - 1) / EIGHT;
    long long shown = -1;  // the segment in whose frame the digits in shared memory are
    int held = 0, pause = 0;
    let_next_begin();
    wait_for_previous();
    // all warps of a block go through the same chunks, so that they change from segment to segment together
    for (long long unit = blockIdx.x; unit < chunks * (CHUNK / UNIT); unit += gridDim.x) {
        const long long chunk = listed[unit / (CHUNK / UNIT)], which = call.owners[chunk];
        const Segment& segment = call.segments[space * call.segment_count + which];
        if (which != shown) {
            show(call, set, which, pitch, digits, shared);
            shown = which;
        }
        const long long row = ((chunk - segment.first) << 10) + unit % (CHUNK / UNIT) * UNIT + warp * ROWS;
        if (row >= segment.rows) continue;
        Strip<STEPS> own;
        own.load(segment, row, words);
        unsigned some = (1u << eights) - 1;
        if (pause == 0) {
            some &= left_by_high(shared, own, eights, pitch, digits);
            if (some == 0) continue;
            if (EIGHT * __popc(some) > MANY * eights) pause = PAUSE;
        } else {
            pause--;
        }
        unsigned long long left = 0, sure = 0;  // a bit for each of the lane's rows and directions
#pragma unroll 1
        for (; some != 0; some &= some - 1) {
            const int n = __ffs((int)some) - 1;
            int sums[2][2][4] = {};
            own.multiply(digits + 2 * EIGHT * n * pitch, pitch, EIGHT * pitch, sums);
            const unsigned fresh = own.template reached<false>(shared, EIGHT * n + pair, sums);
            left |= (unsigned long long)fresh << 8 * n;
            if (call.wanted != SCORES && __any_sync(FULL, fresh != 0))
                sure |= (unsigned long long)own.template reached<true>(shared, EIGHT * n + pair, sums) << 8 * n;
        }
        if (!__any_sync(FULL, left != 0)) continue;
        const long long mine = row + lane_number() / 4 * 4;
        unsigned long long asked = 0;  // of the lane's four rows, those that are to be found, for each direction
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (mine + k < segment.rows && !is_excluded(segment, mine + k)) asked |= 0x1111111111111111ull << k;
        const int columns = set.count / EIGHT * 2 + max(0, min(2, set.count % EIGHT - pair));
        if (columns < MOST / 4) asked &= (1ull << 4 * columns) - 1;
        left &= asked;
        const Origin origin = {set.first, chunk, (int)(mine & (CHUNK - 1))};
        for (sure &= left; sure != 0; sure &= sure - 1) {
            const int bit = lowest(sure);
            mark_hit(call, segment, origin.direction(bit), mine + bit % 4);
            left &= ~(1ull << bit);
        }
        hold(call, origin, left, shared.held[warp], held);
    }
    list_held(call, shared.held[warp], held);
}

// Grid: x any number of blocks, which share the chunks; y is the number of spaces times that of sets of MOST directions.
// Blocks of THREADS; shared memory: Shared, then two rows of pitch 160 for each of MOST directions. For d <= 128.
extern "C" __global__ void __launch_bounds__(THREADS, 2) multiply_strips(Call call, const int* listed, long long chunks) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    classify_strips<4>(call, listed, chunks, dynamic_shared);
}

// The same for d <= 384, with a pitch of 416.
extern "C" __global__ void __launch_bounds__(THREADS, 1) multiply_long_strips(Call call, const int* listed,
                                                                              long long chunks) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    classify_strips<12>(call, listed, chunks, dynamic_shared);
}
