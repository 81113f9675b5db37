// Keys chosen by one pass over their codes: what its parts share. See halfspace/attention/policy.py for what it proves.
//
// Scores are counted in *positions*, whole numbers: a score is the head's product with the centre, plus its position over
// the head's rate. Each key has a bracket, two positions between which its score lies for certain. A nat is a factor e of
// a softmax weight.
#pragma once

#include "rounding.cuh"
#include "attention/attend.cuh"

#define FARTHEST 30000   // the largest position there may be: fewer are made of a nat where scores go further
#define ALL (-65536)     // a position that all keys lie above
#define BINS 1024        // positions that are told apart
#define HEADROOM 384     // so many of them lie above the largest lower end of a sample of the keys

// What a head counts in; rate 0 where nothing is known of its scores.
struct Rate {
    double base;        // its product with the centre, but for `base_error`
    double base_error;
    double rate;        // positions in a unit of score
};

#define STREAMED (1.0f / 16.0f)  // of a row that is read in order, what it costs to look at its upper ends
#define GATHERED 1.0f             // and what a row costs that is read apart from others
#define BEGINNING 128.0f          // rows that cost what a split costs beside its rows
#define APART 0.6f                // the share of the rows of a set's heads that are different ones, where it is not known
#define TOGETHER 0.25f            // the least that it may be: of four heads

// A question and its answer: the twin of the record CHOOSE in halfspace/gpu/attention/choose.py.
// All fields have 8 bytes. A set has up to SET query heads that share their keys.
struct Choose {
    const void* queries;  // (batch, query heads, d), stored bits, or float32 where they are `wide`
    long long wide;
    long long group;      // query heads of a head
    double eps;           // the share of the softmax that may be dropped, or below 0
    double keep;          // the share of the keys that is asked for, or below 0
    double scale;
    double cap;           // a logit s is bent to cap tanh(s / cap); 0: it is not
    double steps;         // positions in a nat, at most
    long long few;        // of fewer keys all are kept
    long long whole;      // whether all keys may be kept of others, too
    short* uppers;        // (spaces sets, capacity, SET), upper ends
    unsigned long long* counts;  // (spaces sets, SET, BINS), of upper ends, times 2^32, and of lower ones; 0 between calls
    unsigned* tickets;    // (spaces sets,), the same
    Turn* turns;          // (spaces sets,); see attend.cuh
    const float* shares;  // (spaces sets,), of the rows, what was of use in the last call
    float* works;         // (spaces sets,): how much there is to do, in rows, negative where all rows are to be read
    int* limits;          // (batch, query heads): keys whose upper end is at most this are left out
    double* tau;          // (batch, query heads)
    double* dropped;
};
