// Stands in for halfspace/gpu/kernels/ptx.cuh on a host: the same functions, to the bit, without PTX.
#pragma once

namespace ptx {

using namespace ::emulator;

// Rows and columns as in the PTX manual, "Matrix Fragments for mma.m16n8k32": a register holds 4 bytes along k.
template <typename Left>
static void multiply(Warp& warp, unsigned mask) {
    if ((mask & warp.alive) != ~0u) fail("mma_s8 and mma_u8 need all 32 lanes");
    Left a[16][32];
    int8_t b[8][32];
    for (unsigned lane = 0; lane < 32; lane++) {
        const unsigned group = lane / 4, at = lane % 4 * 4;
        const uint32_t* in = warp.lanes[lane].in.words;
        memcpy(&a[group][at], &in[0], 4);
        memcpy(&a[group + 8][at], &in[1], 4);
        memcpy(&a[group][at + 16], &in[2], 4);
        memcpy(&a[group + 8][at + 16], &in[3], 4);
        memcpy(&b[group][at], &in[4], 4);
        memcpy(&b[group][at + 16], &in[5], 4);
    }
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned k = 0; k < 4; k++) {
            const unsigned row = lane / 4 + k / 2 * 8, column = lane % 4 * 2 + k % 2;
            int sum = 0;
            for (unsigned i = 0; i < 32; i++) sum += a[row][i] * b[column][i];
            warp.lanes[lane].out.words[k] = warp.lanes[lane].in.words[6 + k] + static_cast<unsigned>(sum);
        }
}
static const Operation MMA_S8 = {"mma_s8", multiply<int8_t>}, MMA_U8 = {"mma_u8", multiply<uint8_t>};

static void multiply_by(const Operation& operation, int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                        unsigned b0, unsigned b1) {
    const unsigned in[10] = {a0, a1, a2, a3, b0, b1, unsigned(c[0]), unsigned(c[1]), unsigned(c[2]), unsigned(c[3])};
    memcpy(&self->in, in, sizeof in);
    memcpy(c, exchange(operation, ~0u).out.words, sizeof c);
}

static double cut(double value, double unit) { return trunc(value / unit) * unit; }

// Sum as tensor cores may: terms are cut off at the 24 bits of the largest one, and so is their sum.
static float sum_cut(const double (&terms)[17]) {
    double largest = 0.0, sum = 0.0;
    for (double term : terms) {
        if (!(fabs(term) < INFINITY)) largest = INFINITY;
        largest = fmax(largest, fabs(term));
    }
    if (largest == 0.0) return 0.0f;
    const bool finite = largest < INFINITY;
    for (double term : terms) sum += finite ? cut(term, ldexp(1.0, ilogb(largest) - 23)) : term;
    return finite && sum != 0.0 ? float(cut(sum, ldexp(1.0, ilogb(sum) - 23))) : float(sum);
}

// Rows and columns as in the PTX manual, "Matrix Fragments for mma.m16n8k16": a register holds two numbers along k.
template <float WIDEN(unsigned short)>
static void multiply_halves(Warp& warp, unsigned mask) {
    if ((mask & warp.alive) != ~0u) fail("mma_f16 and mma_bf16 need all 32 lanes");
    float a[16][16], b[8][16];
    for (unsigned lane = 0; lane < 32; lane++) {
        const unsigned group = lane / 4, at = lane % 4 * 2;
        const uint32_t* in = warp.lanes[lane].in.words;
        for (unsigned k = 0; k < 6; k++)
            for (unsigned i = 0; i < 2; i++) {
                const float value = WIDEN(in[k] >> 16 * i);
                if (k < 4) a[group + k % 2 * 8][at + k / 2 * 8 + i] = value;
                else b[group][at + (k - 4) * 8 + i] = value;
            }
    }
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned k = 0; k < 4; k++) {
            const unsigned row = lane / 4 + k / 2 * 8, column = lane % 4 * 2 + k % 2;
            double terms[17] = {__uint_as_float(warp.lanes[lane].in.words[6 + k])};
            for (unsigned i = 0; i < 16; i++) terms[i + 1] = double(a[row][i]) * b[column][i];
            warp.lanes[lane].out.words[k] = __float_as_uint(sum_cut(terms));
        }
}

template <typename T>
static void multiply_halves_by(const Operation& operation, T (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    const unsigned in[6] = {a[0], a[1], a[2], a[3], b0, b1};
    memcpy(self->in.words, in, sizeof in);
    memcpy(self->in.words + 6, c, sizeof c);
    memcpy(c, exchange(operation, ~0u).out.words, sizeof c);
}

// Lane i names row i % 8 of matrix i / 8; register k receives two of the 16-bit columns of row lane / 4 of matrix k.
static void load(Warp& warp, unsigned mask) {
    if ((mask & warp.alive) != ~0u) fail("load_matrix needs all 32 lanes");
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned k = 0; k < 4; k++) {
            const void* row = warp.lanes[8 * k + lane / 4].in.address;
            memcpy(&warp.lanes[lane].out.words[k], static_cast<const char*>(row) + lane % 4 * 4, 4);
        }
}
static const Operation LOAD_MATRIX = {"load_matrix", load};

// The same, but register k receives the 16-bit column lane / 4 of two rows of matrix k.
static void load_turned(Warp& warp, unsigned mask) {
    if ((mask & warp.alive) != ~0u) fail("load_matrix_turned needs all 32 lanes");
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned k = 0; k < 4; k++)
            for (unsigned i = 0; i < 2; i++) {
                const void* row = warp.lanes[8 * k + lane % 4 * 2 + i].in.address;
                memcpy(reinterpret_cast<char*>(&warp.lanes[lane].out.words[k]) + 2 * i,
                       static_cast<const char*>(row) + lane / 4 * 2, 2);
            }
}
static const Operation LOAD_MATRIX_TURNED = {"load_matrix_turned", load_turned};

static void check_aligned(const void* address, const char* name, unsigned bytes = 16) {
    if (reinterpret_cast<uintptr_t>(address) % bytes) fail("%s needs an address that is a multiple of %u", name, bytes);
}

// A copy is done when it is waited for, as late as a GPU may do it, so that a kernel that forgets to wait reads poison.
static void begin_copy(void* shared, const void* global, unsigned bytes, const char* name) {
    check_aligned(shared, name, bytes < 16 ? bytes : 16);
    check_aligned(global, name, bytes < 16 ? bytes : 16);
    Lane& lane = *self;
    if (lane.begun == lane.room) {
        lane.room = lane.room ? 2 * lane.room : 16;
        lane.copies = static_cast<Copy*>(realloc(lane.copies, lane.room * sizeof(Copy)));
    }
    lane.copies[lane.begun++] = {shared, global, bytes};
}

}  // namespace ptx

__device__ __forceinline__ void mma_s8(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                       unsigned b1) {
    ptx::multiply_by(ptx::MMA_S8, c, a0, a1, a2, a3, b0, b1);
}
__device__ __forceinline__ void mma_u8(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                       unsigned b1) {
    ptx::multiply_by(ptx::MMA_U8, c, a0, a1, a2, a3, b0, b1);
}

__device__ __forceinline__ void load_matrix(unsigned (&r)[4], const void* shared) {
    ptx::check_aligned(shared, "load_matrix");
    emulator::self->in.address = shared;
    memcpy(r, emulator::exchange(ptx::LOAD_MATRIX, ~0u).out.words, sizeof r);
}

__device__ __forceinline__ void load_matrix_turned(unsigned (&r)[4], const void* shared) {
    ptx::check_aligned(shared, "load_matrix_turned");
    emulator::self->in.address = shared;
    memcpy(r, emulator::exchange(ptx::LOAD_MATRIX_TURNED, ~0u).out.words, sizeof r);
}

// float to double, subnormals too. All that is computed is normal, so that no mode of the processor matters.
__device__ __forceinline__ double exact64(float x) {
    const unsigned bits = __float_as_uint(x), fraction = bits & 0x7fffff;
    if (bits >> 23 & 255) return x;
    const double magnitude = int(fraction) * 0x1p-149;
    return bits >> 31 ? -magnitude : magnitude;
}

// double to float, nearest even, subnormals kept. Below 2**-126 floats are the multiples of 2**-149.
__device__ __forceinline__ float narrow(double x) {
    if (!(fabs(x) < 0x1p-126)) return x;
    const unsigned sign = unsigned(__double_as_longlong(x) >> 63) << 31;
    return __uint_as_float(sign | unsigned(rint(fabs(x) * 0x1p149)));
}

__device__ __forceinline__ float half_to_float(unsigned short h) {
    const unsigned sign = unsigned(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 0) return __uint_as_float(sign | __float_as_uint(int(fraction) * 0x1p-24f));
    return __uint_as_float(sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13);
}

__device__ __forceinline__ unsigned short float_to_half(float x) {
    const unsigned bits = __float_as_uint(x), size = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
    if (size > 0x7f800000) return 0x7fff;
    if (size >= 0x477ff000) return sign | 0x7c00;
    if (size < 0x38800000) return sign | unsigned(rint(double(__uint_as_float(size)) * 0x1p24));
    return sign | (((size + 0xfff + (size >> 13 & 1)) >> 13) - (112 << 10));
}
__device__ __forceinline__ unsigned short float_to_bfloat16(float x) {
    const unsigned bits = __float_as_uint(x);
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

__device__ __forceinline__ float bfloat16_to_float(unsigned short bits) { return __uint_as_float(unsigned(bits) << 16); }

namespace ptx {
static const Operation MMA_F16 = {"mma_f16", multiply_halves<half_to_float>},
                       MMA_BF16 = {"mma_bf16", multiply_halves<bfloat16_to_float>};
}  // namespace ptx

__device__ __forceinline__ void mma_f16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    ptx::multiply_halves_by(ptx::MMA_F16, c, a, b0, b1);
}
__device__ __forceinline__ void mma_bf16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    ptx::multiply_halves_by(ptx::MMA_BF16, c, a, b0, b1);
}

__device__ __forceinline__ uint4 stream128(const void* address) { return *static_cast<const uint4*>(address); }
__device__ __forceinline__ unsigned stream32(const void* address) { return *static_cast<const unsigned*>(address); }

__device__ __forceinline__ float4 reload128(const void* address) { return *static_cast<const float4*>(address); }

// One kernel after the other: what the one before writes is there.
__device__ __forceinline__ void wait_for_previous() {}
__device__ __forceinline__ void let_next_begin() {}

__device__ __forceinline__ void copy_async4(void* to, const void* from) {
    ptx::begin_copy(to, from, 4, "copy_async4");
}
__device__ __forceinline__ void copy_async16(void* to, const void* from) {
    ptx::begin_copy(to, from, 16, "copy_async16");
}

__device__ __forceinline__ void copy_async16_if(bool there, void* to, const void* from) {
    static const uint4 zeros = {};
    ptx::begin_copy(to, there ? from : &zeros, 16, "copy_async16_if");
}

__device__ __forceinline__ void copy_async_commit() {
    emulator::Lane& lane = *emulator::self;
    if (lane.groups == 64) emulator::fail("more than 64 groups of copies that nobody waited for");
    lane.ends[lane.groups++] = lane.begun;
}

template <int N>
__device__ __forceinline__ void copy_async_wait() {
    emulator::Lane& lane = *emulator::self;
    const int groups = lane.groups - N, done = groups > 0 ? lane.ends[groups - 1] : 0;
    if (groups <= 0) return;
    for (int k = 0; k < done; k++) memcpy(lane.copies[k].to, lane.copies[k].from, lane.copies[k].bytes);
    for (int k = done; k < lane.begun; k++) lane.copies[k - done] = lane.copies[k];
    for (int k = groups; k < lane.groups; k++) lane.ends[k - groups] = lane.ends[k] - done;
    lane.begun -= done, lane.groups = N;
}

__device__ __forceinline__ unsigned arrive(unsigned* counter) { return atomicAdd(counter, 1u); }

// One lane copies a tile, in the group that it has open; the barrier counts tiles, so that a wrong parity is seen.
__device__ __forceinline__ void make_barrier(unsigned long long* barrier) { *barrier = 0; }
__device__ __forceinline__ void before_copies() {}
__device__ __forceinline__ void tile_begin(unsigned long long*, unsigned) {}
__device__ __forceinline__ void tile_copy(void* to, const void* from, unsigned bytes, unsigned long long*) {
    if (bytes % 16) emulator::fail("tile_copy copies a multiple of 16 bytes, not %u", bytes);
    if (threadIdx.x % 32 == 0) ptx::begin_copy(to, from, bytes, "tile_copy");
}
__device__ __forceinline__ void lane_copy(void* to, const void* from, unsigned bytes, unsigned long long*) {
    if (bytes % 16) emulator::fail("lane_copy copies a multiple of 16 bytes, not %u", bytes);
    ptx::begin_copy(to, from, bytes, "lane_copy");
}
__device__ __forceinline__ void tile_wait(unsigned long long* barrier, unsigned parity) {
    __syncwarp();
    if (threadIdx.x % 32 == 0 && (*barrier)++ % 2 != parity) emulator::fail("tile_wait with a wrong parity");
    __syncwarp();
}

// A gate counts arrivals that it still waits for, then those that it waits for each time, then how often it has opened.
__device__ __forceinline__ void make_gate(unsigned long long* gate, unsigned count) {
    *gate = count | static_cast<unsigned long long>(count) << 16;
}
__device__ __forceinline__ void arrive_at(unsigned long long* gate) {
    if (--*gate & 0xffff) return;
    *gate += (*gate >> 16 & 0xffff) + (1ull << 32);
    emulator::open_gate(gate);
}
__device__ __forceinline__ void wait_at(unsigned long long* gate, unsigned parity) {
    while ((*gate >> 32 & 1) == parity) {
        emulator::self->gate = gate;
        emulator::suspend();
    }
}
__device__ __forceinline__ void fetch_to(void* to, const void* from, unsigned bytes, unsigned long long* gate) {
    if (bytes % 16) emulator::fail("fetch_to copies a multiple of 16 bytes, not %u", bytes);
    ptx::check_aligned(to, "fetch_to");
    ptx::check_aligned(from, "fetch_to");
    memcpy(to, from, bytes);
    arrive_at(gate);
}

// Products are formed when they are waited for, by each lane for itself.
namespace ptx {
static const int8_t* operand(const void* tile, unsigned row, unsigned byte) {
    const uintptr_t plain = reinterpret_cast<uintptr_t>(tile) + row * 128 + byte;
    return reinterpret_cast<const int8_t*>(plain ^ (plain >> 7 & 7) << 4);
}
static void form(const Product& product) {
    const unsigned lane = self->number, first = self->warp->number % 4 * 16 + lane / 4;
    for (unsigned half = 0; half < 2; half++)
        for (unsigned column = 0; column < 128; column++) {
            if (column % 8 / 2 != lane % 4) continue;
            int& sum = product.sums[column / 8 * 4 + 2 * half + column % 2];
            for (unsigned piece = 0; piece < 32; piece += 16) {
                const int8_t* a = operand(product.rows, first + 8 * half, piece);
                const int8_t* b = operand(product.columns, column, piece);
                for (unsigned i = 0; i < 16; i++) sum += a[i] * b[i];
            }
        }
}
}  // namespace ptx
__device__ __forceinline__ void multiply_group(int (&sums)[64], const void* rows, const void* columns) {
    emulator::Lane& lane = *emulator::self;
    if (lane.multiplied == 64) emulator::fail("more than 64 products that nobody waited for");
    lane.products[lane.multiplied++] = {sums, rows, columns};
}
__device__ __forceinline__ void before_products() {}
__device__ __forceinline__ void products_commit() {
    emulator::Lane& lane = *emulator::self;
    if (lane.product_groups == 8) emulator::fail("more than 8 groups of products that nobody waited for");
    lane.product_ends[lane.product_groups++] = lane.multiplied;
}
template <int N>
__device__ __forceinline__ void products_wait() {
    emulator::Lane& lane = *emulator::self;
    const int groups = lane.product_groups - N, done = groups > 0 ? lane.product_ends[groups - 1] : 0;
    if (groups <= 0) return;
    __syncwarp();
    for (int k = 0; k < done; k++) ptx::form(lane.products[k]);
    for (int k = done; k < lane.multiplied; k++) lane.products[k - done] = lane.products[k];
    for (int k = groups; k < lane.product_groups; k++) lane.product_ends[k - groups] = lane.product_ends[k] - done;
    lane.multiplied -= done, lane.product_groups = N;
}
__device__ __forceinline__ void products_done(int (&)[64]) {}
template <int COUNT>
__device__ __forceinline__ void fewer_registers() {}
template <int COUNT>
__device__ __forceinline__ void more_registers() {}
