// The kernels for the compiler's default target: SSE2 on x86-64, NEON on aarch64.
#define NCFAST_ISA base
#define NCFAST_VECTOR_BYTES 16

#include "core/instantiate.h"

#if defined(__aarch64__)
NCFAST_KERNELS(kernels_base, "neon");
#else
NCFAST_KERNELS(kernels_base, "baseline");
#endif
