// Primitives of states, singular values and running averages against their definitions, on memory
// that ends with the last entry.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "summary/spectrum.h"
#include "summary/summary.h"
#include "tracker/average.h"

namespace ncfast {

// The squares of the singular values sum to those of the entries.
inline bool spectrum_agrees(std::int64_t rows, std::int64_t cols) {
    std::mt19937 generator(3);
    std::normal_distribution<double> normal;
    std::vector<double> matrix(static_cast<std::size_t>(rows * cols));
    double entries = 0, values = 0;
    for (double& entry : matrix) {
        entry = normal(generator);
        entries += entry * entry;
    }
    Spectrum spectrum(rows, cols);
    for (const double value : spectrum(matrix.data())) values += value * value;
    return std::abs(values / entries - 1) < 1e-12;
}

inline double field(const std::vector<std::string>& names, const std::vector<double>& out,
                    const std::string& name) {
    for (std::size_t f = 0; f < names.size(); ++f)
        if (names[f] == name) return out[f];
    return NAN;
}

// The directions of the axes of centred means are orthonormal; a simplex has equal singular values,
// and with features at the means all sums over its axes are 0.
inline bool axes_agree(const States& states) {
    const std::int64_t k = states.classes, d = states.cols;
    std::vector<double> axes(static_cast<std::size_t>(k * (1 + d)));
    principal_axes(states, axes.data());
    const double* rows = axes.data() + k;
    bool good = std::abs(axes[0] - axes[k - 2]) < 1e-12 && axes[k - 1] == 0;
    for (std::int64_t i = 0; i < k; ++i)
        for (std::int64_t j = 0; j < k; ++j) {
            double product = 0;
            for (std::int64_t c = 0; c < d; ++c) product += rows[i * d + c] * rows[j * d + c];
            good = good && std::abs(product - (i == j)) < 1e-12;
        }
    std::vector<std::int64_t> labels(static_cast<std::size_t>(k));
    for (std::int64_t c = 0; c < k; ++c) labels[c] = c;
    const Matrix feats{states.means[0], Dtype::f64, k, d, d};
    const AxisSums sums = axis_sums(states, feats, {labels.data(), LabelType::i64, 1}, 2);
    return good && sums.significant == 0 && sums.leading == 0;
}

// The means are an orthogonal frame of equal norms, whose centred means are a simplex.
inline bool simplex_agrees(std::int64_t number, std::int64_t cols) {
    std::vector<double> counts(static_cast<std::size_t>(number), 2.0), within(counts.size(), 0.0);
    std::vector<double> means(static_cast<std::size_t>(number * cols), 0.0);
    for (std::int64_t c = 0; c < number; ++c) means[c * cols + c] = 3;
    const double sum = 6.0 * static_cast<double>(number), max = 3;
    const States states{1, number, cols, false, {counts.data(), number}, {means.data(), 0},
                        {within.data(), 0}, {&sum, 0}, {&max, 0}};
    std::vector<double> means_out(summary_names().size());
    std::vector<double> rows_out(classifier_names().size());
    summarise(states, {true, true, true, true}, means_out.data());
    const std::vector<double> bias(counts.size(), 4.0);
    classifier_summary(states, {means.data(), 0}, {bias.data(), 0}, true, rows_out.data());
    const auto of_means = [&](const char* name) { return field(summary_names(), means_out, name); };
    const auto of_rows = [&](const char* name) { return field(classifier_names(), rows_out, name); };
    // The rows of the classifier are the means themselves: dual except for the centre.
    return of_means("traces.norm_mean") == 3 && of_means("gram.simplex_distance") < 1e-7 &&
           of_means("cdnv.mean") == 0 && std::abs(of_means("condition.raw") - 1) < 1e-12 &&
           of_rows("norm.variance") < 1e-12 && of_rows("size.gap") < 1 &&
           axes_agree(states) &&
           std::abs(of_rows("logits.norm") -
                    (9.0 / static_cast<double>(number) + 4) * std::sqrt(number)) < 1e-12;
}

inline int check_states() {
    int failures = 0;
    for (const std::int64_t rows : {1, 2, 7, 10, 32})
        for (const std::int64_t cols : {1, 3, 10, 33})
            failures += !spectrum_agrees(rows, cols);
    for (const std::int64_t number : {2, 5, 9}) failures += !simplex_agrees(number, number + 3);
    return failures;
}

struct AverageCase {
    std::int64_t classes, cols, length;
    double decay;
};

// Compares the means of the classes and the largest norm after batch `last` with their definitions.
inline bool average_agrees(const AverageCase& c, const std::vector<double>& batches,
                           const std::vector<double>& averages, std::int64_t last) {
    const std::int64_t size = c.classes * (c.cols + 2) + 2, end = (last + 1) * size;
    for (std::int64_t k = 0; k < c.classes; ++k)
        for (std::int64_t d = 0; d < c.cols; ++d) {
            double weight = 0, total = 0, largest = 0, sum = 0, ones = 0;
            const std::int64_t first =
                c.length > 0 ? std::max<std::int64_t>(last + 1 - c.length, 0) : 0;
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
        Average resumed(c.classes, c.cols, c.length, c.decay, false);
        std::vector<double> state(static_cast<std::size_t>(average.state_size()));
        average.save(state.data());
        resumed.load(state.data());
        resumed.update(averages.data() + 20 * size, number - 20);
        for (std::int64_t last = 0; last < number; ++last)
            if (!average_agrees(c, batches, averages, last)) ++failures;
    }
    return failures;
}

}  // namespace ncfast
