#include "summary/spectrum.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "core/isa.h"

namespace ncfast {
namespace {

constexpr int kMostSweeps = 40;  // 5 to 8 are usual

std::int64_t round_up(std::int64_t value, std::int64_t step) {
    return (value + step - 1) / step * step;
}

}  // namespace

Spectrum::Spectrum(std::int64_t rows, std::int64_t cols)
    : use_(kernels().small), rows_(rows), cols_(cols), number_(std::min(rows, cols)),
      length_(std::max(rows, cols)), stride_(round_up(number_, use_.lanes)),
      vectors_(number_ * length_), triangle_(number_ * stride_), values_(number_) {}

const std::vector<double>& Spectrum::operator()(const double* matrix) {
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
        if (use_.sweep(triangle_.data(), number_, stride_)) break;
    for (std::int64_t i = 0; i < number_; ++i) {
        const double* row = triangle_.data() + i * stride_;
        double square = 0;
        for (std::int64_t j = 0; j < number_; ++j) square += row[j] * row[j];
        values_[i] = std::ldexp(std::sqrt(square), exponent);
    }
    std::sort(values_.begin(), values_.end(), std::greater<>());
    return values_;
}

const std::vector<double>& Spectrum::nonzero(const double* matrix, double norm_mean) {
    (*this)(matrix);
    const double cutoff = rank_cutoff(std::max(rows_, cols_)) * std::max(values_[0], norm_mean);
    for (double& value : values_)
        if (value <= cutoff) value = 0;
    return values_;
}

void Spectrum::load(const double* matrix, double scale) {
    const bool wide = rows_ <= cols_;
    for (std::int64_t i = 0; i < number_; ++i)
        for (std::int64_t j = 0; j < length_; ++j)
            vectors_[i * length_ + j] = scale * matrix[wide ? i * cols_ + j : j * cols_ + i];
}

}  // namespace ncfast
