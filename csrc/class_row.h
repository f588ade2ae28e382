// A row of packed moments, read.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "types.h"

namespace ncfast {

// Weights, sums over classes and where the rest lies; `centre` fills the centred means.
class ClassRow {
public:
    ClassRow(std::int64_t classes, std::int64_t cols)
        : k(classes), d(cols), weight(classes), centred(classes * cols), mean_(cols) {}

    // See States in gram_metrics.h.
    void read(const double* state, bool integer_weights) {
        means = state + k;
        variance = means + k * d;
        total = number = within = 0;
        for (std::int64_t c = 0; c < k; ++c) {
            std::int64_t count;
            std::memcpy(&count, state + c, sizeof count);
            weight[c] = integer_weights ? static_cast<double>(count) : state[c];
            total += weight[c];
            number += present(c);
            within += variance[c];
        }
        norm_sum = variance[k];
        norm_max = variance[k + 1];
    }

    bool present(std::int64_t c) const { return weight[c] > 0; }

    // Means minus their mean, zero for absent classes.
    void centre() {
        std::fill(mean_.begin(), mean_.end(), 0.0);
        for (std::int64_t c = 0; c < k; ++c)
            for (std::int64_t i = 0; i < d; ++i) mean_[i] += means[c * d + i];
        for (double& value : mean_) value /= number;
        for (std::int64_t c = 0; c < k; ++c)
            for (std::int64_t i = 0; i < d; ++i)
                centred[c * d + i] = present(c) ? means[c * d + i] - mean_[i] : 0;
    }

    const std::int64_t k, d;
    std::vector<double> weight, centred;
    const double *means = nullptr, *variance = nullptr;  // variance: sums of squares, by class
    double total = 0, number = 0, within = 0, norm_sum = 0, norm_max = 0;

private:
    std::vector<double> mean_;
};

// Population standard deviation over mean of the values of present classes.
double relative_deviation(const ClassRow& row, const std::vector<double>& values);

// norm_F(A / norm_F(A) - E), A (K, K) and E the simplex ETF of the present classes
double etf_distance(const ClassRow& row, const std::vector<double>& product);

}  // namespace ncfast
