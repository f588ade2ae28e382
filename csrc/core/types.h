// Plain types that all files share; none depends on an instruction set.
//
// The includes are the system headers of the kernels. A header with templates of the standard library
// must not be among them: the linker keeps one copy of a template's function, and that copy might be
// compiled for AVX-512.
#pragma once

#include <cfloat>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ncfast {

enum class Dtype : int { f32, f64, bf16, f16 };
enum class LabelType : int { i8, i16, i32, i64, u8 };

// Types of 16 bits in memory; the kernels widen them to float as they load.
struct Bf16 {
    std::uint16_t bits;
};
struct F16 {
    std::uint16_t bits;
};

// A row-major matrix with adjacent columns. The stride of the rows is arbitrary, also negative.
struct Matrix {
    const void* data;
    Dtype dtype;
    std::int64_t rows;
    std::int64_t cols;
    std::int64_t stride;  // in elements
};

struct Labels {
    const void* data;
    LabelType type;
    std::int64_t stride;
};

// Calls f with the labels as integers of their own type.
template <class F>
auto visit(const Labels& labels, F f) {
    switch (labels.type) {
        case LabelType::i8: return f(static_cast<const std::int8_t*>(labels.data));
        case LabelType::i16: return f(static_cast<const std::int16_t*>(labels.data));
        case LabelType::i32: return f(static_cast<const std::int32_t*>(labels.data));
        case LabelType::u8: return f(static_cast<const std::uint8_t*>(labels.data));
        default: return f(static_cast<const std::int64_t*>(labels.data));
    }
}

// The moments of one class so far. `mean` has `cols` entries, which are not read while count is 0.
struct ClassState {
    std::int64_t count;
    double within_ss;
    double* mean;
};

// The sum and the maximum of the norms of rows.
struct Norms {
    double sum = 0;
    double max = 0;
};

inline std::size_t size_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::f64: return 8;
        case Dtype::f32: return 4;
        default: return 2;
    }
}

}  // namespace ncfast
