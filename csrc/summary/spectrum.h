// Singular values and directions of small matrices; one object serves many matrices of one shape.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "core/isa.h"
#include "core/memory.h"

namespace ncfast {

// Singular values of a matrix of that size count as zero if they are at or below this share of the
// largest one. `rank_cutoff` in ncfast/ops/spectra.py is the same.
inline double rank_cutoff(std::int64_t size) {
    return static_cast<double>(size) * std::numeric_limits<double>::epsilon();
}

// Householder reflections turn the matrix into a triangle; products of its rows would square the
// condition number. One-sided Jacobi rotations make the rows of the triangle orthogonal, and the
// norms of the rows are then the singular values (Demmel & Veselic 1992). LAPACK spends most of its
// time at this size on other things than arithmetic.
class Spectrum {
public:
    Spectrum(std::int64_t rows, std::int64_t cols);

    // Returns min(rows, cols) values, largest first. All are NaN if the matrix is not finite.
    const std::vector<double>& operator()(const double* matrix);

    // The same, but values that count as zero are exactly 0: those at or below the rank cutoff
    // times the largest value, or times `norm_mean`, the mean norm of the features whose means the
    // rows are.
    const std::vector<double>& nonzero(const double* matrix, double norm_mean);

    // The same for at most as many rows as columns. Also writes `directions` (rows, cols): the right
    // singular vectors in the order of the values.
    const std::vector<double>& axes(const double* matrix, double norm_mean, double* directions);

private:
    static constexpr int kMostRounds = 40;  // of rotations; 5 to 8 are usual

    static std::int64_t round_up(std::int64_t value, std::int64_t step) {
        return (value + step - 1) / step * step;
    }
    void load(const double* matrix, double scale);
    // Fills values_, in the order of the rows; false if the matrix is not finite. With `width` above
    // stride_ the rotations are kept in the columns behind the triangle.
    bool decompose(const double* matrix, LineVector<double>& triangle, std::int64_t width);
    const std::vector<double>& without_rounding(double norm_mean);

    const SmallMatrix use_;
    const std::int64_t rows_, cols_, number_, length_, stride_;
    LineVector<double> vectors_;   // (number, length)
    LineVector<double> triangle_;  // (number, stride)
    std::vector<double> values_;
};

inline Spectrum::Spectrum(std::int64_t rows, std::int64_t cols)
    : use_(kernels().small), rows_(rows), cols_(cols), number_(std::min(rows, cols)),
      length_(std::max(rows, cols)), stride_(round_up(number_, use_.lanes)),
      vectors_(number_ * length_), triangle_(number_ * stride_), values_(number_) {}

inline bool Spectrum::decompose(const double* matrix, LineVector<double>& triangle,
                                std::int64_t width) {
    double most[8] = {}, zeros[8] = {};  // eight independent sums: one would wait for itself
    std::int64_t i = 0;
    const auto add = [&](std::int64_t at, int lane) {
        most[lane] = std::max(most[lane], std::abs(matrix[at]));
        zeros[lane] += 0 * matrix[at];  // NaN if the entry is not finite
    };
    for (; i + 8 <= rows_ * cols_; i += 8)
        for (int lane = 0; lane < 8; ++lane) add(i + lane, lane);
    for (; i < rows_ * cols_; ++i) add(i, 0);
    const double nan_if_invalid = std::accumulate(zeros, zeros + 8, 0.0);
    const double largest = *std::max_element(most, most + 8);
    if (std::isnan(nan_if_invalid)) {
        std::fill(values_.begin(), values_.end(), nan_if_invalid);
        return false;
    }
    int exponent = 0;
    std::frexp(largest, &exponent);  // squares of the scaled matrix neither overflow nor vanish
    load(matrix, std::ldexp(1.0, -exponent));
    use_.triangle(vectors_.data(), number_, length_, triangle.data(), width);
    for (std::int64_t i = 0; width > stride_ && i < number_; ++i)
        triangle[i * width + stride_ + i] = 1;
    for (int i = 0; i < kMostRounds; ++i)
        if (use_.rotate_all(triangle.data(), number_, stride_, width)) break;
    for (std::int64_t i = 0; i < number_; ++i) {
        const double* row = triangle.data() + i * width;
        double square = 0;
        for (std::int64_t j = 0; j < number_; ++j) square += row[j] * row[j];
        values_[i] = std::ldexp(std::sqrt(square), exponent);
    }
    return true;
}

inline const std::vector<double>& Spectrum::operator()(const double* matrix) {
    if (decompose(matrix, triangle_, stride_))
        std::sort(values_.begin(), values_.end(), std::greater<>());
    return values_;
}

inline const std::vector<double>& Spectrum::without_rounding(double norm_mean) {
    const double cutoff = rank_cutoff(std::max(rows_, cols_)) * std::max(values_[0], norm_mean);
    for (double& value : values_)
        if (value <= cutoff) value = 0;
    return values_;
}

inline const std::vector<double>& Spectrum::nonzero(const double* matrix, double norm_mean) {
    (*this)(matrix);
    return without_rounding(norm_mean);
}

// With matrix = R^T Q and J R orthogonal rows for the rotations J, the directions are J Q.
inline const std::vector<double>& Spectrum::axes(const double* matrix, double norm_mean,
                                                 double* directions) {
    const std::int64_t width = 2 * stride_;
    LineVector<double> rotated(static_cast<std::size_t>(number_ * width));
    if (!decompose(matrix, rotated, width)) {
        std::fill_n(directions, number_ * length_, values_[0]);
        return values_;
    }
    std::vector<std::int64_t> order(static_cast<std::size_t>(number_));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return values_[a] > values_[b];
    });
    for (std::int64_t r = 0; r < number_; ++r) {
        double* row = directions + r * length_;
        std::fill_n(row, length_, 0.0);
        std::copy_n(rotated.data() + order[r] * width + stride_, number_, row);
    }
    use_.reflect_back(vectors_.data(), number_, length_, directions);
    std::sort(values_.begin(), values_.end(), std::greater<>());
    return without_rounding(norm_mean);
}

inline void Spectrum::load(const double* matrix, double scale) {
    const bool wide = rows_ <= cols_;
    for (std::int64_t i = 0; i < number_; ++i)
        for (std::int64_t j = 0; j < length_; ++j)
            vectors_[i * length_ + j] = scale * matrix[wide ? i * cols_ + j : j * cols_ + i];
}

}  // namespace ncfast
