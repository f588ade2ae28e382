// Chooses among the instruction sets that this CPU can run; compiles the kernels for the compiler's
// default target, which is SSE2 on x86-64 and NEON on aarch64.
#define NCFAST_ISA base
#define NCFAST_VECTOR_BYTES 16

#include "core/instantiate.h"

#include <atomic>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#if defined(__aarch64__)
NCFAST_KERNELS(kernels_base, "neon");
#else
NCFAST_KERNELS(kernels_base, "baseline");
#endif

namespace ncfast {

#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

#if defined(__x86_64__)
// clang before 19 rejects __builtin_cpu_supports("f16c"). F16C uses the registers of AVX, which the
// operating system has enabled if the builtin reports AVX2.
static bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

UsableKernels usable_kernels() {
    UsableKernels usable{};
    const auto add = [&](const Kernels& each) { usable.best_first[usable.number++] = &each; };
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx2 && avx512) add(kernels_avx512);
    if (avx2) add(kernels_avx2);
#endif
    add(kernels_base);
    return usable;
}

static std::atomic<const Kernels*>& chosen() {
    static std::atomic<const Kernels*> current{usable_kernels().best_first[0]};
    return current;
}

const Kernels& kernels() { return *chosen().load(); }

bool use_kernels(const char* name) {
    for (const Kernels* each : usable_kernels()) {
        if (std::strcmp(each->name, name) == 0) {
            chosen().store(each);
            return true;
        }
    }
    return false;
}

}  // namespace ncfast
