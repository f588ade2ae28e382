// One batch into the running average of a class mean.
#pragma once

#include "core/kernels.h"
#include "core/simd.h"

namespace ncfast {
namespace NCFAST_ISA {

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

}  // namespace NCFAST_ISA
}  // namespace ncfast
