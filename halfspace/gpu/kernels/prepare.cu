// Directions, prepared for all segments at once: measured, and coded in two digits of 8 bits in the frame of each segment.
// The twin of halfspace/cpu/directions.py and halfspace/cpu/filters/views.py.
#include "runtime/ptx.cuh"
#include "formats.cuh"
#include "rounding.cuh"
#include "runtime/records.cuh"
#include "digits.cuh"
#include "filters/lifts.cuh"
#include "filters/swizzled.cuh"

#define MOST 4  // sums, or maxima, that are formed at once

// Sums and maxima over a block; all threads get them. One pass for all: each costs two barriers.
template <int SUMS, int MAXIMA>
__device__ void over_block(double (&sums)[SUMS], double (&maxima)[MAXIMA], double (*room)[2 * MOST]) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        for (int k = 0; k < SUMS; k++) sums[k] += __shfl_xor_sync(FULL, sums[k], step);
        for (int k = 0; k < MAXIMA; k++) maxima[k] = fmax(maxima[k], __shfl_xor_sync(FULL, maxima[k], step));
    }
    __syncthreads();
    if (lane_number() == 0) {
        for (int k = 0; k < SUMS; k++) room[threadIdx.x / WARP][k] = sums[k];
        for (int k = 0; k < MAXIMA; k++) room[threadIdx.x / WARP][MOST + k] = maxima[k];
    }
    __syncthreads();
    for (int k = 0; k < SUMS; k++) {
        sums[k] = 0.0;
        for (int warp = 0; warp < THREADS / WARP; warp++) sums[k] += room[warp][k];
    }
    for (int k = 0; k < MAXIMA; k++)
        for (int warp = 0; warp < THREADS / WARP; warp++) maxima[k] = fmax(maxima[k], room[warp][MOST + k]);
}

// What of a direction is coded: q, or q - m where distances are asked.
__device__ __forceinline__ double component(const Segment& segment, const float* direction, long long j) {
    const double value = exact64(direction[j]);
    return METRIC == L2 ? value - exact64(segment.centre[j]) : value;
}

// Measure a direction, and what of it is coded where a segment's frame is given; all threads get its plan.
// largest : of what is coded
__device__ Plan measure(const Call& call, const Segment* frame, const float* direction, double tau,
                        double (*room)[2 * MOST], Seen& seen, double& largest) {
    double sums[3] = {0.0, 0.0, 0.0};           // of squares; seen
    double maxima[3] = {-1000.0, 0.0, 0.0};     // minus the lowest exponent; whether anything is not finite; largest
    for (long long j = threadIdx.x; j < call.dim; j += THREADS) {
        const double number = exact64(direction[j]);
        sums[0] += number * number;
        maxima[0] = fmax(maxima[0], -(double)lowest_exponent(direction[j]));
        if ((__float_as_uint(direction[j]) & 0x7f800000u) == 0x7f800000u) maxima[1] = 1.0;
        if (frame == nullptr) continue;
        const double value = component(*frame, direction, j), centre = exact64(frame->centre[j]);
        const double weight = frame->weights == nullptr ? 1.0 : (double)frame->weights[j];
        maxima[2] = fmax(maxima[2], fabs(value * weight));
        sums[1] += value * centre;
        sums[2] += METRIC == L2 ? value * value : centre * centre;
    }
    over_block(sums, maxima, room);
    seen = {sums[1], sums[2]};
    largest = maxima[2];
    Plan plan;
    plan.norm = norm_bound(sums[0], call.dim);
    plan.grain = grain_of((int)-maxima[0]);
    plan.slope = dot_slope(call.dim, plan.norm);
    plan.intercept = dot_intercept(call.dim, plan.norm);
    plan.tau = reachable(tau);
    plan.bad = maxima[1] != 0.0 || (METRIC == COSINE && sums[0] == 0.0) ? 1.0 : tau != tau ? 2.0 : 0.0;
    return plan;
}

// Fill in thresholds of a view in units of an integer product, whose digits are worth `unit` and sum to at most
// `magnitude`.
__device__ void level_of(View& view, int which, double unit, double slack, double magnitude, long long dim) {
    const double ratio = view.factor / unit;
    const float offset = narrow(slack / unit + pair_margin(magnitude, ratio, dim));
#if METRIC == IP
    view.levels[which] = Level{narrow(view.below / unit), narrow(view.above / unit), narrow(ratio), offset};
#else
    view.levels[which] = Level{less32(view.below / unit), more32(view.above / unit), narrow(ratio), offset};
    view.lifts[which] = Lift{less32(view.lift_below / unit), more32(view.lift_above / unit)};
#endif
}

// Fill in the first test of high codes, whose products are at most `most`, for a direction whose digits are worth `unit`
// times 16 there; where float32 would overflow, or flush what counts, that test leaves everything.
__device__ void glance_of(View& view, double unit, double most) {
    const double bias = HIGH_MIDDLE / 16.0 * view.digit_sum, slack = view.high_slack;
    const double offset = slack - unit * bias + glance_margin(unit, most + fabs(bias), slack);
    const double loss = glance_loss(unit, most + fabs(bias), slack, view.factor);
    const bool moderate = 0x1p-100 <= unit && unit * (most + fabs(bias) + 1.0) + slack + view.factor <= 0x1p100;
    view.glance.unit = narrow(unit);
    view.glance.offset = upper32(offset);
    view.glance.factor = upper32(view.factor * (1.0 + PAIR_SHARE));
    view.glance.below = moderate ? less32(view.below - loss) : __uint_as_float(0x7fc00000u);
    view.lifts[2] = Lift{less32(view.lift_below), 0.0f};
}

// Code a direction, of which a pass has seen this, in a segment's frame, as number `at` of all views.
__device__ void look(const Call& call, const Segment& segment, const float* direction, const Plan& plan, const Seen& seen,
                     double largest, long long at, double (*room)[2 * MOST]) {
    const long long dim = call.dim;
    signed char* digits = call.digits + 2 * call.stride * at;
    signed char* tile = nullptr;
    int column = 0;
    if (call.tiles != nullptr) {
        const long long k = at / call.segment_count, own = k % call.batch;
        tile = call.tiles + first_slab(call, at % call.segment_count, k / call.batch, own / COLUMNS) * SLAB;
        column = (int)(own % COLUMNS);
    }
    const double unit = digit_unit(largest);
    const double inverse = 1.0 / unit;  // exact: a power of two
    double coded[4] = {0.0, 0.0, 0.0, 0.0};  // squares of what coding leaves, in two digits and in one; sums of digits
    for (long long j = threadIdx.x; j < call.stride; j += THREADS) {
        int digit = 0, high = 0;
        if (j < dim) {
            const double weight = segment.weights == nullptr ? 1.0 : (double)segment.weights[j];
            const double value = component(segment, direction, j) * weight;
            digit = (int)rint(value * inverse);
            high = high_digit(digit);
            const double error = value - digit * unit, error_high = value - high * (256.0 * unit);
            coded[0] += error * error;
            coded[1] += error_high * error_high;
            coded[2] += digit;
            coded[3] += abs(high);
        }
        digits[j] = (signed char)high;
        digits[call.stride + j] = (signed char)(digit - 256 * high);
        if (tile != nullptr) tile[j / DEPTH * SLAB + swizzled(column, (int)(j % DEPTH))] = (signed char)high;
    }
    if (tile != nullptr)  // slabs are multiplied whole
        for (long long j = call.stride + threadIdx.x; j < slabs_of(call) * DEPTH; j += THREADS)
            tile[j / DEPTH * SLAB + swizzled(column, (int)(j % DEPTH))] = 0;
    double none[1] = {0.0};
    over_block(coded, none, room);
    const double rest = norm_bound(coded[0], dim), coarse = norm_bound(coded[1], dim);
    const double high_span = segment.kind == CELLS ? segment.high_span : 128.0 * sqrt((double)dim);
    const double low_span = segment.kind == CELLS ? segment.low_span : high_span;
    const double norm = METRIC == L2 ? norm_bound(seen.squares, dim) : plan.norm;
    // three threads of different warps fill in the view, each a part
    const int part = threadIdx.x % WARP == 0 ? (int)(threadIdx.x / WARP) : THREADS;
    View own = {};
    if (part < 3) {
        own.norm = norm;
        see(segment, plan, seen, dim, own);
        own.unit = unit;
        own.digit_sum = coded[2];
        own.high_slack = reach(unit, rest, norm, high_span, dim);
        own.low_slack = reach(unit, rest, norm, low_span, dim);
    }
    // the same, solved for the integer product of whole codes: with both digits, and with the high ones alone
    if (part == 0) {
        level_of(own, 0, unit, own.low_slack, 256.0 * coded[3] + 128.0 * dim, dim);
        call.views[at] = own;
    } else if (part == 1) {
        const double whole = 256.0 * unit;
        level_of(own, 1, whole, reach(whole, coarse, norm, low_span, dim), coded[3], dim);
    } else if (part == 2 && segment.kind == CELLS) {
        glance_of(own, 16.0 * unit, 15.0 * (256.0 * coded[3] + 128.0 * dim));
    }
    __syncthreads();
    View& view = call.views[at];
    if (part == 1) {
        view.levels[1] = own.levels[1];
        view.lifts[1] = own.lifts[1];
    } else if (part == 2) {
        view.glance = own.glance;
        view.lifts[2] = own.lifts[2];
    }
}

// Prepare all directions, and clear what a search counts in.
//
// Grid: x is the number of segments, plus blocks that only clear; y strides over the directions. Blocks of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS) prepare(Call call) {
    __shared__ double room[THREADS / WARP][2 * MOST];
    let_next_begin();
    const long long own = ((long long)blockIdx.y * gridDim.x + blockIdx.x) * THREADS + threadIdx.x;
    const long long threads = (long long)gridDim.x * gridDim.y * THREADS;
    const long long counters = call.counts == nullptr ? 0 : call.count * call.chunks;
    for (long long i = own; i < counters; i += threads) call.counts[i] = 0;
    if (call.wanted != COUNT)
        for (long long i = own; i < 8 * counters; i += threads)
            reinterpret_cast<uint4*>(call.bits)[i] = make_uint4(0, 0, 0, 0);
    if (own == 0) *call.header = Header{0, 0, 0, ~0ull};
    const long long which = blockIdx.x;
    if (which >= call.segment_count) return;
    for (long long k = blockIdx.y; k < call.count; k += gridDim.y) {
        const float* direction = call.directions + k * call.dim;
        const Segment& segment = call.segments[k / call.batch * call.segment_count + which];
        const bool coded = segment.kind == CELLS || segment.kind == GROUPS;
        Seen seen;
        double largest;
        const double tau = call.tau == nullptr ? call.one_tau : call.tau[k];
        const Plan plan = measure(call, coded ? &segment : nullptr, direction, tau, room, seen, largest);
        if (which == 0 && threadIdx.x == 0) call.plans[k] = plan;
        if (plan.bad != 0.0 || !coded) continue;
        look(call, segment, direction, plan, seen, largest, k * call.segment_count + which, room);
    }
}
