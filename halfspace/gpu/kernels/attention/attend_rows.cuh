// Rows in attention: exact decisions, weights, sums of values; by a warp, batch by batch.
#pragma once

#include "attention/judge.cuh"
#if FORMAT == 0
#include "attention/rows_float.cuh"
#else
#include "attention/rows_half.cuh"
#endif

enum Source { ALL_ROWS, LISTED_ROWS, DECIDED_ROWS };

// The rows that a warp goes over, in batches. Batches of all rows go to the warps of all blocks by turns; rows that the
// warps of a block have listed are shared out one by one; what a warp has left for later, and then decided, is its own.
struct Batches {
    Source source;
    int total;
    int start;  // the first row of the next batch
    int step;   // from batch to batch

    // What this lane looks up of the batch that starts at `at`.
    __device__ __forceinline__ Chosen find(const Shared& shared, const Room& room, int at) const {
        const int slot = slot_of_lane(), row = at + (source == LISTED_ROWS ? slot * WARPS : slot);
        Chosen chosen{row, source == DECIDED_ROWS, 0, 0.0f};
        if (row >= total) {
            chosen.row = -1;
        } else if (source == LISTED_ROWS) {
            int rest = row, lister = 0, end = 0;
#pragma unroll
            for (int k = 1; k < WARPS; k++) {
                end += shared.found[k - 1];
                if (row >= end) rest = row - end, lister = k;
            }
            chosen.row = row_of(shared.space, shared.list[lister][rest], shared.first[lister], lister);
        } else if (source == DECIDED_ROWS) {
            const Doubt doubt = room.doubts[row];
            chosen.head = doubt.row % SET, chosen.score = doubt.score;
            chosen.row = doubt.row < 0 ? -1 : doubt.row / SET;
        }
        return chosen;
    }

    // Begin to copy the first batches.
    __device__ __forceinline__ void begin(const Space& space, const Shared& shared, const Room& room,
                                          unsigned char* ring) const {
        begin_batches(space, ring, [&](int k) { return find(shared, room, start + k * step).row; });
    }

    // Attend rows, whose first batches have begun, until there are no more, or there is no room for doubts.
    __device__ __forceinline__ void gather_rows(const Space& space, Shared& shared, Room& room, unsigned char* ring,
                                                Gathered& own) {
        int doubts = 0, slot = 0;
        Chosen coming[ROW_STAGES];
#pragma unroll
        for (int k = 0; k < ROW_STAGES; k++) coming[k] = find(shared, room, start + k * step);
#pragma unroll 1
        for (; start < total && doubts <= DOUBTS - SET * BATCH; start += step) {
            const Chosen chosen = coming[0], next = find(shared, room, start + ROW_STAGES * step);
#pragma unroll
            for (int k = 1; k < ROW_STAGES; k++) coming[k - 1] = coming[k];
            coming[ROW_STAGES - 1] = next;
            gather(space, shared, ring + slot * EIGHT, chosen, next.row, room, doubts, own);
            slot = slot + 1 == ROW_STAGES ? 0 : slot + 1;
        }
        copy_async_wait<0>();
        if (lane_number() == 0) shared.doubts[threadIdx.x / WARP] = doubts;
    }
};
