// The scatter matrix of the deviations from class means, tile by tile, in double; and their norms.
#pragma once

#include "products/products.h"
#include "products/projection.h"

namespace ncfast {
namespace NCFAST_ISA {

// Writes the deviations of `count` rows as panels of columns: panel, then row, then column.
template <class T>
void pack_deviations(const Matrix& feats, const std::int64_t* labels, const double* means,
                     std::int64_t first, std::int64_t count, std::int64_t depth, double* row,
                     double* panels) {
    constexpr int kWidth = kPanel<double>;
    const std::int64_t cols = feats.cols;
    for (std::int64_t i = first; i < first + count; ++i) {
        deviations(static_cast<const T*>(feats.data) + i * feats.stride, means + labels[i] * cols,
                   cols, row);  // the padding of `row` is 0 and stays 0
        for (std::int64_t col = 0; col < cols; col += kWidth)
            std::memcpy(panels + (col * depth + i * kWidth), row + col, kWidth * sizeof(double));
    }
}

// Writes out[i] = |x_i - mean of its class|.
template <class T>
void distances(const Matrix& feats, const std::int64_t* labels, const double* means,
               std::int64_t first, std::int64_t count, double* row, double* out) {
    for (std::int64_t i = first; i < first + count; ++i) {
        deviations(static_cast<const T*>(feats.data) + i * feats.stride,
                   means + labels[i] * feats.cols, feats.cols, row);
        out[i] = __builtin_sqrt(dot(row, row, feats.cols));
    }
}

// Adds the products of panel `right` with each panel up to it to total[left][right].
void add_gram(const double* panels, std::int64_t depth, std::int64_t right, double* total,
              std::int64_t stride) {
    constexpr int kWidth = kPanel<double>;
    VecD sums[kLeft][2];
    for (std::int64_t col = 0; col < (right + 1) * kWidth; col += kLeft) {
        const double* left[kLeft];
        const double* panel = panels + col / kWidth * kWidth * depth + col % kWidth;
        for (int r = 0; r < kLeft; ++r) left[r] = panel + r;
        tile_product<kWidth>(left, panels + right * kWidth * depth, depth, sums);
        for (int r = 0; r < kLeft; ++r) {
            double* to = total + (col + r) * stride + right * kWidth;
            store(to, load(to) + sums[r][0]);
            store(to + kLanes<double>, load(to + kLanes<double>) + sums[r][1]);
        }
    }
}

}  // namespace NCFAST_ISA
}  // namespace ncfast
