// Brackets of the scores of all keys, from both halves of their codes; then the thresholds of a set of query heads, by the
// block that comes last to it.
//
// Tiles of codes come and are multiplied as in attend_codes.cuh.
#include "attention/choose.cuh"
#include "attention/attend_codes.cuh"
#include "attention/cut.cuh"

#define SLACK32 (1.0 + 8.0 * V32)

// A head's part in a bracket: a key of scale s and radius r has s (unit P), give or take s slack + factor r.
struct Meter {
    float unit, slack, factor;
    int bias;  // of P: the product with codes that are all 128
};

struct Scan : Cuts {
    unsigned counts[SET][BINS];  // of upper ends, times 2^16, and of lower ends
    __align__(16) signed char digits[SET][2][STRIDE];
    Meter meters[SET];
    unsigned long long barriers[WARPS][BOTH_STAGES];
    bool last;
};

// Find how a head counts, from what is known of it and from the norms of keys and centre.
__device__ inline Rate rate_of(const Head& head, double peak, double centre, double scale, double steps) {
    const double farthest = head.norm * (peak + centre) * (1.0 + 0x1p-20);
    double rate = steps * scale;
    if (!(rate * farthest <= FARTHEST)) rate = FARTHEST / farthest;
    const double unit = rate * head.unit;
    if (head.bad != 0.0 || !(rate < INFINITY) || !(0x1p-90 < unit && unit < 0x1p90)) rate = 0.0;
    return Rate{head.base, head.base_error, rate};
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

// A lane's components of a head, of the centre and of the weights, and what it knows of keys.
struct Components {
    float4 own[STEPS];
    unsigned peaks[4];  // bits of norms, of the first chunks
};

__device__ __forceinline__ Components load_components(const Cache& cache, const Choose& call, long long space,
                                                      long long query) {
    Components parts;
    const long long chunks = (cache.capacity + CHUNK - 1) / CHUNK;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int chunk = lane_number() + WARP * k;
        parts.peaks[k] = chunk < chunks ? __float_as_uint(cache.peaks[space * chunks + chunk]) : 0;
    }
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        const int j = lane_number() + WARP * k;
        const long long at = space * HEAD_DIM + j;
        parts.own[k] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (j < HEAD_DIM)
            parts.own[k] = make_float4(query_component(call.queries, call.wide != 0, query * HEAD_DIM + j),
                                       cache.centre[at], cache.weights[at], 0.0f);
    }
    return parts;
}

// Prepare a head of a set; by a warp.
__device__ __forceinline__ void prepare_one(const Cache& cache, const Choose& call, const Components& parts, long long space,
                                            int which, long long length, Scan& shared) {
    const int lane = lane_number();
    const long long chunks = (cache.capacity + CHUNK - 1) / CHUNK, used = (length + CHUNK - 1) / CHUNK;
    unsigned largest = 0;  // norms are not negative: the order of their bits is theirs
#pragma unroll
    for (int k = 0; k < 4; k++) largest = lane + WARP * k < used ? max(largest, parts.peaks[k]) : largest;
#pragma unroll 8
    for (long long chunk = lane + 4 * WARP; chunk < used; chunk += WARP)
        largest = max(largest, __float_as_uint(cache.peaks[space * chunks + chunk]));
    for (int step = WARP / 2; step > 0; step /= 2) largest = max(largest, __shfl_xor_sync(FULL, largest, step));
    const auto component = [&](int, int k) { return parts.own[k]; };
    const Measured measured = measure_components(component, HEAD_DIM);
    const Head head = code_components(component, measured, HEAD_DIM, STRIDE, shared.digits[which][0]);
    if (lane != 0) return;
    const double peak = exact64(__uint_as_float(largest));
    const Rate rate = rate_of(head, peak, norm_bound(measured.centre, HEAD_DIM), call.scale, call.steps);
    shared.meters[which] = meter_of(head, rate.rate);
    shared.rates[which] = rate;
}

// Two positions between which a score lies.
struct Bracket {
    int lower, upper;
};

// The bracket of a key, from the product of its codes.
__device__ __forceinline__ Bracket bracket(const Meter& meter, int product, float scale, float radius) {
    const float value = scale * ((float)(product - meter.bias) * meter.unit);
    const float width = fmaf(scale, meter.slack, meter.factor * radius) + 0x1p-6f;
    const float lower = value - width, upper = value + width;
    // an end that is NaN is none
    const int first = lower > BELOW + 1.0f ? (int)floorf(fminf(lower, ABOVE - 1.0f)) : BELOW;
    const int last = upper < ABOVE - 1.0f ? (int)floorf(fmaxf(upper, BELOW)) + 1 : ABOVE;
    return Bracket{first, last};
}

// Count a key. Ends beyond the bins are in the last one, which no threshold reaches; ends below the first are in none.
__device__ __forceinline__ void count_key(unsigned* counts, int bottom, const Bracket& own) {
    const int at = min(own.upper - bottom, BINS - 1);
    if (at > 0) atomicAdd(counts + at, 1u << 16);
    if (own.lower >= bottom) atomicAdd(counts + min(own.lower - bottom, BINS - 1), 1u);
}

// Of two lanes side by side, give each the halves of both that are its own: the lower ones of two words, or the upper ones.
__device__ __forceinline__ unsigned take_halves(unsigned own, int step) {
    const unsigned other = __shfl_xor_sync(FULL, own, step);
    return (lane_number() & step) == 0 ? __byte_perm(own, other, 0x5410) : __byte_perm(own, other, 0x3276);
}

// Turn ends of a lane's four rows, two of 16 bits each, with its head into ends of its row with all four heads.
__device__ __forceinline__ uint2 turn_ends(const unsigned (&ends)[2]) {
    const int t = lane_number() % SET;
    const unsigned first = take_halves(ends[0], 1), second = take_halves(ends[1], 1);  // of rows t % 2 and 2 + t % 2
    const unsigned away = __shfl_xor_sync(FULL, t < 2 ? second : first, 2);
    return t < 2 ? make_uint2(first, away) : make_uint2(away, second);
}

// Bracket the tiles of a block, write down upper ends and count. The bins of a head reach from HEADROOM above the largest
// lower end of a sample down: of tiles that all blocks look at first, one for each warp, which is there in the first stage.
__device__ __forceinline__ void scan_rows(const Space& space, short* uppers, Scan& shared, Walk& walk, int sample) {
    const int lane = lane_number(), warp = threadIdx.x / WARP, g = lane / SET, t = lane % SET;
    const Meter meter = shared.meters[min(t, space.count - 1)];
    short* out = uppers + SET * lane;
    uint2 digits[STEPS];
    read_digits(shared.digits, digits);
    int top = BELOW, bottom = BELOW, slot = 0;
#pragma unroll 1
    for (walk.at = -1; walk.at < walk.total; walk.at++) {
        const long long tile = walk.at < 0 ? sample : tile_of(space, walk.at, warp);
        const unsigned char* stage = wait_for_tile<true>(walk, slot);
        const Bounds bounds = read_bounds<true>(stage);
        int products[4];
        multiply_tile<true>(stage, digits, products);
        __syncwarp();  // all have read the stage
        begin_tile<true>(space, walk, walk.at + BOTH_STAGES, slot);
        slot = slot + 1 == BOTH_STAGES ? 0 : slot + 1;
        unsigned ends[2] = {0, 0};  // two of 16 bits each
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const Bracket own = bracket(meter, products[k], number_of(bounds.scales, k), number_of(bounds.low_radii, k));
            ends[k / 2] |= ((unsigned)(t < space.count ? own.upper : BELOW) & 0xffffu) << 16 * (k % 2);
            if (tile * ROWS + 4 * g + k >= space.rows) continue;
            if (walk.at < 0) {
                top = max(top, own.lower);
            } else if (t < space.count) {
                count_key(shared.counts[t], bottom, own);
            }
        }
        if (walk.at >= 0) {
            *reinterpret_cast<uint2*>(out + ROWS * SET * tile) = turn_ends(ends);
        } else {
            for (int step = SET; step < WARP; step *= 2) top = max(top, __shfl_xor_sync(FULL, top, step));
            if (lane < space.count) atomicMax(shared.bottoms + lane, top);
            __syncthreads();
            bottom = shared.bottoms[min(t, space.count - 1)];
            bottom = bottom > BELOW ? max(bottom + HEADROOM - BINS, BELOW + 1) : BELOW;
            __syncthreads();
            if (threadIdx.x < space.count) shared.bottoms[threadIdx.x] = bottom;  // lane t has head t
        }
    }
}

// What a block is to do: its set, and its part of the rows if it looks for keys to leave out; set -1 if there is nothing.
struct Look {
    int set, split, splits;
    bool looks;
};

// Find it: the first blocks have a set each that does not look, and sets that look share the others.
__device__ __forceinline__ Look find_look(const Cache& cache, const Choose& call, int sets, int each) {
    const int lane = lane_number(), heads = (int)cache.heads, block = (int)blockIdx.x;
    const auto vote = [&](int first) {  // which of the sets from this one on look
        const int set = first + lane;
        bool looks = false;
        if (set < sets) {
            const long long length = cache.lengths[set / each / heads];
            looks = length > 0 && length >= call.few && (call.whole == 0 || call.turns[set].skipped == 0);
        }
        return __ballot_sync(FULL, looks);
    };
    const unsigned begins = vote(0);
    int looking = __popc(begins);
#pragma unroll 1
    for (int first = WARP; first < sets; first += WARP) looking += __popc(vote(first));
    const int resting = sets - looking, rest = block - resting;
    if (looking == 0 && rest >= 0) return Look{-1, 0, 0, false};
    Look own{0, 0, 1, rest >= 0};
    int which = block;  // of the sets that do as this one does
    if (own.looks) {
        const int shares = (int)gridDim.x - resting, least = shares / looking, more = shares % looking;
        const int longer = more * (least + 1);  // blocks of sets that have one more
        which = rest < longer ? rest / (least + 1) : more + (rest - longer) / least;
        own.splits = which < more ? least + 1 : least;
        own.split = rest < longer ? rest % (least + 1) : (rest - longer) % least;
    }
#pragma unroll 1
    for (int first = 0; first < sets; first += WARP) {
        unsigned same = first == 0 ? begins : vote(first);
        if (!own.looks) same = ~same & (sets - first < WARP ? (1u << (sets - first)) - 1 : FULL);
        if (which < __popc(same)) {
#pragma unroll 1
            for (; which > 0; which--) same &= same - 1;
            own.set = first + __ffs((int)same) - 1;
            break;
        }
        which -= __popc(same);
    }
    return own;
}

// Grid: x blocks, which sets of query heads share, at least one for each. Blocks of THREADS; shared memory: two stages for
// each warp.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) scan_scores(Cache cache, Choose call) {
    extern __shared__ __align__(128) unsigned char rings[];
    __shared__ Scan shared;
    const int warp = threadIdx.x / WARP;
    const int group = (int)call.group, each = (group + SET - 1) / SET;  // sets of a space
    Walk walk{0, 0, 0, rings + warp * (BOTH_STAGES * BOTH_BYTES), shared.barriers[warp]};
    if (lane_number() < BOTH_STAGES) make_barrier(walk.barriers + lane_number());
    wait_for_previous();
    const Look look = find_look(cache, call, (int)(cache.batch * cache.heads) * each, each);
    if (look.set < 0) return;
    const int space_number = look.set / each, before = look.set % each * SET, count = min(SET, group - before);
    const long long own = space_number, length = cache.lengths[space_number / (int)cache.heads], set = look.set;
    const long long first = own * group + before;  // query head
    Turn& turn = call.turns[set];
    const float share = call.shares[set];
    Components parts;
    if (warp < count) parts = load_components(cache, call, own, first + warp);
    if (look.looks) {
        Space space;
        place_space(cache, own, space);
        space.rows = (int)length;
        space.count = count;
        space.split = look.split, space.splits = look.splits;
        const int tiles = (space.rows + ROWS - 1) / ROWS, start = tile_of(space, 0, warp), step = WARPS * space.splits;
        const int sample = (int)((long long)(tiles - 1) * warp / (WARPS - 1));
        walk.total = start < tiles ? (tiles - start + step - 1) / step : 0;
        __syncthreads();  // barriers are made
        copy_tile<true>(space, walk, sample, 0);
        copy_async_commit();
        begin_tile<true>(space, walk, 0, 1);
        for (int i = threadIdx.x; i < SET * BINS; i += THREADS) shared.counts[i / BINS][i % BINS] = 0;
        if (threadIdx.x < SET) shared.bottoms[threadIdx.x] = BELOW;
        if (warp < count) {
            prepare_one(cache, call, parts, own, warp, length, shared);
        } else if (warp < SET) {
            for (int j = lane_number(); j < 2 * STRIDE; j += WARP) shared.digits[warp][j / STRIDE][j % STRIDE] = 0;
        }
        __syncthreads();
        scan_rows(space, call.uppers + set * cache.capacity * SET, shared, walk, sample);
        __syncthreads();
        unsigned long long* counts = call.counts + set * SET * BINS;
        for (int k = threadIdx.x; k < count * BINS; k += THREADS) {
            const int i = (k + THREADS * look.split) % (count * BINS);  // blocks begin apart
            const unsigned both = shared.counts[i / BINS][i % BINS];
            if (both != 0) atomicAdd(counts + i, (unsigned long long)(both >> 16) << 32 | (both & 0xffffu));
        }
    }
    let_next_begin();  // it waits for this one where it reads
    __syncthreads();
    if (threadIdx.x == 0) shared.last = arrive(call.tickets + set) == look.splits - 1;
    __syncthreads();
    if (!shared.last) return;
    if (look.looks) {
        cut_set(call, first, count, set, length, shared, reinterpret_cast<unsigned long long*>(rings));
    } else if (threadIdx.x < count) {
        keep_all(call, first + threadIdx.x);
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    const float last = turn.rows > 0.0 ? share * (float)length / (float)turn.rows : APART;
    const float apart = fminf(fmaxf(last, TOGETHER), 1.0f);
    const float work = look.looks ? work_of(call, length, shared.left, apart) : -((float)length + BEGINNING);
    call.works[set] = work;
    turn.looked = look.looks;
    turn.rows = 0.0;
    for (int k = 0; k < SET && work > 0.0f; k++) turn.rows += shared.left[k];
    call.tickets[set] = 0;
}
