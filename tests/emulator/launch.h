// How Python launches a kernel: EMULATE(name), appended to the source for each, makes name_parameters and name_launch.
#pragma once

extern "C" __attribute__((visibility("hidden"))) unsigned char __start_shared_memory[], __stop_shared_memory[];

namespace emulator {

__attribute__((used)) __shared__ unsigned char anchor[16];  // so that the section is there
constexpr size_t FENCE = 256;  // bytes behind the dynamic memory that no thread may change

template <class T>
static void describe(char*& text) {
    using Pointee = std::remove_cv_t<std::remove_pointer_t<T>>;
    const char kind = std::is_pointer_v<T>            ? (std::is_floating_point_v<Pointee> ? 'P' : 'p')
                      : std::is_floating_point_v<T>   ? 'f'
                      : std::is_same_v<T, bool>       ? 'b'
                      : std::is_integral_v<T>         ? (std::is_signed_v<T> ? 'i' : 'u')
                                                      : 'V';
    size_t size = sizeof(T);
    if constexpr (std::is_floating_point_v<Pointee>) size = sizeof(Pointee);
    text += sprintf(text, "%c%zu ", kind, size);
}

template <class... P>
static const char* parameters(void (*)(P...)) {
    static char text[2000];
    char* end = text;
    *end = 0;
    (describe<std::remove_cv_t<P>>(end), ...);
    return text;
}

template <class... P, size_t... I>
static void call(void (*kernel)(P...), void** values, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_cv_t<P>*>(values[I])...);
}
template <class... P>
static void call(void (*kernel)(P...), void** values) {
    call(kernel, values, std::index_sequence_for<P...>());
}

static const char* complain() {
    static char text[1200];
    snprintf(text, sizeof text, "%s, in block (%u, %u, %u)", message, blockIdx.x, blockIdx.y, blockIdx.z);
    return text;
}

static const char* run_grid(size_t shared) {
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    message[0] = 0;
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
                reversed = (blockIdx.x + blockIdx.y + blockIdx.z) % 2;
#ifndef __SANITIZE_ADDRESS__
                memset(__start_shared_memory, POISON, __stop_shared_memory - __start_shared_memory);
                memset(dynamic_memory + shared, POISON, FENCE);
#endif
                memset(dynamic_memory, POISON, shared);
                run_block(threads, blockDim);
                if (message[0]) return complain();
#ifndef __SANITIZE_ADDRESS__
                for (size_t k = 0; k < FENCE; k++)
                    if (dynamic_memory[shared + k] != POISON) {
                        snprintf(message, sizeof message, "wrote byte %zu of %zu bytes of dynamic shared memory",
                                 shared + k, shared);
                        return complain();
                    }
#endif
            }
    return nullptr;
}

// Null, or what went wrong. `region` keeps the stacks of fibers, which all modules share.
static const char* launch(void (*thread)(void**), void** values, const unsigned* sizes, size_t shared, void** region,
                          bool flush) {
    if (!*region) *region = make_stacks();
    stacks = static_cast<unsigned char*>(*region);
    body = thread, arguments = values;
    gridDim = {sizes[0], sizes[1], sizes[2]}, blockDim = {sizes[3], sizes[4], sizes[5]};
#ifdef __SANITIZE_ADDRESS__
    void* memory = nullptr;
    if (posix_memalign(&memory, 1024, shared ? shared : 1)) return "no memory";
#else
    void* memory = aligned_alloc(1024, (shared + FENCE + 1023) / 1024 * 1024);
#endif
    dynamic_memory = static_cast<unsigned char*>(memory);
#ifdef __x86_64__
    const unsigned modes = __builtin_ia32_stmxcsr();
    if (flush) __builtin_ia32_ldmxcsr(modes | 0x8040);
    const char* problem = run_grid(shared);
    __builtin_ia32_ldmxcsr(modes);
#else
    const char* problem = flush ? "only x86-64 can flush subnormals" : run_grid(shared);
#endif
    free(memory);
    return problem;
}

struct Location {
    const char* file;
    unsigned line, column;
};

}  // namespace emulator

#define EMULATE(name)                                                                                               \
    extern "C" __attribute__((visibility("default"))) const char* name##_parameters() {                             \
        return emulator::parameters(name);                                                                          \
    }                                                                                                               \
    extern "C" __attribute__((visibility("default"))) const char* name##_launch(                                    \
        void** values, const unsigned* sizes, size_t shared, void** region, int flush) {                            \
        return emulator::launch([](void** all) { emulator::call(name, all); }, values, sizes, shared, region, flush); \
    }

// What g++ calls when one of the checks that it compiled in fails (-fsanitize=...), here without its run-time library.
#define EMULATED_CHECK(name, what)                                                                        \
    extern "C" __attribute__((visibility("hidden"), noreturn)) void __ubsan_handle_##name##_abort(        \
        const emulator::Location* at, ...) {                                                              \
        emulator::fail("%s:%u: " what, at->file, at->line);                                               \
    }
EMULATED_CHECK(out_of_bounds, "an index lies outside of its array")
EMULATED_CHECK(shift_out_of_bounds, "a shift by more bits than there are")
EMULATED_CHECK(float_cast_overflow, "a float was converted to an integer type that cannot hold it")
#undef EMULATED_CHECK
extern "C" __attribute__((visibility("hidden"), noreturn)) void __ubsan_handle_type_mismatch_v1_abort(
    const emulator::Location* at, const void* address) {
    emulator::fail("%s:%u: %s %p", at->file, at->line, address ? "misaligned address" : "null pointer", address);
}
