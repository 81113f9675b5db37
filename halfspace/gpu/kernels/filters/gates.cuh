// What is known of a direction once all balls of a segment are bounded. See halfspace/cpu/filters/gates.py.
#pragma once

#include "formats.cuh"
#include "runtime/records.cuh"

// Rows whose upper bounds sum to less than `below` are dropped, rows whose lower bounds sum to `above` are hits.
struct Sums {
    double below;
    double above;
    double slack;  // what the largest bounds have above `below`
};

// One subspace.
struct Gate {
    double least;    // balls with a smaller upper bound hold no hits
    double most;     // the largest upper bound
    double rest;     // the sum of the largest upper bounds of all subspaces after this one
    double largest;  // the largest magnitude of a finite bound
};

// Floats as integers that are in the same order, all above 0.
__device__ __forceinline__ unsigned ordered(float value) {
    const unsigned bits = __float_as_uint(value);
    return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float in_order(unsigned place) {
    return __uint_as_float(place >> 31 != 0 ? place & 0x7fffffffu : ~place);
}
