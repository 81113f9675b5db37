// One component of a cell: what it is coded to, and what that leaves.
// See `encode_rows` in halfspace/cpu/filters/cells.py.
#pragma once

#include "formats.cuh"
#include "rounding.cuh"
#include "runtime/records.cuh"

#define LEAST_WEIGHT 0x1p-16
#define LOWEST_PEAK 0x1p-40

// What a component counts in: the scale of its vector, from the largest weighted offset, and one over that.
struct Lattice {
    unsigned short bits;  // bfloat16, rounded up
    double scale, step;
};

__device__ inline Lattice lattice_of(double largest) {
    Lattice lattice;
    lattice.bits = round_up16(largest / 127.0);
    lattice.scale = widen16(lattice.bits);
    const bool finite = 0.0 < lattice.scale && fabs(lattice.scale) <= 0x1.fffffep127;
    lattice.step = finite ? 1.0 / lattice.scale : 0.0;
    return lattice;
}

struct Component {
    unsigned code;  // 1 to 255
    int nearest;    // the code, less 128
    int doubled;    // twice the middle of the 16 codes with the same high half
    double rest, coarse;  // what the code leaves of the offset, and what its high half does
};

// Code an offset from the centre; `inverse` is one over the weight.
__device__ inline Component code_component(double offset, double weight, double inverse, const Lattice& lattice) {
    Component own;
    const int whole = static_cast<int>(rint(offset * inverse * lattice.step));
    own.nearest = min(max(whole, -127), 127);
    own.code = static_cast<unsigned>(own.nearest + 128);
    own.doubled = 32 * static_cast<int>(own.code >> 4) - 241;
    const double unit = weight * lattice.scale;
    own.rest = offset - unit * static_cast<double>(own.nearest);
    own.coarse = offset - unit * (0.5 * static_cast<double>(own.doubled));
    return own;
}

// Bits of a radius, from the sum of the squares of what codes leave.
__device__ inline unsigned short radius_of(double squares, const Lattice& lattice, long long dim) {
    return round_up16(residual_bound(norm_bound(squares, dim), lattice.scale, 0.0, dim));
}

// Whether weights may differ: where the largest norm is not within these, all are 1.
__device__ inline bool is_moderate(double peak) { return LOWEST_PEAK <= peak && peak <= MODERATE; }

// The weight of a dimension with this share of the largest spread: the share to the power 3/4, in 8 significant bits.
__device__ inline float weight_of(double share) {
    const float whole = narrow(fmax(sqrt(share) * sqrt(sqrt(share)), LEAST_WEIGHT));
    return __uint_as_float(__float_as_uint(whole) & 0xFFFF0000u);
}
