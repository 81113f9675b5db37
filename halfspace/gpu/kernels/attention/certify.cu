// The threshold of each head, from brackets of the scores of its keys: they are counted by their ends, and what may lie
// below each threshold is weighed against what there is for certain.
#include "attention/certify.cuh"

#define BINS 1536      // positions that are told apart
#define HEADROOM 96    // so many of them lie above the largest lower end
#define EACH (BINS / THREADS)
#define HEAVY (3 * STEPS)  // how far below the largest lower end a key may lie to be looked at exactly
#define AT_ONCE 8      // of which a warp reads so many at once
#define LANE_DIMS ((HEAD_DIM + WARP - 1) / WARP)
#define LISTED 32      // of such keys, in the rows of a warp, at most
#define PER_LISTED 32  // and one of so many rows, but not fewer than LEAST_LISTED
#define LEAST_LISTED 8
#define DIFFUSE_ROWS 4096  // where most keys are kept of at least so many,
#define RESIDENT 4     // blocks of a multiprocessor
#define SKIPPED 15     // the next calls keep all

struct Shared {
    unsigned counts[BINS];  // of upper ends, times 2^16, and of lower ends
    int rows[WARPS][LISTED];
    unsigned brackets[WARPS][LISTED];
    double masses[2][WARPS];
    unsigned totals[2][WARPS];
    int best[WARPS];
    bool last;
};

// Count a key. Ends beyond the bins are in the last one, which no threshold reaches; ends below the first are in none.
__device__ __forceinline__ void count_key(Shared& shared, int bottom, int lower, int upper) {
    const int at = min(upper - bottom, BINS - 1);
    if (at > 0) atomicAdd(&shared.counts[at], 1u << 16);
    if (lower >= bottom) atomicAdd(&shared.counts[min(lower - bottom, BINS - 1)], 1u);
}

// Narrow the bracket of a listed key by the float32 product of what is stored.
__device__ __forceinline__ void narrow_bracket(const Rate& rate, double slope, double intercept, float product, float norm,
                                               int& lower, int& upper) {
    if (!(fabs(exact64(product)) < 0x1p126)) return;  // where anything has overflowed, so has this
    const double middle = (exact64(product) - rate.base) * rate.rate;
    const double width = (slope * exact64(norm) + intercept) * rate.rate * (1.0 + 0x1p-40) + 0x1p-40 * fabs(middle);
    if (middle - width > lower) lower = (int)floor(middle - width);
    if (middle + width < upper - 1) upper = (int)floor(middle + width) + 1;
}

// Look at the keys that a warp has listed, and count them; by a warp, AT_ONCE at a time.
__device__ void refine(const Cache& cache, long long space, const float (&own)[LANE_DIMS], const Rate& rate, int listed,
                       int bottom, Shared& shared) {
    const int lane = lane_number(), warp = threadIdx.x / WARP;
    const stored_t* keys = cache.keys + space * cache.capacity * HEAD_DIM;
    const double slope = tree32_slope(LANE_DIMS + 5, HEAD_DIM, rate.norm);
    const double intercept = tree32_intercept(HEAD_DIM, rate.norm) + rate.base_error + 16.0 * UNIT * fabs(rate.base);
    for (int first = 0; first < listed; first += AT_ONCE) {
        stored_t read[AT_ONCE][LANE_DIMS];
        const int which = min(first + lane, listed - 1);
        const float norm = cache.norms[space * cache.capacity + shared.rows[warp][which]];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const stored_t* key = keys + (long long)shared.rows[warp][min(first + i, listed - 1)] * HEAD_DIM;
#pragma unroll
            for (int k = 0; k < LANE_DIMS; k++)
                read[i][k] = WARP * k + lane < HEAD_DIM ? key[WARP * k + lane] : stored_t(0);
        }
        float product = 0.0f;  // of key number `lane`
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            float sum = 0.0f;
#pragma unroll
            for (int k = 0; k < LANE_DIMS; k++) sum = fmaf(own[k], widen(read[i][k]), sum);
#pragma unroll
            for (int step = WARP / 2; step > 0; step /= 2) sum += __shfl_xor_sync(FULL, sum, step);
            if (lane == i) product = sum;
        }
        if (lane >= AT_ONCE || first + lane >= listed) continue;
        const unsigned bracket = shared.brackets[warp][which];
        int lower = lower_end(bracket), upper = upper_end(bracket);
        narrow_bracket(rate, slope, intercept, product, norm, lower, upper);
        count_key(shared, bottom, lower, upper);
    }
}

// The keys of a space, as a query head sees them.
struct Keys {
    const unsigned* brackets;
    long long space;
    long long length;
    int bottom;
    int top;
    bool refined;
};

// Count the keys of a block's rows.
//
// own : a lane's components of the query; four : the first brackets of this thread
__device__ void count_rows(const Cache& cache, const Keys& keys, const float (&own)[LANE_DIMS], uint4 four,
                           const Rate& rate, Shared& shared) {
    const long long length = keys.length;
    const int warp = threadIdx.x / WARP;
    const long long stride = (long long)gridDim.x * THREADS * 4, steps = (length + stride - 1) / stride;
    const long long most = max((long long)LEAST_LISTED, 4 * WARP * steps / PER_LISTED);
    const int room = keys.refined ? (int)min((long long)LISTED, most) : 0;
    int listed = 0;
    for (long long step = 0; step < steps; step++) {
        const long long row = step * stride + 4 * ((long long)blockIdx.x * THREADS + threadIdx.x);
        const unsigned seen[4] = {four.x, four.y, four.z, four.w};
        if (row + stride < length) four = *reinterpret_cast<const uint4*>(keys.brackets + row + stride);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int lower = lower_end(seen[k]);
            const bool present = row + k < length, heavy = present && lower >= keys.top - HEAVY;
            const unsigned lanes = __ballot_sync(FULL, heavy);
            const int at = listed + __popc(lanes & lanes_below());
            if (heavy && at < room) {
                shared.rows[warp][at] = (int)(row + k);
                shared.brackets[warp][at] = seen[k];
            } else if (present) {
                count_key(shared, keys.bottom, lower, upper_end(seen[k]));
            }
            listed = min(listed + __popc(lanes), room);
        }
    }
    __syncwarp();
    refine(cache, keys.space, own, rate, listed, keys.bottom, shared);
}

// Sums over the threads before this one, and over all; a pair of them.
template <typename T>
__device__ __forceinline__ void scan_block(T (&values)[2], T (&totals)[2], T (*room)[WARPS]) {
    const int lane = lane_number(), warp = threadIdx.x / WARP;
    T before[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        T sum = values[k];
        for (int step = 1; step < WARP; step *= 2) {
            const T other = __shfl_up_sync(FULL, sum, step);
            if (lane >= step) sum += other;
        }
        if (lane == WARP - 1) room[k][warp] = sum;
        before[k] = sum - values[k];
        if (sizeof(T) == 8) {  // differences of floats would not be the sums
            before[k] = __shfl_up_sync(FULL, sum, 1);
            if (lane == 0) before[k] = T(0);
        }
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 2; k++) {
        totals[k] = T(0);
        for (int other = 0; other < WARPS; other++) {
            if (other == warp) before[k] += totals[k];
            totals[k] += room[k][other];
        }
        values[k] = before[k];
    }
}

// Find the highest threshold that is certified, for a head of `length` keys, from the counts of all of them. A key may lie
// below a threshold if its lower end does, and then weighs no more than at the threshold, nor than at its upper end.
//
// Returns whether more than half of many keys are kept, to all threads.
__device__ bool solve(const Certify& call, long long query, long long length, const Rate& rate, int bottom, int top,
                      Shared& shared) {
    unsigned long long* counts = call.counts + query * BINS;
    const double nats = call.scale / rate.rate;  // of a position
    const double origin = call.scale * rate.base, highest_logit = origin + top * nats;
    // capping never widens a gap, so that logits are in doubt by no more than the base is, at either end of one
    const double doubt = 2.0 * call.scale * (rate.base_error + 16.0 * UNIT * (fabs(rate.base) + ABOVE / rate.rate));
    const double sure = call.cap > 0.0 ? exp(-doubt - 0x1p-48 * call.cap) : 1.0;
    const auto exponent = [&](int position) {  // of a weight, relative to that of the largest lower end
        if (!(call.cap > 0.0)) return (position - top) * nats;
        return call.cap * (tanh((origin + position * nats) / call.cap) - tanh(highest_logit / call.cap));
    };
    unsigned own[2][EACH], totals[2] = {0, 0}, all[2];
    double weights[EACH], masses[2] = {0.0, 0.0}, mass[2];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int bin = EACH * threadIdx.x + i;
        weights[i] = exp(fmin(exponent(bottom + bin), 700.0));  // beyond, none is allowed
        const unsigned long long both = *const_cast<volatile unsigned long long*>(counts + bin);  // other blocks wrote it
        counts[bin] = 0;
        own[0][i] = (unsigned)(both >> 32);
        own[1][i] = (unsigned)both;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            totals[k] += own[k][i];
            masses[k] += own[k][i] * weights[i];
        }
    }
    scan_block(totals, all, shared.totals);
    scan_block(masses, mass, shared.masses);
    // Upper ends that are in no bin lie at the first position or below it. A share of 2^-30 pays for what sums of less than
    // 2^12 terms, exp, and its argument (below 2^10 where a weight counts) round off, 2^-1000 for weights that vanish.
    const double low = (double)(length - all[0]);
    const double allowed = call.eps * mass[1] * sure * (1.0 - 0x1p-30);
    double under = masses[0] + low * exp(exponent(bottom));
    double upper_count = low + totals[0], lower_count = (double)(length - all[1]) + totals[1];
    int best = -1;
    double bound = 0.0, kept = 0.0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int bin = EACH * threadIdx.x + i;  // the threshold: its upper ends are below, its lower ends are not
        under += own[0][i] * weights[i];
        upper_count += own[0][i];
        const double most = (under + weights[i] * (lower_count - upper_count)) * (1.0 + 0x1p-30) + 0x1p-1000;
        if (bin < BINS - 1 && most <= allowed) best = bin, bound = most, kept = length - 0.5 * (upper_count + lower_count);
        lower_count += own[1][i];
    }
    int highest = best;
    for (int step = WARP / 2; step > 0; step /= 2) highest = max(highest, __shfl_xor_sync(FULL, highest, step));
    if (lane_number() == 0) shared.best[threadIdx.x / WARP] = highest;
    __syncthreads();
    for (int warp = 0; warp < WARPS; warp++) highest = max(highest, shared.best[warp]);
    if (highest < 0) {
        if (threadIdx.x == 0) {
            call.tau[query] = -INFINITY;
            call.dropped[query] = 0.0;
        }
        kept = (double)length;
    } else if (best == highest) {
        const double level = (bottom + best) / rate.rate;
        const double tau = rate.base + level;
        call.tau[query] = tau - threshold_margin(tau, rate.base, rate.base_error) - 16.0 * UNIT * fabs(level);
        call.dropped[query] = fmin(call.eps, bound / (mass[1] * sure * (1.0 - 0x1p-30)) * (1.0 + 0x1p-30));
    }
    const bool most = (highest < 0 || best == highest) && kept > 0.5 * (double)length;
    return __syncthreads_or(most) != 0 && length >= DIFFUSE_ROWS;
}

// Grid: x parts of the rows, y query heads of all sequences. Blocks of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) certify_thresholds(Cache cache, Certify call) {
    __shared__ Shared shared;
    wait_for_previous();
    const long long query = blockIdx.y, space = query / call.group, length = cache.lengths[space / cache.heads];
    Turn& turn = call.turns[space];
    // all that is read first is on its way at once, whatever the length turns out to be
    const unsigned long long skipped = turn.skipped;
    const Rate rate = call.rates[query];
    const int top = call.tops[query], bottom = max(top + HEADROOM - BINS, BELOW + 1);
    const unsigned* brackets = call.brackets + query * cache.capacity;
    const long long row = 4 * ((long long)blockIdx.x * THREADS + threadIdx.x);
    uint4 four = make_uint4(0, 0, 0, 0);
    if (row < cache.capacity) four = *reinterpret_cast<const uint4*>(brackets + row);
    float own[LANE_DIMS];
#pragma unroll
    for (int k = 0; k < LANE_DIMS; k++) {
        const int j = WARP * k + lane_number();
        own[k] = j < HEAD_DIM ? query_component(call.queries, call.wide != 0, query * HEAD_DIM + j) : 0.0f;
    }
    const bool known = length > 0 && skipped == 0 && rate.rate > 0.0 && top > BELOW;
    if (known) {
        for (int i = threadIdx.x; i < BINS; i += THREADS) shared.counts[i] = 0;
        __syncthreads();
        count_rows(cache, Keys{brackets, space, length, bottom, top, call.refined != 0}, own, four, rate, shared);
        __syncthreads();
        unsigned long long* counts = call.counts + query * BINS;
        for (int i = threadIdx.x; i < BINS; i += THREADS) {
            const unsigned both = shared.counts[i];
            if (both != 0) atomicAdd(counts + i, (unsigned long long)(both >> 16) << 32 | (both & 0xffffu));
        }
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) shared.last = atomicAdd(call.tickets + query, 1u) == gridDim.x - 1;
    __syncthreads();
    if (!shared.last) return;
    __threadfence();
    bool diffuse = false;
    if (known) {
        diffuse = solve(call, query, length, rate, bottom, top, shared);
    } else if (threadIdx.x == 0) {
        call.tau[query] = -INFINITY;
        call.dropped[query] = 0.0;
    }
    if (threadIdx.x != 0) return;
    call.tickets[query] = 0;
    call.tops[query] = BELOW;
    const unsigned long long before = atomicAdd(&turn.done, (diffuse ? 1ull << 32 : 0ull) + 1ull);
    if ((unsigned)before != call.group - 1) return;
    const bool all = (before >> 32) + (diffuse ? 1 : 0) == (unsigned long long)call.group;
    turn.done = 0;
    turn.skipped = skipped != 0 ? skipped - 1 : all ? SKIPPED : 0;
}
