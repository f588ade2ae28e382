// Singular values of small matrices, many of the same shape one after another.
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

// Values of a spectrum at or below this share of the largest count as zero, for a matrix of that
// size; `rank_cutoff` in ncfast/ops/spectra.py is the same.
inline double rank_cutoff(std::int64_t size) {
    return static_cast<double>(size) * std::numeric_limits<double>::epsilon();
}

// Householder reflections turn the matrix into a triangle (products of its rows would square the
// condition number); one-sided Jacobi rotations make the rows of the triangle orthogonal, and their
// norms are the singular values (Demmel & Veselic 1992). At this size most of what LAPACK takes is
// not arithmetic.
class Spectrum {
public:
    Spectrum(std::int64_t rows, std::int64_t cols);

    // min(rows, cols) values, largest first; NaN throughout for a matrix that is not finite.
    const std::vector<double>& operator()(const double* matrix);

    // The same with zeros made exact: values at or below rank_cutoff(max(rows, cols)) times the
    // largest value, or times the mean norm of the features that the rows are means of.
    const std::vector<double>& nonzero(const double* matrix, double norm_mean);

private:
    static constexpr int kMostSweeps = 40;  // 5 to 8 are usual

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
    double most[8] = {}, poisons[8] = {};  // one after another they would wait for each other
    std::int64_t i = 0;
    const auto add = [&](std::int64_t at, int lane) {
        most[lane] = std::max(most[lane], std::abs(matrix[at]));
        poisons[lane] += 0 * matrix[at];
    };
    for (; i + 8 <= rows_ * cols_; i += 8)
        for (int lane = 0; lane < 8; ++lane) add(i + lane, lane);
    for (; i < rows_ * cols_; ++i) add(i, 0);
    const double poison = std::accumulate(poisons, poisons + 8, 0.0);
    const double largest = *std::max_element(most, most + 8);
    if (std::isnan(poison)) {
        std::fill(values_.begin(), values_.end(), poison);
        return values_;
    }
    int exponent = 0;
    std::frexp(largest, &exponent);  // no square of the scaled matrix overflows or vanishes
    load(matrix, std::ldexp(1.0, -exponent));
    use_.triangle(vectors_.data(), number_, length_, triangle_.data(), stride_);
    for (int i = 0; i < kMostSweeps; ++i)
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
