// The largest affine score of each row, in double.
#pragma once

#include "products/products.h"
#include "products/projection.h"
#include "products/second_pass.h"

namespace ncfast {
namespace NCFAST_ISA {

// The largest score of a row so far, by lane.
struct LargestScore {
    VecD score = VecD{} - __builtin_inf();
    VecD index = {};
    VecD unusable = {};  // not 0 where a score was NaN

    inline __attribute__((always_inline)) void add(VecD other, std::int64_t first) {
        const auto better = other > score;
        score = better ? other : score;
        index = better ? lanes_from(first) : index;
        unusable = other == other ? unusable : VecD{} + 1.0;
    }
    // The smallest index of the largest score; 0 if a score is NaN.
    std::int64_t first() const {
        if (sum_lanes(unusable) != 0) return 0;
        double most = score[0], at = index[0];
        for (int lane = 1; lane < kLanes<double>; ++lane) {
            const bool tie = score[lane] == most && index[lane] < at;
            if (tie || score[lane] > most) most = score[lane], at = index[lane];
        }
        return static_cast<std::int64_t>(at);
    }
};

// Writes the row of the rule that has the largest score at each of the rows first .. first + count.
template <class T>
void choose(const Matrix& feats, std::int64_t first, std::int64_t count, const RuleView& rule,
            double* buffer, std::int32_t* chosen) {
    constexpr int kWidth = kPanel<double>;
    const T* data = static_cast<const T*>(feats.data) + first * feats.stride;
    const std::int64_t cols = feats.cols, stride = cols + kPadding;
    VecD sums[kLeft][2];
    for (std::int64_t i = 0; i < count; i += kLeft) {
        const int rows = static_cast<int>(least(kLeft, count - i));
        for (int r = 0; r < rows; ++r)
            deviations(data + (i + r) * feats.stride, rule.centre, cols, buffer + r * stride);
        const double* left[kLeft];
        left_rows(buffer, stride, 0, rows, left);
        LargestScore largest[kLeft];
        for (std::int64_t k = 0; k < rule.number; k += kWidth) {
            tile_product<1>(left, rule.panels + k * cols, cols, sums);
            for (int r = 0; r < rows; ++r)
                for (int half = 0; half < 2; ++half) {
                    const std::int64_t at = k + half * kLanes<double>;
                    largest[r].add(sums[r][half] + load(rule.offset + at), at);
                }
        }
        for (int r = 0; r < rows; ++r)
            chosen[i + r] = static_cast<std::int32_t>(largest[r].first());
    }
}

}  // namespace NCFAST_ISA
}  // namespace ncfast
