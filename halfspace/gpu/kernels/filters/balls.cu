// Segments with balls: bounds of every ball of every subspace, gates, and the test of rows by the balls that hold them.
// The twin of halfspace/cpu/filters/gates.py, but that subspaces are taken in their own order.
//
// bounds : (count, subspaces, groups, 2), lower and upper
// extremes : (count, subspaces, 2), from 0 on: of the largest upper bound its place in order, of the largest magnitude
// of a finite bound its bits
// levels : (count,); gates : (count, subspaces)
#include "runtime/ptx.cuh"
#include "formats.cuh"
#include "rounding.cuh"
#include "filters/balls.cuh"
#include "digits.cuh"
#include "filters/gates.cuh"
#include "filters/left.cuh"

// A direction as one subspace sees it.
struct Part {
    double base;    // its product with the centre
    double error;   // of that
    double unit;    // of its digits
    double slack;   // per unit of a ball's scale
    double factor;  // per unit of a ball's radius
};

// Measure and code a direction's part in a subspace; digits : (2, stride), in shared memory. All threads get the
// result.
__device__ Part look(const Segment& segment, const float* direction, long long subspace, signed char* digits,
                     long long stride, double* room) {
    const long long first = segment.columns[subspace], own = segment.columns[subspace + 1] - first, dim = segment.width;
    double largest = 0.0, base = 0.0, length = 0.0, squares = 0.0;
    for (long long j = threadIdx.x; j < own; j += THREADS) {
        const double value = exact64(direction[first + j]), centre = exact64(segment.centre[first + j]);
        largest = fmax(largest, fabs(value));
        base += value * centre;
        length += centre * centre;
        squares += value * value;
    }
    Part part;
    part.unit = digit_unit(over_block(largest, room, Largest()));
    part.base = over_block(base, room, Sum());
    length = norm_bound(over_block(length, room, Sum()), dim);
    const double norm = norm_bound(over_block(squares, room, Sum()), dim);
    part.error = dot_slope(dim, norm) * length + dot_intercept(dim, norm) + 8.0 * UNIT * fabs(part.base);
    part.factor = radius_factor(norm);
    const double inverse = 1.0 / part.unit;  // exact: a power of two
    double rest = 0.0;
    for (long long j = threadIdx.x; j < stride; j += THREADS) {
        const double value = j < own ? exact64(direction[first + j]) : 0.0;
        const int digit = (int)rint(value * inverse), high = high_digit(digit);
        const double error = value - digit * part.unit;
        rest += error * error;
        digits[j] = (signed char)high;
        digits[stride + j] = (signed char)(digit - 256 * high);
    }
    rest = norm_bound(over_block(rest, room, Sum()), dim);
    part.slack = reach(part.unit, rest, norm, 128.0 * sqrt((double)dim), dim);
    return part;
}

// Bound the balls of a segment. Grid: x strides over its groups, y over directions and subspaces. Blocks of THREADS;
// shared memory: 2 bytes for each dimension of the widest subspace, rounded up to a multiple of 16.
extern "C" __global__ void __launch_bounds__(THREADS)
    bound_balls(Call call, long long which, float* bounds, unsigned* extremes) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    __shared__ double room[THREADS / WARP];
    signed char* digits = reinterpret_cast<signed char*>(dynamic_shared);
    const long long subspaces = call.segments[which].subspaces;
    for (long long item = blockIdx.y; item < call.count * subspaces; item += gridDim.y) {
        const long long k = item / subspaces, s = item % subspaces;
        const Segment& segment = call.segments[k / call.batch * call.segment_count + which];
        if (call.plans[k].bad != 0.0) continue;
        const long long groups = segment.groups, steps = (segment.width + 3) / 4;
        const long long stride = (segment.width + 15) / 16 * 16, threads = (long long)gridDim.x * THREADS;
        const Part part = look(segment, call.directions + k * call.dim, s, digits, stride, room);
        const long long padded = (groups + 4 * BLOCK - 1) / (4 * BLOCK) * (4 * BLOCK);  // whole tiles
        const unsigned char* codes = segment.of_subspaces.codes + s * padded * 4 * steps;
        const float* scales = segment.of_subspaces.scales + s * padded;
        const float* radii = segment.of_subspaces.radii + s * padded;
        float2* own = reinterpret_cast<float2*>(bounds) + item * groups;
        unsigned most = 0, largest = 0;
        for (long long ball = (long long)blockIdx.x * THREADS + threadIdx.x; ball < groups; ball += threads) {
            const double scale = exact64(scales[ball]);
            const double value = part.base + scale * (part.unit * multiply<1>(codes, ball, steps, digits, stride));
            const double slack = scale * part.slack + part.factor * exact64(radii[ball]) + part.error;
            const double lower = value - slack, upper = value + slack;
            float2 bound = make_float2(-INFINITY, INFINITY);  // where either is NaN
            if (lower <= upper) bound = make_float2(-round_up32(-lower), round_up32(upper));
            own[ball] = bound;
            most = max(most, ordered(bound.y));
            if (fabs(exact64(bound.x)) < INFINITY) largest = max(largest, __float_as_uint(bound.x) & 0x7fffffffu);
            if (fabs(exact64(bound.y)) < INFINITY) largest = max(largest, __float_as_uint(bound.y) & 0x7fffffffu);
        }
        for (int step = WARP / 2; step > 0; step /= 2) {
            most = max(most, __shfl_xor_sync(FULL, most, step));
            largest = max(largest, __shfl_xor_sync(FULL, largest, step));
        }
        if (lane_number() == 0) {
            atomicMax(extremes + 2 * item, most);
            atomicMax(extremes + 2 * item + 1, largest);
        }
        if (blockIdx.x == 0 && threadIdx.x == 0) count_work(call, GATES_STAGE, BYTES, groups * (4 * steps + 8));
    }
}

// From the extremes, find the thresholds of the sums and of each ball. Grid: x directions. Blocks of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS)
    raise_gates(Call call, long long which, const unsigned* extremes, Sums* levels, Gate* gates) {
    __shared__ double room[THREADS / WARP];
    const long long k = blockIdx.x, subspaces = call.segments[which].subspaces;
    if (call.plans[k].bad != 0.0) return;
    const double tau = call.plans[k].tau;
    Gate* own = gates + k * subspaces;
    double total = 0.0, most = 0.0;
    for (long long s = threadIdx.x; s < subspaces; s += THREADS) {
        own[s].most = exact64(in_order(extremes[2 * (k * subspaces + s)]));
        own[s].largest = exact64(__uint_as_float(extremes[2 * (k * subspaces + s) + 1]));
        most += own[s].most;
        total += own[s].largest;
    }
    most = over_block(most, room, Sum());
    total = over_block(total, room, Sum());
    const double margin = fabs(tau) < INFINITY ? sum_margin(tau, total, subspaces) : 0.0;
    if (threadIdx.x == 0) levels[k] = Sums{tau - margin, tau + margin, most - (tau - margin)};
    for (long long s = threadIdx.x; s < subspaces; s += THREADS) {
        double before = 0.0, rest = 0.0;
        for (long long t = 0; t < s; t++) before += own[t].most;
        for (long long t = subspaces - 1; t > s; t--) rest += own[t].most;
        own[s].rest = rest;
        own[s].least = (tau - margin) - (before + rest);
    }
}

// Test the rows of a segment's chunks by the balls that hold them.
//
// candidates : a bit for each row (count, ceil(rows / 32)), or null where all rows are candidates
// swept : (count,), 0 for directions of which all rows are candidates
// Grid: x parts of THREADS rows of the chunks in a list, y strides over the directions. Blocks of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS)
    classify_balls(Call call, long long which, const int* listed, const float* bounds, const Sums* levels,
                   const Gate* gates, const unsigned* candidates, const int* swept) {
    const long long chunk = listed[blockIdx.x / (CHUNK / THREADS)];
    const bool counting = call.work != nullptr;
    for (long long k = blockIdx.y; k < call.count; k += gridDim.y) {
        if (call.plans[k].bad != 0.0) continue;
        const Segment& segment = call.segments[k / call.batch * call.segment_count + which];
        const long long rows = segment.rows, subspaces = segment.subspaces, groups = segment.groups;
        const long long row = ((chunk - segment.first) << 10) + blockIdx.x % (CHUNK / THREADS) * THREADS + threadIdx.x;
        const bool present = row < rows, chosen = candidates != nullptr && swept[k] != 0;
        bool alive = present && (!chosen || (candidates[k * ((rows + 31) >> 5) + (row >> 5)] >> (row & 31) & 1) != 0);
        const int come = __popc(__ballot_sync(FULL, alive)), tested = __popc(__ballot_sync(FULL, present));
        if (counting && candidates != nullptr && lane_number() == 0) {
            count_work(call, SWEEP_STAGE, TESTED, tested);
            count_work(call, SWEEP_STAGE, DROPPED, tested - come);
            count_work(call, SWEEP_STAGE, LEFT, come);
        }
        if (come == 0) continue;
        const Sums level = levels[k];
        const float2* all = reinterpret_cast<const float2*>(bounds) + k * subspaces * groups;
        const auto bound_of = [&](long long s, int holder) {
            const bool inside = 0 <= holder && holder < groups;  // not so in a damaged file that was mapped
            return inside ? __ldg(all + s * groups + holder) : make_float2(-INFINITY, INFINITY);
        };
        double total = 0.0;
        long long looked = 0;
        int gated = 0;
        int holder = alive ? segment.holders[row] : 0;
        for (long long s = 0; s < subspaces; s++) {
            const unsigned lanes = __ballot_sync(FULL, alive);
            if (lanes == 0) break;
            looked += __popc(lanes);
            const int next = alive && s + 1 < subspaces ? segment.holders[(s + 1) * rows + row] : 0;
            const Gate gate = gates[k * subspaces + s];
            bool fails = false;
            if (alive) {
                const double upper = exact64(bound_of(s, holder).y);
                fails = upper < gate.least;
                total += upper;
                alive = !fails && !(total + gate.rest < level.below);
            }
            if (counting) gated += __popc(__ballot_sync(FULL, fails));
            holder = next;
        }
        bool sure = false;
        const int left = __popc(__ballot_sync(FULL, alive));
        if (left != 0 && (call.wanted != SCORES || counting)) {
            looked += left * subspaces;
            if (alive) {
                double lower = 0.0;
                for (long long s = 0; s < subspaces; s++)
                    lower += exact64(bound_of(s, segment.holders[s * rows + row]).x);
                sure = lower >= level.above;
            }
        }
        if (counting) {
            const int taken = __popc(__ballot_sync(FULL, sure));
            if (lane_number() == 0) {
                count_work(call, GATES_STAGE, TESTED, come);
                count_work(call, GATES_STAGE, DROPPED, gated);
                count_work(call, GATES_STAGE, LEFT, come - gated);
                count_work(call, BALLS_STAGE, TESTED, come - gated);
                count_work(call, BALLS_STAGE, DROPPED, come - gated - left);
                count_work(call, BALLS_STAGE, TAKEN, taken);
                count_work(call, BALLS_STAGE, LEFT, left - taken);
                count_work(call, BALLS_STAGE, BYTES, 8 * looked + (chosen ? (tested + 7) / 8 : 0));
            }
        }
        if (left != 0) leave(call, segment, k, chunk, alive && !is_excluded(segment, row), sure, row);
    }
}
