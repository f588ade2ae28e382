// Running averages against the sums that define them, for tests/ops/test_sanitizers.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "tracker/average.h"

namespace ncfast {

struct AverageCase {
    std::int64_t classes, cols, length;
    double decay;
};

// The mean of a class and the largest norm after batch `last`.
inline bool average_agrees(const AverageCase& c, const std::vector<double>& batches,
                           const std::vector<double>& averages, std::int64_t last) {
    const std::int64_t size = c.classes * (c.cols + 2) + 2, end = (last + 1) * size;
    for (std::int64_t k = 0; k < c.classes; ++k)
        for (std::int64_t d = 0; d < c.cols; ++d) {
            double weight = 0, total = 0, largest = 0, sum = 0, ones = 0;
            const std::int64_t first = c.length > 0 ? std::max<std::int64_t>(last + 1 - c.length, 0) : 0;
            for (std::int64_t i = first; i <= last; ++i) {
                const double* batch = batches.data() + i * size;
                const double a = c.length > 0 ? 1 : std::pow(c.decay, static_cast<double>(last - i));
                weight += a * batch[k];
                total += a * batch[k] * batch[c.classes + k * c.cols + d];
                largest = std::max(largest, batch[size - 1]);
                sum += a * batch[size - 1];
                ones += a;
            }
            const double* found = averages.data() + end - size;
            const double norm = c.length > 0 ? largest : sum / ones;
            const double mean = weight > 0 ? total / weight : 0;
            if (!(std::abs(found[c.classes + k * c.cols + d] - mean) <= 1e-12) ||
                !(std::abs(found[size - 1] - norm) <= 1e-12 * norm))
                return false;
        }
    return true;
}

inline int check_averages() {
    int failures = 0;
    std::mt19937 generator(5);
    std::normal_distribution<double> normal;
    for (const AverageCase& c : {AverageCase{1, 1, 1, 0}, {3, 17, 2, 0}, {4, 8, 7, 0},
                                 {2, 33, 100, 0}, {3, 5, 0, 0.9}}) {
        const std::int64_t size = c.classes * (c.cols + 2) + 2, number = 50;
        std::vector<double> batches(static_cast<std::size_t>(number * size));
        for (double& each : batches) each = normal(generator);
        for (std::int64_t i = 0; i < number; ++i) {
            for (std::int64_t k = 0; k < c.classes; ++k)
                batches[i * size + k] = static_cast<double>(generator() % 3);
            for (int j : {1, 2}) batches[(i + 1) * size - j] = std::abs(normal(generator));
        }
        std::vector<double> averages(batches);
        Average average(c.classes, c.cols, c.length, c.decay, false);
        average.update(averages.data(), 20);
        average.update(averages.data() + 20 * size, number - 20);
        for (std::int64_t last = 0; last < number; ++last)
            if (!average_agrees(c, batches, averages, last)) ++failures;
    }
    return failures;
}

}  // namespace ncfast
