// The second passes on one shape: scatter and distances against plain loops, the rest for finite
// results, so that every read and write happens under the sanitizers.
#pragma once

#include <cmath>
#include <vector>

#include "products/second_pass.h"

namespace ncfast {

inline bool second_passes_agree(const Matrix& feats, const std::vector<double>& values,
                                const std::vector<std::int16_t>& short_labels,
                                const std::vector<std::int64_t>& counts,
                                const std::vector<double>& means, std::int64_t classes,
                                int threads) {
    const std::int64_t cols = feats.cols;
    const std::vector<std::int64_t> labels(short_labels.begin(), short_labels.end());
    std::vector<double> total(cols * cols, NAN), distances(feats.rows, NAN);
    scatter(feats, labels.data(), means.data(), total.data(), threads);
    own_distances(feats, labels.data(), means.data(), distances.data(), threads);
    double trace = 0, sum = 0, expected = 0;
    for (std::int64_t i = 0; i < feats.rows; ++i)
        for (std::int64_t d = 0; d < cols; ++d) {
            const double gap = values[i * feats.stride + d] - means[labels[i] * cols + d];
            expected += gap * gap;
        }
    for (std::int64_t d = 0; d < cols; ++d) trace += total[d * cols + d];
    for (const double each : distances) sum += each * each;
    const auto near = [&](double found) { return std::abs(found - expected) <= 1e-9 * expected + 1e-12; };

    std::vector<double> variances(classes, 0.5), bias(classes, 0.1), length(classes, 1.0);
    std::vector<double> projected(classes, NAN), spread(classes, NAN), radius(classes, NAN);
    std::vector<double> nearest(classes, NAN);
    const MarginInput in{classes,          cols,          means.data(), means.data(),
                         variances.data(), counts.data(), means.data(), bias.data()};
    margins(feats, {labels.data(), LabelType::i64, 1}, in,
            {projected.data(), spread.data(), radius.data()}, threads);
    std::vector<double> unit(means);
    for (double& each : unit) each /= std::sqrt(static_cast<double>(cols)) * 8;
    const PairSums sums = class_pairs(unit.data(), length.data(), variances.data(), classes, cols,
                                      0.0, nearest.data(), threads);
    bool good = near(trace) && near(sum) && sums.count == classes * (classes - 1) / 2;
    for (std::int64_t c = 0; c < classes; ++c)
        good = good && projected[c] >= 0 && spread[c] >= 0 && radius[c] >= 0 && nearest[c] >= 0;
    return good;
}

}  // namespace ncfast
