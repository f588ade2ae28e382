// The kernels for AVX-512 with F, BW, VL and DQ.
#if defined(__x86_64__)
#define NCFAST_ISA avx512
#define NCFAST_VECTOR_BYTES 64

// System headers come before the change of target: any CPU must be able to run their functions.
#include "core/types.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#endif

#include "core/instantiate.h"

NCFAST_KERNELS(kernels_avx512, "avx512");

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // __x86_64__
