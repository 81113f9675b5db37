// The certificate of a threshold: what its two kernels share. See halfspace/attention/policy.py for what it proves.
//
// Scores are counted in *positions*, whole numbers: a score is the head's product with the centre, plus its position over
// the head's rate. Each key has a bracket, two positions between which its score lies for certain. A nat, a factor e of a
// softmax weight, is at most STEPS positions.
#pragma once

#include "rounding.cuh"
#include "attention/heads.cuh"

#define WARPS (THREADS / WARP)
#define STEPS 64         // positions in a nat
#define FARTHEST 30000   // the largest position there may be: fewer are made of a nat where scores go further
#define BELOW (-32768)   // the lower end of a bracket that has none
#define ABOVE 32767      // the upper end

// What a head counts in; rate 0 where nothing is known of its scores.
struct Rate {
    double base;        // its product with the centre, but for `base_error`
    double base_error;
    double rate;        // positions in a unit of score
    double norm;
};

// What is counted of a space.
struct Turn {
    unsigned long long done;     // heads that are answered, plus 2^32 times those of which more than half was kept
    unsigned long long skipped;  // how many more times all keys are kept without a look
};

// A question and its answer: the twin of the record CERTIFY in halfspace/gpu/attention/threshold.py.
// All fields have 8 bytes.
struct Certify {
    const void* queries;  // (batch, query heads, d), stored bits, or float32 where they are `wide`
    long long wide;
    long long group;      // query heads of a head
    double eps;
    double scale;
    double cap;           // a logit s is bent to cap tanh(s / cap); 0: it is not
    long long refined;    // whether exact scores of the heaviest keys are looked at
    unsigned* brackets;   // (batch, query heads, capacity): the upper end times 2^16, and the lower one
    Rate* rates;          // (batch, query heads)
    int* tops;            // (batch, query heads), the largest lower end; BELOW between calls
    unsigned long long* counts;  // (batch, query heads, BINS), of upper ends, times 2^32, and of lower ones; 0 between calls
    unsigned* tickets;    // (batch, query heads), the same
    Turn* turns;          // (spaces,)
    double* tau;          // (batch, query heads)
    double* dropped;
};

__device__ __forceinline__ unsigned bracket_of(int lower, int upper) {
    return (unsigned)upper << 16 | ((unsigned)lower & 0xffffu);
}

__device__ __forceinline__ int lower_end(unsigned bracket) { return (short)(bracket & 0xffffu); }

__device__ __forceinline__ int upper_end(unsigned bracket) { return (short)(bracket >> 16); }
