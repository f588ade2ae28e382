// Products of packed matrices: the innermost loops of operations that cost N D^2, N K D or K^2 D.
//
// The right operand is stored as panels: kPanel of its rows side by side, one depth after the
// other, padded with zeros. The left operand is read one value at a time from kLeft rows at once,
// so that all sums stay in registers.
#pragma once

#include "core/simd.h"

namespace ncfast {
namespace NCFAST_ISA {

constexpr int kLeft = NCFAST_VECTOR_BYTES == 64 ? 8 : 4;

// Computes total[r], the sum over depth of left[r][depth * Step] * right[depth], for kPanel
// columns.
template <int Step, class C>
inline __attribute__((always_inline)) void tile_product(const C* const (&left)[kLeft],
                                                        const C* right, std::int64_t depth,
                                                        Vec<C> (&total)[kLeft][2]) {
    for (auto& row : total) row[0] = row[1] = Vec<C>{};
    for (std::int64_t d = 0; d < depth; ++d) {
        const Vec<C> low = load(right + d * kPanel<C>);
        const Vec<C> high = load(right + d * kPanel<C> + kLanes<C>);
#pragma GCC unroll 8
        for (int r = 0; r < kLeft; ++r) {
            const C value = left[r][d * Step];
            total[r][0] += low * value;
            total[r][1] += high * value;
        }
    }
}

// Points to the rows first .. first + kLeft of a row-major matrix. The last row stands in for rows
// past the end.
template <class C>
inline void left_rows(const C* data, std::int64_t stride, std::int64_t first, std::int64_t count,
                      const C* (&left)[kLeft]) {
    for (int r = 0; r < kLeft; ++r) left[r] = data + least(first + r, count - 1) * stride;
}

// The numbers first, first + 1 and so on, one a lane.
inline VecD lanes_from(std::int64_t first) {
    VecD index;
    for (int lane = 0; lane < kLanes<double>; ++lane) index[lane] = static_cast<double>(first + lane);
    return index;
}

inline double dot(const double* a, const double* b, std::int64_t cols) {
    VecD total = {};
    for (std::int64_t d = 0; d < cols; d += kLanes<double>)
        total += load_most(a + d, cols - d) * load_most(b + d, cols - d);
    return sum_lanes(total);
}

}  // namespace NCFAST_ISA
}  // namespace ncfast
