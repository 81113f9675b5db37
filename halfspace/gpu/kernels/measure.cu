// Norms of stored vectors, rounded up, and the grain of all their components.
// Twin of `measure` in halfspace/cpu/formats.py.
#include "formats.cuh"
#include "rounding.cuh"
#include "rows.cuh"

// Bound the norms of `rows` vectors of `dim` components; `lowest`, 1000 at first, gets the least exponent of a lowest
// set bit. A thread for a row, blocks of WARPS warps, WARPS slabs of shared memory.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT)
    measure_vectors(const stored_t* __restrict__ vectors, float* norms, int* lowest, long long rows, long long dim) {
    __shared__ float slabs[WARPS][32][PITCH];
    auto& slab = slabs[warp_of_block()];
    const Place place = place_of_thread(1, rows);
    if (!place.any) return;
    double total = 0.0;
    int least = 1000;
    for (long long first = 0; first < dim; first += SLAB) {
        const int count = slab_width(dim, first);
        stage(vectors, dim, place.row, first, count, slab);
        if (place.row < 0) continue;
        for (int k = 0; k < count; ++k) {
            const float value = slab[lane_of_warp()][k];
            const double wide = exact64(value);
            total += wide * wide;
            least = min(least, lowest_exponent(value));
        }
    }
    if (place.row >= 0) norms[place.row] = round_up32(norm_bound(total, dim));
    for (int distance = 16; distance > 0; distance /= 2) least = min(least, __shfl_xor_sync(ALL, least, distance));
    if (lane_of_warp() == 0) atomicMin(lowest, least);
}
