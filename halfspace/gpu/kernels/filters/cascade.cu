// The cascade of segments with cells, for few directions: norms, high codes, low codes; each tests what the one before
// left. The twin of halfspace/cpu/filters/cascade.py.
//
// Nearly all rows are dropped by a first glance at their high codes, in float32; what that leaves is tested in float64.
//
// High codes are multiplied by the tensor cores: 16 vectors of 32 dimensions with 8 columns, which hold the two digits of
// up to four directions. The layout of a block (16 vectors side by side, 8 dimensions to a word) is that of a fragment: 16
// bytes of it are the operands of two products, with the nibbles apart.
#include "runtime/ptx.cuh"
#include "formats.cuh"
#include "rounding.cuh"
#include "emit.cuh"
#include "filters/lifts.cuh"

#define ROWS 64          // rows of a tile, which a warp tests
#define ALONE 64         // threads of a block for one direction: few, as what takes long in one tile holds up the others
#define PAIRS 2          // pairs of blocks of codes among them
#define STEP 16          // words that a warp reads at once of each block: four a lane
#define LANES 4          // lanes that share the low codes of a vector

// The entries of a warp's list: a row, plus ROWS times which of the directions, and the product of its high codes.
struct List {
    double* products;
    unsigned short* entries;
};

// Multiply some words of the high codes of a warp's rows with the digits of up to four directions, or nothing where they are
// null. `codes` is where a lane's words of the first blocks begin, `pitch` how far the next pair of blocks is; where not
// ALL, words from `left` on are not there.
//
// sums[p][j] gets what mma_s8 makes of the blocks 2 p and 2 p + 1: with g = lane / 4, its rows g and g + 8 are the rows
// 2 j and 2 j + 1 among the four from 4 (g % 4) on of block 2 p + g / 4; its columns are high and low digits by turns.
template <bool ALL>
__device__ __forceinline__ void multiply_words(const unsigned char* codes, int pitch, const signed char* digits, int left,
                                               int (&sums)[PAIRS][2][4]) {
    const int t = lane_number() % 4;
    uint4 read[STEP / 4][PAIRS];
#pragma unroll
    for (int i = 0; i < STEP / 4; i++) {
#pragma unroll
        for (int p = 0; p < PAIRS; p++)
            read[i][p] = ALL || 4 * i + t < left ? stream128(codes + p * pitch + 4 * i * (4 * BLOCK)) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < STEP / 4; i++) {
        if (!ALL && 4 * i >= left) break;
        const uint2 own = digits == nullptr ? make_uint2(0, 0) : *reinterpret_cast<const uint2*>(digits + 32 * i);
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            const uint4 four = read[i][p];
            mma_s8(sums[p][0], four.x & NIBBLES, four.y & NIBBLES, four.x >> 4 & NIBBLES, four.y >> 4 & NIBBLES, own.x, own.y);
            mma_s8(sums[p][1], four.z & NIBBLES, four.w & NIBBLES, four.z >> 4 & NIBBLES, four.w >> 4 & NIBBLES, own.x, own.y);
        }
    }
}

// The same for all words of a tile, whose first row that is.
__device__ __forceinline__ void multiply_high(const Segment& segment, long long row, int words, const signed char* digits,
                                              int (&sums)[PAIRS][2][4]) {
    const int g = lane_number() / 4, t = lane_number() % 4;
    const unsigned char* codes = segment.high + (row + g / 4 * BLOCK) * (4 * words) + (4 * (g % 4) + t * BLOCK) * 4;
    const int pitch = 2 * words * (4 * BLOCK);
    if (digits != nullptr) digits += 8 * t;
    int word = 0;
    for (; word + STEP <= words; word += STEP) {
        multiply_words<true>(codes, pitch, digits, STEP, sums);
        codes += STEP * (4 * BLOCK);
        if (digits != nullptr) digits += 8 * STEP;
    }
    if (word < words) multiply_words<false>(codes, pitch, digits, words - word, sums);
}

// Which rows a warp tests: ROWS of a chunk.
struct Tile {
    const Segment* segment;
    long long row;  // the first, in the segment
    long long chunk;
    int which;      // the segment
};

// Directions, up to four at once, of one space.
struct Asked {
    int first;
    int count;
};

// The directions that any vector of a tile's chunk can reach, as bits; the rest is ruled out by norms.
template <int AT_ONCE>
__device__ __forceinline__ unsigned reached(const Call& call, const Tile& tile, const Asked& asked) {
    unsigned alive = 0;
    const double peak = exact64(tile.segment->peaks[tile.chunk - tile.segment->first]);
#pragma unroll 1
    for (int query = 0; query < (AT_ONCE == 1 ? 1 : asked.count); query++) {
        const Plan& plan = call.plans[asked.first + query];
        const bool reached = METRIC != IP || !(longest_product(plan.norm, peak) < plan.tau);
        if (plan.bad == 0.0 && reached) alive |= 1u << query;
    }
    return alive;
}

// What of the rows of a lane is read beside their codes: of four that follow one another, of each pair of blocks.
struct Sizes {
    uint2 scales[PAIRS], radii[PAIRS];
    float4 lengths[PAIRS];

    __device__ __forceinline__ void load(const Tile& tile) {
        const int g = lane_number() / 4;
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            const long long own = tile.row + (g / 4 * BLOCK + 4 * (g % 4)) + 2 * p * BLOCK;
            scales[p] = *reinterpret_cast<const uint2*>(tile.segment->scales + own);
            radii[p] = *reinterpret_cast<const uint2*>(tile.segment->high_radii + own);
#if METRIC != IP
            lengths[p] = *reinterpret_cast<const float4*>(tile.segment->lengths + own);
#endif
        }
    }
};

// Product of the low codes of a vector with both digits of a direction, by LANES lanes, which all get it.
__device__ __forceinline__ double multiply_low(const unsigned char* low, long long words, const signed char* digits,
                                               long long stride) {
    int high_sum = 0, low_sum = 0;
    const auto add = [&](unsigned codes, unsigned high_first, unsigned high_second, unsigned low_first, unsigned low_second) {
        const int first = (int)(codes & NIBBLES), second = (int)(codes >> 4 & NIBBLES);
        high_sum = __dp4a(second, (int)high_second, __dp4a(first, (int)high_first, high_sum));
        low_sum = __dp4a(second, (int)low_second, __dp4a(first, (int)low_first, low_sum));
    };
    const int part = lane_number() % LANES;
    if (words % 4 == 0) {
        for (long long word = 4 * part; word < words; word += 4 * LANES) {
            const uint4 four = *reinterpret_cast<const uint4*>(low + 4 * word);
            const uint4* high_digits = reinterpret_cast<const uint4*>(digits + 8 * word);
            const uint4* low_digits = reinterpret_cast<const uint4*>(digits + stride + 8 * word);
            const uint4 one = high_digits[0], two = high_digits[1], three = low_digits[0], last = low_digits[1];
            add(four.x, one.x, one.y, three.x, three.y);
            add(four.y, one.z, one.w, three.z, three.w);
            add(four.z, two.x, two.y, last.x, last.y);
            add(four.w, two.z, two.w, last.z, last.w);
        }
    } else {
        for (long long word = part; word < words; word += LANES) {
            const uint2 high_digits = *reinterpret_cast<const uint2*>(digits + 8 * word);
            const uint2 low_digits = *reinterpret_cast<const uint2*>(digits + stride + 8 * word);
            add(*reinterpret_cast<const unsigned*>(low + 4 * word), high_digits.x, high_digits.y, low_digits.x, low_digits.y);
        }
    }
    for (int step = LANES / 2; step > 0; step /= 2) {
        high_sum += __shfl_xor_sync(FULL, high_sum, step);
        low_sum += __shfl_xor_sync(FULL, low_sum, step);
    }
    return (double)high_sum * 256.0 + (double)low_sum;
}

// Glance at a tile, by the products of its high codes with the digits: list what float32 cannot rule out, and return how
// many entries there are. A lane has eight rows, of one direction.
__device__ __forceinline__ int glance(const Call& call, const Tile& tile, const Asked& asked, unsigned alive,
                                      const int (&sums)[PAIRS][2][4], const Sizes& sizes, const List& list) {
    const int g = lane_number() / 4, query = lane_number() % 4;
    const bool wanted = query < asked.count && (alive >> query & 1) != 0;
    const View& view = call.views[(wanted ? asked.first + query : asked.first) * call.segment_count + tile.which];
    const Glance first = view.glance;
#if METRIC != IP
    const float lift = view.lifts[2].below;
#endif
    unsigned left = 0;
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const float product = fmaf((float)sums[p][k / 2][k % 2 * 2], 256.0f, (float)sums[p][k / 2][k % 2 * 2 + 1]);
            const unsigned scales = k < 2 ? sizes.scales[p].x : sizes.scales[p].y;
            const unsigned radii = k < 2 ? sizes.radii[p].x : sizes.radii[p].y;
            const float scale = __uint_as_float(k % 2 == 0 ? scales << 16 : scales & 0xffff0000u);
            const float radius = __uint_as_float(k % 2 == 0 ? radii << 16 : radii & 0xffff0000u);
            const float most = fmaf(scale, fmaf(product, first.unit, first.offset), first.factor * radius);
            float below = first.below;
#if METRIC != IP
            const float lengths[4] = {sizes.lengths[p].x, sizes.lengths[p].y, sizes.lengths[p].z, sizes.lengths[p].w};
            below = fmaf(lift, lengths[k], below);
#endif
            left |= most < below ? 0 : 1u << (4 * p + k);
        }
    }
    if (!wanted) left = 0;
    int listed = 0;
    if (!__any_sync(FULL, left != 0)) return listed;
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int own = (2 * p + g / 4) * BLOCK + 4 * (g % 4) + k;
            const bool some = (left >> (4 * p + k) & 1) != 0 && tile.row + own < tile.segment->rows;
            const unsigned lanes = __ballot_sync(FULL, some);
            if (some) {
                const int at = listed + __popc(lanes & lanes_below());
                list.products[at] = (double)sums[p][k / 2][k % 2 * 2] * 256.0 + (double)sums[p][k / 2][k % 2 * 2 + 1];
                list.entries[at] = (unsigned short)(own + ROWS * query);
            }
            listed += __popc(lanes);
        }
    }
    __syncwarp();
    return listed;
}

// A row's bounds are value + width and value - width, of its inner product as it is seen from the centre.
struct Verdict {
    bool left;
    bool take;
    double value;
};

// Test a row by a product with its high codes.
__device__ __forceinline__ Verdict classify_high(const View& view, const Segment& segment, long long row, double product) {
    const double scale = widen16(segment.scales[row]);
    const double unit = 16.0 * view.unit, bias = HIGH_MIDDLE / 16.0 * view.digit_sum;
    const double value = scale * (unit * (product - bias));
    const double width = scale * view.high_slack + view.factor * widen16(segment.high_radii[row]);
    const float length = length_of(segment.lengths, row);
    const bool left = !(value + width < below_of(view, view.below, length));
    return Verdict{left, left && value - width >= above_of(view, view.above, length), value};
}

// Test it by a product with its low codes, too.
__device__ __forceinline__ Verdict classify_low(const View& view, const Segment& segment, long long row, double high,
                                                double product) {
    const double scale = widen16(segment.scales[row]);
    const double value = high + scale * (view.unit * (product - LOW_MIDDLE * view.digit_sum));
    const double width = scale * view.low_slack + view.factor * widen16(segment.low_radii[row]);
    const float length = length_of(segment.lengths, row);
    const bool left = !(value + width < below_of(view, view.below, length));
    return Verdict{left, left && value - width >= above_of(view, view.above, length), value};
}

// Test the listed rows of a tile, one a lane, and hand on what is left. Their low codes are multiplied eight rows at once, by
// LANES lanes each.
__device__ void classify_listed(const Call& call, const Tile& tile, const Asked& asked, int listed, const List& list) {
    const int lane = lane_number(), at_once = WARP / LANES;
    const Segment& segment = *tile.segment;
    const long long words = (call.dim + 7) / 8;
    const auto multiply = [&](int at) {
        const int entry = list.entries[min(at, listed - 1)];
        const long long seen = (asked.first + entry / ROWS) * call.segment_count + tile.which;
        const signed char* digits = call.digits + 2 * call.stride * seen;
        return multiply_low(segment.low + 4 * words * (tile.row + entry % ROWS), words, digits, call.stride);
    };
    int counts[6] = {};  // left and taken by high codes; tested, dropped and taken by low codes; left by both
    for (int start = 0; start < listed; start += WARP) {
        double product = 0.0;
        for (int round = 0; round < LANES && start + at_once * round < listed; round += 2) {
            const int at = start + at_once * round + lane / LANES;
            const double one = multiply(at), other = multiply(at + at_once);
            const double mine = __shfl_sync(FULL, one, lane % at_once * LANES);
            const double next = __shfl_sync(FULL, other, lane % at_once * LANES);
            if (lane / at_once == round) product = mine;
            if (lane / at_once == round + 1) product = next;
        }
        const bool own = start + lane < listed;
        const int entry = own ? list.entries[start + lane] : 0;
        const long long direction = asked.first + entry / ROWS, row = tile.row + entry % ROWS;
        const View& view = call.views[direction * call.segment_count + tile.which];
        Verdict high = {false, false, 0.0}, low = high;
        if (own) high = classify_high(view, segment, row, list.products[start + lane]);
        if (high.left) low = high.take ? high : classify_low(view, segment, row, high.value, product);
        if (call.work != nullptr) {
            const bool tested = high.left && !high.take;
            const bool marks[6] = {high.left, high.take, tested, tested && !low.left, tested && low.take, low.left};
            for (int k = 0; k < 6; k++) counts[k] += __popc(__ballot_sync(FULL, marks[k]));
        }
        const bool left = low.left && !is_excluded(segment, row), take = left && low.take && call.wanted != SCORES;
        if (take) mark_hit(call, segment, direction, row);
        list_pairs(call, left && !take, pair_of(direction, tile.chunk, (int)(row & (CHUNK - 1))));
    }
    __syncwarp();
    if (lane != 0 || call.work == nullptr) return;
    count_work(call, HIGH_STAGE, TAKEN, counts[1]);
    count_work(call, HIGH_STAGE, LEFT, counts[0] - counts[1]);
    count_work(call, HIGH_STAGE, DROPPED, -counts[0]);
    count_work(call, LOW_STAGE, TESTED, counts[2]);
    count_work(call, LOW_STAGE, DROPPED, counts[3]);
    count_work(call, LOW_STAGE, TAKEN, counts[4]);
    count_work(call, LOW_STAGE, LEFT, counts[2] - counts[3] - counts[4]);
    count_work(call, LOW_STAGE, BYTES, counts[2] * (4 * words + 2));
}

// Count what norms and the first glance do with a tile, by one lane; rows that are left are taken off what is dropped later.
__device__ void count_tile(const Call& call, const Tile& tile, const Asked& asked, unsigned alive) {
    const long long rows = min((long long)ROWS, tile.segment->rows - tile.row), tested = rows * __popc(alive);
    count_work(call, NORMS_STAGE, TESTED, rows * asked.count);
    count_work(call, NORMS_STAGE, DROPPED, rows * asked.count - tested);
    count_work(call, NORMS_STAGE, LEFT, tested);
    count_work(call, NORMS_STAGE, BYTES, tile.row % CHUNK == 0 ? 4 : 0);
    if (alive == 0) return;
    count_work(call, HIGH_STAGE, TESTED, tested);
    count_work(call, HIGH_STAGE, DROPPED, tested);
    count_work(call, HIGH_STAGE, BYTES, rows * ((call.dim + 7) / 8 * 4 + (METRIC == IP ? 4 : 8)));
}

// Test a part of a chunk, whose segment has cells, for AT_ONCE directions at a time, by so many warps; for one if there is
// one in each space.
template <int AT_ONCE, int WARPS>
__device__ __forceinline__ void classify_part(const Call& call, long long chunk, int part, unsigned char* room) {
    const int warp = threadIdx.x / WARP, lane = lane_number(), entries = ROWS * AT_ONCE, g = lane / 4;
    const List list = {reinterpret_cast<double*>(room) + entries * warp,
                       reinterpret_cast<unsigned short*>(room + WARPS * entries * 8) + entries * warp};
    const int which = call.owners[chunk], batch = (int)call.batch;
    const int sets = AT_ONCE == 1 ? 1 : (batch + AT_ONCE - 1) / AT_ONCE;  // of directions, in each space
    const int all = AT_ONCE == 1 ? (int)call.count : sets * ((int)call.count / batch);
    for (int set = blockIdx.y; set < all; set += gridDim.y) {
        const int space = AT_ONCE == 1 ? set : set / sets, first = AT_ONCE == 1 ? set : space * batch + set % sets * AT_ONCE;
        const Asked asked = {first, AT_ONCE == 1 ? 1 : min(AT_ONCE, (space + 1) * batch - first)};
        const Segment& segment = call.segments[space * (int)call.segment_count + which];
        const Tile tile = {&segment, ((chunk - segment.first) << 10) + ROWS * (part * WARPS + warp), chunk, which};
        if (tile.row >= segment.rows) continue;
        const unsigned alive = reached<AT_ONCE>(call, tile, asked);
        if (call.work != nullptr && lane == 0) count_tile(call, tile, asked, alive);
        if (alive == 0) continue;
        const signed char* digits = nullptr;
        if (g / 2 < asked.count)
            digits = call.digits + (2 * ((first + g / 2) * call.segment_count + which) + g % 2) * call.stride;
        int sums[PAIRS][2][4] = {};
        Sizes sizes;
        sizes.load(tile);
        multiply_high(segment, tile.row, (int)((call.dim + 7) / 8), digits, sums);
        const int left = glance(call, tile, asked, alive, sums, sizes, list);
        if (left != 0) classify_listed(call, tile, asked, left, list);
    }
}

// Grid: x parts of the chunks in a list, as many rows as a block tests; y strides over the directions of all spaces. Blocks
// of ALONE; shared memory: 10 bytes for each of their rows.
extern "C" __global__ void __launch_bounds__(ALONE, 1024 / ALONE) classify_cells(Call call, const int* listed) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    const int warps = ALONE / WARP, parts = CHUNK / (ROWS * warps);
    let_next_begin();
    wait_for_previous();
    classify_part<1, warps>(call, listed[blockIdx.x / parts], blockIdx.x % parts, dynamic_shared);
}

// The same for four directions at a time, which share the codes that are read; y strides over sets of four. Blocks of
// THREADS; shared memory: 40 bytes for each of their rows.
extern "C" __global__ void __launch_bounds__(THREADS, 1024 / THREADS) classify_cells_of_four(Call call, const int* listed) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    const int warps = THREADS / WARP, parts = CHUNK / (ROWS * warps);
    let_next_begin();
    wait_for_previous();
    classify_part<4, warps>(call, listed[blockIdx.x / parts], blockIdx.x % parts, dynamic_shared);
}
