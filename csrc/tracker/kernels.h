// The kernels of the tracker: the running average of a class mean, and sums of squares.
#pragma once

#include "core/isa.h"
#include "core/simd.h"

namespace ncfast {
namespace NCFAST_ISA {

// Adds one batch to the running average of a class mean, see MeanStep.
void average_mean(const MeanStep& of, const double* past, double* row, double* running,
                  double* mean) {
    const auto step = [&](std::int64_t d, auto read, auto write) __attribute__((always_inline)) {
        const VecD batch = of.weight * read(mean + d);
        const VecD sum = of.keep * read(running + d) + batch;
        write(row + d, batch);
        write(running + d, sum);
        write(mean + d, (of.share * read(past + d) + sum) * of.scale);
    };
    constexpr int kStep = kLanes<double>;
    std::int64_t d = 0;
    for (; d + kStep <= of.cols; d += kStep)
        step(d, [](const double* x) __attribute__((always_inline)) { return load(x); },
             [](double* x, VecD value) __attribute__((always_inline)) { store(x, value); });
    if (d == of.cols) return;
    const int left = static_cast<int>(of.cols - d);
    step(d, [left](const double* x) __attribute__((always_inline)) { return load_part(x, left); },
         [left](double* x, VecD value) __attribute__((always_inline)) {
             std::memcpy(x, &value, static_cast<std::size_t>(left) * sizeof(double));
         });
}

// The sum of squares in double, in which the square of a float or a narrower number is exact.
template <class T>
double sum_squares(const void* data, std::int64_t count) {
    constexpr int kParts = Doubles<T>::kParts, kSums = 8;
    constexpr std::int64_t kStride = kSums * kLanes<double>;
    const T* x = static_cast<const T*>(data);
    VecD sums[kSums] = {};
    std::int64_t i = 0;
    for (; i + kStride <= count; i += kStride)
        for (int s = 0; s < kSums; s += kParts) {
            VecD values[kParts];
            Doubles<T>::load_from(x + i + s * kLanes<double>, values);
            for (int p = 0; p < kParts; ++p) sums[s + p] += values[p] * values[p];
        }
    for (; i < count; i += kLanes<Compute<T>>) {
        VecD values[2];
        const int parts = as_doubles(load_most(x + i, count - i), values);
        for (int p = 0; p < parts; ++p) sums[p] += values[p] * values[p];
    }
    for (int half = kSums / 2; half > 0; half /= 2)
        for (int s = 0; s < half; ++s) sums[s] += sums[s + half];
    return sum_lanes(sums[0]);
}

}  // namespace NCFAST_ISA
}  // namespace ncfast
