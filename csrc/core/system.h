// Every system header the kernels use. No templates of the standard library among them: the linker
// keeps one copy of those, and it might be the one compiled for AVX-512.
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
