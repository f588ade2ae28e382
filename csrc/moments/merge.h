// Two parts of a class into one (Chan, Golub & LeVeque 1983).
#pragma once

#include <algorithm>

#include "core/types.h"

namespace ncfast {

inline void merge(ClassState& into, const ClassState& from, std::int64_t cols) {
    const auto total = static_cast<double>(into.count + from.count);
    const double share = static_cast<double>(from.count) / total;
    if (into.count == 0) {
        std::copy(from.mean, from.mean + cols, into.mean);
        into.within_ss = from.within_ss;
    } else {
        double delta_ss = 0;
        for (std::int64_t d = 0; d < cols; ++d) {
            const double delta = from.mean[d] - into.mean[d];
            delta_ss += delta * delta;
            into.mean[d] += delta * share;
        }
        into.within_ss += from.within_ss + static_cast<double>(into.count) * share * delta_ss;
    }
    into.count += from.count;
}

}  // namespace ncfast
