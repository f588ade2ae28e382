// Singular values of small matrices; one object serves many matrices of the same shape.
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

private:
    static constexpr int kMostRounds = 40;  // of rotations; 5 to 8 are usual

    static std::int64_t round_up(std::int64_t value, std::int64_t step) {
        return (value + step - 1) / step * step;
    }
    void load(const double* matrix, double scale);

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

inline const std::vector<double>& Spectrum::operator()(const double* matrix) {
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
        return values_;
    }
    int exponent = 0;
    std::frexp(largest, &exponent);  // squares of the scaled matrix neither overflow nor vanish
    load(matrix, std::ldexp(1.0, -exponent));
    use_.triangle(vectors_.data(), number_, length_, triangle_.data(), stride_);
    for (int i = 0; i < kMostRounds; ++i)
        if (use_.rotate_all(triangle_.data(), number_, stride_)) break;
    for (std::int64_t i = 0; i < number_; ++i) {
        const double* row = triangle_.data() + i * stride_;
        double square = 0;
        for (std::int64_t j = 0; j < number_; ++j) square += row[j] * row[j];
        values_[i] = std::ldexp(std::sqrt(square), exponent);
    }
    std::sort(values_.begin(), values_.end(), std::greater<>());
    return values_;
}

inline const std::vector<double>& Spectrum::nonzero(const double* matrix, double norm_mean) {
    (*this)(matrix);
    const double cutoff = rank_cutoff(std::max(rows_, cols_)) * std::max(values_[0], norm_mean);
    for (double& value : values_)
        if (value <= cutoff) value = 0;
    return values_;
}

inline void Spectrum::load(const double* matrix, double scale) {
    const bool wide = rows_ <= cols_;
    for (std::int64_t i = 0; i < number_; ++i)
        for (std::int64_t j = 0; j < length_; ++j)
            vectors_[i * length_ + j] = scale * matrix[wide ? i * cols_ + j : j * cols_ + i];
}

}  // namespace ncfast
