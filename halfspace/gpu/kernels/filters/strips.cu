// Some directions at once: like matrix.cu, with both digits of each direction, so that hardly more than the hits are left.
// Few directions cost little arithmetic for the codes that are read: what counts is that reading never waits. So every warp
// goes through its own strips of 32 vectors, holds their codes in registers, and needs nobody else; the digits of the
// directions lie in shared memory all the time.
#include "runtime/ptx.cuh"
#include "formats.cuh"
#include "emit.cuh"
#include "filters/lifts.cuh"

#define ROWS 32     // vectors in a strip: two blocks of codes
#define MOST 64     // directions at once
#define UNIT (ROWS * (THREADS / WARP))  // vectors that a block takes at once, a strip for each warp
#define HELD 256    // candidates that a warp holds before it lists them

// What the warps of a block share, and the candidates of each.
struct Shared {
    Level levels[MOST];
#if METRIC != IP
    Lift lifts[MOST];
#endif
    unsigned long long held[THREADS / WARP][HELD];
};

// The codes of a strip as operands of products, and 1 / s, r / s and e / s of the four rows that a lane has sums of.
//
// With g = lane / 4, these rows are those from 4 (g % 4) on of block g / 4; codes[i] holds their words 4 i + lane % 4, each
// joined from both halves, four dimensions in [0] to [3] and the next four in [4] to [7].
template <int STEPS>
struct Strip {
    unsigned codes[STEPS][8];
    float inverses[4];
    float ratios[4];
#if METRIC != IP
    float rises[4];
#endif

    __device__ __forceinline__ void load(const Segment& segment, long long row, int words) {
        const int g = lane_number() / 4, t = lane_number() % 4;
        const long long block = row / BLOCK + g / 4, own = block * BLOCK + g % 4 * 4;
        const uint4* high = reinterpret_cast<const uint4*>(segment.high + (block * words * BLOCK + g % 4 * 4) * 4);
        const unsigned* low = reinterpret_cast<const unsigned*>(segment.low) + own * words;
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const int word = 4 * i + t;
            const bool there = word < words;
            const uint4 four = there ? stream128(high + word * (BLOCK / 4)) : make_uint4(0, 0, 0, 0);
            const unsigned upper[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const unsigned lower = there ? low[k * words + word] : 0;
                codes[i][k] = ((upper[k] & NIBBLES) << 4 | (lower & NIBBLES)) ^ 0x80808080u;
                codes[i][4 + k] = ((upper[k] & ~NIBBLES) | (lower >> 4 & NIBBLES)) ^ 0x80808080u;
            }
        }
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const double scale = widen16(segment.scales[own + k]), radius = widen16(segment.low_radii[own + k]);
            inverses[k] = scale > 0.0 ? narrow(1.0 / scale) : 0.0f;
            ratios[k] = scale > 0.0 ? narrow(radius / scale) : INFINITY;  // a vector at the centre: always left
#if METRIC != IP
            rises[k] = scale > 0.0 ? rise_of(segment.lengths[own + k], scale) : 0.0f;
#endif
        }
    }

    // Multiply with four directions, whose digits are eight rows of `pitch` bytes; sums: high and low digits by turns.
    __device__ __forceinline__ void multiply(const unsigned char* digits, int pitch, int (&sums)[2][4]) const {
        const unsigned char* own = digits + lane_number() / 4 * pitch + lane_number() % 4 * 8;
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            const uint2 both = *reinterpret_cast<const uint2*>(own + 32 * i);
            mma_s8(sums[0], codes[i][0], codes[i][1], codes[i][4], codes[i][5], both.x, both.y);
            mma_s8(sums[1], codes[i][2], codes[i][3], codes[i][6], codes[i][7], both.x, both.y);
        }
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

// What a lane's bits stand for: the row in the last two, and a direction of every four in the rest.
struct Origin {
    long long first;  // direction
    long long chunk;
    int row;          // in the chunk

    __device__ __forceinline__ long long direction(int bit) const { return first + bit / 4 * 4 + lane_number() % 4; }
};

// The lowest of some bits.
__device__ __forceinline__ int lowest(unsigned long long bits) {
    const unsigned half = (unsigned)bits;
    return half != 0 ? __ffs((int)half) - 1 : 31 + __ffs((int)(bits >> 32));
}

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

// Test the strips of the chunks in a list for the directions of one set.
template <int STEPS>
__device__ void classify_strips(const Call& call, const int* listed, long long chunks, unsigned char* room) {
    Shared& shared = *reinterpret_cast<Shared*>(room);
    unsigned char* digits = room + sizeof(Shared);
    const int pitch = STEPS * 32 + 32, words = (int)((call.dim + 7) / 8), lane = lane_number();
    const int warp = threadIdx.x / WARP, t = lane % 4, within = lane / 16 * BLOCK + lane / 4 % 4 * 4;
    const long long sets = (call.batch + MOST - 1) / MOST;  // of directions, in each space
    const long long space = blockIdx.y / sets, first = space * call.batch + blockIdx.y % sets * MOST;
    const int count = (int)min((long long)MOST, (space + 1) * call.batch - first);
    long long shown = -1;  // the segment in whose frame the digits in shared memory are
    int held = 0;
    let_next_begin();
    wait_for_previous();
    // all warps of a block go through the same chunks, so that they change from segment to segment together
    for (long long unit = blockIdx.x; unit < chunks * (CHUNK / UNIT); unit += gridDim.x) {
        const long long chunk = listed[unit / (CHUNK / UNIT)], which = call.owners[chunk];
        const Segment& segment = call.segments[space * call.segment_count + which];
        if (which != shown) {
            __syncthreads();
            for (int i = threadIdx.x; i < 2 * MOST * (pitch / 16); i += THREADS) {
                const int column = i / (pitch / 16), byte = i % (pitch / 16) * 16;
                uint4 sixteen = make_uint4(0, 0, 0, 0);
                if (column / 2 < count && byte < call.stride)
                    sixteen = *reinterpret_cast<const uint4*>(
                        call.digits + (2 * ((first + column / 2) * call.segment_count + which) + column % 2) * call.stride +
                        byte);
                *reinterpret_cast<uint4*>(digits + column * pitch + byte) = sixteen;
            }
            for (int i = threadIdx.x; i < MOST; i += THREADS) {
                const View& view = call.views[(first + min(i, count - 1)) * call.segment_count + which];
                shared.levels[i] = i < count ? view.levels[0] : Level{INFINITY, INFINITY, 0.0f, 0.0f};
#if METRIC != IP
                shared.lifts[i] = view.lifts[0];
#endif
            }
            __syncthreads();
            shown = which;
        }
        const long long row = ((chunk - segment.first) << 10) + unit % (CHUNK / UNIT) * UNIT + warp * ROWS;
        if (row >= segment.rows) continue;
        const long long mine = row + within;
        Strip<STEPS> own;
        own.load(segment, row, words);
        unsigned long long left = 0, sure = 0;  // a bit for each row of the lane and each direction
        for (int n = 0; 4 * n < count; n++) {
            int sums[2][4] = {};
            own.multiply(digits + 8 * n * pitch, pitch, sums);
            const Level level = shared.levels[4 * n + t];
#if METRIC != IP
            const Lift lift = shared.lifts[4 * n + t];
#endif
            unsigned fresh = 0;
            float products[4], widths[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                products[k] = (float)(256 * sums[k / 2][k % 2 * 2] + sums[k / 2][k % 2 * 2 + 1]);  // d <= 384: below 2^31
                widths[k] = fmaf(level.ratio, own.ratios[k], level.offset);
                float needed = fmaf(level.level, own.inverses[k], -widths[k]);
#if METRIC != IP
                needed = fmaf(lift.below, own.rises[k], needed);
#endif
                fresh |= !(products[k] < needed) ? 1u << k : 0;
            }
            left |= (unsigned long long)fresh << 4 * n;
            if (call.wanted != SCORES && __any_sync(FULL, fresh != 0)) {
                unsigned certain = 0;
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    float enough = fmaf(level.sure_level, own.inverses[k], widths[k]);
#if METRIC != IP
                    enough = fmaf(lift.above, own.rises[k], enough);
#endif
                    certain |= products[k] >= enough ? 1u << k : 0;
                }
                sure |= (unsigned long long)certain << 4 * n;
            }
        }
        unsigned long long asked = 0;  // of the lane's four rows, those that are to be found, for each direction
#pragma unroll
        for (int k = 0; k < 4; k++)
            if (mine + k < segment.rows && !is_excluded(segment, mine + k)) asked |= 0x1111111111111111ull << k;
        const int columns = max(0, count - t + 3) / 4;
        if (columns < MOST / 4) asked &= (1ull << 4 * columns) - 1;
        left &= asked;
        const Origin origin = {first, chunk, (int)(mine & (CHUNK - 1))};
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
