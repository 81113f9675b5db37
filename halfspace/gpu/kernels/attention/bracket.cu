// Brackets of the scores of all keys, from both halves of their codes.
//
// Codes are multiplied by the tensor cores, 32 rows at a time: with g = lane / 4, the lanes of group g hold codes of rows 4 g
// to 4 g + 3, and two words of each at a time; columns are the two digits of four query heads.
#include "attention/certify.cuh"

#define SET 4                // query heads at a time
#define STRIDE ((HEAD_DIM + 63) / 64 * 64)  // digits of a head, padded to what the lanes of a group take at once
#define WORDS (HEAD_DIM / 8)
#define PIECES ((WORDS + 7) / 8)
#define SLACK32 (1.0 + 8.0 * V32)

// A head's part in a bracket: a key of scale s and radius r has s (unit P), give or take s slack + factor r.
struct Meter {
    float unit, slack, factor;
    int bias;  // of P: the product with codes that are all 128
};

struct Shared {
    signed char digits[SET][2][STRIDE];
    Meter meters[SET];
    int tops[SET];
};

// Find how a head counts, from what is known of it and from the norms of keys and centre.
__device__ inline Rate rate_of(const Head& head, double peak, double centre, double scale) {
    const double farthest = head.norm * (peak + centre) * (1.0 + 0x1p-20);
    double rate = STEPS * scale;
    if (!(rate * farthest <= FARTHEST)) rate = FARTHEST / farthest;
    const double unit = rate * head.unit;
    if (head.bad != 0.0 || !(rate < INFINITY) || !(0x1p-90 < unit && unit < 0x1p90)) rate = 0.0;
    return Rate{head.base, head.base_error, rate, head.norm};
}

// Converting P, and the unit, and both products round by a share V32 each, of at most 127 unit digit_size s; the sums that
// make a width, and the width, do as well. What rounding the ends costs is below the 1 / 64 that `bracket` leaves.
__device__ inline Meter meter_of(const Head& head, double rate) {
    Meter meter;
    const double unit = rate * head.unit;
    meter.unit = narrow(unit);
    meter.slack = round_up32((rate * head.low_slack + 8.0 * V32 * 127.0 * unit * head.digit_size) * SLACK32);
    meter.factor = round_up32(rate * head.factor * SLACK32);
    meter.bias = 128 * (int)head.digit_sum;
    return meter;
}

// A lane's components of a head, of the centre and of the weights.
struct Parts {
    float4 own[STRIDE / WARP];
};

__device__ __forceinline__ Parts load_parts(const Cache& cache, const Certify& call, long long space, long long query) {
    Parts parts;
#pragma unroll
    for (int k = 0; k < STRIDE / WARP; k++) {
        const int j = lane_number() + WARP * k;
        const long long at = space * HEAD_DIM + j;
        parts.own[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (j < HEAD_DIM)
            parts.own[k] = make_float4(query_component(call.queries, call.wide != 0, query * HEAD_DIM + j),
                                       cache.centre[at], cache.weights[at], 0.0f);
    }
    return parts;
}

// Prepare a head of a set; by a warp. The first part of a space's rows writes down how it counts.
__device__ __forceinline__ void prepare_one(const Cache& cache, const Certify& call, const Parts& parts, long long space,
                                            long long query, int which, long long length, Shared& shared) {
    const int lane = lane_number();
    const long long chunks = (cache.capacity + CHUNK - 1) / CHUNK;
    unsigned largest = 0;  // norms are not negative: the order of their bits is theirs
    for (long long chunk = lane; chunk < (length + CHUNK - 1) / CHUNK; chunk += WARP)
        largest = max(largest, __float_as_uint(cache.peaks[space * chunks + chunk]));
    for (int step = WARP / 2; step > 0; step /= 2) largest = max(largest, __shfl_xor_sync(FULL, largest, step));
    const auto component = [&](int, int k) { return parts.own[k]; };
    const Measured measured = measure_components(component, HEAD_DIM);
    const Head head = code_components(component, measured, HEAD_DIM, STRIDE, shared.digits[which][0]);
    if (lane != 0) return;
    const double peak = exact64(__uint_as_float(largest));
    const Rate rate = rate_of(head, peak, norm_bound(measured.centre, HEAD_DIM), call.scale);
    shared.meters[which] = meter_of(head, rate.rate);
    if (blockIdx.x == 0) call.rates[query] = rate;
}

// A piece of the codes of 4 rows of a lane's: two words of each.
struct Piece {
    uint4 high[2];
    uint2 low[4];
};

// The codes of a tile of 32 rows, as a lane has them, and what they are worth.
struct Tile {
    Piece pieces[PIECES];
    uint2 scales, radii;
};

// Where the codes of a space lie.
struct Plane {
    const unsigned char* high;
    const unsigned char* low;
    const unsigned short* scales;
    const unsigned short* radii;
};

__device__ __forceinline__ void load_piece(const unsigned char* high, const unsigned char* low, int word, Piece& piece) {
#pragma unroll
    for (int k = 0; k < 2; k++)
        piece.high[k] = word + k < WORDS ? stream128(high + (word + k) * (4 * BLOCK)) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int row = 0; row < 4; row++) {
        const unsigned char* address = low + 4 * (row * WORDS + word);
        piece.low[row] = make_uint2(0, 0);
        if (WORDS % 2 == 0) {
            if (word < WORDS) piece.low[row] = *reinterpret_cast<const uint2*>(address);
        } else {
            if (word < WORDS) piece.low[row].x = *reinterpret_cast<const unsigned*>(address);
            if (word + 1 < WORDS) piece.low[row].y = *reinterpret_cast<const unsigned*>(address + 4);
        }
    }
}

__device__ __forceinline__ void load_tile(const Plane& plane, long long number, Tile& tile) {
    const int g = lane_number() / 4, t = lane_number() % 4;
    const long long row = 32 * number + 4 * g;
    const unsigned char* high = plane.high + (2 * number + g / 4) * WORDS * (4 * BLOCK) + 16 * (g % 4);
#pragma unroll
    for (int k = 0; k < PIECES; k++) load_piece(high, plane.low + 4 * WORDS * row, 8 * k + 2 * t, tile.pieces[k]);
    tile.scales = *reinterpret_cast<const uint2*>(plane.scales + row);
    tile.radii = *reinterpret_cast<const uint2*>(plane.radii + row);
}

// Add the products of a word of four rows with the digits.
__device__ __forceinline__ void multiply(int (&sums)[2][4], unsigned a, unsigned b, unsigned c, unsigned d, uint2 digits) {
    mma_s8(sums[0], a & NIBBLES, b & NIBBLES, a >> 4 & NIBBLES, b >> 4 & NIBBLES, digits.x, digits.y);
    mma_s8(sums[1], c & NIBBLES, d & NIBBLES, c >> 4 & NIBBLES, d >> 4 & NIBBLES, digits.x, digits.y);
}

// The bracket of a key, from the product of its codes.
__device__ __forceinline__ unsigned bracket(const Meter& meter, int product, float scale, float radius) {
    const float value = scale * ((float)(product - meter.bias) * meter.unit);
    const float width = fmaf(scale, meter.slack, meter.factor * radius) + 0x1p-6f;
    const float lower = value - width, upper = value + width;
    // an end that is NaN is none
    const int first = lower > BELOW + 1.0f ? (int)floorf(fminf(lower, ABOVE - 1.0f)) : BELOW;
    const int last = upper < ABOVE - 1.0f ? (int)floorf(fmaxf(upper, BELOW)) + 1 : ABOVE;
    return bracket_of(first, last);
}

__device__ __forceinline__ float widen_half(unsigned bits) { return __uint_as_float(bits << 16); }

// Grid: x parts of the rows, y spaces, z sets of query heads. Blocks of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS, 2) bracket_scores(Cache cache, Certify call) {
    __shared__ Shared shared;
    wait_for_previous();
    const long long space = blockIdx.y, length = cache.lengths[space / cache.heads];
    const unsigned long long skipped = call.turns[space].skipped;
    const int lane = lane_number(), warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    const long long first = space * call.group + SET * blockIdx.z;  // query head
    const int count = (int)min((long long)SET, call.group - SET * blockIdx.z);
    const long long tiles = (length + 31) / 32, threads = (long long)gridDim.x * WARPS;
    const Plane plane = {cache.high + space * (cache.capacity / BLOCK) * WORDS * (4 * BLOCK),
                         cache.low + space * (4 * cache.capacity * WORDS + 64), cache.scales + space * cache.capacity,
                         cache.radii + (2 * space + 1) * cache.capacity};
    // all that is read first is on its way at once, whatever the length turns out to be
    long long number = blockIdx.x + (long long)gridDim.x * warp;
    Tile tile;
    if (number < cache.capacity / 32) load_tile(plane, number, tile);
    Parts parts;
    if (warp < count) parts = load_parts(cache, call, space, first + warp);
    if (length == 0 || skipped != 0) return;
    if (warp < count) prepare_one(cache, call, parts, space, first + warp, warp, length, shared);
    if (threadIdx.x < SET) shared.tops[threadIdx.x] = BELOW;
    __syncthreads();

    const Meter meter = shared.meters[min(t, count - 1)];
    const signed char* digits = g / 2 < count ? shared.digits[g / 2][g % 2] + 16 * t : nullptr;
    unsigned* out = call.brackets + (first + min(t, count - 1)) * cache.capacity + 4 * g;
    int top = BELOW;
    for (; number < tiles; number += threads) {
        int highs[2][4] = {}, lows[2][4] = {};
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++) {
            const Piece& own = tile.pieces[piece];
#pragma unroll
            for (int k = 0; k < 2; k++) {
                uint2 two = make_uint2(0, 0);
                if (digits != nullptr) two = *reinterpret_cast<const uint2*>(digits + 64 * piece + 8 * k);
                multiply(highs, own.high[k].x, own.high[k].y, own.high[k].z, own.high[k].w, two);
                if (k == 0) multiply(lows, own.low[0].x, own.low[1].x, own.low[2].x, own.low[3].x, two);
                if (k == 1) multiply(lows, own.low[0].y, own.low[1].y, own.low[2].y, own.low[3].y, two);
            }
        }
        const uint2 scales = tile.scales, radii = tile.radii;
        if (number + threads < tiles) load_tile(plane, number + threads, tile);  // while this one is finished
        unsigned found[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int at = k % 2 * 2;
            const int whole = 256 * (16 * highs[k / 2][at] + lows[k / 2][at]) + 16 * highs[k / 2][at + 1] + lows[k / 2][at + 1];
            const unsigned two_scales = k < 2 ? scales.x : scales.y, two_radii = k < 2 ? radii.x : radii.y;
            found[k] = bracket(meter, whole, widen_half(two_scales >> 16 * (k % 2) & 0xffffu),
                               widen_half(two_radii >> 16 * (k % 2) & 0xffffu));
            if (32 * number + 4 * g + k < length) top = max(top, lower_end(found[k]));
        }
        if (t < count) *reinterpret_cast<uint4*>(out + 32 * number) = make_uint4(found[0], found[1], found[2], found[3]);
    }
    for (int step = 4; step < WARP; step *= 2) top = max(top, __shfl_xor_sync(FULL, top, step));
    if (lane < count) atomicMax(&shared.tops[lane], top);
    __syncthreads();
    if (threadIdx.x < count) atomicMax(call.tops + first + threadIdx.x, shared.tops[threadIdx.x]);
}
