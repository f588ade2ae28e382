// The kernels for AVX2 with FMA and F16C.
#if defined(__x86_64__)
#define NCFAST_ISA avx2
#define NCFAST_VECTOR_BYTES 32

// System headers come before the change of target: any CPU must be able to run their functions.
#include "core/types.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#include "core/instantiate.h"

NCFAST_KERNELS(kernels_avx2, "avx2");

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // __x86_64__
