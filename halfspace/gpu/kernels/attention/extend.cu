// New keys and values, put at the end of their sequences. Nothing of a sequence that is refused is read afterwards: what
// lies beyond its length means nothing.
#include "attention/encode.cuh"

// The twin of the record TOKENS in halfspace/gpu/attention/cache.py.
struct Tokens {
    const stored_t* keys;      // (batch, heads, rows, d), with these strides
    const stored_t* values;
    const long long* counts;   // (batch,), rows of each sequence, or null where that is all
    long long rows;
    long long key_strides[3];
    long long value_strides[3];
    unsigned long long* arrived;  // (batch,), of `extend_one`; 0 between calls
};

// How many rows come to a sequence.
__device__ __forceinline__ long long rows_of(const Tokens& tokens, long long sequence) {
    return tokens.counts == nullptr ? tokens.rows : min(tokens.counts[sequence], tokens.rows);
}

__device__ __forceinline__ bool has_room(const Cache& cache, long long length, long long rows) {
    return 0 <= length && length + rows <= cache.capacity;
}

__device__ __forceinline__ const stored_t* address_of(const stored_t* first, const long long (&strides)[3],
                                                      long long sequence, long long head, long long row) {
    return first + sequence * strides[0] + head * strides[1] + row * strides[2];
}

// Put a token in its place; by a warp.
__device__ __forceinline__ void put_row(const Cache& cache, long long space, long long row, const Vector& key,
                                        const Vector& value, const Frame& frame) {
    const long long at = space * cache.capacity + row;
    store_vector(cache.keys + at * HEAD_DIM, key);
    store_vector(cache.values + at * HEAD_DIM, value);
    encode_key(cache, space, row, key, frame);
    bound_value(cache, space, row, value);
}

// The slot of the sample to which a position comes, if there is one; see `reservoir` in halfspace/model/kv_cache.py.
__device__ inline unsigned long long slot_of(long long position) {
    if (position < RESERVOIR) return position;
    unsigned long long mixed = ((unsigned long long)position + 1) * 0x9E3779B97F4A7C15ull;
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9ull;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBull;
    return (mixed ^ mixed >> 31) % ((unsigned long long)position + 1);
}

// Let a position into the sample of its sequence.
__device__ __forceinline__ void draw(const Cache& cache, long long sequence, long long position, unsigned long long slot) {
    if (slot < RESERVOIR) atomicMax(cache.sample + sequence * RESERVOIR + slot, position);
}

// What is counted of a sequence: heads that have come, and from these bits on those without a finite token, or without room.
#define NOT_GOOD 16
#define REFUSED 32

// Append one token to each sequence. Grid: x heads, y sequences; blocks of two warps, one of which puts the token in its
// place. The other counts; the last to do so takes the token in, by which time all have read the length: what they
// count depends on it.
extern "C" __global__ void __launch_bounds__(2 * WARP) extend_one(Cache cache, Tokens tokens) {
    wait_for_previous();
    let_next_begin();
    const long long head = blockIdx.x, sequence = blockIdx.y, space = sequence * cache.heads + head;
    const long long length = cache.lengths[sequence], rows = rows_of(tokens, sequence);
    const unsigned long long trouble = cache.status[sequence];
    const Vector key = load_vector(address_of(tokens.keys, tokens.key_strides, sequence, head, 0));
    const Vector value = load_vector(address_of(tokens.values, tokens.value_strides, sequence, head, 0));
    Frame frame;
    if (threadIdx.x < WARP) frame = load_frame(cache, space);
    __syncthreads();  // both have read the length
    if (threadIdx.x < WARP) {
        const bool good = __all_sync(FULL, all_finite(key) && all_finite(value));
        if (good && rows > 0 && trouble == 0 && has_room(cache, length, 1)) put_row(cache, space, length, key, value, frame);
        return;
    }
    const bool good = __all_sync(FULL, all_finite(key) && all_finite(value)), room = has_room(cache, length, 1);
    if (threadIdx.x != WARP) return;
    const unsigned long long own = 1ull + (good ? 0ull : 1ull << NOT_GOOD) + (room ? 0ull : 1ull << REFUSED);
    const unsigned long long all = own + atomicAdd(tokens.arrived + sequence, own), slot = slot_of(length);
    if ((all & 0xffffull) != (unsigned long long)cache.heads) return;
    tokens.arrived[sequence] = 0;
    if (rows <= 0 || trouble != 0) return;
    if (all >> REFUSED != 0) {
        cache.status[sequence] = OVERFULL;
    } else if (all >> NOT_GOOD != 0) {
        cache.status[sequence] = NOT_FINITE;
    } else {
        cache.lengths[sequence] = length + 1;
        draw(cache, sequence, length, slot);
    }
}

// Put tokens behind the ends of the sequences, whose lengths stay. Grid: x strides over rows, a warp for each; y spaces.
extern "C" __global__ void __launch_bounds__(256) extend_rows(Cache cache, Tokens tokens) {
    const long long space = blockIdx.y, sequence = space / cache.heads, head = space % cache.heads;
    const long long length = cache.lengths[sequence], rows = rows_of(tokens, sequence);
    const int warps = blockDim.x / WARP;
    if (!has_room(cache, length, rows)) return;
    const Frame frame = load_frame(cache, space);
    for (long long row = (long long)blockIdx.x * warps + threadIdx.x / WARP; row < rows; row += (long long)gridDim.x * warps) {
        const Vector key = load_vector(address_of(tokens.keys, tokens.key_strides, sequence, head, row));
        const Vector value = load_vector(address_of(tokens.values, tokens.value_strides, sequence, head, row));
        if (__all_sync(FULL, all_finite(key) && all_finite(value))) {
            put_row(cache, space, length + row, key, value, frame);
        } else if (lane_number() == 0) {
            atomicOr(cache.status + sequence, (unsigned long long)NOT_FINITE);
        }
    }
}

// Take in what `extend_rows` has put there. A block for a sequence.
extern "C" __global__ void __launch_bounds__(1024) count_rows(Cache cache, Tokens tokens) {
    const long long sequence = blockIdx.x, length = cache.lengths[sequence], rows = rows_of(tokens, sequence);
    const bool fits = has_room(cache, length, rows);
    const unsigned long long trouble = cache.status[sequence];
    __syncthreads();  // all have read them
    if (trouble != 0) return;
    if (!fits) {
        if (threadIdx.x == 0) cache.status[sequence] = OVERFULL;
        return;
    }
    for (long long row = threadIdx.x; row < rows; row += blockDim.x)
        draw(cache, sequence, length + row, slot_of(length + row));
    if (threadIdx.x == 0) cache.lengths[sequence] = length + rows;
}
