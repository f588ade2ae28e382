// Kernels over the deviations of rows from a mean, in double: projections, the scatter matrix,
// distances and decisions.
#pragma once

#include "moments/segment.h"
#include "products/products.h"
#include "products/second_pass.h"

namespace ncfast {
namespace NCFAST_ISA {

// Writes x - mean in double.
template <class T>
inline void deviations(const T* x, const double* mean, std::int64_t cols, double* out) {
    constexpr int kParts = Doubles<T>::kParts, kStep = kParts * kLanes<double>;
    VecD values[kParts];
    std::int64_t col = 0;
    for (; col + kStep <= cols; col += kStep) {
        Doubles<T>::load_from(x + col, values);
        for (int p = 0; p < kParts; ++p) {
            const std::int64_t at = col + p * kLanes<double>;
            store(out + at, values[p] - load(mean + at));
        }
    }
    if (col == cols) return;
    const auto left = static_cast<std::size_t>(cols - col);
    double last[kStep], own[kStep] = {};
    Doubles<T>::load_part_from(x + col, static_cast<int>(left), values);
    std::memcpy(own, mean + col, left * sizeof(double));
    for (int p = 0; p < kParts; ++p)
        store(last + p * kLanes<double>, values[p] - load(own + p * kLanes<double>));
    std::memcpy(out + col, last, left * sizeof(double));
}

// Adds <deviation, vector>^2 over R rows to the sum of each of V vectors.
template <int R, int V>
inline void dots(const double* deviation, const double* vectors, std::int64_t cols, double* sums) {
    constexpr int kStep = kLanes<double>;
    VecD total[R][V] = {};
    const auto step = [&](auto load_from, std::int64_t d) __attribute__((always_inline)) {
        VecD row[R];
        for (int r = 0; r < R; ++r) row[r] = load_from(deviation + r * cols + d);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            const VecD vector = load_from(vectors + v * cols + d);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) total[r][v] += row[r] * vector;
        }
    };
    std::int64_t d = 0;
    for (; d + kStep <= cols; d += kStep)
        step([](const double* x) __attribute__((always_inline)) { return load(x); }, d);
    if (d < cols) {
        const int left = static_cast<int>(cols - d);
        step([left](const double* x) __attribute__((always_inline)) { return load_part(x, left); },
             d);
    }
    for (int v = 0; v < V; ++v)
        for (int r = 0; r < R; ++r) {
            const double dot = sum_lanes(total[r][v]);
            sums[v] += dot * dot;
        }
}

template <int R>
inline void all_dots(const double* deviation, const double* vectors, std::int64_t num_vectors,
                     std::int64_t cols, double* sums) {
    std::int64_t v = 0;
    for (; v + 4 <= num_vectors; v += 4) dots<R, 4>(deviation, vectors + v * cols, cols, sums + v);
    for (; v < num_vectors; ++v) dots<R, 1>(deviation, vectors + v * cols, cols, sums + v);
}

template <class T>
void project(const Run& run, const double* mean, const double* vectors, std::int64_t num_vectors,
             double* buffer, double* sums) {
    const std::int64_t cols = run.matrix.cols;
    const T* data = static_cast<const T*>(run.matrix.data);
    const std::int64_t known = run.rows_end - run.rows;
    for (std::int64_t i = 0; i < run.count; i += kProjectionRows) {
        const int rows = static_cast<int>(least(kProjectionRows, run.count - i));
        for (int r = 0; r < rows; ++r) {
            const std::int64_t next = run.rows[least(i + r + kProjectionRows, known - 1)];
            for (std::int64_t d = 0; d < cols; d += 64 / static_cast<int>(sizeof(T)))
                prefetch(data + next * run.matrix.stride + d);
            deviations(data + run.rows[i + r] * run.matrix.stride, mean, cols, buffer + r * cols);
        }
        if (rows == kProjectionRows) {
            all_dots<kProjectionRows>(buffer, vectors, num_vectors, cols, sums);
        } else {
            for (int r = 0; r < rows; ++r)
                all_dots<1>(buffer + r * cols, vectors, num_vectors, cols, sums);
        }
    }
}

// ---- the scatter matrix, tile by tile ----

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

// ---- the largest affine score of each row ----

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

// Writes <row_k, x - mean of its class> for the rows first .. first + count: scores (count, padded K).
template <class T>
void score(const Matrix& feats, const std::int64_t* labels, const double* means, std::int64_t first,
           std::int64_t count, const RuleView& rule, double* buffer, double* scores) {
    constexpr int kWidth = kPanel<double>;
    const T* data = static_cast<const T*>(feats.data) + first * feats.stride;
    const std::int64_t cols = feats.cols, stride = cols + kPadding;
    const std::int64_t padded = (rule.number + kWidth - 1) / kWidth * kWidth;
    VecD sums[kLeft][2];
    for (std::int64_t i = 0; i < count; i += kLeft) {
        const int rows = static_cast<int>(least(kLeft, count - i));
        for (int r = 0; r < rows; ++r)
            deviations(data + (i + r) * feats.stride, means + labels[first + i + r] * cols, cols,
                       buffer + r * stride);
        const double* left[kLeft];
        left_rows(buffer, stride, 0, rows, left);
        for (std::int64_t k = 0; k < padded; k += kWidth) {
            tile_product<1>(left, rule.panels + k * cols, cols, sums);
            for (int r = 0; r < rows; ++r)
                for (int half = 0; half < 2; ++half)
                    store(scores + (i + r) * padded + k + half * kLanes<double>, sums[r][half]);
        }
    }
}

}  // namespace NCFAST_ISA
}  // namespace ncfast
