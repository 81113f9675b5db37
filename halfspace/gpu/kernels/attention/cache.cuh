// A cache of keys and values as the kernels of attention see it: the twin of the record CACHE in
// halfspace/gpu/attention/cache.py. All fields have 8 bytes.
// Space b * heads + h holds the keys of head h of sequence b.
#pragma once

#include "formats.cuh"

#ifndef HEAD_DIM  // dimensions of a head, for which files are compiled
#define HEAD_DIM 128
#endif

#define RESERVOIR 1024  // slots of a sequence's reservoir

// Bits of the status of a sequence.
enum Trouble : unsigned long long { OVERFULL = 1, NOT_FINITE = 2 };

struct Cache {
    long long batch;
    long long heads;
    long long dim;
    long long capacity;
    stored_t* keys;            // (spaces, capacity, d)
    stored_t* values;          // (spaces, capacity, d)
    float* norms;              // (spaces, capacity), upper bounds
    float* value_peaks;        // (spaces, chunks), upper bounds of the largest norm of a value of each 1,024 rows
    float* centre;             // (spaces, d)
    float* weights;            // (spaces, d)
    unsigned char* high;       // (spaces, blocks, words, 16, 4)
    unsigned char* low;        // (spaces, 16 blocks, words, 4) and 64 bytes more for each space
    unsigned short* scales;    // bfloat16 (spaces, capacity)
    unsigned short* radii;     // bfloat16 (spaces, 2, capacity): after the high codes, and after both
    float* peaks;              // (spaces, chunks), the largest norm of each 1,024 rows
    long long* lengths;        // (batch,)
    long long* sample;         // (batch, RESERVOIR), positions, or -1
    unsigned long long* status;  // (batch,)
    double grain;
};
