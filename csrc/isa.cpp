#include "isa.h"

#include <atomic>
#include <cstring>

namespace ncfast {

extern const Kernels kernels_base;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

std::vector<const Kernels*> usable_kernels() {
    std::vector<const Kernels*> usable;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx2 && avx512) usable.push_back(&kernels_avx512);
    if (avx2) usable.push_back(&kernels_avx2);
#endif
    usable.push_back(&kernels_base);
    return usable;
}

static std::atomic<const Kernels*>& chosen() {
    static std::atomic<const Kernels*> current{usable_kernels().front()};
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
