// A class whose only row so far is this one: a copy and a norm, the common case if K is near N.
#pragma once

#include "moments/item.h"

namespace ncfast {
namespace NCFAST_ISA {

template <class T>
inline void add_single(const Item<T>& item, ClassState& state, Norms& norms) {
    constexpr int kStep = kLanes<Compute<T>>;
    const T* x = item.row(0, 0);
    const T* ahead = item.row(least(item.lookahead, item.rows_end - item.rows - 1), 0);
    VecD norm_ss = {}, deviation = {};
    for (std::int64_t d = 0; d < item.cols; d += kStep) {
        prefetch(ahead + d);
        VecD values[2];
        const int parts = as_doubles(load_most(x + d, item.cols - d), values);
        for (int i = 0; i < parts; ++i) {
            norm_ss += values[i] * values[i];
            deviation += values[i] - values[i];  // zero, or NaN if the feature is not finite
        }
        const std::int64_t width = least(kStep, item.cols - d);
        std::memcpy(state.mean + d, values, static_cast<std::size_t>(width) * sizeof(double));
    }
    const double norm = __builtin_sqrt(sum_lanes(norm_ss));
    norms.sum += norm;
    norms.max = norm > norms.max ? norm : norms.max;
    state.count = 1;
    state.within_ss += sum_lanes(deviation);
}

}  // namespace NCFAST_ISA
}  // namespace ncfast
