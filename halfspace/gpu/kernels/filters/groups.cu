// Segments with groups: the ball of a chunk, those of its groups, those of their rows; each level tests what the one
// above has left. The twin of halfspace/cpu/filters/tree.py.
#include "runtime/ptx.cuh"
#include "formats.cuh"
#include "filters/balls.cuh"
#include "filters/left.cuh"
#include "filters/lifts.cuh"

#define ROWS 128  // rows of a warp: a block of threads tests a chunk
#define LANES 4   // lanes that share the ball of a group
#define SURE 128  // in an entry of a list: a hit for certain

// The verdict on a ball, and the thresholds of the balls in it, as seen from its centre.
struct Verdict {
    bool left;
    bool sure;
    double below;
    double above;
};

// Test a ball, against the thresholds seen from the centre of the one around it.
__device__ __forceinline__ Verdict classify(const Codes& level, long long ball, double product, const View& view,
                                            double below, double above) {
    const double scale = exact64(level.scales[ball]), radius = exact64(level.radii[ball]);
    const double value = scale * (view.unit * product), slack = scale * view.high_slack;
    const double width = slack + view.factor * radius;
    const double width_above = METRIC == COSINE ? slack + view.factor_above * radius : width;
    const float length = length_of(level.lengths, ball);
    const bool left = !(value + width < below_of(view, below, length));
    const bool reached = value - width_above >= above_of(view, above, length);
    const bool sure = left && reached && (METRIC != L2 || radius <= view.widest);
    return Verdict{left, sure, below - value - slack, above - value + slack};
}

// Count what a stage did to some rows.
__device__ void count_stage(const Call& call, int stage, long long tested, long long sure, long long left,
                            long long balls) {
    if (call.work == nullptr) return;
    count_work(call, stage, TESTED, tested);
    count_work(call, stage, DROPPED, tested - sure - left);
    count_work(call, stage, TAKEN, sure);
    count_work(call, stage, LEFT, left);
    count_work(call, stage, BYTES, balls * ((call.dim + 3) / 4 * 4 + (METRIC == IP ? 8 : 12)));
}

// Test the groups of a warp's rows, and the rows in groups that are left. `list` gets the rows that are, with SURE
// where it is so; returns how many.
__device__ int classify_rows(const Call& call, const Segment& segment, const View& view, const signed char* digits,
                             long long row, const Verdict& of_chunk, unsigned char* list) {
    const int lane = lane_number();
    const long long steps = (call.dim + 3) / 4, rows = min((long long)ROWS, segment.rows - row);
    const bool own = lane / LANES * BLOCK < rows;
    const long long group = row / BLOCK + (own ? lane / LANES : 0);
    const double product = multiply<LANES>(segment.of_groups.codes, group, steps, digits, call.stride);
    const Verdict seen = classify(segment.of_groups, group, product, view, of_chunk.below, of_chunk.above);
    const int share = (int)min((long long)BLOCK, rows - lane / LANES * BLOCK);  // rows of the lane's group
    const bool leads = own && lane % LANES == 0;
    unsigned groups = __ballot_sync(FULL, leads && seen.left);
    if (call.work != nullptr) {
        const int sure = warp_sum(leads && seen.sure ? share : 0), left = warp_sum(leads && seen.left ? share : 0);
        if (lane == 0) count_stage(call, GROUPS_STAGE, rows, sure, left - sure, (rows + BLOCK - 1) / BLOCK);
    }
    int kept = 0, tested = 0, taken = 0, looks = 0;
    while (groups != 0) {  // two at a time: a lane for each row
        const int first = __ffs(groups) - 1;
        groups &= groups - 1;
        const int second = groups != 0 ? __ffs(groups) - 1 : first;
        const bool both = groups != 0;
        groups &= groups - 1;
        const int source = lane < BLOCK ? first : second;
        const double below = __shfl_sync(FULL, seen.below, source), above = __shfl_sync(FULL, seen.above, source);
        bool sure = __shfl_sync(FULL, (int)seen.sure, source) != 0;
        const int place = source / LANES * BLOCK + lane % BLOCK;
        bool left = place < rows && (lane < BLOCK || both);
        const bool looked = left && !sure;
        if (looked) {
            const long long ball = row + place;
            const double product = multiply<1>(segment.of_rows.codes, ball, steps, digits, call.stride);
            const Verdict own = classify(segment.of_rows, ball, product, view, below, above);
            left = own.left;
            sure = own.sure;
        }
        tested += __popc(__ballot_sync(FULL, looked));
        taken += __popc(__ballot_sync(FULL, looked && left && sure));
        looks += __popc(__ballot_sync(FULL, looked && left && !sure));
        left = left && !is_excluded(segment, row + place);
        const unsigned lanes = __ballot_sync(FULL, left);
        if (left) list[kept + __popc(lanes & lanes_below())] = (unsigned char)(place + (sure ? SURE : 0));
        kept += __popc(lanes);
    }
    if (lane == 0) count_stage(call, ROWS_STAGE, tested, taken, looks, tested);
    __syncwarp();
    return kept;
}

// Grid: x chunks, in a list of those of segments with groups; y strides over the directions of all spaces. Blocks of
// THREADS, whose warps all test the ball of the chunk, which is less work than to wait for one that does.
extern "C" __global__ void __launch_bounds__(THREADS) classify_groups(Call call, const int* listed) {
    __shared__ unsigned char entries[THREADS / WARP][ROWS];
    const int warp = threadIdx.x / WARP, lane = lane_number();
    const long long chunk = listed[blockIdx.x], which = call.owners[chunk], steps = (call.dim + 3) / 4;
    for (long long k = blockIdx.y; k < call.count; k += gridDim.y) {
        const Segment& segment = segment_of(call, k, chunk);
        const long long number = chunk - segment.first, row = (number << 10) + ROWS * warp;
        if (row >= segment.rows || call.plans[k].bad != 0.0) continue;
        const long long at = k * call.segment_count + which;
        const View view = call.views[at];
        const signed char* digits = call.digits + 2 * call.stride * at;
        const double product = multiply<WARP>(segment.of_chunks.codes, number, steps, digits, call.stride);
        const Verdict seen = classify(segment.of_chunks, number, product, view, view.below, view.above);
        const long long rows = min((long long)ROWS, segment.rows - row);
        if (lane == 0)
            count_stage(call, CHUNKS_STAGE, rows, seen.sure ? rows : 0, seen.left && !seen.sure ? rows : 0, warp == 0);
        if (!seen.left) continue;
        const int kept = seen.sure ? (int)rows : classify_rows(call, segment, view, digits, row, seen, entries[warp]);
        for (int start = 0; start < kept; start += WARP) {
            bool own = start + lane < kept;
            const int entry = !own ? 0 : seen.sure ? start + lane + SURE : entries[warp][start + lane];
            const long long found = row + entry % SURE;
            if (seen.sure) own = own && !is_excluded(segment, found);
            leave(call, segment, k, chunk, own, entry >= SURE, found);
        }
        __syncwarp();
    }
}
