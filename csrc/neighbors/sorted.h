// Counts in one dimension: by bisection of the sorted values.
#pragma once

#include <algorithm>
#include <vector>

#include "neighbors/exact.h"

namespace ncfast {

class SortedValues {
public:
    explicit SortedValues(std::vector<double> values) : values_(std::move(values)) {
        for (double& value : values_) value = ordered(value);
        std::sort(values_.begin(), values_.end());
    }

    // Values of a score up to `limit` around x, which is one of them and counts. Rounding is
    // monotone: so is the score on either side of x.
    std::int64_t count(double x, double limit, bool linf) const {
        const auto inside = [=](double y) { return exact_score(&x, &y, 0, 1, linf) <= limit; };
        const auto middle = std::lower_bound(values_.begin(), values_.end(), x);
        const auto low = std::partition_point(values_.begin(), middle,
                                              [&](double y) { return !inside(y); });
        const auto high = std::partition_point(middle, values_.end(), inside);
        return high - low;
    }

private:
    std::vector<double> values_;
};

}  // namespace ncfast
