// Runs the blocks of a kernel on one processor: each thread of a block is a fiber, which runs until it waits.
//
// A block's fibers wait at barriers (for all living threads of the block) and at warp operations (for the lanes that a
// mask names). A lane deposits its input; the lane that arrives last evaluates the operation for all of them and runs on.
// Whatever a GPU would hang at or leave undefined ends the launch with a message: fail() gives up all fibers.
#pragma once
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace emulator {

constexpr size_t STACK = 256 << 10, GUARD = 4096, LARGEST_BLOCK = 1024;
constexpr unsigned char POISON = 0xA5;

struct Warp;
struct Operation {
    const char* name;
    void (*evaluate)(Warp&, unsigned mask);
};
struct Copy {
    void* to;
    const void* from;
    unsigned bytes;
};
struct Product {
    int* sums;
    const void* rows;
    const void* columns;
};
struct Lane {
#ifdef __x86_64__
    void* context;
#else
    ucontext_t context;
#endif
    Warp* warp;
    uint3 index;
    unsigned number;             // within its warp
    const Operation* operation;  // at which it waits, with the mask it named
    unsigned mask;
    union {
        uint64_t wide[2];
        uint32_t words[12];
        const void* address;
    } in;
    union {
        uint64_t wide;
        uint32_t words[4];
    } out;
    Copy* copies;  // begun and not yet done, oldest first; `ends` holds the ends of groups
    int begun, room, groups, ends[64];
    const void* gate;      // at which it waits, or null
    Product products[64];  // likewise
    int multiplied, product_groups, product_ends[8];
};
struct Warp {
    unsigned number, alive, ready, waiting, barrier;  // bits of lanes
    Lane lanes[32];
};

static Warp warps[LARGEST_BLOCK / 32];
static Lane* self;
static Lane host;  // its context is that of launch()
static unsigned ready_warps, living, at_barrier;
static bool reversed;  // every other block runs its threads from the last to the first
static unsigned char *stacks, *dynamic_memory;
static void (*body)(void**);
static void** arguments;
static char message[1000];

#ifdef __x86_64__
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(void** from, void* to);
asm(R"(
    .text
    .hidden emulator_switch
    .globl emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, .-emulator_switch
)");
static void enter(Lane& from, Lane& to) {
    self = &to;
    emulator_switch(&from.context, to.context);
}
static void prepare(Lane& lane, unsigned char* top, void (*entry)()) {
    void** frame = reinterpret_cast<void**>(top) - 8;  // six registers, the entry, and where a return address would be
    memset(frame, 0, 64);
    frame[6] = reinterpret_cast<void*>(entry);
    lane.context = frame;
}
#else
static void enter(Lane& from, Lane& to) {
    self = &to;
    swapcontext(&from.context, &to.context);
}
static void prepare(Lane& lane, unsigned char* top, void (*entry)()) {
    getcontext(&lane.context);
    lane.context.uc_link = nullptr;
    lane.context.uc_stack.ss_sp = top - STACK / 2;
    lane.context.uc_stack.ss_size = STACK / 2;
    makecontext(&lane.context, entry, 0);
}
#endif

[[noreturn]] static void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    const int length = vsnprintf(message, 800, format, values);
    va_end(values);
    const uint3 at = self->index;
    snprintf(message + (length < 800 ? length : 799), 100, ", thread (%u, %u, %u)", at.x, at.y, at.z);
    enter(*self, host);
    abort();
}

static unsigned first(unsigned bits) { return reversed ? 31 - __builtin_clz(bits) : __builtin_ctz(bits); }

static void make_ready(Warp& warp, unsigned lanes) {
    if (!lanes) return;
    warp.ready |= lanes;
    ready_warps |= 1u << warp.number;
}

static const char* state(const Warp& warp, unsigned lane) {
    return warp.barrier >> lane & 1 ? "__syncthreads" : warp.lanes[lane].operation->name;
}

[[noreturn]] static void deadlock() {
    for (const Warp& warp : warps) {
        const unsigned stuck = warp.waiting | warp.barrier;
        if (!warp.waiting) continue;
        const unsigned a = __builtin_ctz(warp.waiting);
        for (unsigned b = 0; b < 32; b++)
            if (stuck >> b & 1 && strcmp(state(warp, a), state(warp, b)))
                fail("deadlock: in warp %u lane %u waits at %s, lane %u at %s", warp.number, a, state(warp, a), b,
                     state(warp, b));
        fail("deadlock: in warp %u lane %u waits at %s for lanes 0x%08x, but only 0x%08x came", warp.number, a,
             state(warp, a), warp.lanes[a].mask & warp.alive, warp.waiting);
    }
    for (const Warp& warp : warps)
        for (unsigned lane = 0; lane < 32; lane++)
            if (warp.alive >> lane & 1 && warp.lanes[lane].gate)
                fail("deadlock: in warp %u lane %u waits at a gate", warp.number, lane);
    fail("deadlock: %u of %u threads wait at __syncthreads", at_barrier, living);
}

// Let the lanes go on that wait at a gate.
static void open_gate(const void* gate) {
    for (Warp& warp : warps)
        for (unsigned lane = 0; lane < 32 && warp.alive; lane++)
            if (warp.alive >> lane & 1 && warp.lanes[lane].gate == gate) {
                warp.lanes[lane].gate = nullptr;
                make_ready(warp, 1u << lane);
            }
}

static void suspend() {
    Warp* warp = self->warp;
    if (!warp->ready) {
        if (!ready_warps) {
            if (!living) enter(*self, host);
            deadlock();
        }
        warp = &warps[first(ready_warps)];
    }
    const unsigned lane = first(warp->ready);
    warp->ready &= ~(1u << lane);
    if (!warp->ready) ready_warps &= ~(1u << warp->number);
    enter(*self, warp->lanes[lane]);
}

// Let all threads go on that wait at the barrier; `runs` names the lane of the caller, which is not to be woken.
static void release(const Warp* caller, unsigned runs) {
    at_barrier = 0;
    for (Warp& warp : warps) {
        make_ready(warp, warp.barrier & ~(&warp == caller ? runs : 0));
        warp.barrier = 0;
    }
}

static void barrier() {
    Warp& warp = *self->warp;
    const unsigned bit = 1u << self->number;
    warp.barrier |= bit;
    if (++at_barrier == living)
        release(&warp, bit);
    else
        suspend();
}

static void complete(Warp& warp, const Lane& leader, unsigned runs) {
    const unsigned mask = leader.mask, lanes = mask & warp.alive;
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
        const Lane& lane = warp.lanes[__builtin_ctz(rest)];
        if (lane.operation != leader.operation || lane.mask != mask)
            fail("in warp %u lane %u waits at %s for lanes 0x%08x, lane %u at %s for lanes 0x%08x", warp.number,
                 leader.number, leader.operation->name, mask, lane.number, lane.operation->name, lane.mask);
    }
    leader.operation->evaluate(warp, mask);
    warp.waiting &= ~lanes;
    make_ready(warp, lanes & ~runs);
}

// Wait until all living lanes named by `mask` are here, then evaluate `operation` on what they left in their `in`.
static Lane& exchange(const Operation& operation, unsigned mask) {
    Lane& lane = *self;
    Warp& warp = *lane.warp;
    const unsigned bit = 1u << lane.number;
    if (!(mask & bit))
        fail("lane %u calls %s with mask 0x%08x, which does not name it", lane.number, operation.name, mask);
    lane.operation = &operation;
    lane.mask = mask;
    if (const unsigned others = warp.waiting & mask) {
        const Lane& other = warp.lanes[__builtin_ctz(others)];
        if (other.operation != &operation || other.mask != mask)
            fail("in warp %u lane %u waits at %s for lanes 0x%08x, lane %u at %s for lanes 0x%08x", warp.number,
                 other.number, other.operation->name, other.mask, lane.number, operation.name, mask);
    }
    warp.waiting |= bit;
    if (!(mask & warp.alive & ~warp.waiting))
        complete(warp, lane, bit);
    else
        suspend();
    return lane;
}

static void run_thread() {
    body(arguments);
    Warp& warp = *self->warp;
    warp.alive &= ~(1u << self->number);
    memset(&self->in, POISON, sizeof self->in);
    if (--living && at_barrier == living) release(nullptr, 0);
    for (unsigned rest = warp.waiting; rest; rest &= rest - 1) {
        const Lane& lane = warp.lanes[__builtin_ctz(rest)];
        if (warp.waiting >> lane.number & 1 && !(lane.mask & warp.alive & ~warp.waiting)) complete(warp, lane, 0);
    }
    suspend();
    abort();
}

static void run_block(unsigned threads, dim3 block) {
    living = threads, at_barrier = 0, ready_warps = 0;
    for (unsigned w = 0; w < LARGEST_BLOCK / 32; w++)
        warps[w].number = w, warps[w].alive = warps[w].ready = warps[w].waiting = warps[w].barrier = 0;
    uint3 index = {0, 0, 0};
    for (unsigned thread = 0; thread < (threads + 31) / 32 * 32; thread++) {
        Warp& warp = warps[thread / 32];
        Lane& lane = warp.lanes[thread % 32];
        if (thread >= threads) {
            memset(&lane.in, POISON, sizeof lane.in);
            continue;
        }
        lane.warp = &warp, lane.number = thread % 32, lane.index = index;
        lane.begun = lane.groups = lane.multiplied = lane.product_groups = 0;
        lane.gate = nullptr;
        warp.alive |= 1u << lane.number;
        // Tops of stacks that lie a power of two apart would share few lines of the cache.
        prepare(lane, stacks + (thread + 1) * STACK - thread % 16 * 192, run_thread);
        if (++index.x == block.x) index.x = 0, ++index.y;
        if (index.y == block.y) index.y = 0, ++index.z;
    }
    for (unsigned w = 0; w * 32 < threads; w++) make_ready(warps[w], warps[w].alive);
    self = &host;
    Warp& start = warps[first(ready_warps)];
    const unsigned lane = first(start.ready);
    start.ready &= ~(1u << lane);
    if (!start.ready) ready_warps &= ~(1u << start.number);
    enter(host, start.lanes[lane]);
}

// One region for all modules of a process, with pages between stacks that nobody may touch.
static unsigned char* make_stacks() {
    void* region = mmap(nullptr, LARGEST_BLOCK * STACK, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region == MAP_FAILED) abort();
    for (size_t k = 0; k < LARGEST_BLOCK; k++) mprotect(static_cast<char*>(region) + k * STACK, GUARD, PROT_NONE);
    return static_cast<unsigned char*>(region);
}

}  // namespace emulator
