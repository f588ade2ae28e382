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

// Computes the products of kLeft columns of one panel with all columns of another.
inline __attribute__((always_inline)) void gram_tile(const double* left, const double* right,
                                                     std::int64_t depth, VecD (&sums)[kLeft][2]) {
    constexpr int kWidth = kPanel<double>;
    for (auto& row : sums) row[0] = row[1] = VecD{};
    for (std::int64_t d = 0; d < depth; ++d) {
        const VecD low = load(right + d * kWidth);
        const VecD high = load(right + d * kWidth + kLanes<double>);
#pragma GCC unroll 8
        for (int r = 0; r < kLeft; ++r) {
            const double value = left[d * kWidth + r];
            sums[r][0] += low * value;
            sums[r][1] += high * value;
        }
    }
}

// Adds the products of panel `right` with each panel up to it to total (cols, cols).
void add_gram(const double* panels, std::int64_t depth, std::int64_t right, double* total,
              std::int64_t cols) {
    constexpr int kWidth = kPanel<double>;
    const std::int64_t col = right * kWidth, width = least(kWidth, cols - col);
    VecD sums[kLeft][2];
    for (std::int64_t row = 0; row < least(col + kWidth, cols); row += kLeft) {
        const double* left = panels + row / kWidth * kWidth * depth + row % kWidth;
        gram_tile(left, panels + col * depth, depth, sums);
        for (int r = 0; r < least(kLeft, cols - row); ++r) {
            double* to = total + (row + r) * cols + col;
            if (width == kWidth) {
                store(to, load(to) + sums[r][0]);
                store(to + kLanes<double>, load(to + kLanes<double>) + sums[r][1]);
            } else {
                double line[kWidth];
                std::memcpy(line, sums[r], sizeof(line));
                for (int k = 0; k < width; ++k) to[k] += line[k];
            }
        }
    }
}

}  // namespace NCFAST_ISA
}  // namespace ncfast
