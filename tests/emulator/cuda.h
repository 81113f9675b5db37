// The part of CUDA C++ that the kernels use, for g++ on a host: see README.md. Included before a kernel's source.
#pragma once
#include "fibers.h"

#include <type_traits>
#include <utility>

#define __CUDA_ARCH__ 900
#define __CUDA_ARCH_FEAT_SM90_ALL
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// Blocks run one after another, so what a block shares may be static; in a section of its own, to be poisoned.
#define __shared__ static __attribute__((section("shared_memory")))
// `extern __shared__ T name[];` is rewritten before the compiler sees it, as there is no `extern static`.

#ifndef INFINITY
#define INFINITY __builtin_inff()
#endif

struct int2 {
    int x, y;
} __align__(8);
struct uint2 {
    unsigned x, y;
} __align__(8);
struct float2 {
    float x, y;
} __align__(8);
struct longlong2 {
    long long x, y;
} __align__(16);
struct double2 {
    double x, y;
} __align__(16);
struct int4 {
    int x, y, z, w;
} __align__(16);
struct uint4 {
    unsigned x, y, z, w;
} __align__(16);
struct float4 {
    float x, y, z, w;
} __align__(16);
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline longlong2 make_longlong2(long long x, long long y) { return {x, y}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

#define threadIdx (::emulator::self->index)
static uint3 blockIdx;
static dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// Barriers and warp operations.

namespace emulator {

static void nothing(Warp&, unsigned) {}
static const Operation SYNC = {"__syncwarp", nothing};

static void vote(Warp& warp, unsigned mask) {
    unsigned votes = 0;
    for (unsigned rest = mask & warp.alive; rest; rest &= rest - 1)
        votes |= (warp.lanes[__builtin_ctz(rest)].in.words[0] & 1) << __builtin_ctz(rest);
    for (Lane& lane : warp.lanes) lane.out.words[0] = mask >> (&lane - warp.lanes) & 1 ? votes : lane.out.words[0];
}
static const Operation BALLOT = {"__ballot_sync", vote}, ANY = {"__any_sync", vote}, ALL = {"__all_sync", vote};

// A lane leaves its value and the lane whose value it wants; lanes that are gone or not in the mask hold poison.
static void shuffle(Warp& warp, unsigned mask) {
    for (unsigned rest = mask & warp.alive; rest; rest &= rest - 1) {
        Lane& lane = warp.lanes[__builtin_ctz(rest)];
        const unsigned from = lane.in.words[2];
        if (mask >> from & 1)
            lane.out.wide = warp.lanes[from].in.wide[0];
        else
            memset(&lane.out, POISON, sizeof lane.out);
    }
}
static const Operation FROM = {"__shfl_sync", shuffle}, XOR = {"__shfl_xor_sync", shuffle};
static const Operation UP = {"__shfl_up_sync", shuffle}, DOWN = {"__shfl_down_sync", shuffle};

template <class T>
static T shuffled(const Operation& operation, unsigned mask, T value, unsigned from) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 4 or 8 bytes");
    self->in.wide[0] = 0;
    memcpy(&self->in, &value, sizeof value);
    self->in.words[2] = from;
    memcpy(&value, &exchange(operation, mask).out, sizeof value);
    return value;
}

static unsigned voted(const Operation& operation, unsigned mask, int predicate) {
    self->in.words[0] = predicate != 0;
    return exchange(operation, mask).out.words[0];
}

static void reduce_max(Warp& warp, unsigned mask) {
    unsigned most = 0;
    for (unsigned rest = mask & warp.alive; rest; rest &= rest - 1) {
        const unsigned own = warp.lanes[__builtin_ctz(rest)].in.words[0];
        if (own > most) most = own;
    }
    for (unsigned rest = mask & warp.alive; rest; rest &= rest - 1) warp.lanes[__builtin_ctz(rest)].out.words[0] = most;
}
static void reduce_or(Warp& warp, unsigned mask) {
    unsigned all = 0;
    for (unsigned rest = mask & warp.alive; rest; rest &= rest - 1) all |= warp.lanes[__builtin_ctz(rest)].in.words[0];
    for (unsigned rest = mask & warp.alive; rest; rest &= rest - 1) warp.lanes[__builtin_ctz(rest)].out.words[0] = all;
}
static const Operation REDUCE_OR = {"__reduce_or_sync", reduce_or};
static const Operation REDUCE_MAX = {"__reduce_max_sync", reduce_max};

}  // namespace emulator

static inline void __syncthreads() { emulator::barrier(); }
static inline int __syncthreads_or(int predicate) {
    static bool any;
    emulator::barrier();  // all have read the last answer
    any = false;
    emulator::barrier();
    any = any || predicate;
    emulator::barrier();
    return any;
}
static inline void __syncwarp(unsigned mask = ~0u) { emulator::exchange(emulator::SYNC, mask); }
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return emulator::voted(emulator::BALLOT, mask, predicate);
}
static inline int __any_sync(unsigned mask, int predicate) {
    return emulator::voted(emulator::ANY, mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
    return emulator::voted(emulator::ALL, mask, !predicate) == 0;
}
static inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
    emulator::self->in.words[0] = value;
    return emulator::exchange(emulator::REDUCE_MAX, mask).out.words[0];
}
static inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
    emulator::self->in.words[0] = value;
    return emulator::exchange(emulator::REDUCE_OR, mask).out.words[0];
}
template <class T>
static T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    const unsigned lane = emulator::self->number;
    return emulator::shuffled(emulator::FROM, mask, value, (lane & -width) | (from & (width - 1)));
}
template <class T>
static T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const unsigned lane = emulator::self->number, from = lane ^ bits;
    return emulator::shuffled(emulator::XOR, mask, value, from < (lane & -width) + width ? from : lane);
}
template <class T>
static T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = emulator::self->number;
    return emulator::shuffled(emulator::UP, mask, value, (lane & (width - 1)) >= by ? lane - by : lane);
}
template <class T>
static T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = emulator::self->number;
    const unsigned from = (lane & (width - 1)) + by < unsigned(width) ? lane + by : lane;
    return emulator::shuffled(emulator::DOWN, mask, value, from);
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}
[[noreturn]] static inline void __trap() { emulator::fail("__trap()"); }

// Atomics: one thread runs at a time. CUDA has them for these types alone.

namespace emulator {
template <class T>
struct Same {
    using type = T;
};
template <class T, class... Allowed>
constexpr bool is_one_of = (std::is_same_v<T, Allowed> || ...);
template <class T>
constexpr bool has_bits = is_one_of<T, int, unsigned, unsigned long long>;
}  // namespace emulator

#define EMULATED_ATOMIC(name, allowed, result)                               \
    template <class T>                                                       \
    static T name(T* address, typename emulator::Same<T>::type value) {      \
        static_assert(allowed, #name " has no overload for this type");      \
        const T old = *address;                                              \
        *address = result;                                                   \
        return old;                                                          \
    }
EMULATED_ATOMIC(atomicAdd, emulator::has_bits<T> || std::is_floating_point_v<T>, old + value)
EMULATED_ATOMIC(atomicSub, (emulator::is_one_of<T, int, unsigned>), old - value)
EMULATED_ATOMIC(atomicMin, emulator::has_bits<T> || (std::is_same_v<T, long long>), value < old ? value : old)
EMULATED_ATOMIC(atomicMax, emulator::has_bits<T> || (std::is_same_v<T, long long>), value > old ? value : old)
EMULATED_ATOMIC(atomicAnd, emulator::has_bits<T>, old & value)
EMULATED_ATOMIC(atomicOr, emulator::has_bits<T>, old | value)
EMULATED_ATOMIC(atomicXor, emulator::has_bits<T>, old ^ value)
EMULATED_ATOMIC(atomicExch, emulator::has_bits<T> || (std::is_same_v<T, float>), value)
#undef EMULATED_ATOMIC
template <class T>
static T atomicCAS(T* address, typename emulator::Same<T>::type compare, typename emulator::Same<T>::type value) {
    static_assert(emulator::has_bits<T>, "atomicCAS has no overload for this type");
    const T old = *address;
    if (old == compare) *address = value;
    return old;
}

// Integers, bits, and mathematics beyond <math.h>.

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
static inline unsigned __brev(unsigned x) {
    unsigned result = 0;
    for (int bit = 0; bit < 32; bit++) result |= (x >> bit & 1) << (31 - bit);
    return result;
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const unsigned long long both = static_cast<unsigned long long>(y) << 32 | x;
    unsigned result = 0;
    for (int k = 0; k < 4; k++) result |= (both >> 8 * (selector >> 4 * k & 7) & 255) << 8 * k;
    return result;
}
static inline long long __mul64hi(long long a, long long b) { return static_cast<__int128>(a) * b >> 64; }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned __int128>(a) * b >> 64;
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<uint64_t>(a) * b >> 32; }
static inline int __dp4a(int a, int b, int sum) {
    for (int k = 0; k < 4; k++) sum += static_cast<int8_t>(a >> 8 * k) * static_cast<int8_t>(b >> 8 * k);
    return sum;
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned sum) {
    for (int k = 0; k < 4; k++) sum += (a >> 8 * k & 255) * (b >> 8 * k & 255);
    return sum;
}
template <class T>
static T __ldg(const T* address) {
    return *address;
}

namespace emulator {
template <class To, class From>
static To bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}
}  // namespace emulator
static inline int __float_as_int(float x) { return emulator::bits<int>(x); }
static inline float __int_as_float(int x) { return emulator::bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return emulator::bits<unsigned>(x); }
static inline float __uint_as_float(unsigned x) { return emulator::bits<float>(x); }
static inline long long __double_as_longlong(double x) { return emulator::bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return emulator::bits<double>(x); }

template <class A, class B>
static std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return fmin(T(a), T(b));
    return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
static std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return fmax(T(a), T(b));
    return T(a) < T(b) ? T(b) : T(a);
}
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }

#include "launch.h"
