// Plain types shared by every translation unit; nothing here depends on an instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ncfast {

enum class Dtype : int { f32, f64, bf16, f16 };
enum class LabelType : int { i8, i16, i32, i64, u8 };

// Storage only: the kernels widen both to float as they load.
struct Bf16 {
    std::uint16_t bits;
};
struct F16 {
    std::uint16_t bits;
};

// A row-major matrix whose columns are adjacent; rows may be any (also negative) stride apart.
struct Matrix {
    const void* data;
    Dtype dtype;
    std::int64_t rows;
    std::int64_t cols;
    std::int64_t stride;  // elements from one row to the next
};

struct Labels {
    const void* data;
    LabelType type;
    std::int64_t stride;
};

// Calls f with the labels as numbers of their own type.
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

// Where one class stands: `mean` has `cols` entries and is unread while count is zero.
struct ClassState {
    std::int64_t count;
    double within_ss;
    double* mean;
};

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
