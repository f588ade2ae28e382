// The system headers of the kernels.
//
// A header with templates of the standard library must not be among them: the linker keeps one copy
// of a template's function, and that copy might be compiled for AVX-512.
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
